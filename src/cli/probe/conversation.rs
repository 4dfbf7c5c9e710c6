//! The conversation with the upstream: the gateway's own handshake over blocking connections, with every message
//! recorded.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::budget::{Budget, Denial, StoreUse};
use super::message::{Answer, Sent};
use super::tickets;
use crate::auth::{Credentials, Due, Handshake, NonceSource, Progress, Request, TicketSlot, TokenTimes};
use crate::config::{Config, FirstLeg, Mechanisms};
use crate::fault::{At, Cause, Fault};
use crate::ntlm::FileTime;
use crate::transport::BlockingStream;
use crate::upstream;

/// How much of an error page is read, in bytes.
const PAGE_LIMIT_BYTES: usize = 16 * 1024;

/// How long to wait for the rest of such a page.
const PAGE_PATIENCE: Duration = Duration::from_millis(500);

/// How much of an answer is kept beyond its head, in bytes. The rest of a longer body would add nothing.
const KEPT_BEYOND_HEAD_BYTES: usize = 64 * 1024;

/// An event, with its time since the start.
#[derive(Debug)]
pub(super) struct Event {
    pub at: Duration,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Resolved {
        addresses: Vec<SocketAddr>,
        took: Duration,
    },
    ResolveFailed {
        name: String,
        error: String,
        took: Duration,
    },
    Connected {
        address: SocketAddr,
        took: Duration,
    },
    ConnectFailed {
        address: SocketAddr,
        error: String,
        took: Duration,
    },
    /// A logon at a KDC is attempted.
    LogonAttempt,
    /// A KDC was asked: for what and of which realm, and its error if it sent one.
    Kdc {
        name: String,
        error: Option<String>,
        took: Duration,
    },
    /// There is a Kerberos ticket.
    Ticket {
        service: String,
        line: String,
    },
    TicketFailed {
        error: String,
    },
    Sent(Sent),
    /// `after` the request.
    Answered {
        answer: Box<Answer>,
        after: Duration,
    },
    /// No answer came in time, `after` the request.
    Unanswered {
        after: Duration,
    },
    /// The upstream closed the connection, `after` the request.
    Closed {
        after: Duration,
    },
}

/// How the conversation ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Established,
    Declined {
        status: u16,
        reason: String,
    },
    Failed(Fault),
    /// No logon may be made.
    Denied(Denial),
}

/// The channel bindings that a logon carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bindings {
    /// None, because the upstream is reached without TLS.
    None,
    /// Those of the upstream's certificate.
    Right,
    /// Those of no certificate, to see whether the upstream checks them.
    Wrong,
}

impl Bindings {
    /// The hash to send, in place of that of the connection.
    fn of(self, channel_bindings: Option<[u8; 16]>) -> Option<[u8; 16]> {
        match self {
            Bindings::Wrong => channel_bindings.map(|hash| hash.map(|byte| !byte)),
            Bindings::None | Bindings::Right => channel_bindings,
        }
    }
}

/// Everything that was observed.
#[derive(Debug)]
pub(super) struct Conversation {
    pub events: Vec<Event>,
    pub outcome: Outcome,
    /// The first leg of the handshake that led to the outcome.
    pub first_leg: FirstLeg,
    /// A request without credentials opened a tunnel.
    pub open: bool,
    /// What the identity may use at the upstream.
    pub listed: Mechanisms,
    /// What authenticated the last handshake, if it came to that.
    pub used: Option<Used>,
    pub bindings: Bindings,
    pub use_of_store: StoreUse,
    /// This machine's time at the end.
    pub now: FileTime,
    /// From start to end, including time-outs.
    pub took: Duration,
}

/// The mechanism of a handshake.
#[derive(Debug)]
pub(super) struct Used {
    pub mechanism: &'static str,
    /// Why it is not the first in the list, if it is not.
    pub why_not_first: Option<String>,
}

/// Sends a request without credentials, then does the handshake as configured. If that gets no challenge although NTLM
/// was offered, the handshake is repeated with a plain first leg. No AUTHENTICATE_MESSAGE has been sent in that case.
///
/// The logons are reserved in `budget` before they are made: one at the KDC, if the identity uses Kerberos, and one by
/// NTLM. With wrong bindings, a refusal says nothing about the secret, and is not stored as one.
pub(super) fn hold(config: &Config, target: &str, mut budget: Budget, bindings: Bindings) -> Conversation {
    let mut probe = Probe {
        config,
        target,
        began: Instant::now(),
        events: Vec::new(),
        authenticated: false,
        slot: None,
        used: None,
        bindings,
    };
    let mut first_leg = config.first_upstream().first_leg;
    let mut open = false;
    let outcome = match probe.resolve() {
        Err(fault) => Outcome::Failed(fault),
        Ok(addresses) => {
            let look = if first_leg == FirstLeg::Negotiate { probe.look(&addresses) } else { Look::GoOn };
            open = matches!(look, Look::Open);
            match look {
                Look::Enough(outcome) => outcome,
                _ => match probe.get_ticket(&mut budget).and_then(|()| probe.reserve(&mut budget)) {
                    Err(denial) => Outcome::Denied(denial),
                    Ok(()) => {
                        let mut outcome = probe.shake_hands(&addresses, first_leg);
                        let has_failed = matches!(outcome, Outcome::Failed(_));
                        if has_failed && matches!(look, Look::Offered) && probe.is_unchallenged() {
                            first_leg = FirstLeg::Plain;
                            outcome = probe.shake_hands(&addresses, first_leg);
                        }
                        let answer = match bindings {
                            Bindings::Wrong => upstream::Answer::Nothing,
                            Bindings::None | Bindings::Right => answer_in(&outcome),
                        };
                        budget.settle(probe.authenticated.then_some(answer));
                        outcome
                    }
                },
            }
        }
    };
    let (took, use_of_store) = (probe.began.elapsed(), budget.use_of_store());
    let listed = probe.listed();
    let Probe { events, used, .. } = probe;
    Conversation { events, outcome, first_leg, open, listed, used, bindings, use_of_store, now: now(), took }
}

/// The answer to the logon, as the guard judges it.
fn answer_in(outcome: &Outcome) -> upstream::Answer {
    match outcome {
        Outcome::Established => upstream::Answer::Status(200),
        Outcome::Declined { status, .. } => upstream::Answer::Status(*status),
        Outcome::Failed(fault) => match fault.cause {
            // The second is a further challenge after the logon.
            Cause::CredentialsRefused | Cause::CredentialsHeld => upstream::Answer::Refused,
            Cause::UpstreamClosed | Cause::UpstreamReset => upstream::Answer::Closed,
            _ => upstream::Answer::Nothing,
        },
        Outcome::Denied(_) => upstream::Answer::Nothing,
    }
}

/// The result of the request without credentials.
enum Look {
    /// A handshake may succeed.
    GoOn,
    /// NTLM or Negotiate is offered.
    Offered,
    /// A tunnel was opened.
    Open,
    /// A handshake would be pointless.
    Enough(Outcome),
}

struct Probe<'a> {
    config: &'a Config,
    target: &'a str,
    began: Instant,
    events: Vec<Event>,
    authenticated: bool,
    /// The ticket for Kerberos.
    slot: Option<Arc<TicketSlot>>,
    used: Option<Used>,
    bindings: Bindings,
}

/// A connection and what was received on it.
struct Connection {
    stream: BlockingStream,
    until: Instant,
    /// The answer that is being read.
    heard: Vec<u8>,
    /// The part of it that the handshake has not consumed.
    untaken: Vec<u8>,
}

impl Probe<'_> {
    /// Gets the ticket, if the identity uses Kerberos.
    fn get_ticket(&mut self, budget: &mut Budget) -> Result<(), Denial> {
        if !self.listed().kerberos {
            return Ok(());
        }
        budget.reserve_at_kdc()?;
        let got = tickets::get(self.config, self.began, &mut self.events);
        budget.settle(got.as_ref().and_then(|got| got.logon));
        self.slot = got.map(|got| got.slot);
        Ok(())
    }

    /// Reserves the logon by NTLM, if the identity may use it.
    fn reserve(&self, budget: &mut Budget) -> Result<(), Denial> {
        match self.listed().ntlm {
            true => budget.reserve(),
            false => Ok(()),
        }
    }

    /// What the identity may use at the upstream.
    fn listed(&self) -> Mechanisms {
        self.config.first_upstream().mechanisms_of(&self.config.identities[0])
    }

    fn note(&mut self, what: What) {
        self.events.push(Event { at: self.began.elapsed(), what });
    }

    /// Resolves the upstream's name within the time that a connection may take.
    fn resolve(&mut self) -> Result<Vec<SocketAddr>, Fault> {
        let upstream = self.config.first_address().clone();
        let begin = Instant::now();
        let (tell, told) = mpsc::channel();
        let name = upstream.to_string();
        thread::spawn(move || {
            let addresses = (upstream.host(), upstream.port()).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            // The receiver is gone once the time is up.
            let _ = tell.send(addresses);
        });
        let (cause, error) = match told.recv_timeout(self.config.timeouts.connect) {
            Ok(Ok(addresses)) if !addresses.is_empty() => {
                self.note(What::Resolved { addresses: addresses.clone(), took: begin.elapsed() });
                return Ok(addresses);
            }
            Ok(Ok(_)) => (Cause::ResolveFailed, "the name has no addresses".to_owned()),
            Ok(Err(error)) => (Cause::ResolveFailed, error.to_string()),
            Err(_) => (Cause::ResolveTimeout, "the name was not resolved in time".to_owned()),
        };
        let fault = Fault::new(At::Dial, cause, format!("{name}: {error}"));
        self.note(What::ResolveFailed { name, error, took: begin.elapsed() });
        Err(fault)
    }

    /// Connects to the first address that accepts the connection.
    fn dial(&mut self, addresses: &[SocketAddr]) -> Result<Connection, Fault> {
        let mut last = Fault::new(At::Dial, Cause::ConnectUnreachable, "there is no address");
        let transport = self.config.first_upstream().transport();
        for address in addresses {
            let begin = Instant::now();
            let patience = self.config.timeouts.establish(transport.tls().is_some());
            match BlockingStream::connect(&transport, *address, patience) {
                Ok(stream) => {
                    self.note(What::Connected { address: *address, took: begin.elapsed() });
                    let until = Instant::now() + self.config.timeouts.handshake;
                    return Ok(Connection { stream, until, heard: Vec::new(), untaken: Vec::new() });
                }
                Err(error) => {
                    last = Fault::dial_io(*address, &error);
                    self.note(What::ConnectFailed {
                        address: *address,
                        error: error.to_string(),
                        took: begin.elapsed(),
                    });
                }
            }
        }
        Err(last)
    }

    fn handshake(&self, first_leg: FirstLeg) -> Handshake {
        let identity = self.config.first_identity().clone();
        let ntlm = Credentials::new(identity, self.config.first_address().host(), first_leg);
        let credentials = match &self.slot {
            Some(slot) => ntlm.with_kerberos(Arc::clone(slot), !self.listed().ntlm),
            None if self.listed().ntlm => ntlm,
            None => ntlm.with_kerberos(Arc::new(TicketSlot::fixed(Arc::new(TokenTimes::new(0)))), true),
        };
        let request = Request::connect(self.target, Vec::new());
        Handshake::new(request, Arc::new(credentials), self.config.head_limit_bytes)
            .with_field_limit(self.config.field_limit)
    }

    /// Sends one request without credentials on a separate connection.
    fn look(&mut self, addresses: &[SocketAddr]) -> Look {
        let mut handshake = self.handshake(FirstLeg::Plain);
        let mut connection = match self.dial(addresses) {
            Ok(connection) => connection,
            Err(fault) => return Look::Enough(Outcome::Failed(fault)),
        };
        let mut out = Vec::new();
        handshake.begin(&mut out);
        let progress = match self.exchange(&mut handshake, &mut connection, &mut out) {
            // The next request of the handshake is not sent.
            Ok(progress) => progress,
            Err(fault) => return Look::Enough(Outcome::Failed(fault)),
        };
        let offered = handshake.tally().unprompted > 0;
        match progress {
            Progress::Established => Look::Open,
            _ if offered => Look::Offered,
            _ => Look::GoOn,
        }
    }

    /// Does one handshake, over as many connections as it needs.
    fn shake_hands(&mut self, addresses: &[SocketAddr], first_leg: FirstLeg) -> Outcome {
        let mut handshake = self.handshake(first_leg);
        let until = Instant::now() + self.config.timeouts.handshake;
        loop {
            let ended = self.dial(addresses).and_then(|mut connection| {
                connection.until = until;
                self.converse(&mut handshake, &mut connection)
            });
            self.used = handshake.has_shown_credentials().then(|| Used {
                mechanism: handshake.scheme().mechanism(),
                why_not_first: handshake
                    .choice()
                    .and_then(|choice| choice.fallback().map(|fallback| fallback.why.to_string())),
            });
            match ended {
                Ok(None) => {}
                Ok(Some(outcome)) => return outcome,
                Err(fault) => return Outcome::Failed(fault),
            }
        }
    }

    /// Does the handshake on one connection; `None` if it needs a new connection.
    fn converse(&mut self, handshake: &mut Handshake, connection: &mut Connection) -> Result<Option<Outcome>, Fault> {
        let mut out = Vec::new();
        handshake.begin(&mut out);
        if handshake.is_challenged() {
            self.authenticate(handshake, connection.stream.channel_bindings(), &mut out)?;
        }
        loop {
            match self.exchange(handshake, connection, &mut out)? {
                Progress::More | Progress::Send => {}
                Progress::Redial => return Ok(None),
                Progress::Challenged => self.authenticate(handshake, connection.stream.channel_bindings(), &mut out)?,
                // `Answered` is for plain HTTP only; after a CONNECT the tunnel is established either way.
                Progress::Established | Progress::Answered => return Ok(Some(Outcome::Established)),
                Progress::Declined(declined) => {
                    return Ok(Some(Outcome::Declined { status: declined.status, reason: declined.reason }));
                }
            }
        }
    }

    /// Answers the challenge, at most once in the life of the process.
    fn authenticate(
        &mut self,
        handshake: &mut Handshake,
        channel_bindings: Option<[u8; 16]>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let is_logon = handshake.due() == Some(Due::LogonAttempt);
        if is_logon && std::mem::replace(&mut self.authenticated, true) {
            return Err(Fault::new(At::Authenticate, Cause::CredentialsHeld, "one AUTHENTICATE_MESSAGE has been sent"));
        }
        let nonces = NonceSource::default().draw()?;
        handshake.bind_to_channel(self.bindings.of(channel_bindings));
        handshake.authenticate(&nonces, out)
    }

    /// Sends what is in `out` and reads until the handshake can go on.
    fn exchange(
        &mut self,
        handshake: &mut Handshake,
        connection: &mut Connection,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Fault> {
        let request = std::mem::take(out);
        self.note(What::Sent(Sent::of(&request)));
        connection.heard.clear();
        let sent = Instant::now();
        // If the write fails, an answer may have arrived before that.
        let _ = connection.stream.write_all(&request, connection.until);
        let mut closed = false;
        let progress = connection.hear(handshake, out, self.config.head_limit_bytes, &mut closed);
        let (at, after) = (self.began.elapsed(), sent.elapsed());
        let goes_on = matches!(progress, Ok(Progress::Send | Progress::Challenged | Progress::Established));
        if !goes_on && !closed {
            closed = connection.hear_page(self.config.head_limit_bytes);
        }
        match Answer::of(&connection.heard, self.config.head_limit_bytes) {
            Some(answer) => self.events.push(Event { at, what: What::Answered { answer: Box::new(answer), after } }),
            None if !closed => self.note(What::Unanswered { after }),
            None => {}
        }
        if closed {
            self.note(What::Closed { after: sent.elapsed() });
        }
        progress
    }

    /// No challenge has been received, and no logon was attempted.
    fn is_unchallenged(&self) -> bool {
        let challenged =
            |event: &Event| matches!(&event.what, What::Answered { answer, .. } if answer.carried.is_some());
        !self.authenticated && !self.events.iter().any(challenged)
    }
}

impl Connection {
    /// Passes what is received to the handshake until it makes progress.
    fn hear(
        &mut self,
        handshake: &mut Handshake,
        out: &mut Vec<u8>,
        head_limit_bytes: usize,
        closed: &mut bool,
    ) -> Result<Progress, Fault> {
        let mut piece = [0; 16 * 1024];
        loop {
            if Instant::now() >= self.until {
                return Err(late());
            }
            let count = match self.stream.read(&mut piece, self.until) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(late()),
                Err(error) => {
                    *closed = true;
                    return handshake.closed().map_err(|_| Fault::upstream_io(At::Authenticate, &error));
                }
            };
            if count == 0 {
                *closed = true;
                return handshake.closed();
            }
            let piece = piece.get(..count).unwrap_or_default();
            if self.heard.len() < head_limit_bytes + KEPT_BEYOND_HEAD_BYTES {
                self.heard.extend_from_slice(piece);
            }
            self.untaken.extend_from_slice(piece);
            let (used, progress) = handshake.receive(&self.untaken, out)?;
            self.untaken.drain(..used.min(self.untaken.len()));
            if !matches!(progress, Progress::More) {
                return Ok(progress);
            }
        }
    }

    /// Reads the rest of an error page, which may say what is wrong. Returns whether the connection was closed.
    fn hear_page(&mut self, head_limit_bytes: usize) -> bool {
        let until = Instant::now() + PAGE_PATIENCE;
        let mut piece = [0; 4096];
        while Answer::of(&self.heard, head_limit_bytes)
            .is_some_and(|answer| answer.is_cut() && answer.body.len() < PAGE_LIMIT_BYTES)
        {
            match self.stream.read(&mut piece, until) {
                Ok(0) => return true,
                Ok(count) => self.heard.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(_) => return false,
            }
        }
        false
    }
}

fn late() -> Fault {
    Fault::new(At::Authenticate, Cause::HandshakeTimeout, "the upstream did not answer in time")
}

fn now() -> FileTime {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    FileTime::from_unix(since_1970.as_secs(), since_1970.subsec_nanos())
}
