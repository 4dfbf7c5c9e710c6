//! Requests and responses of the conversation, parsed again for display: what was on the wire, without secrets.

use crate::cli::terminal::{message_name, printable};
use crate::http::{self, BodyFraming, FieldStorage, HeadEnd, ResponseHead, ResponseTo, Version};

/// The beginning of every NTLM message (MS-NLMP 2.2).
const SIGNATURE: &[u8] = b"NTLMSSP\0";

/// DER of 1.2.840.113554.1.2.2, Kerberos 5: near the beginning of its tokens.
const KRB5_OID: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

/// The fields that say something about a proxy or its connection, besides those that begin with `X-`.
const SHOWN_FIELDS: &[&str] = &[
    "via",
    "server",
    "proxy-agent",
    "proxy-connection",
    "connection",
    "keep-alive",
    "content-length",
    "transfer-encoding",
    "proxy-authenticate",
    "www-authenticate",
    "proxy-support",
    "set-cookie",
    "location",
    "retry-after",
    "proxy-status",
];

/// The longest value shown, in characters.
const VALUE_LIMIT_CHARS: usize = 300;

/// A token, and the NTLM message in it.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    /// `NTLM` or `Negotiate`, as sent.
    pub scheme: String,
    /// Whether it is a SPNEGO token (RFC 4178).
    pub spnego: bool,
    /// The NTLM message in it, if any.
    pub message: Option<Vec<u8>>,
    /// Whether it is a token of Kerberos.
    pub kerberos: bool,
    /// The length of the decoded token.
    pub token_bytes: usize,
}

impl Carried {
    fn of(scheme: &str, token68: &str) -> Option<Carried> {
        let token = http::decode_token(token68).ok()?;
        let spnego = matches!(token.first(), Some(0x60 | 0xa1));
        let start = token.windows(SIGNATURE.len()).position(|window| window == SIGNATURE);
        let message = start.and_then(|start| token.get(start..)).map(<[u8]>::to_vec);
        let kerberos = message.is_none() && token.windows(KRB5_OID.len()).take(64).any(|window| window == KRB5_OID);
        Some(Carried { scheme: scheme.to_owned(), spnego, message, kerberos, token_bytes: token.len() })
    }

    /// The name and size of the token. The token itself is not shown, because a password can be guessed from it.
    pub(super) fn shown(&self) -> String {
        let wrapping = if self.spnego { " in SPNEGO" } else { "" };
        match &self.message {
            Some(message) => format!("<{}, {} bytes{wrapping}>", message_name(message), message.len()),
            None if self.kerberos => format!("<Kerberos, {} bytes{wrapping}>", self.token_bytes),
            None => format!("<a token of {} bytes{wrapping}, not an NTLM message>", self.token_bytes),
        }
    }

    /// Whether it is a message with this name.
    pub(super) fn is(&self, name: &str) -> bool {
        self.message.as_deref().is_some_and(|message| message_name(message) == name)
    }
}

/// A request that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// The request line.
    pub start_line: String,
    /// The token in Proxy-Authorization.
    pub carried: Option<Carried>,
}

impl Sent {
    pub(super) fn of(request: &[u8]) -> Sent {
        let text = String::from_utf8_lossy(request);
        let mut lines = text.split("\r\n");
        let start_line = printable(lines.next().unwrap_or_default());
        let carried = lines.filter_map(|line| line.split_once(": ")).find_map(|(name, value)| {
            let (scheme, token) = value.split_once(' ')?;
            name.eq_ignore_ascii_case("proxy-authorization").then(|| Carried::of(scheme, token))?
        });
        Sent { start_line, carried }
    }

    /// Whether it carries what the upstream accepts or refuses: an AUTHENTICATE_MESSAGE or a ticket.
    pub(super) fn authenticates(&self) -> bool {
        self.carries("AUTHENTICATE_MESSAGE") || self.carried.as_ref().is_some_and(|carried| carried.kerberos)
    }

    /// Whether it carries a message with this name.
    pub(super) fn carries(&self, name: &str) -> bool {
        self.carried.as_ref().is_some_and(|carried| carried.is(name))
    }
}

/// A response.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The status line.
    pub start_line: String,
    /// The status; 0 if the head could not be parsed.
    pub status: u16,
    /// The relevant fields, with printable values and tokens replaced by their names.
    pub fields: Vec<(String, String)>,
    /// The offered schemes, as sent.
    pub offers: Vec<String>,
    /// The token of a challenge.
    pub carried: Option<Carried>,
    /// Whether the connection stays open.
    pub persists: bool,
    /// Whether it is HTTP/1.0.
    pub http10: bool,
    /// How the body ends; `None` if that is unknown.
    pub framing: Option<BodyFraming>,
    /// The body, as far as it was received.
    pub body: Vec<u8>,
    /// Whether it contains a text with a length, which no proxy sends with a 2xx to CONNECT.
    pub has_page: bool,
}

impl Answer {
    /// Parses the final response in `bytes`; `None` while its head is incomplete.
    pub(super) fn of(bytes: &[u8], head_limit_bytes: usize) -> Option<Answer> {
        let mut rest = bytes;
        loop {
            let length = HeadEnd::response().find(rest, head_limit_bytes).ok()??;
            let (head, behind) = rest.split_at_checked(length)?;
            let mut head = head.to_vec();
            http::unfold_field_lines(&mut head);
            let answer = match ResponseHead::parse(&head, &mut FieldStorage::new()) {
                Ok(head) if head.is_informational() => None,
                Ok(parsed) => Some(Answer::read(&parsed, start_line(&head), behind)),
                Err(_) => Some(Answer::malformed(&head)),
            };
            match answer {
                Some(answer) => return Some(answer),
                None => rest = behind,
            }
        }
    }

    fn read(head: &ResponseHead<'_>, start_line: String, body: &[u8]) -> Answer {
        let field_name = if head.status == 401 { "www-authenticate" } else { "proxy-authenticate" };
        let framing = head.framing(ResponseTo::Connect).ok();
        let challenges = || http::challenges_in(&head.fields, field_name);
        let carried = challenges().find_map(|challenge| {
            let ours = challenge.is("NTLM") || challenge.is("Negotiate");
            challenge.token68.filter(|_| ours).and_then(|token| Carried::of(challenge.scheme, token))
        });
        let is_shown = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.starts_with("x-") || SHOWN_FIELDS.contains(&name.as_str())
        };
        let fields = head.fields.iter().filter(|field| is_shown(field.name));
        let fields = fields.map(|field| (field.name.to_owned(), shown_value(field.name, field.value))).collect();
        Answer {
            start_line,
            status: head.status,
            fields,
            offers: challenges().map(|challenge| printable(challenge.scheme)).take(16).collect(),
            carried,
            persists: head.persists() && framing != Some(BodyFraming::CloseDelimited),
            http10: head.version == Version::Http10,
            framing,
            body: body.to_vec(),
            has_page: has_page(head),
        }
    }

    /// A response that is not valid HTTP: only its first line is shown.
    fn malformed(head: &[u8]) -> Answer {
        Answer {
            start_line: start_line(head),
            status: 0,
            fields: Vec::new(),
            offers: Vec::new(),
            carried: None,
            persists: false,
            http10: false,
            framing: None,
            body: Vec::new(),
            has_page: false,
        }
    }

    /// The values of a field; its name is not case-sensitive.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |field| field.0.eq_ignore_ascii_case(name)).map(|field| field.1.as_str())
    }

    /// Whether it offers this scheme.
    pub(super) fn offers(&self, scheme: &str) -> bool {
        self.offers.iter().any(|offer| offer.eq_ignore_ascii_case(scheme))
    }

    /// Whether the body is incomplete.
    pub(super) fn is_cut(&self) -> bool {
        match self.framing {
            Some(BodyFraming::Length(length)) => (self.body.len() as u64) < length,
            Some(BodyFraming::Chunked) => !self.body.ends_with(b"0\r\n\r\n"),
            Some(BodyFraming::CloseDelimited) => true,
            Some(BodyFraming::None) | None => false,
        }
    }
}

fn has_page(head: &ResponseHead<'_>) -> bool {
    let says = |name, test: fn(&[u8]) -> bool| head.fields.get(name).is_some_and(test);
    let has_text = says("content-type", |kind| kind.to_ascii_lowercase().starts_with(b"text/"));
    has_text && (says("content-length", |length| length != b"0") || head.fields.has(http::FieldName::TransferEncoding))
}

fn start_line(head: &[u8]) -> String {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    shortened(&printable(&String::from_utf8_lossy(line)))
}

/// A field's value in printable form, shortened, with the tokens of challenges replaced by their names and sizes.
fn shown_value(name: &str, value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let challenge = ["proxy-authenticate", "www-authenticate"].contains(&name.to_ascii_lowercase().as_str());
    if !challenge {
        return shortened(&printable(&text));
    }
    // Folded lines leave several blanks. Joined challenges keep their commas. A word that decodes to NTLM or SPNEGO is
    // replaced by its name.
    let words = text.split_ascii_whitespace().map(|word| {
        let (bare, comma) = word.strip_suffix(',').map_or((word, ""), |bare| (bare, ","));
        match Carried::of("", bare).filter(|carried| bare.len() > 16 && (carried.message.is_some() || carried.spnego)) {
            Some(carried) => format!("{}{comma}", carried.shown()),
            None => printable(word),
        }
    });
    shortened(&words.collect::<Vec<_>>().join(" "))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(VALUE_LIMIT_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::trace;

    #[test]
    fn a_request_is_shown_as_its_line_and_its_messages_name() {
        let head =
            format!("CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nProxy-Authorization: NTLM {}\r\n\r\n", trace::AUTHENTICATE);
        let sent = Sent::of(head.as_bytes());
        assert_eq!(sent.start_line, "CONNECT h:1 HTTP/1.1");
        assert!(sent.carries("AUTHENTICATE_MESSAGE"));
        assert_eq!(sent.carried.unwrap().shown(), "<AUTHENTICATE_MESSAGE, 178 bytes>");
    }

    #[test]
    fn a_response_is_shown_without_tokens_and_control_characters() {
        let head = format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 407 \x1b[2J\r\nProxy-Authenticate: Basic realm=\"a\"\r\n\r\n\
             HTTP/1.0 407 No\r\nVia: 1.0 a\u{9b}2J\r\nDate: today\r\nproxy-authenticate: NTLM {}\r\n\
             Content-Length: 3\r\n\r\nab",
            trace::AUTHENTICATE
        );
        let bad = Answer::of(head.as_bytes(), 4096).unwrap();
        assert_eq!((bad.status, bad.start_line.as_str()), (0, "HTTP/1.0 407 \\u{1b}[2J"));
        let good = head.split_once("\r\n\r\nHTTP/1.0 407 No").unwrap().1;
        let good = Answer::of(format!("HTTP/1.0 407 No{good}").as_bytes(), 4096).unwrap();
        assert_eq!(
            good.fields,
            [
                ("Via".to_owned(), "1.0 a\\u{9b}2J".to_owned()),
                ("proxy-authenticate".to_owned(), "NTLM <AUTHENTICATE_MESSAGE, 178 bytes>".to_owned()),
                ("Content-Length".to_owned(), "3".to_owned()),
            ]
        );
        assert!(good.is_cut() && good.http10 && !good.persists && good.offers("ntlm"));
    }

    #[test]
    fn a_token_on_a_folded_line_is_not_shown() {
        let head = format!("HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\n\t{}, Basic\r\n\r\n", trace::AUTHENTICATE);
        let answer = Answer::of(head.as_bytes(), 4096).unwrap();
        assert_eq!(answer.fields[0].1, "NTLM <AUTHENTICATE_MESSAGE, 178 bytes>, Basic");
    }

    #[test]
    fn an_incomplete_head_is_not_a_response_yet() {
        assert!(Answer::of(b"HTTP/1.1 407 x\r\nVia: a\r\n", 4096).is_none());
        assert!(Answer::of(b"HTTP/1.1 100 Continue\r\n\r\n", 4096).is_none());
    }
}
