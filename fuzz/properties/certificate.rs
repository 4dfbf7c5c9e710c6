//! A certificate is read within its bounds or is an error, in the same way whatever follows it, and it has channel
//! bindings exactly if its signature algorithm is known. The input is the certificate.

use ntlm_gateway::tls::bindings::server_end_point;
use ntlm_gateway::tls::certificate::Certificate;

/// Made by openssl.
const RECORDED: [&[u8]; 3] = [
    include_bytes!("../../src/tls/recorded/ecdsa-sha384.der"),
    include_bytes!("../../src/tls/recorded/pss-sha384.der"),
    include_bytes!("../../src/tls/recorded/ed25519.der"),
];

/// The earliest and the latest time that a certificate can have: the beginning of year 0, and a day after year 9999.
const TIMES: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_387_200;

/// Checks one certificate.
pub fn check(input: &[u8]) {
    let Some(read) = Certificate::read(input) else {
        assert_eq!(server_end_point(input), None);
        return;
    };
    let (input_at, key_at) = (input.as_ptr_range(), read.public_key.as_ptr_range());
    assert!(input_at.start <= key_at.start && key_at.end <= input_at.end, "the key is a part of the certificate");
    assert_eq!(read.public_key.first(), Some(&0x30));
    assert!(TIMES.contains(&read.not_before) && TIMES.contains(&read.not_after), "{read:?}");
    assert_eq!(server_end_point(input).is_some(), read.signature_hash.is_some());
    let longer = [input, b"\x30\x00"].concat();
    assert_eq!(Certificate::read(&longer), Some(read));
    let bound = |bytes: &[u8]| server_end_point(bytes).is_some_and(|bindings| bindings != [0; 16]);
    assert_eq!(bound(&longer), read.signature_hash.is_some());
}

/// Real certificates, one of which is cut.
pub fn seeds() -> Vec<Vec<u8>> {
    let whole = RECORDED.iter().map(|der| der.to_vec());
    whole.chain([RECORDED[0][..RECORDED[0].len() / 2].to_vec(), b"\x30\x80\x30\x80".to_vec()]).collect()
}
