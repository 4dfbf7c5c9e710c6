//! The conversation itself: requests out, answers in.

use super::fallback::Fallback;
use super::fault;
use super::handshake::Handshake;
use super::mechanism::{Scheme, TokenInputs};
use super::nonces::Nonces;
use super::progress::Progress;
use super::proxy_answer::{ProxyAnswer, SentRequest};
use super::state::{AfterBody, Disclosure, Leg, Opening, State};
use crate::fault::{At, Cause, Fault, TLS_EXPECTED};
use crate::http::{
    self, BodyDiscarder, BodyFraming, DiscardError, HeadEnd, HeadRead, ProxyAuthorization, ResponseHead, Token,
};
use crate::limits;

const CLOSED: &str = "the upstream closed the connection in the middle of the handshake";

const ASKED_AGAIN: &str = "the upstream asks for authentication and answers the first token with no challenge";

impl Handshake {
    /// Writes the request for a fresh connection to `out`, or nothing if the final token is due at once. Forgets
    /// everything about an earlier connection, its challenge above all.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.channel_bindings = None;
        let opening = self.next_opening();
        self.beginnings += 1;
        // If they have been withdrawn since the beginning, it continues with what it has borrowed.
        self.secrets = self.credentials.secrets().or_else(|| self.secrets.take());
        self.mutual_check = None;
        match opening {
            Opening::Nothing => self.send_without_token(Leg::Nothing, out),
            Opening::BareRequest => self.send_without_token(Leg::BareRequest, out),
            Opening::Token => self.send_first_token(out),
        }
    }

    fn next_opening(&mut self) -> Opening {
        match &self.state {
            State::Ready(Opening::Token) if self.awaits_demand && !self.demanded && self.opens_with_logon() => {
                Opening::Nothing
            }
            State::Ready(opening) => *opening,
            // The upstream asked for credentials after all.
            State::Awaiting { leg: Leg::BareRequest, .. } => {
                self.disclosure = Disclosure::AtOnce;
                self.first_opening()
            }
            _ => Opening::Token,
        }
    }

    fn opens_with_logon(&self) -> bool {
        self.needs_no_challenge() && self.credentials.mechanism(self.scheme).counts_as_logon()
    }

    fn send_without_token(&mut self, leg: Leg, out: &mut Vec<u8>) {
        self.request.write(None, leg.purpose(), out);
        self.sent(leg);
    }

    fn send_first_token(&mut self, out: &mut Vec<u8>) {
        match self.credentials.mechanism(self.scheme).first_token(self.scheme) {
            Some(token) => {
                let credentials = ProxyAuthorization { scheme: self.scheme.name(), token: Token::Base64(token) };
                self.request.write(Some(credentials), Leg::FirstToken.purpose(), out);
                self.sent(Leg::FirstToken);
            }
            None => self.state = State::TokenDue { challenge: None },
        }
    }

    fn sent(&mut self, leg: Leg) {
        if leg.is_whole() {
            // The answer may take hours, and needs no secret.
            self.secrets = None;
        }
        self.legs = self.legs.saturating_add(1);
        self.has_sent_final_token = leg == Leg::FinalToken;
        self.has_shown_credentials = match leg {
            Leg::Nothing => false,
            Leg::BareRequest => self.has_shown_credentials,
            Leg::FirstToken | Leg::FinalToken => true,
        };
        self.state = State::Awaiting { leg, head_end: HeadEnd::response() };
    }

    /// Writes the request with the final token to `out`; call it as [`Handshake::due`] says.
    ///
    /// Where a mechanism cannot make a token that needs no challenge, the next one in the list begins instead.
    ///
    /// # Errors
    /// [`Cause::ChallengeMalformed`] if the challenge cannot be answered, or if there is none;
    /// [`Cause::CredentialsWithdrawn`] after [`Credentials::withdraw`](super::Credentials::withdraw); and what the
    /// mechanism refuses.
    pub fn authenticate(&mut self, nonces: &Nonces, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.send_final_token(nonces, out).map_err(|fault| self.explained(fault))
    }

    fn send_final_token(&mut self, nonces: &Nonces, out: &mut Vec<u8>) -> Result<(), Fault> {
        let State::TokenDue { challenge } = std::mem::replace(&mut self.state, State::Ended) else {
            return Err(fault(Cause::ChallengeMalformed, "there is no challenge to answer"));
        };
        let Some(secrets) = self.secrets.take() else {
            let detail = "a reload replaced the credentials while the request was under way, and not by others for it";
            return Err(fault(Cause::CredentialsWithdrawn, detail));
        };
        let inputs = TokenInputs {
            scheme: self.scheme,
            secrets: &secrets,
            challenge: challenge.as_deref(),
            nonces: *nonces,
            channel_bindings: self.channel_bindings,
        };
        self.token_made_at = nonces.now;
        let made = self.credentials.mechanism(self.scheme).final_token(&inputs).map(|token| {
            let credentials = ProxyAuthorization::of(self.scheme.name(), &token.bytes);
            self.request.write(Some(credentials), Leg::FinalToken.purpose(), out);
            token.mutual_check
        });
        match made {
            Ok(mutual_check) => {
                self.mutual_check = mutual_check;
                self.sent(Leg::FinalToken);
            }
            Err(fault) if challenge.is_some() => return Err(fault),
            Err(fault) => {
                let Some(next) = self.credentials.next_to_open(self.scheme) else { return Err(fault) };
                self.scheme = next;
                self.fallback = Some(Fallback::without_token(&fault));
                self.has_fallen_back = true;
                self.secrets = Some(secrets);
                self.send_first_token(out);
            }
        }
        Ok(())
    }

    /// Takes bytes that the upstream sent, beginning with those that were not consumed before. Returns how many were
    /// consumed. The rest is to be passed again together with what comes after it, or belongs to the tunnel or to the
    /// body of the declined request.
    ///
    /// # Errors
    /// The fault that ends the handshake.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Progress), Fault> {
        self.take(bytes, out).map_err(|fault| self.explained(fault))
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, Progress), Fault> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match &mut self.state {
                State::Awaiting { .. } if http::is_tls_record(rest) => {
                    return Err(fault(Cause::TlsExpected, TLS_EXPECTED));
                }
                State::Awaiting { head_end, leg } => {
                    let (mut end, leg) = (std::mem::replace(head_end, HeadEnd::response()), *leg);
                    let look = |head: &ResponseHead<'_>, _| self.read_answer(head, leg);
                    let found = http::read_response_head(&mut end, rest, self.head_limit_bytes, self.field_limit, look);
                    let found = found.map_err(|error| fault(Cause::ResponseHeadTooLarge, error.to_string()))?;
                    let Some(HeadRead { length, outcome }) = found else {
                        self.state = State::Awaiting { head_end: end, leg };
                        return Ok((used, Progress::More));
                    };
                    let answer = outcome.map_err(|error| Fault::malformed_response(At::Authenticate, &error))??;
                    // The client's own answer stays whole.
                    used += if let ProxyAnswer::Answered = answer { 0 } else { length };
                    if let Some(progress) = self.follow(answer)? {
                        return Ok((used, progress));
                    }
                }
                State::Discarding { body, then } => {
                    let discarded = match (body.feed(rest), then) {
                        (Ok(discarded), _) => discarded,
                        // The body of an answer that is not the client's is not worth reading.
                        (Err(_), AfterBody::BareRequest) => return Ok((bytes.len(), self.again_bare()?)),
                        (Err(error), _) => return Err(body_fault(error)),
                    };
                    used += discarded.consumed;
                    if !discarded.done {
                        return Ok((used, Progress::More));
                    }
                    let poisoned = used < bytes.len();
                    let progress = self.discarded(poisoned, out)?;
                    return Ok((used, progress));
                }
                State::Ready(_) | State::TokenDue { .. } if rest.is_empty() => return Ok((used, Progress::More)),
                // They would be taken for the answer to the next request.
                State::Ready(_) | State::TokenDue { .. } => {
                    return Ok((bytes.len(), self.again(Cause::ResponseMalformed, "bytes that answer no request")?));
                }
                State::Ended => return Ok((used, Progress::More)),
            }
        }
    }

    fn read_answer(&self, head: &ResponseHead<'_>, leg: Leg) -> Result<ProxyAnswer, Fault> {
        let answer = ProxyAnswer::read(head, &self.sent_request(leg))?;
        if let ProxyAnswer::Established | ProxyAnswer::Declined(_) = answer {
            self.check_answer(head)?;
        }
        Ok(answer)
    }

    fn sent_request(&self, leg: Leg) -> SentRequest<'_> {
        SentRequest {
            request: &self.request,
            leg,
            scheme: self.scheme,
            credentials: &self.credentials,
            token_made_at: self.token_made_at,
            retries: self.retries,
        }
    }

    /// The answer to a plain request with a final token that was no logon attempt is a 407, which the request's owner
    /// has read. It may be made again on another connection: by another token, or by the next mechanism in the list.
    ///
    /// # Errors
    /// The fault that ends the request, if it must not.
    pub fn token_was_refused(&mut self, head: &ResponseHead<'_>) -> Result<(), Fault> {
        let outcome = match ProxyAnswer::read_refusal(head, &self.sent_request(Leg::FinalToken)) {
            Ok(ProxyAnswer::AskedAgain { scheme, fallback, .. }) => {
                self.asked_again(None, scheme, fallback).map(|_| ())
            }
            Ok(ProxyAnswer::Refused { detail, .. }) => Err(fault(Cause::CredentialsRefused, detail)),
            Ok(_) => Ok(()),
            Err(fault) => Err(fault),
        };
        outcome.map_err(|fault| self.explained(fault))
    }

    /// The upstream has ended the connection.
    ///
    /// # Errors
    /// The fault that ends the handshake, if another connection would not help.
    pub fn closed(&mut self) -> Result<Progress, Fault> {
        self.after_close().map_err(|fault| self.explained(fault))
    }

    fn after_close(&mut self) -> Result<Progress, Fault> {
        match &self.state {
            State::Awaiting { leg: Leg::FinalToken, .. } => Err(fault(
                Cause::UpstreamClosed,
                "the upstream closed the connection without an answer to AUTHENTICATE",
            )),
            _ if self.may_be_under_way() => Err(fault(
                Cause::UpstreamClosed,
                "the upstream closed the connection without an answer to a request that must not be made twice",
            )),
            // It has not asked for credentials yet.
            State::Awaiting { leg: Leg::Nothing | Leg::BareRequest, .. } if self.disclosure != Disclosure::AtOnce => {
                self.check_beginnings(Cause::UpstreamClosed, CLOSED)?;
                self.state = State::Ready(self.first_opening());
                Ok(Progress::Redial)
            }
            _ => self.again(Cause::UpstreamClosed, CLOSED),
        }
    }

    /// Acts on an answer; `None` if the bytes behind its head may be looked at.
    fn follow(&mut self, answer: ProxyAnswer) -> Result<Option<Progress>, Fault> {
        match answer {
            ProxyAnswer::Interim => {
                self.interim += 1;
                if self.interim > limits::HANDSHAKE_INTERIM_ANSWERS {
                    return Err(fault(Cause::ResponseMalformed, "the upstream sends 1xx answers without end"));
                }
                Ok(None)
            }
            ProxyAnswer::Answered => Ok(Some(self.end(Progress::Answered))),
            ProxyAnswer::Established => Ok(Some(self.end(Progress::Established))),
            ProxyAnswer::Declined(declined) => Ok(Some(self.end(Progress::Declined(declined)))),
            ProxyAnswer::NotAsked { framing } => match framing {
                Some(framing) => Ok(self.discard(framing, AfterBody::BareRequest)),
                None => self.again_bare().map(Some),
            },
            ProxyAnswer::Refused { rechallenged, detail } => {
                self.credentials.refused();
                match rechallenged {
                    true => self.tally.rechallenge += 1,
                    false => self.tally.refused += 1,
                }
                self.end(Err(fault(Cause::CredentialsRefused, detail)))
            }
            ProxyAnswer::Challenge { challenge, framing, scheme } => {
                self.demanded = true;
                self.tally.challenge = self.tally.challenge.saturating_add(1);
                // What could not make its token may be able to the next time.
                if !self.has_fallen_back {
                    self.credentials.remember(self.scheme, self.fallback.as_ref());
                }
                self.scheme = scheme;
                match framing {
                    Some(framing) => Ok(self.discard(framing, AfterBody::Answer(challenge))),
                    None => self
                        .again(Cause::HandshakeBroken, "the upstream sends its challenge and closes the connection")
                        .map(Some),
                }
            }
            ProxyAnswer::AskedAgain { framing, scheme, fallback } => self.asked_again(framing, scheme, fallback),
        }
    }

    fn asked_again(
        &mut self,
        framing: Option<BodyFraming>,
        scheme: Scheme,
        fallback: Fallback,
    ) -> Result<Option<Progress>, Fault> {
        self.demanded = true;
        let is_refusal = matches!(self.state, State::Awaiting { leg: Leg::FinalToken, .. });
        match is_refusal {
            true => self.tally.refused = self.tally.refused.saturating_add(1),
            false => self.tally.unprompted = self.tally.unprompted.saturating_add(1),
        }
        self.retries = self.retries.saturating_add(u8::from(is_refusal && scheme == self.scheme));
        match self.credentials.place(scheme) {
            0 => self.fallback = None,
            // Another scheme of the same mechanism.
            place if place == self.credentials.place(self.scheme) => {}
            _ => self.fallback = Some(fallback),
        }
        if is_refusal {
            // How often this can happen depends on the list of mechanisms. The next one gets as many connections.
            self.beginnings = self.beginnings.saturating_sub(1);
        }
        self.scheme = scheme;
        if self.needs_no_challenge() {
            // No challenge will come to show that the upstream takes it.
            self.credentials.remember(scheme, self.fallback.as_ref());
        }
        match framing {
            Some(framing) => Ok(self.discard(framing, AfterBody::NextToken)),
            None => self.again(Cause::HandshakeBroken, ASKED_AGAIN).map(Some),
        }
    }

    /// An outcome is reported.
    fn end<T>(&mut self, outcome: T) -> T {
        self.state = State::Ended;
        // The exchange may last for hours, and needs no secret.
        self.secrets = None;
        outcome
    }

    fn discard(&mut self, framing: BodyFraming, then: AfterBody) -> Option<Progress> {
        self.state = State::Discarding { body: BodyDiscarder::new(framing, limits::DISCARD_LIMIT_BYTES), then };
        None
    }

    /// The body has been read. With bytes behind it, which would be taken for the next answer, the connection is
    /// dropped.
    fn discarded(&mut self, poisoned: bool, out: &mut Vec<u8>) -> Result<Progress, Fault> {
        let State::Discarding { then, .. } = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(Progress::More);
        };
        if poisoned {
            return self.again(Cause::ResponseMalformed, "the upstream sends bytes behind the body of its 407");
        }
        match then {
            AfterBody::Answer(challenge) => {
                self.state = State::TokenDue { challenge: Some(challenge) };
                Ok(Progress::Challenged)
            }
            AfterBody::NextToken if self.needs_no_challenge() => {
                self.secrets = self.credentials.secrets();
                self.state = State::TokenDue { challenge: None };
                Ok(Progress::Challenged)
            }
            AfterBody::NextToken => {
                self.check_beginnings(Cause::HandshakeBroken, ASKED_AGAIN)?;
                self.begin(out);
                Ok(Progress::Send)
            }
            AfterBody::BareRequest => {
                self.state = State::Ready(Opening::BareRequest);
                self.begin(out);
                Ok(Progress::Send)
            }
        }
    }

    /// Gives the connection up and asks for another, unless too many have been used already.
    fn again(&mut self, cause: Cause, detail: &'static str) -> Result<Progress, Fault> {
        self.check_beginnings(cause, detail)?;
        self.state = State::Ready(Opening::Token);
        Ok(Progress::Redial)
    }

    /// The same, for the client's own request without credentials.
    fn again_bare(&mut self) -> Result<Progress, Fault> {
        let progress = self.again(Cause::HandshakeBroken, ASKED_AGAIN)?;
        self.state = State::Ready(Opening::BareRequest);
        Ok(progress)
    }

    fn check_beginnings(&self, cause: Cause, detail: &'static str) -> Result<(), Fault> {
        if self.may_begin_again() {
            return Ok(());
        }
        Err(fault(cause, format!("{detail}; gave up after {} attempts", self.beginnings)))
    }
}

fn body_fault(error: DiscardError) -> Fault {
    let cause = match error {
        DiscardError::TooLarge { .. } => Cause::ResponseBodyTooLarge,
        _ => Cause::ResponseMalformed,
    };
    fault(cause, format!("the body of the upstream's 407: {error}"))
}
