//! Kerberos under Negotiate (RFC 4559): a service ticket with the first request, without a challenge.
//!
//! A thread gets the tickets. Making the token from one takes microseconds, so it is done here, on the shard.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{FinalToken, Mechanism, MutualCheck, Refusal, Refused, Scheme, TokenInputs};
use crate::auth::tickets::{TicketSlot, TicketState};
use crate::auth::{fault, spnego};
use crate::fault::{Cause, Fault};
use crate::http::{self, Fields};
use crate::kerberos::{ApInputs, Credential, ExpectedReply, ServiceReplyError, Timestamp, TokenKind, read_token};

/// DER of 1.2.840.113554.1.2.2, Kerberos 5.
const KRB5_OID: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// Kerberos for one identity at one upstream.
#[derive(Debug)]
pub(in crate::auth) struct Kerberos {
    /// `None` once the credentials are withdrawn: what old tunnels refer to must not keep a ticket in memory.
    slot: Mutex<Option<Arc<TicketSlot>>>,
    /// The number of the ticket that the upstream refused last.
    refused: AtomicU64,
    /// The upstream accepted the last token.
    is_accepted: AtomicBool,
}

impl Kerberos {
    pub(in crate::auth) fn new(slot: Arc<TicketSlot>) -> Kerberos {
        Kerberos { slot: Mutex::new(Some(slot)), refused: AtomicU64::new(0), is_accepted: AtomicBool::new(false) }
    }

    fn slot(&self) -> Option<Arc<TicketSlot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ticket(slot: &TicketSlot, now: Timestamp) -> Result<Arc<Credential>, Fault> {
        match slot.state() {
            TicketState::Ready(ticket) if ticket.is_valid(now) => Ok(ticket),
            TicketState::Ready(ticket) => {
                let detail = format!("the ticket for {} has expired, and there is no new one yet", ticket.service);
                Err(fault(Cause::TicketUnavailable, detail))
            }
            TicketState::Pending => Err(fault(Cause::TicketUnavailable, "there is no Kerberos ticket yet")),
            TicketState::Failed(fault) => Err(fault),
        }
    }
}

impl Mechanism for Kerberos {
    fn schemes(&self) -> &'static [Scheme] {
        &[Scheme::Kerberos]
    }

    fn is_pending(&self) -> bool {
        self.slot().is_some_and(|slot| slot.is_pending())
    }

    fn final_token<'a>(&'a self, inputs: &TokenInputs<'a>) -> Result<FinalToken<'a>, Fault> {
        let nonces = &inputs.nonces;
        let now = Timestamp::from_micros(nonces.now.unix_micros());
        let slot = self.slot().ok_or_else(|| {
            fault(Cause::CredentialsWithdrawn, "a reload replaced the tickets while the request was under way")
        })?;
        let ticket = Kerberos::ticket(&slot, now)?;
        let [a, b, c, d, ..] = nonces.client_challenge;
        let token = ticket.token(&ApInputs {
            time: ticket.skew.apply(slot.token_time(now)),
            confounder: nonces.exported_session_key,
            subkey: nonces.subkey,
            sequence_number: u32::from_be_bytes([a, b, c, d]),
            channel_bindings: inputs.channel_bindings,
        });
        let bytes = Cow::Owned(spnego::first_token(KRB5_OID, &token.bytes));
        let mutual_check = Some(MutualCheck(Box::new(move |answer| check_answer(&token.expected, answer))));
        Ok(FinalToken { bytes, mutual_check })
    }

    fn counts_as_logon(&self) -> bool {
        false
    }

    fn choose(&self, last: Scheme, offers: &Fields<'_>) -> Result<Option<Scheme>, Fault> {
        let is_offered = http::find_challenge(offers, Scheme::Kerberos.name()).is_some();
        Ok((is_offered && last != Scheme::Kerberos).then_some(Scheme::Kerberos))
    }

    fn has_failed(&self) -> bool {
        self.slot().is_none_or(|slot| matches!(slot.state(), TicketState::Failed(_)))
    }

    fn refused(&self, refusal: &Refusal<'_>) -> Refused {
        self.is_accepted.store(false, Ordering::Relaxed);
        if !refusal.is_offered {
            return Refused::default();
        }
        let made_at = Timestamp::from_micros(refusal.made_at.unix_micros());
        let may_retry = self.slot().is_some_and(|slot| slot.refused(made_at));
        Refused { may_retry, why: refusal.token.and_then(reason) }
    }

    fn accepted(&self) {
        // Most tokens are, and then no cache line is written that all shards share.
        if !self.is_accepted() {
            self.is_accepted.store(true, Ordering::Relaxed);
        }
    }

    fn is_accepted(&self) -> bool {
        self.is_accepted.load(Ordering::Relaxed)
    }

    fn give_way(&self) {
        if let Some(slot) = self.slot() {
            self.refused.store(slot.number(), Ordering::Relaxed);
            slot.give_way();
        }
    }

    fn has_given_way(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        refused != 0 && self.slot().is_some_and(|slot| slot.number() == refused)
    }

    /// With the next ticket: the upstream may have its key by then.
    fn may_try_again(&self) -> bool {
        self.slot().is_some_and(|slot| slot.number() != self.refused.load(Ordering::Relaxed))
    }

    fn withdraw(&self) {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Checks the upstream's own token, if it sends one. Many send none, and then nothing is known about them.
fn check_answer(expected: &ExpectedReply, answer: Option<&str>) -> Result<(), Fault> {
    let broken = |why: String| fault(Cause::MutualAuthFailed, format!("the upstream has not authenticated: {why}"));
    let Some(text) = answer.filter(|text| !text.is_empty()) else { return Ok(()) };
    let token = http::decode_token(text).map_err(|error| broken(format!("its token is not base64: {error}")))?;
    let Some(token) = mechanism_token(&token) else { return Ok(()) };
    expected.verify(token).map_err(|error| broken(error.to_string()))
}

/// The mechanism's token in what the upstream sent, in SPNEGO or raw; `None` if there is none.
fn mechanism_token(token: &[u8]) -> Option<&[u8]> {
    match spnego::read_response(token) {
        Some(response) => response.token,
        None => Some(token),
    }
}

/// Why the upstream refuses the token, as its own token says.
fn reason(token: &[u8]) -> Option<String> {
    match read_token(mechanism_token(token)?) {
        Ok((TokenKind::Error, message)) => {
            let error = crate::kerberos::KrbError::decode(message).ok()?;
            Some(ServiceReplyError::Error(error).to_string())
        }
        _ => None,
    }
}
