//! The stub's responses, as actions for the driver of the connection.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::Duration;

use super::behaviour::{Behaviour, Delivery, Ending, Established, PageBody};
use super::origin::Origin;
use super::pattern;
use super::request::Accepts;

/// Most bytes of an origin that go out in the same segment as the 200.
const FIRST_BYTES_MAX: usize = 1024;

/// The scheme of Kerberos.
const NEGOTIATE: &str = "Negotiate";

/// What the driver of a connection has to do, in order.
#[derive(Debug)]
pub enum ProxyAction {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Write these bytes one at a time, a millisecond apart.
    Trickle(Vec<u8>),
    /// Write `bytes` bytes of `block`, repeated as often as necessary.
    Repeat {
        /// The block to repeat.
        block: &'static [u8],
        /// Where in the block to begin.
        offset: usize,
        /// How many bytes are left to write; `u64::MAX` means endless.
        bytes: u64,
    },
    /// Do nothing for this long.
    Wait(Duration),
    /// From here on the connection is a tunnel to `origin`. The session has ended.
    Tunnel {
        /// The origin at the end of the tunnel.
        origin: Origin,
        /// What was received after the request's head; the first bytes for the origin.
        early: Vec<u8>,
    },
    /// Close gracefully: shut down the sending direction, discard what is still received, close. The session has ended.
    Close,
    /// Close with a reset. The session has ended.
    Reset,
}

/// The body of a page.
pub(super) enum PageContent {
    Text(String),
    /// This many bytes of the pattern.
    Pattern(u64),
}

/// A final response that is not about authentication.
pub(super) struct Page {
    pub status: u16,
    pub reason: &'static str,
    pub content: PageContent,
}

impl Page {
    /// A small HTML page that says what is wrong.
    pub(super) fn error(status: u16, reason: &'static str, text: &str) -> Page {
        let text = format!("<html><body><h1>{status} {reason}</h1><p>{text}</p></body></html>\n");
        Page { status, reason, content: PageContent::Text(text) }
    }
}

/// How a response has to fit its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseOptions {
    /// The client wants to keep the connection.
    pub persists: bool,
    /// The response may have a body: the request was not a HEAD.
    pub wants_body: bool,
}

/// Writes a connection's responses in the style of its personality.
pub(super) struct ResponseWriter<'a> {
    pub behaviour: &'a Behaviour,
    /// The pause before each response.
    pub delay: Duration,
    pub actions: &'a mut VecDeque<ProxyAction>,
    /// What is offered.
    pub accepts: Accepts,
    /// The token of Negotiate in the response, in base64.
    pub negotiate: Option<String>,
}

impl ResponseWriter<'_> {
    /// Writes a 407, with a challenge if there is a token. Returns whether the connection stays open.
    pub(super) fn auth_required(&mut self, token: Option<&str>, options: ResponseOptions) -> bool {
        let style = if token.is_some() { self.behaviour.challenge } else { self.behaviour.unchallenged };
        let ending = match style.ending {
            Ending::KeepAlive | Ending::Unsaid if !options.persists => Ending::Close,
            ending => ending,
        };
        let stays = matches!(ending, Ending::KeepAlive | Ending::Unsaid) && style.body != PageBody::ToClose;
        let mut head = self.auth_required_head(token);
        let tail = self.behaviour.head.line_tail;
        head += &ending_fields(ending, tail);
        let body = body_fields(style.body, tail, &mut head);
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if options.wants_body {
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(style.stray);
        }
        self.send(bytes);
        match style.body {
            PageBody::Length(length) if length > INLINE_BODY_MAX_BYTES && options.wants_body => {
                self.actions.push_back(ProxyAction::Repeat { block: FILLER, offset: 0, bytes: length });
            }
            PageBody::Endless if options.wants_body => {
                self.actions.push_back(ProxyAction::Repeat { block: filler_chunk(), offset: 0, bytes: u64::MAX });
            }
            _ => {}
        }
        if !stays {
            self.actions.push_back(ProxyAction::Close);
        }
        stays
    }

    fn auth_required_head(&self, token: Option<&str>) -> String {
        let (style, offers) = (&self.behaviour.head, &self.behaviour.offers);
        let is_spoken = |offer: &str| offers.scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(offer));
        let is_kerberos =
            |offer: &str| self.accepts.kerberos && token.is_none() && offer.eq_ignore_ascii_case(NEGOTIATE);
        let own = offers.list.iter().filter(|offer| self.accepts.ntlm && !is_kerberos(offer));
        let own = own.filter_map(|offer| match token {
            Some(token) if is_spoken(offer) => Some(format!("{offer}{}{token}", style.token_separator)),
            Some(_) if !offers.beside_token => None,
            _ => Some((*offer).to_owned()),
        });
        let is_beside = token.is_none() || offers.beside_token;
        let kerberos = (self.accepts.kerberos && is_beside).then(|| self.negotiate_challenge());
        let challenges = kerberos.into_iter().chain(own);
        let lines: Vec<String> = match offers.joined {
            true => vec![challenges.collect::<Vec<_>>().join(", ")],
            false => challenges.collect(),
        };
        let (version, tail) = (style.version.as_str(), style.line_tail);
        let mut head = style.interim.to_owned();
        head += &format!("{version} {}{}\r\nVia: 1.1 STUB{tail}\r\n", style.auth_status, style.auth_reason);
        for line in lines {
            head += &format!("{}: {line}{tail}\r\n", style.challenge_field);
        }
        head + style.more_fields
    }

    /// Negotiate, with the token if there is one.
    fn negotiate_challenge(&self) -> String {
        match &self.negotiate {
            Some(token) => format!("{NEGOTIATE}{}{token}", self.behaviour.head.token_separator),
            None => NEGOTIATE.to_owned(),
        }
    }

    /// The field of a final response with the token that authenticates the service (RFC 4559 §5).
    fn service_token_field(&self) -> String {
        match &self.negotiate {
            Some(_) => format!("{}: {}\r\n", self.behaviour.head.challenge_field, self.negotiate_challenge()),
            None => String::new(),
        }
    }

    /// Writes a 200 and turns the connection into a tunnel.
    pub(super) fn tunnel(&mut self, mut origin: Origin, early: Vec<u8>) {
        let style = &self.behaviour.head;
        let fields = match self.behaviour.established {
            Established::WithFields(fields) => fields,
            Established::Plain | Established::WithFirstBytes => "",
        };
        let (interim, version) = (style.interim, style.version.as_str());
        let token = self.service_token_field();
        let head = format!("{interim}{version} 200 Connection established\r\nVia: 1.1 STUB\r\n{token}{fields}\r\n");
        let mut bytes = head.into_bytes();
        if self.behaviour.established == Established::WithFirstBytes {
            let first = origin.unsolicited();
            let first = &first[..first.len().min(FIRST_BYTES_MAX)];
            bytes.extend_from_slice(first);
            origin.unsolicited_sent(first.len());
        }
        self.send(bytes);
        self.actions.push_back(ProxyAction::Tunnel { origin, early });
    }

    /// Writes a page. Returns whether the connection stays open.
    pub(super) fn page(&mut self, page: &Page, options: ResponseOptions) -> bool {
        let version = self.behaviour.head.version.as_str();
        let length = match &page.content {
            PageContent::Text(text) => text.len() as u64,
            PageContent::Pattern(length) => *length,
        };
        let mut head = self.behaviour.head.interim.to_owned();
        head += &format!(
            "{version} {} {}\r\nVia: 1.1 STUB\r\nContent-Type: {}\r\nContent-Length: {length}\r\n",
            page.status,
            page.reason,
            if page.status == 200 { "text/plain" } else { "text/html" },
        );
        head += &self.service_token_field();
        head += &ending_fields(if options.persists { Ending::KeepAlive } else { Ending::Close }, "");
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if let PageContent::Text(text) = &page.content
            && options.wants_body
        {
            bytes.extend_from_slice(text.as_bytes());
        }
        self.send(bytes);
        if matches!(page.content, PageContent::Pattern(_)) && options.wants_body {
            self.actions.push_back(ProxyAction::Repeat { block: pattern::whole_block(), offset: 0, bytes: length });
        }
        if !options.persists {
            self.actions.push_back(ProxyAction::Close);
        }
        options.persists
    }

    fn send(&mut self, bytes: Vec<u8>) {
        let wait = self.delay + self.behaviour.answer_wait;
        if !wait.is_zero() {
            self.actions.push_back(ProxyAction::Wait(wait));
        }
        self.actions.push_back(match self.behaviour.delivery {
            Delivery::Whole => ProxyAction::Send(bytes),
            Delivery::ByteAtATime => ProxyAction::Trickle(bytes),
        });
    }
}

fn ending_fields(ending: Ending, tail: &str) -> String {
    match ending {
        Ending::KeepAlive => format!("Connection: Keep-Alive{tail}\r\nProxy-Connection: Keep-Alive{tail}\r\n"),
        Ending::Unsaid => String::new(),
        Ending::Close => format!("Connection: close{tail}\r\nproxy-Connection: close{tail}\r\n"),
        Ending::ProxyConnectionClose => format!("Proxy-Connection: close{tail}\r\n"),
    }
}

/// Bodies up to this size go out with their head; longer ones are repeated from a block.
const INLINE_BODY_MAX_BYTES: u64 = 64 * 1024;

static FILLER: &[u8] = &[b'.'; 64 * 1024];

const CHUNKED_BODY: &[u8] = b"1a;name=\"value\"\r\n<html><body>Who are you?\r\n\r\n\
    10\r\n</body></html>\r\n\r\n0;last\r\nX-Trailer: one\r\nX-Other-Trailer: two\r\n\r\n";

/// Adds the fields that frame the body to `head`. Returns the part of the body that goes out with the head.
fn body_fields(body: PageBody, tail: &str, head: &mut String) -> Vec<u8> {
    let content = match body {
        PageBody::Empty => Vec::new(),
        PageBody::Text(text) => text.as_bytes().to_vec(),
        PageBody::Length(length) if length <= INLINE_BODY_MAX_BYTES => {
            FILLER.iter().take(usize::try_from(length).unwrap_or_default()).copied().collect()
        }
        PageBody::Length(_) | PageBody::Endless => Vec::new(),
        PageBody::Chunked => CHUNKED_BODY.to_vec(),
        PageBody::ToClose => b"<html><body>Read to the end.</body></html>\n".to_vec(),
    };
    *head += &format!("Content-Type: text/html{tail}\r\n");
    *head += &match body {
        PageBody::Empty | PageBody::Text(_) => format!("Content-Length: {}{tail}\r\n", content.len()),
        PageBody::Length(length) => format!("Content-Length: {length}{tail}\r\n"),
        PageBody::Chunked | PageBody::Endless => format!("Transfer-Encoding: chunked{tail}\r\n"),
        PageBody::ToClose => String::new(),
    };
    content
}

/// One chunk, to be sent repeatedly.
fn filler_chunk() -> &'static [u8] {
    static CHUNK: OnceLock<Vec<u8>> = OnceLock::new();
    CHUNK.get_or_init(|| [&format!("{:x}\r\n", FILLER.len()).into_bytes(), FILLER, b"\r\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{BodyDiscarder, FieldStorage, HeadEnd, ResponseHead, ResponseTo, Version};
    use crate::stub::{GREETING, Personality};

    const CONNECT: ResponseOptions = ResponseOptions { persists: true, wants_body: true };

    fn writer<'a>(behaviour: &'a Behaviour, actions: &'a mut VecDeque<ProxyAction>) -> ResponseWriter<'a> {
        ResponseWriter { behaviour, delay: Duration::ZERO, actions, accepts: Accepts::NTLM, negotiate: None }
    }

    fn auth_required(personality: Personality, token: Option<&str>) -> (Vec<u8>, VecDeque<ProxyAction>, bool) {
        let (behaviour, mut actions) = (personality.behaviour(), VecDeque::new());
        let mut answers = writer(&behaviour, &mut actions);
        let stays = answers.auth_required(token, CONNECT);
        let Some(ProxyAction::Send(bytes)) = actions.pop_front() else {
            panic!("{personality} does not respond at once")
        };
        (bytes, actions, stays)
    }

    #[test]
    fn a_407_of_isa_looks_as_in_the_example() {
        let (bytes, actions, stays) = auth_required(Personality::IsaFirst407Closes, None);
        let end = HeadEnd::response().find(&bytes, 4096).unwrap().unwrap();
        let head = str::from_utf8(&bytes[..end]).unwrap();
        assert!(head.contains(
            "\r\nproxy-Authenticate: Negotiate \r\nproxy-Authenticate: Kerberos \r\nproxy-Authenticate: NTLM \r\n\
             Connection: close \r\nproxy-Connection: close \r\n"
        ));
        assert_eq!(bytes.len() - end, 701);
        assert!(!stays && matches!(actions.front(), Some(ProxyAction::Close)));
    }

    #[test]
    fn a_short_body_is_framed_as_its_fields_say() {
        use Personality::{BodyChunkedTrailers, BodyLength3k, Http10KeepAlive, OddReason, Plain};
        for personality in [Plain, BodyLength3k, BodyChunkedTrailers, Http10KeepAlive, OddReason] {
            for token in [None, Some("TlRM")] {
                let (bytes, _, stays) = auth_required(personality, token);
                let end = HeadEnd::response().find(&bytes, 4096).unwrap().unwrap();
                let mut storage = FieldStorage::new();
                let head = ResponseHead::parse(&bytes[..end], &mut storage).unwrap();
                assert_eq!(head.status, 407);
                let mut drain = BodyDiscarder::new(head.framing(ResponseTo::Connect).unwrap(), 10_000);
                let drained = drain.feed(&bytes[end..]).unwrap();
                assert!(drained.done && drained.consumed == bytes.len() - end, "{personality}");
                assert!(stays && head.persists(), "{personality}");
            }
        }
    }

    #[test]
    fn each_personality_lists_challenges_in_its_own_way() {
        let text = |personality, token| String::from_utf8(auth_required(personality, token).0).unwrap();
        assert!(text(Personality::ChallengesJoined, Some("T==")).contains(", NTLM T==, Basic realm=\"d\"\r\n"));
        assert!(text(Personality::ChallengesAnyCase, Some("T==")).contains("\r\npROXY-aUTHENTICATE: nTlM T==\r\n"));
        assert!(!text(Personality::ChallengesNotFirst, Some("T==")).contains("Basic"));
        assert!(text(Personality::FoldedLines, Some("T==")).contains(": NTLM\r\n\tT==\r\n"));
        assert!(text(Personality::NoReason, None).starts_with("HTTP/1.1 407\r\n"));
        assert!(text(Personality::Transparent401, None).contains("\r\nWWW-Authenticate: NTLM\r\nSet-Cookie: BCSI-CS-"));
        assert!(
            text(Personality::BytesAfterBody, Some("T=="))
                .ends_with("\r\n\r\nHTTP/1.1 200 Connection established\r\n\r\n")
        );
    }

    #[test]
    fn first_bytes_of_an_origin_come_with_the_200_if_the_personality_says_so() {
        for (personality, first) in [(Personality::Plain, &b""[..]), (Personality::OkWithTunnelBytes, GREETING)] {
            let (behaviour, mut actions) = (personality.behaviour(), VecDeque::new());
            let mut answers = writer(&behaviour, &mut actions);
            answers.tunnel(Origin::of_host("greet.test").unwrap(), Vec::new());
            let (Some(ProxyAction::Send(bytes)), Some(ProxyAction::Tunnel { origin, .. })) =
                (actions.pop_front(), actions.pop_front())
            else {
                panic!("no tunnel")
            };
            assert!(bytes.ends_with(&[b"\r\n\r\n", first].concat()), "{personality}");
            assert_eq!([first, origin.unsolicited()].concat(), GREETING, "{personality}");
        }
    }

    #[test]
    fn an_endless_body_is_a_repeated_chunk() {
        let (bytes, actions, _) = auth_required(Personality::BodyEndless, None);
        assert!(bytes.ends_with(b"Transfer-Encoding: chunked\r\n\r\n"));
        let Some(ProxyAction::Repeat { block, bytes: u64::MAX, .. }) = actions.front() else { panic!("it ends") };
        assert!(block.starts_with(b"10000\r\n.") && block.ends_with(b".\r\n"));
        assert_eq!(Personality::BodyEndless.behaviour().head.version, Version::Http11);
    }
}
