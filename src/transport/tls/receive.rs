//! The direction to this end: the handshake, and what is read.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read};

use super::engine::{Engine, Halt, MOST_STEPS, Sink, Task, missing_bytes};
use super::kernel::{HandOver, bytes_to_boundary};
use super::{End, LEAST_READ_BYTES, MOST_INCOMPLETE_BYTES, Tls, excessive, failure, make_room, records, truncated};

/// By how much a record of TLS 1.3 is longer than its plaintext.
const USUAL_EXPANSION_BYTES: usize = 5 + 16 + 1;

/// What the connection is worked on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// To be established.
    Handshake,
    /// To get bytes for a caller's buffer.
    Read,
    /// To know whether there is anything for a caller.
    Look,
}

thread_local! {
    /// What is read from a socket, until rustls has worked through it.
    pub(super) static INCOMING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Tls {
    pub fn shake_hands(&mut self) -> io::Result<bool> {
        if !self.is_established {
            self.work(&mut [], Goal::Handshake);
            // The end may have come right after the handshake.
            self.is_established = !self.engine.is_handshaking();
            match (self.is_established, std::mem::replace(&mut self.end, End::Open)) {
                (true, end) => {
                    self.end = end;
                    self.bindings = self.find_bindings();
                }
                (false, End::Open) => {}
                (false, End::Pending(Err(error))) => return Err(error),
                (false, End::Pending(Ok(())) | End::Reported | End::Failed) => return Err(truncated()),
            }
        }
        Ok(self.is_established)
    }

    fn find_bindings(&self) -> Option<[u8; 16]> {
        self.settings.as_ref()?.channel_bindings(self.engine.peers_certificate()?)
    }

    pub fn has_input(&mut self) -> bool {
        if self.plain.is_empty() && matches!(self.end, End::Open) {
            match self.engine {
                Engine::Kernel(_) => self.look_at_kernel(),
                _ => {
                    self.work(&mut [], Goal::Look);
                }
            }
        }
        !self.plain.is_empty() || !matches!(self.end, End::Open)
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.steps = 0;
        let from_plain = self.hand_out(buffer);
        let room = buffer.get_mut(from_plain..).unwrap_or_default();
        if room.is_empty() {
            return Ok(from_plain);
        }
        let count = from_plain
            + match (&self.end, &self.engine) {
                (End::Open, Engine::Kernel(_)) => self.read_from_kernel(room),
                (End::Open, _) => self.work(room, Goal::Read),
                _ => 0,
            };
        self.perhaps_hand_over();
        if count > 0 {
            return Ok(count);
        }
        match std::mem::replace(&mut self.end, End::Reported) {
            End::Open => {
                self.end = End::Open;
                Err(ErrorKind::WouldBlock.into())
            }
            End::Pending(Ok(())) | End::Reported => Ok(0),
            End::Pending(Err(error)) => {
                self.end = End::Failed;
                Err(error)
            }
            End::Failed => {
                self.end = End::Failed;
                Ok(0)
            }
        }
    }

    /// Gives the caller what is decrypted, as far as it has room.
    fn hand_out(&mut self, buffer: &mut [u8]) -> usize {
        let rest = self.plain.get(self.handed_out..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(room), Some(bytes)) = (buffer.get_mut(..count), rest.get(..count)) {
            room.copy_from_slice(bytes);
        }
        self.handed_out += count;
        if self.handed_out == self.plain.len() {
            (self.plain, self.handed_out) = (Vec::new(), 0);
        }
        count
    }

    /// Reads the socket, lets rustls work, and sends what it says, until the goal is reached or the socket is empty.
    /// Returns how many bytes of `buffer` are filled. An end, or an error, is kept for later.
    fn work(&mut self, buffer: &mut [u8], goal: Goal) -> usize {
        INCOMING.with_borrow_mut(|room| {
            let mut filled = self.incoming.len();
            make_room(room, filled).copy_from_slice(&self.incoming);
            let mut start = 0;
            let (mut is_to_be_processed, mut is_emptied) = (self.has_record || goal == Goal::Handshake, false);
            let mut plain = std::mem::take(&mut self.plain);
            let mut sink = Sink::new(buffer, &mut plain);
            loop {
                if is_to_be_processed {
                    let incoming = room.get_mut(start..filled).unwrap_or_default();
                    let (used, halt) = self.engine.advance(incoming, Task::Receive, &mut sink, &mut self.outgoing);
                    start += used;
                    self.has_record = matches!(halt, Halt::Full);
                    if let Halt::Failed(error) = halt {
                        self.engine.alert(room.get_mut(start..filled).unwrap_or_default(), &mut self.outgoing);
                        let error = match &self.settings {
                            Some(settings) => {
                                settings.failure(&error, self.is_established && self.engine.may_renegotiate())
                            }
                            None => failure(error),
                        };
                        self.end = End::Pending(Err(error));
                    } else if sink.has_ended {
                        self.end = End::Pending(Ok(()));
                    } else if sink.steps >= MOST_STEPS && sink.filled == 0 && sink.aside.is_empty()
                        || filled - start > MOST_INCOMPLETE_BYTES
                    {
                        self.end = End::Pending(Err(excessive()));
                    }
                    self.go_on();
                }
                let is_reached = match goal {
                    Goal::Handshake => !self.engine.is_handshaking(),
                    Goal::Read => {
                        let is_enough = is_emptied || self.hand_over == HandOver::Soon && start == filled;
                        sink.space() == 0 || (is_enough && sink.filled > 0)
                    }
                    Goal::Look => false,
                };
                if is_reached || self.has_record || !sink.aside.is_empty() || !matches!(self.end, End::Open) {
                    break;
                }
                room.copy_within(start..filled, 0);
                (start, filled) = (0, filled - start);
                let incoming = room.get(..filled).unwrap_or_default();
                let to_boundary = match self.hand_over {
                    HandOver::Soon => bytes_to_boundary(incoming),
                    _ => None,
                };
                let most = to_boundary.unwrap_or_else(|| read_bytes(sink.space(), incoming));
                let asked = make_room(room, filled + most).get_mut(filled..).unwrap_or_default();
                match self.carrier.read(asked) {
                    Ok(0) => self.end = End::Pending(Err(truncated())),
                    Ok(count) => {
                        is_emptied = count < asked.len();
                        filled += count;
                        is_to_be_processed = true;
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {
                        is_to_be_processed = false;
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => self.end = End::Pending(Err(error)),
                }
                break;
            }
            let (count, steps) = (sink.filled, sink.steps);
            self.steps = u16::try_from(steps).unwrap_or(u16::MAX);
            self.plain = plain;
            self.keep(room.get(start..filled).unwrap_or_default());
            count
        })
    }

    /// Keeps what rustls is not done with.
    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() || !matches!(self.end, End::Open) {
            (self.incoming, self.has_record) = (Vec::new(), false);
        } else if self.incoming.len() == rest.len() {
            self.incoming.copy_from_slice(rest);
        } else {
            self.incoming = rest.to_vec();
        }
    }
}

/// How much to read from the socket for a caller that has room for `space`, after what has come already: records of the
/// usual length that fill the room exactly, so that no part of one has to be kept.
fn read_bytes(space: usize, incoming: &[u8]) -> usize {
    let for_caller = (space + records(space) * USUAL_EXPANSION_BYTES).saturating_sub(incoming.len());
    for_caller.max(missing_bytes(incoming)).max(LEAST_READ_BYTES)
}
