//! The stub's answers as steps for whoever drives the connection.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::Duration;

use super::behaviour::{Behaviour, Body, Delivery, Ending, Established};
use super::origin::Origin;
use super::pattern;

/// The most bytes of an origin that go out in the same segment as the 200.
const FIRST_BYTES_MAX: usize = 1024;

/// What is to be done next on a connection, in order.
#[derive(Debug)]
pub enum Step {
    /// Write these bytes.
    Send(Vec<u8>),
    /// Write these bytes one at a time, a millisecond apart.
    Trickle(Vec<u8>),
    /// Write the first `bytes` bytes of `block` repeated for ever.
    Repeat {
        /// What is repeated.
        block: &'static [u8],
        /// Where to begin in it.
        offset: usize,
        /// How much is left to write; `u64::MAX` stands for no end.
        bytes: u64,
    },
    /// Do nothing for that long.
    Wait(Duration),
    /// The connection is a tunnel to `origin` from here on, which has `early` to read already. The session has ended.
    Tunnel {
        /// The origin.
        origin: Origin,
        /// What came behind the request's head.
        early: Vec<u8>,
    },
    /// Close in good order: end the own direction, read past what still comes, close. The session has ended.
    Close,
    /// Close with a reset. The session has ended.
    Reset,
}

/// The body of a page.
pub(super) enum Content {
    Text(String),
    /// That many bytes of the pattern.
    Pattern(u64),
}

/// A final answer that is not about authentication.
pub(super) struct Page {
    pub status: u16,
    pub reason: &'static str,
    pub content: Content,
}

impl Page {
    /// A small page of HTML that says what is wrong.
    pub(super) fn error(status: u16, reason: &'static str, text: &str) -> Page {
        let text = format!("<html><body><h1>{status} {reason}</h1><p>{text}</p></body></html>\n");
        Page { status, reason, content: Content::Text(text) }
    }
}

/// What of the request matters for how it is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    /// The client means to go on with this connection.
    pub persists: bool,
    /// The answer may have a body: the request was no HEAD.
    pub wants_body: bool,
}

/// Writes one connection's answers in the style of its personality.
pub(super) struct Answers<'a> {
    pub behaviour: &'a Behaviour,
    /// What passes before each answer.
    pub delay: Duration,
    pub steps: &'a mut VecDeque<Step>,
}

impl Answers<'_> {
    /// A 407, with a challenge if there is a token. Returns whether the connection stays.
    pub(super) fn demand(&mut self, token: Option<&str>, reply: Reply) -> bool {
        let style = if token.is_some() { self.behaviour.challenge } else { self.behaviour.bare };
        let ending = match style.ending {
            Ending::KeepAlive | Ending::Unsaid if !reply.persists => Ending::Close,
            ending => ending,
        };
        let stays = matches!(ending, Ending::KeepAlive | Ending::Unsaid) && style.body != Body::ToClose;
        let mut head = self.demand_head(token);
        let tail = self.behaviour.head.line_tail;
        head += &ending_fields(ending, tail);
        let body = body_fields(style.body, tail, &mut head);
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if reply.wants_body {
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(style.stray);
        }
        self.send(bytes);
        match style.body {
            Body::Length(length) if length > INLINE_BODY_MAX_BYTES && reply.wants_body => {
                self.steps.push_back(Step::Repeat { block: FILLER, offset: 0, bytes: length });
            }
            Body::Endless if reply.wants_body => {
                self.steps.push_back(Step::Repeat { block: filler_chunk(), offset: 0, bytes: u64::MAX });
            }
            _ => {}
        }
        if !stays {
            self.steps.push_back(Step::Close);
        }
        stays
    }

    fn demand_head(&self, token: Option<&str>) -> String {
        let (style, offers) = (&self.behaviour.head, &self.behaviour.offers);
        let is_spoken = |offer: &str| offers.scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(offer));
        let challenges = offers.list.iter().filter_map(|offer| match token {
            Some(token) if is_spoken(offer) => Some(format!("{offer}{}{token}", style.token_blank)),
            Some(_) if !offers.beside_token => None,
            _ => Some((*offer).to_owned()),
        });
        let lines: Vec<String> = match offers.joined {
            true => vec![challenges.collect::<Vec<_>>().join(", ")],
            false => challenges.collect(),
        };
        let (version, tail) = (style.version.as_str(), style.line_tail);
        let mut head = style.interim.to_owned();
        head += &format!("{version} {}{}\r\nVia: 1.1 STUB{tail}\r\n", style.demand_status, style.demand_reason);
        for line in lines {
            head += &format!("{}: {line}{tail}\r\n", style.challenge_field);
        }
        head + style.more_fields
    }

    /// A 200 and the tunnel behind it.
    pub(super) fn tunnel(&mut self, mut origin: Origin, early: Vec<u8>) {
        let style = &self.behaviour.head;
        let fields = match self.behaviour.established {
            Established::WithFields(fields) => fields,
            Established::Plain | Established::WithFirstBytes => "",
        };
        let (interim, version) = (style.interim, style.version.as_str());
        let head = format!("{interim}{version} 200 Connection established\r\nVia: 1.1 STUB\r\n{fields}\r\n");
        let mut bytes = head.into_bytes();
        if self.behaviour.established == Established::WithFirstBytes {
            let first = origin.unasked();
            let first = &first[..first.len().min(FIRST_BYTES_MAX)];
            bytes.extend_from_slice(first);
            origin.unasked_sent(first.len());
        }
        self.send(bytes);
        self.steps.push_back(Step::Tunnel { origin, early });
    }

    /// A page. Returns whether the connection stays.
    pub(super) fn page(&mut self, page: &Page, reply: Reply) -> bool {
        let version = self.behaviour.head.version.as_str();
        let length = match &page.content {
            Content::Text(text) => text.len() as u64,
            Content::Pattern(length) => *length,
        };
        let mut head = self.behaviour.head.interim.to_owned();
        head += &format!(
            "{version} {} {}\r\nVia: 1.1 STUB\r\nContent-Type: {}\r\nContent-Length: {length}\r\n",
            page.status,
            page.reason,
            if page.status == 200 { "text/plain" } else { "text/html" },
        );
        head += &ending_fields(if reply.persists { Ending::KeepAlive } else { Ending::Close }, "");
        head += "\r\n";
        let mut bytes = head.into_bytes();
        if let Content::Text(text) = &page.content
            && reply.wants_body
        {
            bytes.extend_from_slice(text.as_bytes());
        }
        self.send(bytes);
        if matches!(page.content, Content::Pattern(_)) && reply.wants_body {
            self.steps.push_back(Step::Repeat { block: pattern::whole_block(), offset: 0, bytes: length });
        }
        if !reply.persists {
            self.steps.push_back(Step::Close);
        }
        reply.persists
    }

    fn send(&mut self, bytes: Vec<u8>) {
        let wait = self.delay + self.behaviour.answer_wait;
        if !wait.is_zero() {
            self.steps.push_back(Step::Wait(wait));
        }
        self.steps.push_back(match self.behaviour.delivery {
            Delivery::Whole => Step::Send(bytes),
            Delivery::ByteAtATime => Step::Trickle(bytes),
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

/// Bodies up to this go out with their head; longer ones are repeated from a block.
const INLINE_BODY_MAX_BYTES: u64 = 64 * 1024;

static FILLER: &[u8] = &[b'.'; 64 * 1024];

const CHUNKED_BODY: &[u8] = b"1a;name=\"value\"\r\n<html><body>Who are you?\r\n\r\n\
    10\r\n</body></html>\r\n\r\n0;last\r\nX-Trailer: one\r\nX-Other-Trailer: two\r\n\r\n";

/// Adds the fields that frame the body; returns the part of the body that goes out with the head.
fn body_fields(body: Body, tail: &str, head: &mut String) -> Vec<u8> {
    let content = match body {
        Body::Empty => Vec::new(),
        Body::Text(text) => text.as_bytes().to_vec(),
        Body::Length(length) if length <= INLINE_BODY_MAX_BYTES => {
            FILLER.iter().take(usize::try_from(length).unwrap_or_default()).copied().collect()
        }
        Body::Length(_) | Body::Endless => Vec::new(),
        Body::Chunked => CHUNKED_BODY.to_vec(),
        Body::ToClose => b"<html><body>Read to the end.</body></html>\n".to_vec(),
    };
    *head += &format!("Content-Type: text/html{tail}\r\n");
    *head += &match body {
        Body::Empty | Body::Text(_) => format!("Content-Length: {}{tail}\r\n", content.len()),
        Body::Length(length) => format!("Content-Length: {length}{tail}\r\n"),
        Body::Chunked | Body::Endless => format!("Transfer-Encoding: chunked{tail}\r\n"),
        Body::ToClose => String::new(),
    };
    content
}

/// One chunk, to be sent again and again.
fn filler_chunk() -> &'static [u8] {
    static CHUNK: OnceLock<Vec<u8>> = OnceLock::new();
    CHUNK.get_or_init(|| [&format!("{:x}\r\n", FILLER.len()).into_bytes(), FILLER, b"\r\n"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{BodyDiscarder, FieldStorage, HeadEnd, ResponseHead, ResponseTo, Version};
    use crate::stub::{GREETING, Personality};

    const CONNECT: Reply = Reply { persists: true, wants_body: true };

    fn demand(personality: Personality, token: Option<&str>) -> (Vec<u8>, VecDeque<Step>, bool) {
        let (behaviour, mut steps) = (personality.behaviour(), VecDeque::new());
        let mut answers = Answers { behaviour: &behaviour, delay: Duration::ZERO, steps: &mut steps };
        let stays = answers.demand(token, CONNECT);
        let Some(Step::Send(bytes)) = steps.pop_front() else { panic!("{personality} does not answer at once") };
        (bytes, steps, stays)
    }

    #[test]
    fn a_407_of_isa_is_as_in_the_example() {
        let (bytes, steps, stays) = demand(Personality::IsaFirst407Closes, None);
        let end = HeadEnd::response().find(&bytes, 4096).unwrap().unwrap();
        let head = str::from_utf8(&bytes[..end]).unwrap();
        assert!(head.contains(
            "\r\nproxy-Authenticate: Negotiate \r\nproxy-Authenticate: Kerberos \r\nproxy-Authenticate: NTLM \r\n\
             Connection: close \r\nproxy-Connection: close \r\n"
        ));
        assert_eq!(bytes.len() - end, 701);
        assert!(!stays && matches!(steps.front(), Some(Step::Close)));
    }

    #[test]
    fn a_body_that_fits_is_framed_as_its_fields_say() {
        use Personality::{BodyChunkedTrailers, BodyLength3k, Http10KeepAlive, OddReason, Plain};
        for personality in [Plain, BodyLength3k, BodyChunkedTrailers, Http10KeepAlive, OddReason] {
            for token in [None, Some("TlRM")] {
                let (bytes, _, stays) = demand(personality, token);
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
    fn challenges_are_listed_in_the_personalitys_way() {
        let text = |personality, token| String::from_utf8(demand(personality, token).0).unwrap();
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
    fn an_origins_first_bytes_come_with_the_200_where_the_personality_says_so() {
        for (personality, first) in [(Personality::Plain, &b""[..]), (Personality::OkWithTunnelBytes, GREETING)] {
            let (behaviour, mut steps) = (personality.behaviour(), VecDeque::new());
            let mut answers = Answers { behaviour: &behaviour, delay: Duration::ZERO, steps: &mut steps };
            answers.tunnel(Origin::of_host("greet.test").unwrap(), Vec::new());
            let (Some(Step::Send(bytes)), Some(Step::Tunnel { origin, .. })) = (steps.pop_front(), steps.pop_front())
            else {
                panic!("no tunnel")
            };
            assert!(bytes.ends_with(&[b"\r\n\r\n", first].concat()), "{personality}");
            assert_eq!([first, origin.unasked()].concat(), GREETING, "{personality}");
        }
    }

    #[test]
    fn bodies_without_end_are_repeated_chunks() {
        let (bytes, steps, _) = demand(Personality::BodyEndless, None);
        assert!(bytes.ends_with(b"Transfer-Encoding: chunked\r\n\r\n"));
        let Some(Step::Repeat { block, bytes: u64::MAX, .. }) = steps.front() else { panic!("it ends") };
        assert!(block.starts_with(b"10000\r\n.") && block.ends_with(b".\r\n"));
        assert_eq!(Personality::BodyEndless.behaviour().head.version, Version::Http11);
    }
}
