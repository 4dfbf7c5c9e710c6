//! Recorded and made-up ClientHellos, split, fragmented, cut and changed.

use super::hello_records::HELLO_LIMIT_BYTES;
use super::{HelloError, HelloReader, ServerName};

/// First flights of real clients, recorded with `example.com` names of their own.
const RECORDED: &[(&[u8], Option<&str>)] = &[
    (include_bytes!("recorded/curl.bin"), Some("curl.example.com")),
    (include_bytes!("recorded/java.bin"), Some("java.example.com")),
    (include_bytes!("recorded/node.bin"), Some("node.example.com")),
    (include_bytes!("recorded/openssl.bin"), Some("openssl.example.com")),
    (include_bytes!("recorded/python.bin"), Some("python.example.com")),
    (include_bytes!("recorded/wget.bin"), Some("wget.example.com")),
    (include_bytes!("recorded/openssl-noname.bin"), None),
];

fn named(name: &str) -> ServerName {
    ServerName::Name(name.into())
}

fn read(bytes: &[u8]) -> Result<Option<ServerName>, HelloError> {
    HelloReader::default().read(bytes)
}

/// Length-prefixed with `N` bytes.
fn vector<const N: usize>(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - N..], content].concat()
}

fn extension(number: u16, content: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &vector::<2>(content)].concat()
}

/// The extension with entries of a type and a name.
fn server_names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| [&[*kind][..], &vector::<2>(name)].concat()).collect();
    extension(0, &vector::<2>(&list))
}

fn server_name(name: &str) -> Vec<u8> {
    server_names(&[(0, name.as_bytes())])
}

/// The handshake message of a client with these extensions.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let suites = [0x1a, 0x1a, 0x13, 0x01, 0x13, 0x02, 0xc0, 0x2f];
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector::<1>(&[9; 32]),
        &vector::<2>(&suites),
        &vector::<1>(&[0]),
        &vector::<2>(&extensions.concat()),
    ];
    [&[1][..], &vector::<3>(&body.concat())].concat()
}

/// The message in records with fragments of at most this length.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|fragment| [&[22, 3, 1][..], &vector::<2>(fragment)].concat()).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(extensions), 1 << 14)
}

/// As browsers send it: GREASE first and last, key shares of X25519MLKEM768 and X25519, an encrypted inner ClientHello,
/// and the name between them.
fn browser(name: &str) -> [Vec<u8>; 7] {
    let shares = [
        &0x2a2a_u16.to_be_bytes()[..],
        &vector::<2>(&[0]),
        &0x11ec_u16.to_be_bytes(),
        &vector::<2>(&[0xa5; 1216]),
        &0x001d_u16.to_be_bytes(),
        &vector::<2>(&[0x5a; 32]),
    ];
    [
        extension(0x4a4a, b""),
        extension(51, &vector::<2>(&shares.concat())),
        extension(16, &vector::<2>(&[vector::<1>(b"h2"), vector::<1>(b"http/1.1")].concat())),
        server_name(name),
        extension(0xfe0d, &[0x77; 250]),
        extension(0xbaba, b"\0"),
        extension(21, &[0; 64]),
    ]
}

/// The bytes come one by one; returns how many were needed.
fn trickle(bytes: &[u8]) -> (usize, Result<ServerName, HelloError>) {
    let mut reader = HelloReader::default();
    for length in 0..=bytes.len() {
        match reader.read(&bytes[..length]) {
            Ok(None) => {}
            Ok(Some(name)) => return (length, Ok(name)),
            Err(error) => return (length, Err(error)),
        }
    }
    panic!("{} bytes are not enough", bytes.len());
}

#[test]
fn the_names_in_recorded_hellos_are_found() {
    for (bytes, name) in RECORDED {
        let expected = name.map_or(ServerName::Absent, named);
        assert_eq!(read(bytes), Ok(Some(expected.clone())));
        assert_eq!(trickle(bytes), (bytes.len(), Ok(expected)));
    }
}

#[test]
fn a_hello_split_anywhere_has_the_same_name() {
    let browser = hello(&browser("post-quantum.example.com"));
    for (bytes, name) in RECORDED.iter().copied().chain([(&browser[..], Some("post-quantum.example.com"))]) {
        let expected = name.map_or(ServerName::Absent, named);
        for split in 0..bytes.len() {
            let mut reader = HelloReader::default();
            assert_eq!(reader.read(&bytes[..split]), Ok(None), "{name:?} at {split}");
            assert_eq!(reader.read(bytes), Ok(Some(expected.clone())), "{name:?} at {split}");
        }
    }
}

#[test]
fn a_hello_fragmented_over_records_has_the_same_name() {
    let message = message(&browser("fragments.example.com"));
    for most in (1..40).chain([511, 1500, message.len() - 1]) {
        let bytes = records(&message, most);
        if bytes.len() > 2 * HELLO_LIMIT_BYTES {
            continue;
        }
        assert_eq!(trickle(&bytes), (bytes.len(), Ok(named("fragments.example.com"))), "{most}");
        assert_eq!(read(&bytes), Ok(Some(named("fragments.example.com"))), "{most}");
    }
}

#[test]
fn what_follows_a_hello_is_not_looked_at() {
    let complete = hello(&[server_name("a.example")]);
    for more in [&b"\x17\x03\x03\0\x05early"[..], b"\x14\x03\x03\0\x01\x01", b"\0\0\0"] {
        assert_eq!(read(&[&complete[..], more].concat()), Ok(Some(named("a.example"))));
    }
    let record = [&message(&[server_name("a.example")])[..], b"more of the handshake"].concat();
    assert_eq!(read(&records(&record, 1 << 14)), Ok(Some(named("a.example"))));
}

#[test]
fn a_hello_has_up_to_64_kib() {
    let filled = |bytes: usize| message(&[extension(21, &vec![0; bytes]), server_name("large.example")]);
    let largest = filled(65_000);
    for most in [16, 1000, 1 << 14] {
        let bytes = records(&largest, most);
        assert_eq!(trickle(&bytes).1, Ok(named("large.example")), "{most}");
    }
    let mut too_long = largest.clone();
    too_long[1..4].copy_from_slice(&[1, 0, 0]);
    assert_eq!(trickle(&records(&too_long, 1 << 14)), (9, Err(HelloError::TooLong)), "told by its header");
    let padded = records(&largest, 4);
    assert_eq!(trickle(&padded).1, Err(HelloError::TooLong), "records of 4 bytes make it too long");
}

#[test]
fn names_that_are_addresses_or_absent_are_recognised() {
    let address = |text: &str| Ok(Some(ServerName::Address(text.parse().unwrap())));
    assert_eq!(read(&hello(&[server_name("192.0.2.1")])), address("192.0.2.1"));
    assert_eq!(read(&hello(&[server_name("2001:db8::1")])), address("2001:db8::1"));
    assert_eq!(read(&hello(&[extension(16, b"")])), Ok(Some(ServerName::Absent)));
    assert_eq!(read(&hello(&[])), Ok(Some(ServerName::Absent)));
    assert_eq!(read(&hello(&[server_names(&[(7, b"something else")])])), Ok(Some(ServerName::Absent)));
    let both = server_names(&[(7, b"something else"), (0, b"a.example")]);
    assert_eq!(read(&hello(&[both])), Ok(Some(named("a.example"))));
    // Before TLS 1.2 a ClientHello could end here.
    let mut plain = message(&[]);
    plain.truncate(plain.len() - 2);
    plain[3] -= 2;
    assert_eq!(read(&records(&plain, 1 << 14)), Ok(Some(ServerName::Absent)));
    assert_eq!(read(&hello(&[server_name("Final.Dot.example.")])), Ok(Some(named("Final.Dot.example."))));
}

#[test]
fn a_name_that_is_not_a_host_name_is_an_error() {
    for name in ["", "a b", "a..b", ".", "127.1", "0x7f000001", "a\0.example", "a:443", "[::1]", "b\u{fc}cher.example"]
    {
        let outcome = read(&hello(&[server_name(name)]));
        assert!(matches!(outcome, Err(HelloError::InvalidName(_))), "{name}: {outcome:?}");
    }
    let long = "a".repeat(300);
    let Err(error) = read(&hello(&[server_name(&long)])) else { panic!("too long") };
    assert!(error.to_string().len() < 150, "{error}");
    let Err(error) = read(&hello(&[server_names(&[(0, b"\x1b[31m\xff")])])) else { panic!("control characters") };
    assert!(error.to_string().is_ascii() && !error.to_string().contains('\x1b'), "{error}");
}

#[test]
fn two_names_are_an_error() {
    let twice = server_names(&[(0, b"allowed.example"), (0, b"denied.example")]);
    let extensions = [server_name("allowed.example"), server_name("denied.example")];
    for hello in [hello(&[twice]), hello(&extensions)] {
        assert!(matches!(read(&hello), Err(HelloError::Malformed(_))));
    }
}

#[test]
fn what_is_not_a_hello_is_an_error_at_its_first_wrong_byte() {
    for (bytes, needed, error) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1, HelloError::NotHandshake),
        (b"\x15\x03\x01\0\x02\x02\x28", 1, HelloError::NotHandshake),
        (b"\x16\x02\x00", 2, HelloError::NotHandshake),
        (b"\x16\x03\x01\0\0", 5, HelloError::RecordLength),
        (b"\x16\x03\x01\x40\x01", 5, HelloError::RecordLength),
        (b"\x16\x03\x01\0\x04\x02\0\0\0", 6, HelloError::OtherMessage(2)),
        (b"\x16\x03\x01\0\x04\x01\x01\0\0", 9, HelloError::TooLong),
        (b"\x16\x03\x01\0\x01\x01\x17\x03", 7, HelloError::NotHandshake),
    ] {
        assert_eq!(trickle(bytes), (needed, Err(error)), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_changed_or_cut_hello_never_panics_and_never_has_an_invalid_name() {
    let browser = hello(&browser("post-quantum.example.com"));
    for bytes in RECORDED.iter().map(|(bytes, _)| *bytes).chain([&browser[..]]) {
        for place in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = bytes.to_vec();
                changed[place] ^= change;
                if let Ok(Some(ServerName::Name(name))) = read(&changed) {
                    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)), "{name}");
                }
            }
            // A shorter message whose lengths are right up to there.
            let length = u16::try_from(place.saturating_sub(5)).unwrap();
            let mut cut = bytes[..place].to_vec();
            if let (Some(record), true) = (cut.get_mut(3..5), length > 4) {
                record.copy_from_slice(&length.to_be_bytes());
                let [high, low] = (length - 4).to_be_bytes();
                cut[6..9].copy_from_slice(&[0, high, low]);
                assert!(!matches!(read(&cut), Ok(None)), "all of it has come");
            }
        }
    }
}
