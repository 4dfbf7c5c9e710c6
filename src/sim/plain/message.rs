//! Heads and bodies as the peers write and read them: strictly, and without the gateway's own parsers.

use crate::stub::{fill_pattern, pattern_mismatch};

/// Offset of a body in the test pattern.
pub fn base(client: usize, request: usize, down: bool) -> u64 {
    (2 * (64 * client as u64 + request as u64) + u64::from(down) + 1_000) * 7_919
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Nothing,
    Length(u64),
    Chunked,
    ToClose,
}

/// A start line and its fields, with names in lower case.
#[derive(Debug)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Takes a complete head off the front of the buffer, of which the first `seen` bytes were searched before.
    pub fn take(buffer: &mut Vec<u8>, seen: &mut usize) -> Option<Head> {
        let mut from = seen.saturating_sub(4);
        let end = loop {
            let Some(line) = buffer[from..].iter().position(|byte| *byte == b'\n') else {
                *seen = buffer.len();
                return None;
            };
            from += line + 1;
            if from >= 4 && &buffer[from - 4..from] == b"\r\n\r\n" {
                break from - 4;
            }
        };
        *seen = 0;
        let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Some(Head { line, fields: lines.map(field).collect() })
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| &*field.1)
    }

    /// Whether a field lists a token.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        let mut values = self.fields.iter().filter(|field| field.0 == name);
        values.any(|field| field.1.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }

    /// A word of the start line.
    pub fn word(&self, place: usize) -> &str {
        self.line.split(' ').nth(place).unwrap_or_default()
    }

    /// The framing that the fields announce.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn framing(&self, otherwise: Framing) -> Result<Framing, String> {
        let lengths: Vec<&str> =
            self.fields.iter().filter(|field| field.0 == "content-length").map(|field| &*field.1).collect();
        let transfer_encoding = self.get("transfer-encoding");
        match (&lengths[..], transfer_encoding) {
            ([], None) => Ok(otherwise),
            ([], Some("chunked")) => Ok(Framing::Chunked),
            ([length], None) => {
                length.parse().map(Framing::Length).map_err(|_| format!("an invalid Content-Length: {length}"))
            }
            _ => Err(format!("contradictory framing: {lengths:?} and {transfer_encoding:?}")),
        }
    }

    /// The head, without the named fields.
    pub fn without(&self, names: &[&str]) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in self.fields.iter().filter(|field| !names.contains(&&*field.0)) {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n").into_bytes()
    }
}

/// Encodes a body: `bytes` of the pattern from `base` on, in chunks of `piece` if it is chunked.
pub fn encode(framing: Framing, base: u64, bytes: usize, piece: usize, trailer: Option<&str>) -> Vec<u8> {
    let mut data = vec![0; bytes];
    fill_pattern(&mut data, base);
    if framing != Framing::Chunked {
        return data;
    }
    let mut out = Vec::with_capacity(bytes + 64);
    for (place, chunk) in data.chunks(piece.max(1)).enumerate() {
        let extension = if place % 3 == 2 { ";name=\"va;lue\"" } else { "" };
        out.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    let trailer = trailer.map(|tag| format!("X-Trail: {tag}\r\n")).unwrap_or_default();
    out.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    out
}

/// Reads a body and compares it with the pattern.
#[derive(Debug)]
pub struct Body {
    state: BodyState,
    base: u64,
    tag: String,
    /// The content may be anything.
    pub any_content: bool,
    /// Bytes of content so far.
    pub bytes: u64,
    /// The first deviation.
    pub wrong: Option<String>,
}

#[derive(Debug)]
enum BodyState {
    Length(u64),
    ToClose,
    Size(Vec<u8>),
    Data(u64),
    DataEnd(Vec<u8>),
    Trailer(Vec<u8>),
    Done,
}

impl Body {
    /// Expects the pattern from `base` on; `tag` is the value that a trailer must have.
    pub fn new(framing: Framing, base: u64, tag: String) -> Body {
        let state = match framing {
            Framing::Nothing | Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::Chunked => BodyState::Size(Vec::new()),
            Framing::ToClose => BodyState::ToClose,
        };
        Body { state, base, tag, any_content: false, bytes: 0, wrong: None }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    /// The connection has ended; returns whether that completes the body.
    pub fn end(&mut self) -> bool {
        if matches!(self.state, BodyState::ToClose) {
            self.state = BodyState::Done;
        }
        self.is_done()
    }

    /// Takes the bytes that belong to the body off the front of the buffer.
    pub fn take(&mut self, buffer: &mut Vec<u8>) {
        let mut used = 0;
        while used < buffer.len() && !self.is_done() {
            used += self.feed(&buffer[used..]);
        }
        buffer.drain(..used);
    }

    fn feed(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            BodyState::ToClose => self.data(bytes, u64::MAX),
            BodyState::Length(left) | BodyState::Data(left) => {
                let left = *left;
                let used = self.data(bytes, left);
                let left = left - used as u64;
                self.state = match (&self.state, left) {
                    (BodyState::Length(_), 0) => BodyState::Done,
                    (BodyState::Length(_), left) => BodyState::Length(left),
                    (_, 0) => BodyState::DataEnd(Vec::new()),
                    (_, left) => BodyState::Data(left),
                };
                used
            }
            BodyState::Size(line) | BodyState::DataEnd(line) | BodyState::Trailer(line) => {
                let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
                line.extend_from_slice(&bytes[..end]);
                if line.ends_with(b"\n") {
                    self.line();
                }
                end
            }
            BodyState::Done => 0,
        }
    }

    fn data(&mut self, bytes: &[u8], most: u64) -> usize {
        let count = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        if let Some(place) = pattern_mismatch(&bytes[..count], self.base + self.bytes).filter(|_| !self.any_content) {
            self.fail(format!("byte {} of a body belongs to another body", place - self.base));
        }
        self.bytes += count as u64;
        count
    }

    fn line(&mut self) {
        let state = std::mem::replace(&mut self.state, BodyState::Done);
        let (BodyState::Size(line) | BodyState::DataEnd(line) | BodyState::Trailer(line)) = &state else { return };
        let Some(text) = line.strip_suffix(b"\r\n").map(String::from_utf8_lossy) else {
            return self.fail(format!("an unterminated line in a chunked body: {line:?}"));
        };
        self.state = match state {
            BodyState::Size(_) => match u64::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16) {
                Ok(0) => BodyState::Trailer(Vec::new()),
                Ok(size) => BodyState::Data(size),
                Err(_) => return self.fail(format!("an invalid chunk size: {text:?}")),
            },
            BodyState::DataEnd(_) if text.is_empty() => BodyState::Size(Vec::new()),
            BodyState::Trailer(_) if text.is_empty() => BodyState::Done,
            BodyState::Trailer(_) if text.eq_ignore_ascii_case(&format!("x-trail: {}", self.tag)) => {
                BodyState::Trailer(Vec::new())
            }
            _ => return self.fail(format!("an unexpected line in a chunked body: {text:?}")),
        };
    }

    fn fail(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }
}
