//! DNS SRV records (RFC 2782), by which a realm's KDCs are found: the query and the answer.

use super::dns::{self, DnsError};
use crate::limits;

const TYPE_SRV: u16 = 33;

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

/// The query for the KDCs of a realm, by `_tcp` or `_udp`. `id` should be random.
///
/// # Errors
/// [`DnsError::Name`] if the realm cannot be a domain.
pub fn kdc_query(realm: &str, protocol: super::KdcTransport, id: u16) -> Result<Vec<u8>, DnsError> {
    let protocol = match protocol {
        super::KdcTransport::Tcp => "_tcp",
        super::KdcTransport::Udp => "_udp",
    };
    let labels = ["_kerberos", protocol].into_iter().chain(realm.trim_end_matches('.').split('.'));
    dns::query(labels, TYPE_SRV, id)
}

/// The records in the answer to a query; none if the name does not exist.
///
/// # Errors
/// [`DnsError`] if it is not such an answer.
pub fn read_answer(answer: &[u8], query: &[u8]) -> Result<Vec<SrvRecord>, DnsError> {
    let mut records = Vec::new();
    dns::read_records(answer, query, |_, kind, message| {
        if kind == TYPE_SRV && records.len() < limits::KDCS_PER_REALM {
            let (priority, weight, port) = (message.u16()?, message.u16()?, message.u16()?);
            let target = message.name()?;
            // A single dot: the service is not offered.
            if !target.is_empty() && port != 0 {
                records.push(SrvRecord { priority, weight, port, target });
            }
        }
        Ok(())
    })?;
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
        assert_eq!(with(3, 0x82), Err(DnsError::Failed(2)));
        assert_eq!(with(2, 0x83), Err(DnsError::Truncated));
        assert_eq!(with(1, 8), Err(DnsError::Malformed));
        assert_eq!(read_answer(&query, &query), Err(DnsError::Malformed));
        let own = answer(&query, &[record(0, 0, 1, b"\xc0\x27")]);
        assert_eq!(read_answer(&own, &query), Err(DnsError::Malformed), "a name that points to itself");
        for realm in ["", "a..b", &"a".repeat(64), &["a"; 130].join(".")] {
            assert_eq!(kdc_query(realm, KdcTransport::Tcp, 7), Err(DnsError::Name));
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
