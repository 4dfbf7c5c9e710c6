//! A mechanism that does what a test says: one token, sent with the first request, that counts as no logon attempt.
//! Another thread prepares it, or fails to.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use super::{FinalToken, Mechanism, MutualCheck, Scheme, TokenInputs};
use crate::auth::fault;
use crate::fault::{Cause, Fault};
use crate::http::{self, Fields};

/// What the other thread has prepared.
#[derive(Clone, Copy, Debug)]
pub(in crate::auth) enum Prepared {
    NotYet,
    Token,
    /// One that the upstream answers with its own, `bXV0dWFs`.
    MutualToken,
    Nothing,
}

#[derive(Debug)]
pub(in crate::auth) struct Scripted(pub Arc<Mutex<Prepared>>);

impl Mechanism for Scripted {
    fn schemes(&self) -> &'static [Scheme] {
        &[Scheme::Scripted]
    }

    fn is_pending(&self) -> bool {
        matches!(*self.0.lock().unwrap(), Prepared::NotYet)
    }

    fn final_token<'a>(&'a self, _: &TokenInputs<'a>) -> Result<FinalToken<'a>, Fault> {
        match *self.0.lock().unwrap() {
            Prepared::Token => Ok(FinalToken { bytes: Cow::Borrowed(b"ticket"), mutual_check: None }),
            Prepared::MutualToken => {
                let check = |token: Option<&str>| match token {
                    Some("bXV0dWFs") => Ok(()),
                    _ => Err(fault(Cause::HandshakeBroken, "the upstream did not authenticate")),
                };
                let mutual_check = Some(MutualCheck(Box::new(check)));
                Ok(FinalToken { bytes: Cow::Borrowed(b"ticket"), mutual_check })
            }
            prepared => Err(fault(Cause::CredentialsHeld, format!("{prepared:?}"))),
        }
    }

    fn counts_as_logon(&self) -> bool {
        false
    }

    fn choose(&self, last: Scheme, offers: &Fields<'_>) -> Result<Option<Scheme>, Fault> {
        let is_offered = http::find_challenge(offers, Scheme::Scripted.name()).is_some();
        Ok((is_offered && last != Scheme::Scripted).then_some(Scheme::Scripted))
    }
}
