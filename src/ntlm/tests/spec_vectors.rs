//! The test vectors of MS-NLMP section 4.2, with one test for each value.

use rc4::{KeyInit, Rc4, StreamCipher};

use super::*;
use crate::ntlm::crypto::{self, Key, ResponseKey};

const CHALLENGE_4_2_2: &str = "
    4e544c4d53535000020000000c000c0038000000338202e20123456789abcdef00000000000000000000000000000000
    060070170000000f530065007200760065007200";

const AUTHENTICATE_4_2_2: &str = "
    4e544c4d5353500003000000180018006c00000018001800840000000c000c0048000000080008005400000010001000
    5c000000100010009c000000358280e20501280a0000000f44006f006d00610069006e00550073006500720043004f00
    4d005000550054004500520098def7b87f88aa5dafe2df779688a172def11c7d5ccdef1367c43011f30298a2ad35ece6
    4f16331c44bdbed927841f94518822b1b3f350c8958682ecbb3e3cb7";

const CHALLENGE_4_2_3: &str = "
    4e544c4d53535000020000000c000c003800000033820a820123456789abcdef00000000000000000000000000000000
    060070170000000f530065007200760065007200";

const AUTHENTICATE_4_2_3: &str = "
    4e544c4d5353500003000000180018006c00000018001800840000000c000c0048000000080008005400000010001000
    5c000000000000009c000000358208820501280a0000000f44006f006d00610069006e00550073006500720043004f00
    4d0050005500540045005200aaaaaaaaaaaaaaaa000000000000000000000000000000007537f803ae367128ca458204
    bde7caf81e97ed2683267232";

const CHALLENGE_4_2_4: &str = "
    4e544c4d53535000020000000c000c003800000033828ae20123456789abcdef00000000000000002400240044000000
    060070170000000f53006500720076006500720002000c0044006f006d00610069006e0001000c005300650072007600
    6500720000000000";

const AUTHENTICATE_4_2_4: &str = "
    4e544c4d5353500003000000180018006c00000054005400840000000c000c0048000000080008005400000010001000
    5c00000010001000d8000000358288e20501280a0000000f44006f006d00610069006e00550073006500720043004f00
    4d005000550054004500520086c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa68cd0ab851e51c96aabc927b
    ebef6a1c01010000000000000000000000000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e00
    01000c005300650072007600650072000000000000000000c5dad2544fc9799094ce1ce90bc9d03e";

const SERVER_CHALLENGE: &str = "0123456789abcdef";
const RANDOM_SESSION_KEY: Key = [0x55; 16];

fn nt_hash() -> Key {
    *crypto::ntowf_v1("Password")
}

/// LMOWFv1 of the password (3.3.1). Only the test vectors need it: the gateway sends no LMv1 response.
fn lm_hash() -> Key {
    let [a, b, c, d, e, f, g] = *b"PASSWOR";
    let halves = [[a, b, c, d, e, f, g], [b'D', 0, 0, 0, 0, 0, 0]].map(|half| crypto::des(half, *b"KGS!@#$%"));
    halves.as_flattened().try_into().unwrap()
}

fn lm_v1_response() -> [u8; 24] {
    crypto::desl(&lm_hash(), hex_array(SERVER_CHALLENGE))
}

fn session_base_key_v1() -> Key {
    <md4::Md4 as md4::Digest>::digest(nt_hash()).into()
}

/// KXKEY with NTLMSSP_REQUEST_NON_NT_SESSION_KEY (3.4.5.1).
fn key_exchange_key_non_nt() -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&lm_hash()[..8]);
    key
}

/// KXKEY with NTLMSSP_NEGOTIATE_LM_KEY (3.4.5.1).
fn key_exchange_key_lm() -> Key {
    let response: [u8; 8] = lm_v1_response()[..8].try_into().unwrap();
    let hash = lm_hash();
    let halves = [
        crypto::des(hash[..7].try_into().unwrap(), response),
        crypto::des([hash[7], 0xbd, 0xbd, 0xbd, 0xbd, 0xbd, 0xbd], response),
    ];
    halves.as_flattened().try_into().unwrap()
}

fn v1_ess() -> ([u8; 24], Key) {
    crypto::v1_ess(&nt_hash(), hex_array(SERVER_CHALLENGE), [0xaa; 8])
}

fn ntowf_v2() -> Key {
    *crypto::ntowf_v2(&nt_hash(), "User", "Domain")
}

fn temp() -> Vec<u8> {
    hex("01010000000000000000000000000000aaaaaaaaaaaaaaaa0000000002000c00
         44006f006d00610069006e0001000c0053006500720076006500720000000000
         00000000")
}

#[test]
fn v4_2_2_1_1_lmowf_v1() {
    assert_eq!(lm_hash(), hex_array("e52cac67419a9a224a3b108f3fa6cb6d"));
}

#[test]
fn v4_2_2_1_2_ntowf_v1() {
    assert_eq!(nt_hash(), hex_array("a4f49c406510bdcab6824ee7c30fd852"));
}

#[test]
fn v4_2_2_1_3_session_base_key() {
    assert_eq!(session_base_key_v1(), hex_array("d87262b0cde4b1cb7499becccdf10784"));
}

#[test]
fn v4_2_2_1_3_key_exchange_keys() {
    assert_eq!(key_exchange_key_non_nt(), hex_array("e52cac67419a9a220000000000000000"));
    assert_eq!(key_exchange_key_lm(), hex_array("b09e379f7fbecb1eaf0afdcb0383c8a0"));
}

#[test]
fn v4_2_2_2_1_ntlm_v1_response() {
    let response = crypto::desl(&nt_hash(), hex_array(SERVER_CHALLENGE));
    assert_eq!(response, hex_array("67c43011f30298a2ad35ece64f16331c44bdbed927841f94"));
}

#[test]
fn v4_2_2_2_2_lm_v1_response() {
    assert_eq!(lm_v1_response(), hex_array("98def7b87f88aa5dafe2df779688a172def11c7d5ccdef13"));
}

#[test]
fn v4_2_2_2_3_encrypted_session_keys() {
    let sealed = |key: Key| crypto::rc4k(&key, &RANDOM_SESSION_KEY);
    assert_eq!(sealed(session_base_key_v1()), hex_array("518822b1b3f350c8958682ecbb3e3cb7"));
    assert_eq!(sealed(key_exchange_key_non_nt()), hex_array("7452ca55c225a1ca04b48fae32cf56fc"));
    assert_eq!(sealed(key_exchange_key_lm()), hex_array("4cd7bb57d697ef9b549f02b8f9b37864"));
}

#[test]
fn v4_2_2_3_messages_are_recoded_byte_for_byte() {
    assert_eq!(recoded_challenge(&hex(CHALLENGE_4_2_2)), hex(CHALLENGE_4_2_2));
    let bytes = hex(AUTHENTICATE_4_2_2);
    assert_eq!(recoded_authenticate(&bytes, PayloadOrder::NamesFirst), bytes);
    let message = AuthenticateMessage::decode(&bytes).unwrap();
    assert_eq!(message.response_kind(), NtResponseKind::NtlmV1);
    assert_eq!(message.lm_response, lm_v1_response());
}

#[test]
fn v4_2_2_3_plain_ntlm_v1_is_never_accepted() {
    let hash = NtHash::from_password("Password");
    let options = VerifyOptions { allow_v1_ess: true, require_mic: false };
    let result = verify(&hex(AUTHENTICATE_4_2_2), &[], &hex(CHALLENGE_4_2_2), |_, _| Some(&hash), &options);
    assert_eq!(result, Err(VerifyError::MethodNotAllowed(NtResponseKind::NtlmV1)));
}

#[test]
fn v4_2_3_1_3_key_exchange_key() {
    assert_eq!(v1_ess().1, hex_array("eb93429a8bd952f8b89c55b87f475edc"));
}

#[test]
fn v4_2_3_2_2_ntlm_v1_response() {
    assert_eq!(v1_ess().0, hex_array("7537f803ae367128ca458204bde7caf81e97ed2683267232"));
}

#[test]
fn v4_2_3_3_messages_are_encoded_byte_for_byte() {
    let challenge = hex(CHALLENGE_4_2_3);
    assert_eq!(recoded_challenge(&challenge), challenge);
    let identity = spec_identity(Method::NtlmV1Ess);
    let negotiate = spec_negotiate(0x820a_8237, &identity);
    let message = authenticate(&identity, &negotiate, &challenge, &spec_inputs()).unwrap();
    assert_eq!(message, hex(AUTHENTICATE_4_2_3));
    assert_eq!(recoded_authenticate(&message, PayloadOrder::NamesFirst), message);
}

#[test]
fn v4_2_4_1_1_ntowf_v2() {
    assert_eq!(ntowf_v2(), hex_array("0c868a403bfd7a93a3001ef22ef02e3f"));
    let proof = |key: &ResponseKey| key.v2_proof(hex_array(SERVER_CHALLENGE), &temp());
    assert_eq!(proof(spec_identity(Method::NtlmV2).response_key()), proof(&ResponseKey::new(&ntowf_v2())));
}

#[test]
fn v4_2_4_1_2_session_base_key_and_4_2_4_2_2_proof() {
    let (proof, session_base_key) = ResponseKey::new(&ntowf_v2()).v2_proof(hex_array(SERVER_CHALLENGE), &temp());
    assert_eq!(proof, hex_array("68cd0ab851e51c96aabc927bebef6a1c"));
    assert_eq!(session_base_key, hex_array("8de40ccadbc14a82f15cb0ad0de95ca3"));
}

#[test]
fn v4_2_4_1_3_temp_is_in_the_message() {
    let bytes = hex(AUTHENTICATE_4_2_4);
    let message = AuthenticateMessage::decode(&bytes).unwrap();
    let response = message.v2_response().unwrap();
    assert_eq!(response.temp, temp());
    assert_eq!((response.time, response.client_challenge), (FileTime(0), [0xaa; 8]));
    assert_eq!(AvPairs::new(response.av_pairs).map(|pair| pair.unwrap().id.number()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn v4_2_4_2_1_lm_v2_response() {
    let response = ResponseKey::new(&ntowf_v2()).lm_v2(hex_array(SERVER_CHALLENGE), [0xaa; 8]);
    assert_eq!(response, hex_array("86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa"));
}

#[test]
fn v4_2_4_2_3_encrypted_session_key() {
    let sealed = crypto::rc4k(&hex_array("8de40ccadbc14a82f15cb0ad0de95ca3"), &RANDOM_SESSION_KEY);
    assert_eq!(sealed, hex_array("c5dad2544fc9799094ce1ce90bc9d03e"));
}

#[test]
fn v4_2_4_3_messages_are_encoded_byte_for_byte() {
    let challenge = hex(CHALLENGE_4_2_4);
    assert_eq!(recoded_challenge(&challenge), challenge);
    let identity = spec_identity(Method::NtlmV2);
    let negotiate = spec_negotiate(0xe208_8237, &identity);
    let message = authenticate(&identity, &negotiate, &challenge, &spec_inputs()).unwrap();
    assert_eq!(message, hex(AUTHENTICATE_4_2_4));
    assert_eq!(recoded_authenticate(&message, PayloadOrder::NamesFirst), message);
    let hash = NtHash::from_password("Password");
    let verified = verify(&message, &negotiate, &challenge, |_, _| Some(&hash), &VerifyOptions::default());
    assert!(verified.is_ok_and(|verified| verified.method == Method::NtlmV2 && !verified.mic));
}

/// `Plaintext` in UTF-16LE, the text that section 4.2 seals.
fn plaintext() -> Vec<u8> {
    hex("50006c00610069006e007400650078007400")
}

fn client_key(exported_session_key: &[u8], purpose: &str) -> Key {
    let magic = format!("session key to client-to-server {purpose} key magic constant\0");
    crypto::md5(&[exported_session_key, magic.as_bytes()])
}

/// Seals with extended session security (3.4.4.2); the checksum is encrypted only after a key exchange.
fn sealed_ess(sign_key: &Key, seal_key: &Key, key_exchange: bool) -> (Vec<u8>, Vec<u8>) {
    let mut cipher = Rc4::new_from_slice(seal_key).unwrap();
    let mut sealed = plaintext();
    cipher.apply_keystream(&mut sealed);
    let sequence = [0; 4];
    let mut checksum = crypto::hmac_md5(sign_key, &[&sequence, &plaintext()])[..8].to_vec();
    if key_exchange {
        cipher.apply_keystream(&mut checksum);
    }
    (sealed, [&[1, 0, 0, 0][..], &checksum, &sequence].concat())
}

/// The reflected CRC-32 of 3.4.4.1.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

#[test]
fn v4_2_2_4_sealed_and_signed() {
    let mut cipher = Rc4::new_from_slice(&RANDOM_SESSION_KEY).unwrap();
    let mut sealed = plaintext();
    cipher.apply_keystream(&mut sealed);
    assert_eq!(sealed, hex("56fe04d861f9319af0d7238a2e3b4d457fb8"));
    let mut signature = [&[0; 4][..], &crc32(&plaintext()).to_le_bytes(), &[0; 4]].concat();
    cipher.apply_keystream(&mut signature);
    signature[..4].fill(0);
    assert_eq!([&[1, 0, 0, 0][..], &signature].concat(), hex("010000000000000009dcd1df2e459d36"));
}

#[test]
fn v4_2_3_4_sealed_and_signed() {
    let (_, exported_session_key) = v1_ess();
    // With 56 but not 128 negotiated, seven bytes of the key are used for the SealKey.
    let seal_key = client_key(&exported_session_key[..7], "sealing");
    let sign_key = client_key(&exported_session_key, "signing");
    assert_eq!(seal_key, hex_array("04dd7f014d8504d265a25cc86a3a7c06"));
    assert_eq!(sign_key, hex_array("60e799be5c72fc92922ae8ebe961fb8d"));
    let (sealed, signature) = sealed_ess(&sign_key, &seal_key, false);
    assert_eq!(sealed, hex("a02372f6530273f3aa1eb90190ce5200c99d"));
    assert_eq!(signature, hex("01000000ff2aeb52f681793a00000000"));
}

#[test]
fn v4_2_4_4_sealed_and_signed() {
    let seal_key = client_key(&RANDOM_SESSION_KEY, "sealing");
    let sign_key = client_key(&RANDOM_SESSION_KEY, "signing");
    assert_eq!(seal_key, hex_array("59f600973cc4960a25480a7c196e4c58"));
    assert_eq!(sign_key, hex_array("4788dc861b4782f35d43fd98fe1a2d39"));
    let (sealed, signature) = sealed_ess(&sign_key, &seal_key, true);
    assert_eq!(sealed, hex("54e50165bf1936dc996020c1811b0f06fb5f"));
    assert_eq!(signature, hex("010000007fb38ec5c55d497600000000"));
}
