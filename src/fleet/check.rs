//! The handshake that tries an upstream before clients are sent to it again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Hop;
use crate::fault::Cause;
use crate::handshake::{Handshake, Nonces, Progress, Request};
use crate::limits::{self, millis};
use crate::ntlm::FileTime;
use crate::upstream::{Answer, Asking, Permission, Ticket};

/// Does a handshake for a CONNECT to `target` on a fresh connection; blocks. The AUTHENTICATE_MESSAGE goes out only if the
/// credential guard lets it; without it, a challenge is good enough.
///
/// # Errors
/// Why clients would fail too. A refusal of the credentials is not among them: that is the guard's business.
pub fn check_by_handshake(hop: &Hop, target: &str, epoch: Instant, stream: TcpStream) -> Result<(), String> {
    let mut conversation = Conversation { hop, target, epoch, stream, ticket: None };
    let outcome = conversation.hold();
    let now_ms = millis(epoch.elapsed());
    let (answer, outcome) = match outcome {
        Ok(status) => (status.map(Answer::Status), Ok(())),
        Err(Failure::Refused) => (Some(Answer::Refused), Ok(())),
        Err(Failure::Closed) => (Some(Answer::Closed), Err("it closes the connection without an answer".into())),
        // A check does not wait long enough to know that no refusal will come.
        Err(Failure::Other(why)) => (Some(Answer::Closed), Err(why)),
    };
    if let (Some(answer), Some(ticket)) = (answer, conversation.ticket.take()) {
        ticket.settle(now_ms, answer);
    }
    outcome
}

enum Failure {
    /// The credentials were.
    Refused,
    Closed,
    Other(String),
}

struct Conversation<'a> {
    hop: &'a Hop,
    target: &'a str,
    epoch: Instant,
    stream: TcpStream,
    ticket: Option<Ticket>,
}

impl Conversation<'_> {
    /// The status of the answer to the AUTHENTICATE_MESSAGE, if it came to that.
    fn hold(&mut self) -> Result<Option<u16>, Failure> {
        let other = |error: &dyn std::fmt::Display| Failure::Other(error.to_string());
        self.stream
            .set_read_timeout(Some(limits::CHECK_TIMEOUT))
            .and_then(|()| self.stream.set_write_timeout(Some(limits::CHECK_TIMEOUT)))
            .map_err(|error| other(&error))?;
        let request = Request::connect(self.target, Vec::new());
        let mut handshake = Handshake::new(request, self.hop.credentials.clone(), limits::HEAD_LIMIT_BYTES);
        let (mut unused, mut out) = (Vec::new(), Vec::new());
        handshake.await_demand();
        handshake.begin(&mut out);
        // Basic needs no challenge.
        if handshake.is_challenged() && !self.answer(&mut handshake, &mut out)? {
            return Ok(None);
        }
        let until = Instant::now() + limits::CHECK_WHOLE_TIMEOUT;
        loop {
            if Instant::now() >= until {
                return Err(Failure::Other("it does not come to an end with its answers".into()));
            }
            self.stream.write_all(&out).map_err(|error| other(&error))?;
            out.clear();
            let mut buffer = [0; 8192];
            let count = self.stream.read(&mut buffer).map_err(|error| other(&error))?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            unused.extend_from_slice(&buffer[..count]);
            let (used, progress) = handshake.receive(&unused, &mut out).map_err(|fault| match fault.cause {
                Cause::CredentialsRefused => Failure::Refused,
                _ => Failure::Other(fault.to_string()),
            })?;
            unused.drain(..used);
            match progress {
                Progress::More | Progress::Send => {}
                Progress::Challenged if self.answer(&mut handshake, &mut out)? => {}
                // It has answered, and asks for the right thing; a second connection would tell no more.
                Progress::Redial | Progress::Challenged | Progress::Answered => return Ok(None),
                Progress::Established => return Ok(Some(200)),
                Progress::Declined(declined) => return Ok(Some(declined.status)),
            }
        }
    }

    /// Writes the AUTHENTICATE_MESSAGE, if the guard lets it go.
    fn answer(&mut self, handshake: &mut Handshake, out: &mut Vec<u8>) -> Result<bool, Failure> {
        let (guard, upstream, now_ms) =
            (&self.hop.identity.guard, self.hop.upstream.name(), millis(self.epoch.elapsed()));
        let challenged = handshake.is_demanded();
        let asking = Asking { upstream, method: "CONNECT", destination: self.target, challenged, confirms: false };
        let Permission::Go(ticket) = guard.ask(now_ms, &asking) else { return Ok(false) };
        let (mut client_challenge, mut exported_session_key) = ([0; 8], [0; 16]);
        let random = getrandom::fill(&mut client_challenge).and_then(|()| getrandom::fill(&mut exported_session_key));
        if random.is_err() {
            ticket.unused();
            return Ok(false);
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = FileTime::from_unix(since_1970.as_secs(), since_1970.subsec_nanos());
        match handshake.authenticate(&Nonces { client_challenge, exported_session_key, now }, out) {
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
