//! DNS SRV records (RFC 2782), by which a realm's KDCs are found: the query and the answer.

use thiserror::Error;

use crate::limits;

const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const HEADER_BYTES: usize = 12;

/// A service's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Lower ones are used first.
    pub priority: u16,
    /// Among records of one priority: how often this one is chosen, in proportion.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without a final dot.
    pub target: String,
}

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SrvError {
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

/// The query for the KDCs of a realm, by `_tcp` or `_udp`. `id` should be random.
///
/// # Errors
/// [`SrvError::Name`] if the realm cannot be a domain.
pub fn kdc_query(realm: &str, protocol: super::KdcTransport, id: u16) -> Result<Vec<u8>, SrvError> {
    let protocol = match protocol {
        super::KdcTransport::Tcp => "_tcp",
        super::KdcTransport::Udp => "_udp",
    };
    let mut out = Vec::with_capacity(realm.len() + 64);
    out.extend(id.to_be_bytes());
    // A recursive query with one question.
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["_kerberos", protocol].into_iter().chain(realm.trim_end_matches('.').split('.')) {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        out.push(length.ok_or(SrvError::Name)?);
        out.extend(label.bytes());
    }
    out.push(0);
    if out.len() > HEADER_BYTES + 255 {
        return Err(SrvError::Name);
    }
    out.extend(TYPE_SRV.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    Ok(out)
}

/// The records in the answer to a query; none if the name does not exist.
///
/// # Errors
/// [`SrvError`] if it is not such an answer.
pub fn read_answer(answer: &[u8], query: &[u8]) -> Result<Vec<SrvRecord>, SrvError> {
    let mut message = Message { bytes: answer, at: 0 };
    let id = message.u16()?;
    let flags = message.u16()?;
    if query.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)) != Some(id) || flags & 0x8000 == 0 {
        return Err(SrvError::Malformed);
    }
    if flags & 0x0200 != 0 {
        return Err(SrvError::Truncated);
    }
    let [_, code] = (flags & 0xf).to_be_bytes();
    match code {
        0 => {}
        // The name does not exist.
        3 => return Ok(Vec::new()),
        code => return Err(SrvError::Failed(code)),
    }
    let (questions, answers) = (message.u16()?, message.u16()?);
    message.at = HEADER_BYTES;
    for _ in 0..questions {
        message.name()?;
        message.skip(4)?;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        message.name()?;
        let (kind, class) = (message.u16()?, message.u16()?);
        message.skip(4)?;
        let length = usize::from(message.u16()?);
        let end = message.at + length;
        if (kind, class) == (TYPE_SRV, CLASS_IN) && records.len() < limits::KDCS_PER_REALM {
            let (priority, weight, port) = (message.u16()?, message.u16()?, message.u16()?);
            let target = message.name()?;
            // A single dot: the service is not offered.
            if !target.is_empty() && port != 0 {
                records.push(SrvRecord { priority, weight, port, target });
            }
        }
        if end > answer.len() {
            return Err(SrvError::Malformed);
        }
        message.at = end;
    }
    Ok(records)
}

/// Puts records into the order in which they are to be tried (RFC 2782). `random` is called for each record and returns
/// any number.
pub fn order(records: &mut Vec<SrvRecord>, mut random: impl FnMut() -> u32) {
    records.sort_by_key(|record| record.priority);
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let same = records.iter().take_while(|record| record.priority == first.priority).count();
        // One more than the weight, so that those of weight zero are chosen last but not never.
        let weights = records[..same].iter().map(|record| u64::from(record.weight) + 1);
        let mut chosen = u64::from(random()) % weights.clone().sum::<u64>().max(1);
        let place = weights.clone().position(|weight| {
            let is_here = chosen < weight;
            chosen = chosen.saturating_sub(weight);
            is_here
        });
        ordered.push(records.remove(place.unwrap_or_default()));
    }
    *records = ordered;
}

/// A DNS message that is read from `at` on.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Message<'_> {
    fn u16(&mut self) -> Result<u16, SrvError> {
        let bytes = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<2>).ok_or(SrvError::Malformed)?;
        self.at += 2;
        Ok(u16::from_be_bytes(*bytes))
    }

    fn skip(&mut self, bytes: usize) -> Result<(), SrvError> {
        self.at += bytes;
        if self.at <= self.bytes.len() { Ok(()) } else { Err(SrvError::Malformed) }
    }

    /// A name, compressed or not (RFC 1035 §4.1.4). Letters that no host name has make it malformed.
    fn name(&mut self) -> Result<String, SrvError> {
        let mut name = String::new();
        let (mut at, mut end, mut jumps) = (self.at, None, 0);
        loop {
            let &length = self.bytes.get(at).ok_or(SrvError::Malformed)?;
            match length {
                0 => break,
                1..64 => {
                    let label = self.bytes.get(at + 1..at + 1 + usize::from(length)).ok_or(SrvError::Malformed)?;
                    let is_letter = |letter: &u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
                    if name.len() + label.len() > 255 || !label.iter().all(is_letter) {
                        return Err(SrvError::Malformed);
                    }
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.extend(label.iter().copied().map(char::from));
                    at += 1 + label.len();
                }
                0xc0.. => {
                    let &low = self.bytes.get(at + 1).ok_or(SrvError::Malformed)?;
                    end.get_or_insert(at + 2);
                    at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    jumps += 1;
                    // A name has at most 127 labels.
                    if jumps > 127 {
                        return Err(SrvError::Malformed);
                    }
                }
                _ => return Err(SrvError::Malformed),
            }
        }
        self.at = end.unwrap_or(at + 1);
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::KdcTransport;
    use super::*;

    fn record(priority: u16, weight: u16, port: u16, target: &[u8]) -> Vec<u8> {
        let mut record = vec![0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60];
        record.extend(u16::try_from(6 + target.len()).unwrap().to_be_bytes());
        [priority, weight, port].iter().for_each(|number| record.extend(number.to_be_bytes()));
        record.extend(target);
        record
    }

    fn answer(query: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] = 0x81;
        answer[3] = 0x80;
        answer[7] = u8::try_from(records.len()).unwrap();
        records.iter().for_each(|record| answer.extend(record));
        answer
    }

    #[test]
    fn the_records_of_an_answer_are_read_with_compressed_names() {
        let query = kdc_query("example.com", KdcTransport::Udp, 0x1234).unwrap();
        assert_eq!(&query[..2], [0x12, 0x34]);
        assert!(query.windows(21).any(|part| part == b"\x09_kerberos\x04_udp\x07examp"));
        // Behind the header, `_kerberos` and `_udp`.
        let target = b"\x04kdc1\xc0\x1b";
        let answer =
            answer(&query, &[record(1, 5, 88, target), record(0, 0, 89, b"\x01b\x00"), record(0, 0, 1, b"\0")]);
        let records = read_answer(&answer, &query).unwrap();
        let shown: Vec<(u16, u16, &str)> =
            records.iter().map(|record| (record.priority, record.port, record.target.as_str())).collect();
        assert_eq!(shown, [(1, 88, "kdc1.example.com"), (0, 89, "b")]);
        for end in 0..answer.len() {
            assert!(read_answer(&answer[..end], &query).is_err(), "{end}");
        }
    }

    #[test]
    fn other_answers_are_told_apart() {
        let query = kdc_query("R", KdcTransport::Tcp, 7).unwrap();
        let with = |at: usize, value: u8| {
            let mut answer = answer(&query, &[]);
            answer[at] = value;
            read_answer(&answer, &query)
        };
        assert_eq!(with(3, 0x83), Ok(Vec::new()));
        assert_eq!(with(3, 0x82), Err(SrvError::Failed(2)));
        assert_eq!(with(2, 0x83), Err(SrvError::Truncated));
        assert_eq!(with(1, 8), Err(SrvError::Malformed));
        assert_eq!(read_answer(&query, &query), Err(SrvError::Malformed));
        let own = answer(&query, &[record(0, 0, 1, b"\xc0\x27")]);
        assert_eq!(read_answer(&own, &query), Err(SrvError::Malformed), "a name that points to itself");
        for realm in ["", "a..b", &"a".repeat(64), &["a"; 130].join(".")] {
            assert_eq!(kdc_query(realm, KdcTransport::Tcp, 7), Err(SrvError::Name));
        }
    }

    #[test]
    fn records_are_ordered_by_priority_and_chosen_by_weight() {
        let record = |priority, weight, target: &str| SrvRecord { priority, weight, port: 88, target: target.into() };
        let mut firsts = std::collections::HashMap::new();
        for number in 0..1000 {
            let mut records = vec![record(2, 0, "last"), record(1, 0, "seldom"), record(1, 98, "often")];
            order(&mut records, || number);
            assert_eq!(records[2].target, "last");
            *firsts.entry(records[0].target.clone()).or_insert(0) += 1;
        }
        assert!((1..=20).contains(&firsts["seldom"]) && firsts["often"] >= 980, "{firsts:?}");
    }
}
