//! A DNS answer yields host names within their bounds or is an error, whichever question it is taken to answer. The
//! input is the answer without its number.

use ntlm_gateway::kerberos::{KdcTransport, canonical_query, kdc_query, read_answer, read_canonical};

const HOST: &str = "proxy.example.com";
const NUMBER: u16 = 0x1234;

fn is_host_name(name: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_' | b'.');
    name.len() <= 255 && name.bytes().all(is_letter)
}

/// Checks one answer.
pub fn check(input: &[u8]) {
    let answer = [&NUMBER.to_be_bytes(), input].concat();
    let canonical = canonical_query(HOST, NUMBER).expect("a host name");
    if let Ok(Some(name)) = read_canonical(&answer, &canonical, HOST) {
        assert!(is_host_name(&name) && !name.is_empty() && name == name.to_ascii_lowercase());
        // Without an alias it is the host itself.
        assert!(name == HOST || answer.windows(2).any(|kind| kind == [0, 5]));
    }
    let kdcs = kdc_query("EXAMPLE.COM", KdcTransport::Tcp, NUMBER).expect("a realm");
    if let Ok(records) = read_answer(&answer, &kdcs) {
        assert!(records.len() <= 32);
        for record in records {
            assert!(is_host_name(&record.target) && !record.target.is_empty() && record.port != 0);
        }
    }
    // An answer to another question is none.
    let other = canonical_query(HOST, NUMBER ^ 1).expect("a host name");
    assert!(read_canonical(&answer, &other, HOST).is_err());
}

/// A chain of aliases, KDCs, and answers that are malformed or have nothing.
pub fn seeds() -> Vec<Vec<u8>> {
    let query = canonical_query(HOST, NUMBER).expect("a host name");
    let kdcs = kdc_query("EXAMPLE.COM", KdcTransport::Tcp, NUMBER).expect("a realm");
    let answer = |query: &[u8], code: u8, count: u8, records: &[u8]| {
        let mut answer = [&query[2..], records].concat();
        (answer[0], answer[1], answer[5]) = (0x81, 0x80 | code, count);
        answer
    };
    // `example.com` begins at 12 + 6 in the one and at 12 + 15 in the other.
    let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03lb1\xc0\x12\xc0\x2f\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01";
    let circle = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x0c";
    let srv = b"\xc0\x0c\0\x21\0\x01\0\0\0\x3c\0\x0b\0\x01\0\x05\0\x58\x02dc\xc0\x1b";
    let root = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x01\0";
    let own_name = b"\xc0\x23\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x23";
    vec![
        answer(&query, 0, 2, alias),
        answer(&query, 0, 1, circle),
        answer(&query, 0, 1, own_name),
        answer(&query, 0, 1, root),
        answer(&kdcs, 0, 1, srv),
        answer(&query, 3, 0, b""),
        answer(&query, 2, 0, b""),
        answer(&query, 0, 9, alias),
    ]
}
