//! The canonical name of a host in DNS: what its chain of aliases (CNAME) ends with.

use super::dns::{self, DnsError};

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;

/// The query for a host's canonical name. `id` should be random.
///
/// # Errors
/// [`DnsError::Name`] if it is no host name.
pub fn canonical_query(host: &str, id: u16) -> Result<Vec<u8>, DnsError> {
    dns::query(host.trim_end_matches('.').split('.'), TYPE_A, id)
}

/// The canonical name of `host` in the answer to its query, in lower case; `None` if the host does not exist.
///
/// # Errors
/// [`DnsError`] if it is not such an answer.
pub fn read_canonical(answer: &[u8], query: &[u8], host: &str) -> Result<Option<String>, DnsError> {
    let mut aliases: Vec<(String, String)> = Vec::new();
    let exists = dns::read_records(answer, query, |owner, kind, message| {
        if kind == TYPE_CNAME {
            let target = message.name()?;
            // The root is no host.
            if !target.is_empty() {
                aliases.push((owner, target));
            }
        }
        Ok(())
    })?;
    if !exists {
        return Ok(None);
    }
    let mut name = host.trim_end_matches('.').to_owned();
    // Each alias is followed once, so that a circle ends.
    while let Some(place) = aliases.iter().position(|(owner, _)| owner.eq_ignore_ascii_case(&name)) {
        name = aliases.swap_remove(place).1;
    }
    Ok(Some(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the host in the question, or of a name that is written out.
    fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        [owner, &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 60], &length, data].concat()
    }

    fn answer(query: &[u8], code: u8, records: &[Vec<u8>]) -> Vec<u8> {
        let mut answer = query.to_vec();
        (answer[2], answer[3]) = (0x81, 0x80 | code);
        answer[7] = u8::try_from(records.len()).unwrap();
        records.iter().for_each(|record| answer.extend(record));
        answer
    }

    const QUESTION: &[u8] = &[0xc0, 12];

    #[test]
    fn the_end_of_a_chain_of_aliases_is_the_canonical_name() {
        let query = canonical_query("Proxy.example.com.", 7).unwrap();
        // `example.com` is at 12 + 6.
        let (middle, end) = (b"\x03lb1\xc0\x12", b"\x05squid\x04CORP\xc0\x12");
        let records = [
            record(middle, TYPE_CNAME, end),
            record(QUESTION, TYPE_CNAME, middle),
            record(end, TYPE_A, &[127, 0, 0, 1]),
        ];
        let whole = answer(&query, 0, &records);
        let canonical = |bytes: &[u8]| read_canonical(bytes, &query, "Proxy.example.com.");
        assert_eq!(canonical(&whole), Ok(Some("squid.corp.example.com".into())));
        for end in 0..whole.len() {
            assert!(canonical(&whole[..end]).is_err(), "{end}");
        }
        let own = answer(&query, 0, &[record(QUESTION, TYPE_A, &[127, 0, 0, 1])]);
        assert_eq!(canonical(&own), Ok(Some("proxy.example.com".into())));
        let circle = answer(&query, 0, &[record(QUESTION, TYPE_CNAME, middle), record(middle, TYPE_CNAME, QUESTION)]);
        assert_eq!(canonical(&circle), Ok(Some("proxy.example.com".into())));
        assert_eq!(canonical(&answer(&query, 3, &[])), Ok(None));
        assert_eq!(canonical(&answer(&query, 2, &[])), Err(DnsError::Failed(2)));
        assert_eq!(canonical_query("a..b", 7), Err(DnsError::Name));
    }
}
