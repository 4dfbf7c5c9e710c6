//! What handshakes authenticate with, prepared once for all of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fallback::Fallback;
use super::fault;
use super::mechanism::{Basic, BasicCredentials, Kerberos, Mechanism, Ntlm, Scheme, Secrets, SpeaksNtlm};
use super::state::Opening;
use super::tickets::TicketSlot;
use crate::fault::{Cause, Fault};
use crate::http::{self, Fields};
use crate::ntlm::Identity;

/// What the first request on a cold connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstLeg {
    /// The first token (for NTLM the NEGOTIATE_MESSAGE), so that no request is spent on learning that authentication is
    /// required.
    #[default]
    Negotiate,
    /// No credentials, for proxies that accept NTLM only after they have asked for it.
    Plain,
}

impl From<FirstLeg> for Opening {
    fn from(first: FirstLeg) -> Opening {
        match first {
            FirstLeg::Negotiate => Opening::Token,
            FirstLeg::Plain => Opening::Nothing,
        }
    }
}

/// An identity for one upstream: the mechanisms that it may use there, in the order in which they are tried.
///
/// The secrets can be withdrawn. Then they are wiped, although tunnels still refer to the credentials that they began
/// with. A handshake that is under way borrows them until its final token is made.
#[derive(Debug)]
pub struct Credentials {
    /// What is sent first.
    pub first_leg: FirstLeg,
    /// The strongest first; never empty. A mechanism that the configuration does not allow is not in the list.
    mechanisms: Vec<Box<dyn Mechanism>>,
    /// The scheme that the upstream accepted last, with which the next handshake begins.
    known: KnownScheme,
    /// Why that is not the first one, if it is not. The mutex is held while a pointer is copied.
    why_known: Mutex<Option<Fallback>>,
    /// Shared by all identities of the upstream.
    speaks_ntlm: Arc<SpeaksNtlm>,
    /// `None` once they are withdrawn. All shards read it; the mutex is held while a pointer is copied.
    secrets: Mutex<Option<Arc<Secrets>>>,
}

impl Credentials {
    /// NTLM, for an upstream of the given host name.
    pub fn new(identity: Identity, upstream_host: &str, first_leg: FirstLeg) -> Credentials {
        let speaks_ntlm = Arc::default();
        let ntlm = Ntlm::new(&identity, upstream_host, &speaks_ntlm);
        let secrets = Secrets { identity, basic: None };
        Credentials { speaks_ntlm, ..Credentials::with_mechanisms(vec![Box::new(ntlm)], secrets, first_leg) }
    }

    pub(super) fn with_mechanisms(
        mechanisms: Vec<Box<dyn Mechanism>>,
        secrets: Secrets,
        first_leg: FirstLeg,
    ) -> Credentials {
        Credentials {
            first_leg,
            known: KnownScheme::new(first_scheme(&mechanisms)),
            why_known: Mutex::default(),
            mechanisms,
            speaks_ntlm: Arc::default(),
            secrets: Mutex::new(Some(Arc::new(secrets))),
        }
    }

    /// The same, with Basic as the last resort if there is a password.
    #[must_use]
    pub fn with_basic(mut self, password: Option<&str>) -> Credentials {
        let slot = self.secrets.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (Some(password), Some(secrets)) = (password, slot.as_mut().and_then(Arc::get_mut)) {
            secrets.basic = Some(BasicCredentials::new(&secrets.identity, password));
            self.mechanisms.push(Box::new(Basic::new(&self.speaks_ntlm)));
        }
        self
    }

    /// The same, with Kerberos before everything else, or instead of it if `is_alone`.
    #[must_use]
    pub fn with_kerberos(mut self, slot: Arc<TicketSlot>, is_alone: bool) -> Credentials {
        if is_alone {
            self.mechanisms.clear();
        }
        self.mechanisms.insert(0, Box::new(Kerberos::new(slot)));
        self.known = KnownScheme::new(first_scheme(&self.mechanisms));
        self
    }

    /// The same, with what other identities have learned about the upstream.
    #[must_use]
    pub fn with_knowledge(mut self, speaks_ntlm: &Arc<SpeaksNtlm>) -> Credentials {
        self.mechanisms.iter_mut().for_each(|mechanism| mechanism.share(speaks_ntlm));
        self.speaks_ntlm = Arc::clone(speaks_ntlm);
        self
    }

    /// Whether the upstream has sent a CHALLENGE_MESSAGE, to whichever identity.
    pub fn upstream_has_challenged(&self) -> bool {
        self.speaks_ntlm.is_known()
    }

    /// Whether the next handshake begins with what may become a logon attempt.
    pub fn begins_with_logon(&self) -> bool {
        let first = self.place(self.recall_scheme());
        let usable = self.mechanisms.iter().skip(first).find(|mechanism| !mechanism.has_failed());
        usable.is_none_or(|mechanism| mechanism.counts_as_logon())
    }

    /// The scheme to begin with if the final token is to be a logon attempt.
    pub(super) fn first_logon_scheme(&self) -> Option<Scheme> {
        let known = self.recall_scheme();
        match self.mechanism(known).counts_as_logon() {
            true => Some(known),
            false => self.mechanisms.iter().find(|one| one.counts_as_logon())?.schemes().first().copied(),
        }
    }

    /// Whether a fresh connection needs no challenge.
    pub fn needs_no_challenge(&self) -> bool {
        let scheme = self.recall_scheme();
        self.mechanism(scheme).first_token(scheme).is_none()
    }

    /// Withdraws the secrets. They are wiped at once, or when the handshakes that have borrowed them have made their
    /// final tokens.
    pub fn withdraw(&self) {
        self.mechanisms.iter().for_each(|mechanism| mechanism.withdraw());
        self.slot().take();
    }

    /// Whether the secrets have been withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.slot().is_none()
    }

    /// Borrows the secrets; `None` once they are withdrawn.
    pub(super) fn secrets(&self) -> Option<Arc<Secrets>> {
        self.slot().clone()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Secrets>>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place in the list of the mechanism that uses a scheme.
    pub(super) fn place(&self, scheme: Scheme) -> usize {
        self.mechanisms.iter().position(|mechanism| mechanism.schemes().contains(&scheme)).unwrap_or_default()
    }

    /// The mechanism that uses a scheme.
    pub(super) fn mechanism(&self, scheme: Scheme) -> &dyn Mechanism {
        &*self.mechanisms[self.place(scheme)]
    }

    /// The scheme to begin with.
    pub(super) fn recall_scheme(&self) -> Scheme {
        let known = self.known.recall();
        if self.mechanism(known).is_ruled_out() {
            return first_scheme(&self.mechanisms);
        }
        // Prefer an earlier mechanism that has a new ticket since it was refused.
        let better = self.mechanisms.iter().take(self.place(known)).find(|mechanism| mechanism.may_try_again());
        better.and_then(|mechanism| mechanism.schemes().first()).copied().unwrap_or(known)
    }

    /// The next handshake begins with this scheme, for this reason if its mechanism is not the first in the list.
    pub(super) fn remember(&self, scheme: Scheme, fallback: Option<&Fallback>) {
        if self.has_choice() {
            *self.why_known.lock().unwrap_or_else(PoisonError::into_inner) = fallback.cloned();
        }
        self.known.remember(scheme);
    }

    /// Why a handshake begins with this scheme and not with the first mechanism in the list.
    pub(super) fn known_fallback(&self, scheme: Scheme) -> Option<Fallback> {
        let is_known = self.place(scheme) > 0;
        is_known.then(|| self.why_known.lock().unwrap_or_else(PoisonError::into_inner).clone())?
    }

    /// Whether more than one mechanism is listed.
    pub(super) fn has_choice(&self) -> bool {
        self.mechanisms.len() > 1
    }

    /// The scheme of the first mechanism in the list.
    pub(super) fn first_scheme(&self) -> Scheme {
        first_scheme(&self.mechanisms)
    }

    /// The upstream refused a token. If what is remembered needs no challenge, the next handshake finds out again what
    /// the upstream offers: there may be something better by now.
    pub(super) fn refused(&self) {
        let known = self.known.recall();
        if self.mechanism(known).first_token(known).is_none() {
            self.known.replace(known, first_scheme(&self.mechanisms));
        }
    }

    /// The scheme to try at an upstream that answered 407 without a challenge for `last`. Mechanisms stronger than one
    /// that has been tried (`is_tried`) have had their turn.
    ///
    /// # Errors
    /// [`Cause::SchemeNotOffered`], or why the only mechanism left must not be used.
    pub(super) fn choose(&self, last: Scheme, is_tried: bool, offers: &Fields<'_>) -> Result<Scheme, Fault> {
        let is_offered = http::find_challenge(offers, last.name()).is_some();
        if !is_tried && is_offered && self.place(last) == 0 {
            // It worked the last time, and this 407 does not refuse it.
            return Ok(last);
        }
        let passed_over = if is_tried { self.place(last) } else { 0 };
        // One that has given way is the last resort.
        let mut left: Vec<&dyn Mechanism> = self.mechanisms.iter().skip(passed_over).map(|one| &**one).collect();
        left.sort_by_key(|mechanism| mechanism.has_given_way());
        for mechanism in left {
            if let Some(scheme) = mechanism.choose(last, offers)? {
                return Ok(scheme);
            }
        }
        let mut names: Vec<&str> =
            self.mechanisms.iter().flat_map(|one| one.schemes()).map(|one| one.mechanism()).collect();
        names.dedup();
        let detail = format!(
            "the upstream offers no scheme for a listed mechanism ({}); it offers: {}",
            names.join(", "),
            http::offered_schemes(offers)
        );
        Err(fault(Cause::SchemeNotOffered, detail))
    }

    /// The scheme of the next mechanism in the list that may begin without being offered.
    pub(super) fn next_to_open(&self, last: Scheme) -> Option<Scheme> {
        let mut later =
            self.mechanisms.iter().skip(self.place(last) + 1).filter_map(|one| Some((one, one.schemes().first()?)));
        later.find(|(mechanism, scheme)| mechanism.first_token(**scheme).is_some()).map(|(_, scheme)| *scheme)
    }
}

fn first_scheme(mechanisms: &[Box<dyn Mechanism>]) -> Scheme {
    mechanisms.first().and_then(|mechanism| mechanism.schemes().first()).copied().unwrap_or_default()
}

/// A [`Scheme`] that all shards share.
#[derive(Debug)]
struct KnownScheme(AtomicUsize);

impl KnownScheme {
    fn new(scheme: Scheme) -> KnownScheme {
        KnownScheme(AtomicUsize::new(scheme.number()))
    }

    fn recall(&self) -> Scheme {
        Scheme::of_number(self.0.load(Ordering::Relaxed))
    }

    fn remember(&self, scheme: Scheme) {
        self.0.store(scheme.number(), Ordering::Relaxed);
    }

    /// Unless another handshake has changed it.
    fn replace(&self, known: Scheme, by: Scheme) {
        let _ = self.0.compare_exchange(known.number(), by.number(), Ordering::Relaxed, Ordering::Relaxed);
    }
}
