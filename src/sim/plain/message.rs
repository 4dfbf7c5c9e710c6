//! Heads and bodies as the peers write and read them: by the letter, and without the gateway's own parsers.

use crate::stub::{fill_pattern, pattern_mismatch};

/// Where the pattern of a body begins.
pub fn base(caller: usize, request: usize, down: bool) -> u64 {
    (2 * (64 * caller as u64 + request as u64) + u64::from(down) + 1_000) * 7_919
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Nothing,
    Length(u64),
    Chunked,
    ToClose,
}

/// A start line and its fields, their names in lower case.
#[derive(Debug)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Takes a whole head off the front of what has come; so much of that has been looked through before.
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

    /// The one value of a field.
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

    /// What its fields say of its body.
    ///
    /// # Errors
    /// When they say more than one thing.
    pub fn framing(&self, otherwise: Framing) -> Result<Framing, String> {
        let lengths: Vec<&str> =
            self.fields.iter().filter(|field| field.0 == "content-length").map(|field| &*field.1).collect();
        let coded = self.get("transfer-encoding");
        match (&lengths[..], coded) {
            ([], None) => Ok(otherwise),
            ([], Some("chunked")) => Ok(Framing::Chunked),
            ([length], None) => length.parse().map(Framing::Length).map_err(|_| format!("a length of {length}")),
            _ => Err(format!("framed as {lengths:?} and {coded:?}")),
        }
    }

    /// The head once more, without some fields.
    pub fn without(&self, names: &[&str]) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in self.fields.iter().filter(|field| !names.contains(&&*field.0)) {
            text += &format!("{name}: {value}\r\n");
        }
        (text + "\r\n").into_bytes()
    }
}

/// A body in its framing: `bytes` of the pattern from `base` on, in chunks of `piece` where it is chunked.
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

/// A body that is read and compared.
#[derive(Debug)]
pub struct Body {
    way: Way,
    base: u64,
    tag: String,
    /// Its content may be anything.
    pub any: bool,
    /// Bytes of its content so far.
    pub bytes: u64,
    /// What was not as it should have been.
    pub wrong: Option<String>,
}

#[derive(Debug)]
enum Way {
    Length(u64),
    ToClose,
    Size(Vec<u8>),
    Data(u64),
    DataEnd(Vec<u8>),
    Trailer(Vec<u8>),
    Done,
}

impl Body {
    /// A body that is to be the pattern from `base` on; `tag` is what a trailer would say.
    pub fn new(framing: Framing, base: u64, tag: String) -> Body {
        let way = match framing {
            Framing::Nothing | Framing::Length(0) => Way::Done,
            Framing::Length(length) => Way::Length(length),
            Framing::Chunked => Way::Size(Vec::new()),
            Framing::ToClose => Way::ToClose,
        };
        Body { way, base, tag, any: false, bytes: 0, wrong: None }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.way, Way::Done)
    }

    /// The connection has ended; `true` where that ends the body, too.
    pub fn end(&mut self) -> bool {
        if matches!(self.way, Way::ToClose) {
            self.way = Way::Done;
        }
        self.is_done()
    }

    /// Takes what is of the body off the front of what has come.
    pub fn take(&mut self, buffer: &mut Vec<u8>) {
        let mut used = 0;
        while used < buffer.len() && !self.is_done() {
            used += self.feed(&buffer[used..]);
        }
        buffer.drain(..used);
    }

    fn feed(&mut self, bytes: &[u8]) -> usize {
        match &mut self.way {
            Way::ToClose => self.data(bytes, u64::MAX),
            Way::Length(left) | Way::Data(left) => {
                let left = *left;
                let used = self.data(bytes, left);
                let left = left - used as u64;
                self.way = match (&self.way, left) {
                    (Way::Length(_), 0) => Way::Done,
                    (Way::Length(_), left) => Way::Length(left),
                    (_, 0) => Way::DataEnd(Vec::new()),
                    (_, left) => Way::Data(left),
                };
                used
            }
            Way::Size(line) | Way::DataEnd(line) | Way::Trailer(line) => {
                let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
                line.extend_from_slice(&bytes[..end]);
                if line.ends_with(b"\n") {
                    self.line();
                }
                end
            }
            Way::Done => 0,
        }
    }

    fn data(&mut self, bytes: &[u8], most: u64) -> usize {
        let count = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        if let Some(place) = pattern_mismatch(&bytes[..count], self.base + self.bytes).filter(|_| !self.any) {
            self.fail(format!("byte {} of a body is not its own", place - self.base));
        }
        self.bytes += count as u64;
        count
    }

    fn line(&mut self) {
        let way = std::mem::replace(&mut self.way, Way::Done);
        let (Way::Size(line) | Way::DataEnd(line) | Way::Trailer(line)) = &way else { return };
        let Some(text) = line.strip_suffix(b"\r\n").map(String::from_utf8_lossy) else {
            return self.fail(format!("a line of {line:?} in a chunked body"));
        };
        self.way = match way {
            Way::Size(_) => match u64::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16) {
                Ok(0) => Way::Trailer(Vec::new()),
                Ok(size) => Way::Data(size),
                Err(_) => return self.fail(format!("a chunk of {text:?}")),
            },
            Way::DataEnd(_) if text.is_empty() => Way::Size(Vec::new()),
            Way::Trailer(_) if text.is_empty() => Way::Done,
            Way::Trailer(_) if text.eq_ignore_ascii_case(&format!("x-trail: {}", self.tag)) => Way::Trailer(Vec::new()),
            _ => return self.fail(format!("{text:?} in a chunked body")),
        };
    }

    fn fail(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }
}
