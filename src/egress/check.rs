//! The health checks of an upstream that go beyond a TCP connection: a handshake, and a probe that stops at the
//! challenge.

use std::io::ErrorKind;
use std::time::Instant;

use super::Hop;
use super::logon_verdict::{cut_off, unread};
use crate::auth::{Due, Handshake, NonceSource, Nonces, Progress, Request};
use crate::fault::Cause;
use crate::limits::{self, millis};
use crate::ntlm::FileTime;
use crate::transport::BlockingStream;
use crate::upstream::{Answer, AttemptRequest, CheckFailure, SendPermission, Ticket};

/// Does a handshake for a CONNECT to `target` on a new connection; blocks. The AUTHENTICATE_MESSAGE is sent only if the
/// credential guard permits it. If it does not, a challenge is enough to pass.
///
/// # Errors
/// The reason why clients would fail as well. Refused credentials are no such reason: the guard deals with those.
pub fn check_by_handshake(hop: &Hop, target: &str, epoch: Instant, stream: BlockingStream) -> Result<(), CheckFailure> {
    let mut conversation = Conversation::new(hop, target, epoch, stream, Purpose::Check);
    let outcome = conversation.hold();
    let now_ms = millis(epoch.elapsed());
    let closed = || Failure::CLOSED.to_owned();
    let (answer, failure) = match outcome {
        Ok(status) => (status.map(Answer::Status), None),
        Err(Failure::Refused) => (Some(Answer::Refused), None),
        Err(Failure::Closed) => (Some(cut_off(&conversation.unused)), Some(closed())),
        Err(Failure::Slow(why) | Failure::Other(why)) => (Some(unread(&conversation.unused)), Some(why)),
    };
    if let (Some(answer), Some(ticket)) = (answer, conversation.ticket.take()) {
        ticket.settle(now_ms, answer);
    }
    match failure {
        Some(why) => Err(CheckFailure { why, answers: conversation.answers }),
        None => Ok(()),
    }
}

/// A destination that no proxy has a policy for: its top-level domain is reserved (RFC 6761 §6.4).
const NOWHERE: &str = "ntlm-gateway.invalid:443";

/// Requests a destination that does not exist, up to the challenge; blocks. No AUTHENTICATE_MESSAGE is sent.
///
/// # Errors
/// The reason why clients would fail as well. A slow upstream passes: it may be looking up the destination.
pub fn probe(hop: &Hop, epoch: Instant, stream: BlockingStream) -> Result<(), CheckFailure> {
    let mut conversation = Conversation::new(hop, NOWHERE, epoch, stream, Purpose::Probe);
    let why = match conversation.hold() {
        Ok(_) | Err(Failure::Refused | Failure::Slow(_)) => return Ok(()),
        Err(Failure::Closed) => Failure::CLOSED.to_owned(),
        Err(Failure::Other(why)) => why,
    };
    Err(CheckFailure { why, answers: conversation.answers })
}

impl Failure {
    const CLOSED: &str = "it closes the connection without an answer";
}

enum Failure {
    /// The upstream refused the credentials.
    Refused,
    Closed,
    /// The upstream did not answer in time.
    Slow(String),
    Other(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Whether clients can use the upstream.
    Check,
    /// Whether it answers at all, and whether its challenge can be answered.
    Probe,
}

struct Conversation<'a> {
    hop: &'a Hop,
    target: &'a str,
    epoch: Instant,
    stream: BlockingStream,
    /// Received and not parsed yet.
    unused: Vec<u8>,
    ticket: Option<Ticket>,
    /// The upstream has reacted, if only by closing the connection.
    answers: bool,
    purpose: Purpose,
}

impl<'a> Conversation<'a> {
    fn new(
        hop: &'a Hop,
        target: &'a str,
        epoch: Instant,
        stream: BlockingStream,
        purpose: Purpose,
    ) -> Conversation<'a> {
        Conversation { hop, target, epoch, stream, unused: Vec::new(), ticket: None, answers: false, purpose }
    }

    /// Returns the status of the answer to the AUTHENTICATE_MESSAGE; `None` if none was sent.
    fn hold(&mut self) -> Result<Option<u16>, Failure> {
        let other = |error: &dyn std::fmt::Display| Failure::Other(error.to_string());
        let request = Request::connect(self.target, Vec::new());
        let mut handshake = Handshake::new(request, self.hop.credentials.clone(), limits::HEAD_LIMIT_BYTES);
        let mut out = Vec::new();
        handshake.await_demand();
        handshake.begin(&mut out);
        // Basic needs no challenge.
        if handshake.is_challenged() && !self.answer(&mut handshake, &mut out)? {
            return Ok(None);
        }
        let until = Instant::now() + limits::CHECK_TOTAL_TIMEOUT;
        loop {
            let now = Instant::now();
            if now >= until {
                return Err(Failure::Other("its answers do not end".into()));
            }
            let mut buffer = [0; 8192];
            let step_until = now + limits::CHECK_TIMEOUT;
            let exchanged =
                self.stream.write_all(&out, step_until).and_then(|()| self.stream.read(&mut buffer, step_until));
            out.clear();
            // A closed connection is a reaction as well.
            self.answers |= exchanged.as_ref().map_or_else(|error| !is_slow(error), |_| true);
            let count = exchanged.map_err(|error| match is_slow(&error) {
                true => Failure::Slow("it does not answer in time".into()),
                false => other(&error),
            })?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            self.unused.extend_from_slice(&buffer[..count]);
            let (used, progress) = handshake.receive(&self.unused, &mut out).map_err(|fault| match fault.cause {
                Cause::CredentialsRefused => Failure::Refused,
                _ => Failure::Other(fault.to_string()),
            })?;
            self.unused.drain(..used);
            match progress {
                Progress::More | Progress::Send => {}
                Progress::Challenged if self.answer(&mut handshake, &mut out)? => {}
                // It answers, and asks for NTLM or Basic. A second connection would show no more.
                Progress::Redial | Progress::Challenged | Progress::Answered => return Ok(None),
                Progress::Established => return Ok(Some(200)),
                Progress::Declined(declined) => return Ok(Some(declined.status)),
            }
        }
    }

    /// Writes the AUTHENTICATE_MESSAGE to `out` if the purpose needs it and the guard permits it.
    fn answer(&mut self, handshake: &mut Handshake, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if self.purpose == Purpose::Probe {
            return if handshake.needs_no_challenge() { Ok(false) } else { try_out(handshake) };
        }
        match handshake.due() {
            Some(Due::LogonAttempt) => {}
            // Another thread gets it; that the upstream answers is enough.
            Some(Due::Pending) | None => return Ok(false),
            Some(Due::Token) => {
                let Ok(nonces) = NonceSource::default().draw() else { return Ok(false) };
                handshake.bind_to_channel(self.stream.channel_bindings());
                // Without a ticket there is nothing to send, which is not the upstream's fault.
                return Ok(handshake.authenticate(&nonces, out).is_ok());
            }
        }
        let (guard, upstream, now_ms) =
            (&self.hop.identity.guard, self.hop.upstream.name(), millis(self.epoch.elapsed()));
        let challenged = handshake.is_demanded();
        let asking =
            AttemptRequest { upstream, method: "CONNECT", destination: self.target, challenged, confirms: false };
        let SendPermission::Go(ticket) = guard.ask(now_ms, &asking) else { return Ok(false) };
        let Ok(nonces) = NonceSource::default().draw() else {
            ticket.unused();
            return Ok(false);
        };
        handshake.bind_to_channel(self.stream.channel_bindings());
        match handshake.authenticate(&nonces, out) {
            Ok(()) => {
                self.ticket = Some(ticket);
                self.hop.metrics.authenticates.inc();
                Ok(true)
            }
            Err(fault) => {
                ticket.unused();
                Err(Failure::Other(fault.to_string()))
            }
        }
    }
}

fn is_slow(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::TimedOut
}

/// Checks that the challenge can be answered, and discards the answer.
fn try_out(handshake: &mut Handshake) -> Result<bool, Failure> {
    let now = FileTime::from_unix(0, 0);
    let nonces = Nonces { client_challenge: [0; 8], exported_session_key: [0; 16], subkey: [0; 32], now };
    let answered = handshake.authenticate(&nonces, &mut Vec::new());
    answered.map(|()| false).map_err(|fault| Failure::Other(fault.to_string()))
}
