//! Basic (RFC 7617): the password itself, for an upstream that offers nothing better and an identity that allows it.

use std::borrow::Cow;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{FinalToken, Mechanism, Scheme, SpeaksNtlm, TokenInputs};
use crate::auth::fault;
use crate::fault::{Cause, Fault};
use crate::http::{self, Fields};
use crate::ntlm::Identity;

/// Basic, for an identity that allows it.
#[derive(Debug)]
pub(in crate::auth) struct Basic {
    speaks_ntlm: Arc<SpeaksNtlm>,
}

impl Basic {
    pub(in crate::auth) fn new(speaks_ntlm: &Arc<SpeaksNtlm>) -> Basic {
        Basic { speaks_ntlm: Arc::clone(speaks_ntlm) }
    }

    /// The fault of an upstream that authenticated with NTLM before and now offers only what would give the password
    /// away.
    fn check_downgrade(&self, offered: impl FnOnce() -> String) -> Result<(), Fault> {
        if !self.is_ruled_out() {
            return Ok(());
        }
        let detail = format!(
            "the upstream authenticated with NTLM before and now offers: {}; the password is not sent as Basic, because the \
             offer may have been altered on the way. If the upstream gave NTLM up, restart the gateway or rename the upstream",
            offered()
        );
        Err(fault(Cause::SchemeDowngraded, detail))
    }
}

impl Mechanism for Basic {
    fn schemes(&self) -> &'static [Scheme] {
        &[Scheme::Basic]
    }

    fn final_token<'a>(&'a self, inputs: &TokenInputs<'a>) -> Result<FinalToken<'a>, Fault> {
        // Another handshake may have received a challenge while this one waited.
        self.check_downgrade(|| Scheme::Basic.name().into())?;
        let basic = inputs.secrets.basic.as_ref().map(BasicCredentials::reveal).unwrap_or_default();
        Ok(FinalToken::from(Cow::Borrowed(basic)))
    }

    fn counts_as_logon(&self) -> bool {
        true
    }

    fn choose(&self, _: Scheme, offers: &Fields<'_>) -> Result<Option<Scheme>, Fault> {
        if http::find_challenge(offers, Scheme::Basic.name()).is_none() {
            return Ok(None);
        }
        self.check_downgrade(|| http::offered_schemes(offers))?;
        Ok(Some(Scheme::Basic))
    }

    fn is_ruled_out(&self) -> bool {
        self.speaks_ntlm.is_known()
    }

    fn share(&mut self, speaks_ntlm: &Arc<SpeaksNtlm>) {
        self.speaks_ntlm = Arc::clone(speaks_ntlm);
    }
}

/// `user:password`; overwritten when it is dropped, and never printed.
pub(in crate::auth) struct BasicCredentials(Zeroizing<Vec<u8>>);

impl BasicCredentials {
    pub(in crate::auth) fn new(identity: &Identity, password: &str) -> BasicCredentials {
        let account = [identity.domain(), identity.user()].join("\\");
        let account = account.strip_prefix('\\').unwrap_or(&account);
        // Allocated at once: growing would leave copies behind that are not wiped.
        let mut text = Zeroizing::new(Vec::with_capacity(account.len() + 1 + password.len()));
        [account, ":", password].into_iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
        BasicCredentials(text)
    }

    fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for BasicCredentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("BasicCredentials")
    }
}
