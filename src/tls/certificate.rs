//! What the gateway reads of an X.509 certificate itself (RFC 5280 §4.1): its algorithm, its times and its key.
//!
//! rustls verifies certificates, but gives none of this away. Certificates are DER: tags of one byte, definite lengths.

use crate::calendar;

/// SEQUENCE.
const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed: the version of a certificate, and the hash in the parameters of RSASSA-PSS.
const CONTEXT_0: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is read of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// The hash of the algorithm with which it is signed; `None` for an algorithm that is not known here.
    pub signature_hash: Option<SignatureHash>,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
    /// Its SubjectPublicKeyInfo, with tag and length: what a pin is the hash of.
    pub public_key: &'a [u8],
}

/// A hash that a signature algorithm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureHash {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// Ed25519, which signs the certificate itself and not a hash of it.
    Ed25519,
}

use SignatureHash::{Ed25519, Md5, Sha1, Sha224, Sha256, Sha384, Sha512};

/// The content of the object identifiers of signature algorithms.
const SIGNATURES: &[(&[u8], SignatureHash)] = &[
    // 1.2.840.113549.1.1.*: RSA (RFC 8017 appendix A.2.4).
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", Md5),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", Sha1),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e", Sha224),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", Sha256),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", Sha384),
    (b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", Sha512),
    // 1.2.840.10045.4.*: ECDSA (RFC 5758 §3.2).
    (b"\x2a\x86\x48\xce\x3d\x04\x01", Sha1),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x01", Sha224),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x02", Sha256),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x03", Sha384),
    (b"\x2a\x86\x48\xce\x3d\x04\x03\x04", Sha512),
    // 1.3.101.112 (RFC 8410 §3).
    (b"\x2b\x65\x70", Ed25519),
];

/// 1.2.840.113549.1.1.10, RSASSA-PSS: the hash is in its parameters.
const RSASSA_PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";

/// The content of the object identifiers of hashes, as in the parameters of RSASSA-PSS.
const HASHES: &[(&[u8], SignatureHash)] = &[
    (b"\x2b\x0e\x03\x02\x1a", Sha1),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x04", Sha224),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x01", Sha256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x02", Sha384),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x03", Sha512),
];

impl Certificate<'_> {
    /// Reads a certificate; `None` if it is malformed.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Certificate<'_>> {
        let mut certificate = Reader(der).enter(SEQUENCE)?;
        let mut signed = certificate.enter(SEQUENCE)?;
        let signature_hash = signature_hash(certificate.enter(SEQUENCE)?)?;
        signed.optional(CONTEXT_0);
        signed.content(INTEGER)?;
        signed.content(SEQUENCE)?;
        // The issuer.
        signed.content(SEQUENCE)?;
        let mut validity = signed.enter(SEQUENCE)?;
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        // The subject.
        signed.content(SEQUENCE)?;
        let public_key = signed.element(SEQUENCE)?.encoding;
        Some(Certificate { signature_hash, not_before, not_after, public_key })
    }
}

/// The hash of an AlgorithmIdentifier. The outer `None` if it is malformed, the inner one if it is unknown.
fn signature_hash(mut identifier: Reader<'_>) -> Option<Option<SignatureHash>> {
    let algorithm = identifier.content(OBJECT_IDENTIFIER)?;
    if algorithm != RSASSA_PSS {
        return Some(find(SIGNATURES, algorithm));
    }
    let hash = identifier.enter(SEQUENCE)?.optional(CONTEXT_0).map(|field| field.content);
    match hash {
        Some(identifier) => Some(find(HASHES, Reader(identifier).enter(SEQUENCE)?.content(OBJECT_IDENTIFIER)?)),
        // The default (RFC 4055 §3.1).
        None => Some(Some(Sha1)),
    }
}

fn find(table: &[(&[u8], SignatureHash)], identifier: &[u8]) -> Option<SignatureHash> {
    table.iter().find(|(known, _)| *known == identifier).map(|(_, hash)| *hash)
}

/// Reads elements one after the other.
struct Reader<'a>(&'a [u8]);

/// An element with and without its tag and length.
struct Element<'a> {
    encoding: &'a [u8],
    content: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next element, if it has this tag.
    fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        let before = self.0;
        let (&found, rest) = before.split_first()?;
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length).filter(|_| found == tag)?;
        self.0 = rest;
        Some(Element { encoding: &before[..before.len() - rest.len()], content })
    }

    fn element(&mut self, tag: u8) -> Option<Element<'a>> {
        self.optional(tag)
    }

    fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element(tag).map(|element| element.content)
    }

    fn enter(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.content(tag).map(Reader)
    }

    /// A Time (RFC 5280 §4.1.2.5): always in UTC and with seconds.
    fn time(&mut self) -> Option<i64> {
        if let Some(time) = self.optional(UTC_TIME) {
            let (year, rest) = digits(time.content, 2)?;
            let century = if year < 50 { 2000 } else { 1900 };
            return seconds(century + year, rest);
        }
        let (year, rest) = digits(self.content(GENERALIZED_TIME)?, 4)?;
        seconds(year, rest)
    }
}

/// The length of an element, and what follows it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((first.into(), rest));
    }
    let (long, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
    // No certificate has 16 MiB, and none has an indefinite length.
    let is_sensible = (1..=3).contains(&long.len());
    is_sensible.then(|| (long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest))
}

/// A number of so many digits, and what follows it.
fn digits(bytes: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(count)?;
    let number = digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))?;
    Some((number, rest))
}

/// The seconds since 1970 of a time in a year; `rest` is `MMDDhhmmssZ`.
fn seconds(year: i64, rest: &[u8]) -> Option<i64> {
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    let is_valid = rest == b"Z" && (1..=12).contains(&month) && (1..=31).contains(&day);
    is_valid.then(|| calendar::day(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::super::verifier::Pin;
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    /// A certificate with this AlgorithmIdentifier and these times.
    fn certificate(algorithm: &[u8], times: [&[u8]; 2]) -> Vec<u8> {
        let sequence = |content: &[u8]| element(SEQUENCE, content);
        let algorithm = sequence(algorithm);
        let key = sequence(b"key");
        let validity = sequence(&times.concat());
        let version = element(CONTEXT_0, &element(INTEGER, &[2]));
        let serial = element(INTEGER, &[1]);
        let signed =
            sequence(&[&version[..], &serial, &algorithm, &sequence(b""), &validity, &sequence(b""), &key].concat());
        sequence(&[&signed[..], &algorithm, &element(0x03, b"\0")].concat())
    }

    fn utc(text: &str) -> Vec<u8> {
        element(UTC_TIME, text.as_bytes())
    }

    fn hash_of(algorithm: &[u8]) -> Option<SignatureHash> {
        let (from, to) = (utc("700101000000Z"), utc("491231235959Z"));
        let der = certificate(algorithm, [&from, &to]);
        let read = Certificate::read(&der).unwrap();
        assert_eq!((read.not_before, read.not_after), (0, 2_524_607_999));
        assert_eq!(read.public_key, element(SEQUENCE, b"key"));
        read.signature_hash
    }

    #[test]
    fn the_hash_of_a_signature_algorithm_is_found() {
        for (algorithm, hash) in SIGNATURES {
            assert_eq!(hash_of(&element(OBJECT_IDENTIFIER, algorithm)), Some(*hash));
        }
        assert_eq!(hash_of(&element(OBJECT_IDENTIFIER, b"\x2b\x65\x71")), None, "Ed448");
    }

    #[test]
    fn rsassa_pss_has_its_hash_in_its_parameters_or_sha1_by_default() {
        let pss = |parameters: &[u8]| {
            hash_of(&[element(OBJECT_IDENTIFIER, RSASSA_PSS), element(SEQUENCE, parameters)].concat())
        };
        for (identifier, hash) in HASHES {
            let algorithm = element(SEQUENCE, &element(OBJECT_IDENTIFIER, identifier));
            assert_eq!(pss(&element(CONTEXT_0, &algorithm)), Some(*hash));
        }
        assert_eq!(pss(b""), Some(Sha1));
        assert_eq!(pss(&element(0xa2, &element(INTEGER, &[32]))), Some(Sha1), "another parameter");
    }

    #[test]
    fn certificates_of_openssl_are_read_as_openssl_and_python_read_them() {
        for (der, hash, times, pin) in [
            (
                &include_bytes!("recorded/ecdsa-sha384.der")[..],
                Sha384,
                [1_795_883_614, 2_111_243_614],
                "0252ab0089d6df9f473c72f6b078d0d9627ddc643a984d73e0d091aace186e14",
            ),
            (
                include_bytes!("recorded/pss-sha384.der"),
                Sha384,
                [1_795_883_616, 2_111_243_616],
                "11b2c789d807d3f7d35cd08f2b66d6f7da4562b102eaee0778abb3866590d5a7",
            ),
            (
                include_bytes!("recorded/ed25519.der"),
                Ed25519,
                [1_795_883_616, 4_949_483_616],
                "78d23688b2ef7871a87c3e04234da13e507175ca910df5ba11d5bb10c161c916",
            ),
        ] {
            let read = Certificate::read(der).unwrap();
            assert_eq!((read.signature_hash, [read.not_before, read.not_after]), (Some(hash), times));
            assert_eq!(Pin::of(&read), Pin::parse(pin).unwrap());
        }
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        let time = |tag: u8, text: &str| Reader(&element(tag, text.as_bytes())).time();
        assert_eq!(time(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        assert_eq!(time(UTC_TIME, "240229123456Z"), Some(1_709_210_096));
        assert_eq!(time(GENERALIZED_TIME, "20240229123456Z"), Some(1_709_210_096));
        assert_eq!(time(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        assert_eq!(time(GENERALIZED_TIME, "20000301000000Z"), Some(951_868_800));
        for text in ["240229123456", "2402291234Z", "241329123456Z", "240200123456Z", "2402291234+6Z", ""] {
            assert_eq!(time(UTC_TIME, text), None, "{text}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_off_is_rejected_and_no_change_of_a_byte_panics() {
        let (from, to) = (utc("240229123456Z"), utc("250228123456Z"));
        let algorithm = [element(OBJECT_IDENTIFIER, RSASSA_PSS), element(SEQUENCE, b"")].concat();
        let whole = certificate(&algorithm, [&from, &to]);
        for end in 0..whole.len() {
            assert_eq!(Certificate::read(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = Certificate::read(&changed);
            }
        }
    }
}
