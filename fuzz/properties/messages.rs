//! A simple HTTP/1.1 parser that works line by line (RFC 9112). It shares no code with the gateway, so that the two are
//! not wrong together.
//!
//! A strict reader accepts only what a careful sender writes; a lenient one tolerates what the gateway tolerates.

/// Hop-by-hop fields (RFC 9110 sections 7.6.1, 11.7).
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How strictly a message is read.
#[derive(Clone, Copy, PartialEq)]
pub enum Reader {
    /// For messages from others.
    Lenient,
    /// For messages from the gateway.
    Strict,
}

/// A field line: name and value.
pub type Field = (String, Vec<u8>);

/// A head: its first line and its fields.
pub struct Head {
    /// The first line.
    pub start: Vec<u8>,
    /// The fields in order, with names as written.
    pub fields: Vec<Field>,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    /// There is no body.
    None,
    /// After this many bytes.
    Length(u64),
    /// After its last chunk.
    Chunked,
    /// When the connection closes.
    ToClose,
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// To its end.
    Whole,
    /// It is incomplete, or ends with the connection.
    Cut,
    /// To an invalid line.
    Broken,
}

/// A parsed body.
pub struct Body {
    /// Its content.
    pub content: Vec<u8>,
    /// Its trailer fields; values are everything after the colon.
    pub trailers: Vec<Field>,
    /// Bytes that belong to it.
    pub used: usize,
    /// How far it was read.
    pub end: End,
}

impl Head {
    /// The head at the front of `bytes` and its length; `None` if it is incomplete or invalid.
    pub fn read(bytes: &[u8], reader: Reader) -> Option<(Head, usize)> {
        let mut rest = bytes;
        while let (Reader::Lenient, Some(behind)) = (reader, rest.strip_prefix(b"\r\n")) {
            rest = behind;
        }
        let (start, mut rest) = line(rest)?;
        let mut fields = Vec::new();
        loop {
            let (text, behind) = line(rest)?;
            rest = behind;
            if text.is_empty() {
                return Some((Head { start: start.to_vec(), fields }, bytes.len() - rest.len()));
            }
            let (name, value) = field(text)?;
            let value = match reader {
                Reader::Lenient => blanks_off(&value).to_vec(),
                Reader::Strict => value.strip_prefix(b" ").filter(|value| blanks_off(value) == *value)?.to_vec(),
            };
            fields.push((name, value));
        }
    }

    /// The words of the first line.
    pub fn words(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.start);
        text.trim_end_matches([' ', '\t']).split(' ').map(str::to_owned).collect()
    }

    /// Version, status and reason of an answer, without surrounding blanks.
    pub fn status_line(&self) -> (&[u8], &[u8], &[u8]) {
        let (version, rest) = self.start.split_at(self.start.len().min(8));
        let (status, reason) = blanks_off(rest).split_at(blanks_off(rest).len().min(3));
        (version, status, blanks_off(reason))
    }

    /// The values of all fields of a name.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
        named.map(|field| field.1.as_slice()).collect()
    }

    /// The value of the only field of a name, as text; `None` if there is none.
    pub fn only(&self, name: &str) -> Option<String> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} is written {} times", values.len());
        values.first().map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The elements of a list, as written.
    pub fn list(&self, name: &str) -> Vec<String> {
        let texts = self.all(name).into_iter().flat_map(|value| value.split(|&byte| byte == b','));
        let texts = texts.map(|element| String::from_utf8_lossy(blanks_off(element)).into_owned());
        texts.filter(|element| !element.is_empty()).collect()
    }

    /// Whether a list has an element, ignoring case.
    pub fn says(&self, name: &str, element: &str) -> bool {
        self.list(name).iter().any(|known| known.eq_ignore_ascii_case(element))
    }

    /// The end-to-end fields, except for the named ones.
    pub fn end_to_end(&self, but: &[&str]) -> Vec<Field> {
        let stays = |name: &str| {
            is_one_of(name, but) || is_hop_by_hop(name) || is_disguised(name) || self.says("connection", name)
        };
        self.fields.iter().filter(|field| !stays(&field.0)).cloned().collect()
    }

    /// What Content-Length and Transfer-Encoding announce: an error if they are ambiguous, `None` if there is neither.
    pub fn announced(&self) -> Result<Option<Framing>, ()> {
        let lengths: Vec<&[u8]> =
            self.all("content-length").into_iter().flat_map(|value| value.split(|&byte| byte == b',')).collect();
        let codings = self.list("transfer-encoding");
        match (lengths.as_slice(), self.all("transfer-encoding").is_empty()) {
            ([], true) => Ok(None),
            ([], false) if codings.len() == 1 && codings[0].eq_ignore_ascii_case("chunked") => {
                Ok(Some(Framing::Chunked))
            }
            ([..], true) => {
                let number = |text: &&[u8]| {
                    let text = blanks_off(text);
                    let digits = text.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(text).ok()).flatten()?;
                    digits.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok())
                };
                let numbers: Option<Vec<u64>> = lengths.iter().map(number).collect();
                let numbers = numbers.ok_or(())?;
                let first = numbers.first().copied().ok_or(())?;
                numbers.iter().all(|number| *number == first).then_some(Some(Framing::Length(first))).ok_or(())
            }
            _ => Err(()),
        }
    }
}

impl Body {
    /// The body at the front of `bytes`.
    pub fn read(bytes: &[u8], framing: Framing, reader: Reader) -> Body {
        let plain =
            |length: usize, end| Body { content: bytes[..length].to_vec(), trailers: vec![], used: length, end };
        match framing {
            Framing::None => plain(0, End::Whole),
            Framing::ToClose => plain(bytes.len(), End::Cut),
            Framing::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= bytes.len() => plain(length, End::Whole),
                _ => plain(bytes.len(), End::Cut),
            },
            Framing::Chunked => {
                let mut body = Body { content: vec![], trailers: vec![], used: bytes.len(), end: End::Cut };
                match body.chunks(bytes, reader) {
                    Ok(rest) => (body.used, body.end) = (bytes.len() - rest, End::Whole),
                    Err(end) => body.end = end,
                }
                body
            }
        }
    }

    /// The number of bytes after the body.
    fn chunks(&mut self, mut bytes: &[u8], reader: Reader) -> Result<usize, End> {
        loop {
            let (text, rest) = line(bytes).ok_or(End::Cut)?;
            let size = chunk_size(text, reader).ok_or(End::Broken)?;
            if size == 0 {
                return self.trailer_section(rest);
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
            let (content, rest) = rest.split_at(size);
            self.content.extend_from_slice(content);
            bytes = match rest {
                [] | [b'\r'] => return Err(End::Cut),
                [b'\r', b'\n', rest @ ..] => rest,
                _ => return Err(End::Broken),
            };
        }
    }

    fn trailer_section(&mut self, mut bytes: &[u8]) -> Result<usize, End> {
        let section = bytes.len();
        loop {
            let (text, rest) = line(bytes).ok_or(End::Cut)?;
            bytes = rest;
            if section - bytes.len() > 16 * 1024 {
                return Err(End::Broken);
            }
            if text.is_empty() {
                return Ok(bytes.len());
            }
            self.trailers.push(field(text).ok_or(End::Broken)?);
        }
    }
}

/// Whether a field is hop-by-hop.
pub fn is_hop_by_hop(name: &str) -> bool {
    is_one_of(name, &HOP_BY_HOP)
}

/// Whether a name turns into a hop-by-hop field, or one that frames the message, if its special characters are read as
/// hyphens.
pub fn is_disguised(name: &str) -> bool {
    let read: String = name.chars().map(|sign| if sign.is_ascii_alphanumeric() { sign } else { '-' }).collect();
    read != name && (is_hop_by_hop(&read) || is_one_of(&read, &["content-length"]))
}

/// Whether a name is in a list, ignoring case.
pub fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether a text is a token (RFC 9110 section 5.6.2).
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte))
}

/// The first line, and what follows its CRLF.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

/// Name and value, the latter with surrounding blanks.
fn field(line: &[u8]) -> Option<Field> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = str::from_utf8(&line[..colon]).ok().filter(|name| is_token(name))?;
    let value = &line[colon + 1..];
    let is_text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    value.iter().all(is_text).then(|| (name.to_owned(), value.to_vec()))
}

/// A size of up to 63 bits in up to 16 digits; a lenient reader allows blanks and an extension after it.
fn chunk_size(line: &[u8], reader: Reader) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    let before_semicolon = extension.split(|&byte| byte == b';').next().unwrap_or_default();
    let fits = match reader {
        Reader::Strict => extension.is_empty(),
        Reader::Lenient => {
            blanks_off(before_semicolon).is_empty()
                && extension.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
                && line.len() + 2 <= 4096
        }
    };
    let digits = str::from_utf8(digits).ok().filter(|digits| fits && (1..=16).contains(&digits.len()))?;
    u64::from_str_radix(digits, 16).ok().filter(|size| i64::try_from(*size).is_ok())
}

/// Trims blanks at both ends.
fn blanks_off(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}
