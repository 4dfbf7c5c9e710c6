//! DNS messages (RFC 1035): queries with one question, and the records of their answers.

use thiserror::Error;

const CLASS_IN: u16 = 1;
const HEADER_BYTES: usize = 12;
const LABEL_BYTES: std::ops::Range<usize> = 1..64;
const NAME_BYTES: usize = 255;

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DnsError {
    /// The name cannot be asked for.
    #[error("the name is no host name")]
    Name,
    /// The answer is malformed, or is not the answer to the query.
    #[error("the DNS answer is malformed")]
    Malformed,
    /// The answer does not fit: ask by TCP.
    #[error("the DNS answer was truncated")]
    Truncated,
    /// The server has failed.
    #[error("the DNS server answers with code {0}")]
    Failed(u8),
}

/// A recursive query for one kind of records of a name. `id` should be random.
pub(super) fn query<'a>(labels: impl IntoIterator<Item = &'a str>, kind: u16, id: u16) -> Result<Vec<u8>, DnsError> {
    let mut out = Vec::with_capacity(HEADER_BYTES + NAME_BYTES);
    out.extend(id.to_be_bytes());
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in labels {
        let length = u8::try_from(label.len()).ok().filter(|length| LABEL_BYTES.contains(&usize::from(*length)));
        out.push(length.ok_or(DnsError::Name)?);
        out.extend(label.bytes());
    }
    out.push(0);
    if out.len() > HEADER_BYTES + NAME_BYTES {
        return Err(DnsError::Name);
    }
    out.extend(kind.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    Ok(out)
}

/// Calls `take` with the owner of each record of an answer, its kind, and the message at the record's data. Returns
/// whether the name exists.
pub(super) fn read_records(
    answer: &[u8],
    query: &[u8],
    mut take: impl FnMut(String, u16, &mut Message<'_>) -> Result<(), DnsError>,
) -> Result<bool, DnsError> {
    let mut message = Message { bytes: answer, at: 0 };
    let id = message.u16()?;
    let flags = message.u16()?;
    if query.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)) != Some(id) || flags & 0x8000 == 0 {
        return Err(DnsError::Malformed);
    }
    if flags & 0x0200 != 0 {
        return Err(DnsError::Truncated);
    }
    let [_, code] = (flags & 0xf).to_be_bytes();
    match code {
        0 => {}
        3 => return Ok(false),
        code => return Err(DnsError::Failed(code)),
    }
    let (questions, answers) = (message.u16()?, message.u16()?);
    message.at = HEADER_BYTES;
    for _ in 0..questions {
        message.name()?;
        message.skip(4)?;
    }
    for _ in 0..answers {
        let owner = message.name()?;
        let (kind, class) = (message.u16()?, message.u16()?);
        message.skip(4)?;
        let length = usize::from(message.u16()?);
        let end = message.at + length;
        if class == CLASS_IN {
            take(owner, kind, &mut message)?;
        }
        if end > answer.len() {
            return Err(DnsError::Malformed);
        }
        message.at = end;
    }
    Ok(true)
}

/// A DNS message that is read from `at` on.
pub(super) struct Message<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Message<'_> {
    pub(super) fn u16(&mut self) -> Result<u16, DnsError> {
        let bytes = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<2>).ok_or(DnsError::Malformed)?;
        self.at += 2;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn skip(&mut self, bytes: usize) -> Result<(), DnsError> {
        self.at += bytes;
        if self.at <= self.bytes.len() { Ok(()) } else { Err(DnsError::Malformed) }
    }

    /// A name, compressed or not (RFC 1035 §4.1.4). Letters that no host name has make it malformed.
    pub(super) fn name(&mut self) -> Result<String, DnsError> {
        let mut name = String::new();
        let (mut at, mut end, mut jumps) = (self.at, None, 0);
        loop {
            let &length = self.bytes.get(at).ok_or(DnsError::Malformed)?;
            match length {
                0 => break,
                1..64 => {
                    let label = self.bytes.get(at + 1..at + 1 + usize::from(length)).ok_or(DnsError::Malformed)?;
                    let is_letter = |letter: &u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
                    if name.len() + label.len() > 255 || !label.iter().all(is_letter) {
                        return Err(DnsError::Malformed);
                    }
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.extend(label.iter().copied().map(char::from));
                    at += 1 + label.len();
                }
                0xc0.. => {
                    let &low = self.bytes.get(at + 1).ok_or(DnsError::Malformed)?;
                    end.get_or_insert(at + 2);
                    at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    jumps += 1;
                    // A name has at most 127 labels.
                    if jumps > 127 {
                        return Err(DnsError::Malformed);
                    }
                }
                _ => return Err(DnsError::Malformed),
            }
        }
        self.at = end.unwrap_or(at + 1);
        Ok(name)
    }
}
