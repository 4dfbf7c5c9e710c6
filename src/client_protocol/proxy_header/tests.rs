//! Headers, whole and split at every byte.

use super::crc32c::crc32c;
use super::*;

const LIMIT_BYTES: usize = 4096;

/// Reads `bytes`, which no shorter prefix may decide otherwise.
fn read_split(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let whole = header(bytes, LIMIT_BYTES);
    for length in 0..bytes.len() {
        match (header(&bytes[..length], LIMIT_BYTES), &whole) {
            (Ok(None), _) => {}
            (Ok(Some(found)), Ok(Some(expected))) => assert!(found == *expected && length >= found.0),
            (Err(early), Err(late)) => assert_eq!(early, *late, "at {length}"),
            (early, late) => panic!("{early:?} at {length}, {late:?} at the end"),
        }
    }
    whole
}

fn named(text: &str, port: u16) -> Option<NamedClient> {
    Some((text.parse().unwrap(), port))
}

/// A header of version 2 with this rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// 192.0.2.1:40000 to 198.51.100.7:443.
const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0x9c, 0x40, 0x01, 0xbb];

/// The same header with a checksum after these TLVs.
fn with_checksum(tlvs: &[u8]) -> Vec<u8> {
    let mut bytes = v2(0x21, 0x11, &[&IPV4[..], tlvs, &tlv(3, &[0; 4])].concat());
    let place = bytes.len() - 4;
    let sum = crc32c(bytes.iter().copied()).to_be_bytes();
    bytes[place..].copy_from_slice(&sum);
    bytes
}

/// A header with two checksums, of which the first is right.
fn with_two_checksums() -> Vec<u8> {
    let mut bytes = v2(0x21, 0x11, &[&IPV4[..], &tlv(3, &[0; 4]), &tlv(3, &[0; 4])].concat());
    let place = bytes.len() - 11;
    let sum = crc32c(bytes.iter().copied()).to_be_bytes();
    bytes[place..place + 4].copy_from_slice(&sum);
    bytes
}

#[test]
fn version_1_names_the_client() {
    for (line, client) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n", named("192.0.2.1", 40000)),
        ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", named("2001:db8::1", 1)),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 0 0\r\n", named("255.255.255.255", 0)),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    ] {
        let with_rest = format!("{line}GET http://a/ HTTP/1.1\r\n\r\n");
        assert_eq!(read_split(with_rest.as_bytes()), Ok(Some((line.len(), client))), "{line}");
    }
}

#[test]
fn malformed_lines_of_version_1_are_rejected() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 nowhere 1 2\r\n",
        "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        "PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "\x05\x01\x00",
    ] {
        assert!(read_split(line.as_bytes()).is_err(), "{line}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!((longest.len(), read_split(longest.as_bytes())), (107, Ok(Some((107, None)))));
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(read_split(endless.as_bytes()), Err(HeaderError::Malformed("its line does not end")));
}

#[test]
fn version_2_names_the_client_and_skips_other_fields() {
    let client = named("192.0.2.1", 40000);
    let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let ipv6 = [&v6[..], &[0; 16], &[0x9c, 0x40, 0, 80]].concat();
    let alpn = tlv(1, b"h2");
    for (bytes, client) in [
        (v2(0x21, 0x11, &IPV4), client),
        (v2(0x21, 0x21, &ipv6), named("2001:db8::1", 40000)),
        (v2(0x21, 0x11, &[&IPV4[..], &alpn, &tlv(0xea, &[7; 300]), &tlv(4, b"")].concat()), client),
        (with_checksum(b""), client),
        (with_checksum(&alpn), client),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, b"whatever"), None),
        (v2(0x20, 0xff, b""), None),
        (v2(0x21, 0x00, b"\x01"), None),
    ] {
        let with_rest = [&bytes[..], b"\x05\x01\x00"].concat();
        assert_eq!(read_split(&with_rest), Ok(Some((bytes.len(), client))), "{}", bytes.escape_ascii());
    }
}

#[test]
fn malformed_headers_of_version_2_are_rejected() {
    let mut wrong_sum = with_checksum(&tlv(1, b"h2"));
    wrong_sum[20] ^= 1;
    for (bytes, error) in [
        (wrong_sum, HeaderError::Checksum),
        (v2(0x21, 0x11, &[&IPV4[..], &tlv(3, &[0; 3])].concat()), HeaderError::Checksum),
        (v2(0x21, 0x12, &IPV4), HeaderError::Family),
        (v2(0x21, 0x31, &[0; 216]), HeaderError::Family),
        (v2(0x21, 0x41, &IPV4), HeaderError::Family),
    ] {
        assert_eq!(read_split(&bytes), Err(error), "{}", bytes.escape_ascii());
    }
    for bytes in [
        v2(0x11, 0x11, &IPV4),
        v2(0x31, 0x11, &IPV4),
        v2(0x22, 0x11, &IPV4),
        v2(0x21, 0x11, &IPV4[..11]),
        v2(0x21, 0x21, &IPV4),
        v2(0x21, 0x11, &[&IPV4[..], b"\x01"].concat()),
        v2(0x21, 0x11, &[&IPV4[..], b"\x01\x00\x03h2"].concat()),
        with_two_checksums(),
    ] {
        assert!(matches!(read_split(&bytes), Err(HeaderError::Malformed(_))), "{}", bytes.escape_ascii());
    }
    assert_eq!(read_split(b"\r\n\r\n\0\r\nQUIX\n"), Err(HeaderError::Missing));
    let long = v2(0x21, 0x11, &[0; LIMIT_BYTES]);
    let too_long = HeaderError::TooLong { length_bytes: LIMIT_BYTES + 16, limit_bytes: LIMIT_BYTES };
    assert_eq!(read_split(&long), Err(too_long), "it is rejected with its length");
}

#[test]
fn every_changed_bit_of_a_checked_header_is_noticed() {
    let bytes = with_checksum(&tlv(1, b"h2"));
    for bit in 0..8 * bytes.len() {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let found = header(&changed, LIMIT_BYTES);
        // LOCAL has no fields, a longer header is not whole yet, and without its type the checksum is not known.
        let is_harmless = matches!(found, Ok(None | Some((_, None))));
        let is_other_type = (8 * (bytes.len() - 7)..8 * (bytes.len() - 6)).contains(&bit);
        assert!(found.is_err() || is_harmless || is_other_type, "bit {bit}: {found:?}");
    }
}
