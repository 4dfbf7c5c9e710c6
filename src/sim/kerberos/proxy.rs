//! An upstream's side of a connection: what verifies credentials before a request is carried out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::plan::{Offers, ProxyPlan, Reply};
use super::realm::{Realm, TokenVerdict};
use crate::auth::{initial_token, read_response};
use crate::stub::{Personality, ProxyAction, ProxyContext, ProxySession};

/// What an upstream's side needs from outside.
#[derive(Clone, Copy)]
pub struct ProxySurroundings<'a> {
    pub stub: ProxyContext<'a>,
    pub now_us: u64,
}

/// An upstream's side of a connection.
pub enum Proxy {
    /// It knows NTLM only, and nothing else is configured.
    Ntlm(Box<ProxySession>),
    /// It knows Kerberos, or is asked by it.
    Kerberos(Box<KerberosProxy>),
}

/// What is kept of a connection to an upstream in a run with Kerberos.
pub struct KerberosProxy {
    plan: ProxyPlan,
    upstream: usize,
    realm: Rc<RefCell<Realm>>,
    /// Authenticates by NTLM.
    ntlm: ProxySession,
    /// Serves what has been authenticated by a ticket.
    open: ProxySession,
    /// It admits everybody.
    is_open: bool,
    state: State,
    /// The user whose token was accepted last.
    user: Option<&'static str>,
    /// For the head of the answer.
    reply: Option<String>,
    /// The last request is a HEAD.
    is_head: bool,
    /// It has a token of Kerberos.
    has_verified: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    /// A token of Kerberos was accepted.
    Ticket,
    /// A token of Kerberos was refused. As with Squid, nothing else on this connection is accepted.
    Refused,
    /// A message of NTLM has come.
    Ntlm,
}

/// What a request's credentials are.
enum Shown {
    Nothing,
    /// The GSS-API token.
    Kerberos(Vec<u8>),
    Ntlm,
    Other,
}

impl Proxy {
    pub fn ntlm(personality: Personality, id: u64) -> Proxy {
        Proxy::Ntlm(Box::new(ProxySession::new(personality, id)))
    }

    pub fn kerberos(personality: Personality, id: u64, upstream: usize, realm: &Rc<RefCell<Realm>>) -> Proxy {
        Proxy::Kerberos(Box::new(KerberosProxy {
            plan: realm.borrow().plan().proxies[upstream],
            upstream,
            realm: Rc::clone(realm),
            ntlm: ProxySession::new(personality, id),
            open: ProxySession::new(Personality::Open, id),
            is_open: personality == Personality::Open,
            state: State::New,
            user: None,
            reply: None,
            is_head: false,
            has_verified: false,
        }))
    }

    pub fn open(&mut self, steps: &mut VecDeque<ProxyAction>) {
        match self {
            Proxy::Ntlm(session) => session.open(steps),
            Proxy::Kerberos(proxy) => proxy.ntlm.open(steps),
        }
    }

    pub fn idle_close(&self) -> Option<Duration> {
        match self {
            Proxy::Ntlm(session) => session.idle_close(),
            Proxy::Kerberos(proxy) => proxy.ntlm.idle_close(),
        }
    }

    /// Receives the head of a request, without a body.
    pub fn receive(&mut self, head: &[u8], from: ProxySurroundings<'_>, steps: &mut VecDeque<ProxyAction>) {
        match self {
            Proxy::Ntlm(session) => session.receive(head, &from.stub, steps),
            Proxy::Kerberos(proxy) => proxy.receive(head, from, steps),
        }
    }

    /// The user of the last ticket that it has accepted.
    pub fn user_of_ticket(&self) -> Option<&'static str> {
        match self {
            Proxy::Ntlm(_) => None,
            Proxy::Kerberos(proxy) => proxy.user,
        }
    }

    /// How long the verdict on the token that has just been received takes; it precedes the steps of an answer.
    pub fn verdict_takes(&self) -> Option<Duration> {
        match self {
            Proxy::Kerberos(proxy) if proxy.has_verified => proxy.plan.takes(),
            _ => None,
        }
    }

    /// A field for the head of the answer to what has just been received.
    pub fn take_reply(&mut self) -> Option<String> {
        match self {
            Proxy::Ntlm(_) => None,
            Proxy::Kerberos(proxy) => proxy.reply.take(),
        }
    }
}

impl KerberosProxy {
    fn receive(&mut self, head: &[u8], from: ProxySurroundings<'_>, steps: &mut VecDeque<ProxyAction>) {
        let text = String::from_utf8_lossy(head).into_owned();
        let shown = credentials(&text).map_or(Shown::Nothing, classify);
        (self.reply, self.is_head, self.has_verified) = (None, text.starts_with("HEAD "), false);
        self.note(&shown);
        if self.is_open {
            return self.open.receive(&without_credentials(&text), &from.stub, steps);
        }
        if self.state == State::Refused {
            return self.refuse(None, steps);
        }
        match shown {
            Shown::Kerberos(token) => self.verify(&token, &text, from, steps),
            Shown::Nothing if self.state == State::Ticket => {
                self.admit(&text, from, steps);
            }
            Shown::Nothing if self.state == State::Ntlm => self.ntlm.receive(head, &from.stub, steps),
            Shown::Ntlm if self.plan.offers != Offers::Negotiate => {
                self.state = State::Ntlm;
                self.ntlm.receive(head, &from.stub, steps);
            }
            Shown::Nothing | Shown::Ntlm | Shown::Other => self.refuse(None, steps),
        }
    }

    /// A mechanism that is not listed is never used.
    fn note(&self, shown: &Shown) {
        let mut realm = self.realm.borrow_mut();
        let is_listed = match shown {
            Shown::Nothing | Shown::Kerberos(_) => true,
            Shown::Ntlm => {
                realm.counts.ntlm += 1;
                realm.plan().ntlm
            }
            Shown::Other => false,
        };
        if !is_listed {
            realm
                .wrong
                .push(format!("upstream {} received credentials of a mechanism that is not listed", self.upstream));
        }
    }

    fn verify(&mut self, token: &[u8], head: &str, from: ProxySurroundings<'_>, steps: &mut VecDeque<ProxyAction>) {
        let verdict = self.realm.borrow_mut().verify(self.upstream, token, from.now_us);
        steps.extend(self.plan.takes().map(ProxyAction::Wait));
        self.has_verified = true;
        match verdict {
            _ if self.plan.offers == Offers::Ntlm => self.refuse(None, steps),
            TokenVerdict::Accepted(user, reply) => {
                self.user = Some(user);
                self.state = State::Ticket;
                let own = reply.filter(|_| self.plan.reply != Reply::Nothing).map(|mut reply| {
                    if let (Reply::Wrong, Some(last)) = (self.plan.reply, reply.last_mut()) {
                        *last ^= 1;
                    }
                    STANDARD.encode(neg_token_resp(&reply))
                });
                self.reply = own.map(|token| format!("Proxy-Authenticate: Negotiate {token}\r\n"));
                self.admit(head, from, steps);
            }
            TokenVerdict::Refused(why) => {
                self.state = State::Refused;
                let token = self.plan.says_why.then(|| STANDARD.encode(neg_token_resp(&why)));
                self.refuse(token.as_deref(), steps);
            }
        }
    }

    /// The request is authenticated.
    fn admit(&mut self, head: &str, from: ProxySurroundings<'_>, steps: &mut VecDeque<ProxyAction>) {
        let mut answer = VecDeque::new();
        self.open.receive(&without_credentials(head), &from.stub, &mut answer);
        if let (Some(field), Some(ProxyAction::Send(bytes))) = (&self.reply, answer.front_mut())
            && let Some(line) = bytes.windows(2).position(|end| end == b"\r\n")
        {
            bytes.splice(line + 2..line + 2, field.bytes());
        }
        steps.extend(answer);
        if self.plan.each_request {
            self.state = State::New;
        }
    }

    fn refuse(&mut self, token: Option<&str>, steps: &mut VecDeque<ProxyAction>) {
        let negotiate = token.map_or("Negotiate".to_owned(), |token| format!("Negotiate {token}"));
        let offers: &[&str] = match self.plan.offers {
            Offers::Negotiate => &[&negotiate],
            Offers::Both => &[&negotiate, "NTLM"],
            Offers::Ntlm => &["NTLM"],
        };
        let mut head = "HTTP/1.1 407 Proxy Authentication Required\r\n".to_owned();
        offers.iter().for_each(|offer| head += &format!("Proxy-Authenticate: {offer}\r\n"));
        let ending = if self.plan.closes { "Connection: close\r\n" } else { "" };
        let body = if self.is_head { "" } else { "refused" };
        head += &format!("Content-Length: 7\r\n{ending}\r\n{body}");
        steps.push_back(ProxyAction::Send(head.into_bytes()));
        steps.extend(self.plan.closes.then_some(ProxyAction::Close));
    }
}

/// Whether credentials carry a ticket.
pub fn has_ticket(credentials: &str) -> bool {
    matches!(classify(credentials), Shown::Kerberos(_))
}

fn classify(credentials: &str) -> Shown {
    let Some((scheme, text)) = credentials.split_once(' ') else { return Shown::Other };
    let Ok(token) = STANDARD.decode(text) else { return Shown::Other };
    if token.windows(8).any(|window| window == b"NTLMSSP\0") {
        return Shown::Ntlm;
    }
    match initial_token(&token) {
        Some(token) if scheme.eq_ignore_ascii_case("Negotiate") => Shown::Kerberos(token.to_vec()),
        _ => Shown::Other,
    }
}

fn credentials(head: &str) -> Option<&str> {
    let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization")).map(|(_, value)| value.trim())
}

fn without_credentials(head: &str) -> Vec<u8> {
    let is_other = |line: &&str| !line.to_ascii_lowercase().starts_with("proxy-authorization:");
    head.split("\r\n").filter(is_other).collect::<Vec<_>>().join("\r\n").into_bytes()
}

/// A NegTokenResp with the mechanism's token.
fn neg_token_resp(token: &[u8]) -> Vec<u8> {
    let enclosed = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).expect("a short token").to_be_bytes();
        [&[tag, 0x82][..], &length, content].concat()
    };
    let response = enclosed(0xa1, &enclosed(0x30, &enclosed(0xa2, &enclosed(0x04, token))));
    debug_assert!(read_response(&response).is_some());
    response
}
