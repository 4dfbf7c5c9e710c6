//! NTLMv2 with MsvAvTimestamp and MIC, as every current Windows proxy uses it. Section 4.2 has no vector for it.

use super::*;
use crate::ntlm::client::{Form, authenticate_in_form};

const NEGOTIATE: &str = "
    4e544c4d5353500001000000978208e2000000000000000000000000000000000a00614a0000000f";

const CHALLENGE: &str = "
    4e544c4d53535000020000000c000c003800000015828ae20123456789abcdef00000000000000007e007e0044000000
    0601b11d0000000f53006500720076006500720002000c0044006f006d00610069006e0001000c005300650072007600
    6500720004001c0064006f006d00610069006e002e006500780061006d0070006c00650003002a007300650072007600
    650072002e0064006f006d00610069006e002e006500780061006d0070006c006500070008000090d336b734c3010000
    0000";

const AUTHENTICATE: &str = "
    4e544c4d53535000030000001800180058000000b600b600700000000c000c0026010000080008003201000010001000
    3a010000100010004a01000015828ae20a00614a0000000f393373cbfd3a53846d427fd59e60d4880000000000000000
    0000000000000000000000000000000012101d9d2c17e55e2835e9843ae0748501010000000000000090d336b734c301
    aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e0001000c0053006500720076006500720004001c00
    64006f006d00610069006e002e006500780061006d0070006c00650003002a007300650072007600650072002e006400
    6f006d00610069006e002e006500780061006d0070006c006500070008000090d336b734c30106000400020000000000
    00000000000044006f006d00610069006e00550073006500720043004f004d0050005500540045005200c66170d5ea11
    f4444f6acee7d9641dc2";

const WINDOWS_10: Version = Version { major: 10, minor: 0, build: 19_041, revision: 15 };
const FORM: Form = Form { order: PayloadOrder::ResponsesFirst, keep_target_type: true };

fn timestamp() -> FileTime {
    FileTime(u64::from_le_bytes(hex_array("0090d336b734c301")))
}

fn check(message: &[u8], password: &str) -> Result<Verified, VerifyError> {
    let options = VerifyOptions { allow_v1_ess: false, require_mic: true };
    let hash = NtHash::from_password(password);
    verify(message, &hex(NEGOTIATE), &hex(CHALLENGE), |_, _| Some(&hash), &options)
}

#[test]
fn message_1_is_encoded_byte_for_byte() {
    let options = NegotiateOptions {
        flags: NegotiateFlags::from_bits(0xe208_8297),
        version: Some(WINDOWS_10),
        ..NegotiateOptions::default()
    };
    assert_eq!(negotiate(&spec_identity(Method::NtlmV2), &options), hex(NEGOTIATE));
}

#[test]
fn message_2_is_encoded_byte_for_byte() {
    let target_info = ServerChallengeOptions::target_info_of(
        "Domain",
        "Server",
        "domain.example",
        "server.domain.example",
        Some(timestamp()),
    );
    let options = ServerChallengeOptions {
        server_challenge: hex_array("0123456789abcdef"),
        target_name: "Server".to_owned(),
        target_info: target_info.ok(),
        version: Some(Version { major: 6, minor: 1, build: 7601, revision: 15 }),
        ..ServerChallengeOptions::default()
    };
    assert_eq!(challenge(&hex(NEGOTIATE), &options), Ok(hex(CHALLENGE)));
    assert_eq!(recoded_challenge(&hex(CHALLENGE)), hex(CHALLENGE));
}

#[test]
fn message_3_is_encoded_byte_for_byte() {
    let identity = spec_identity(Method::NtlmV2);
    let message = authenticate_in_form(&identity, &hex(NEGOTIATE), &hex(CHALLENGE), &spec_inputs(), FORM).unwrap();
    assert_eq!(message, hex(AUTHENTICATE));
}

#[test]
fn message_3_decodes() {
    let bytes = hex(AUTHENTICATE);
    let message = AuthenticateMessage::decode(&bytes).unwrap();
    assert_eq!(message.response_kind(), NtResponseKind::NtlmV2);
    assert_eq!(message.lm_response, [0; 24]);
    assert_eq!(message.nt_response[..16], hex("12101d9d2c17e55e2835e9843ae07485"));
    assert_eq!(message.encrypted_session_key, hex("c66170d5ea11f4444f6acee7d9641dc2"));
    assert_eq!(message.mic, Some(hex_array("393373cbfd3a53846d427fd59e60d488")));
    assert_eq!(message.version, Some(WINDOWS_10));
    assert_eq!(recoded_authenticate(&bytes, PayloadOrder::ResponsesFirst), bytes);
}

#[test]
fn message_3_is_verified() {
    let verified = check(&hex(AUTHENTICATE), "Password").unwrap();
    assert_eq!(verified.user, "User");
    assert_eq!(verified.domain, "Domain");
    assert_eq!(verified.workstation, "COMPUTER");
    assert_eq!((verified.method, verified.mic), (Method::NtlmV2, true));
    assert_eq!(check(&hex(AUTHENTICATE), "password"), Err(VerifyError::WrongPassword));
}

#[test]
fn another_payload_order_keeps_nt_proof_str_and_has_a_valid_mic() {
    let identity = spec_identity(Method::NtlmV2);
    let message = authenticate(&identity, &hex(NEGOTIATE), &hex(CHALLENGE), &spec_inputs()).unwrap();
    let decoded = AuthenticateMessage::decode(&message).unwrap();
    assert_eq!(decoded.nt_response[..16], hex("12101d9d2c17e55e2835e9843ae07485"));
    assert_eq!(decoded.flags.bits(), 0xe288_8215);
    assert!(check(&message, "Password").is_ok_and(|verified| verified.mic));
}

#[test]
fn the_mic_covers_every_byte_of_all_three_messages() {
    let (one, two, three) = (hex(NEGOTIATE), hex(CHALLENGE), hex(AUTHENTICATE));
    let hash = NtHash::from_password("Password");
    let mut flipped = three.clone();
    flipped[72] ^= 1;
    assert_eq!(check(&flipped, "Password"), Err(VerifyError::BadMic));
    // Only the MIC covers the workstation.
    let mut flipped = three.clone();
    flipped[0x13a] ^= 1;
    assert_eq!(check(&flipped, "Password"), Err(VerifyError::BadMic));
    let mut flipped = one.clone();
    flipped[33] ^= 1;
    let options = VerifyOptions::default();
    assert_eq!(verify(&three, &flipped, &two, |_, _| Some(&hash), &options), Err(VerifyError::BadMic));
    let mut flipped = two.clone();
    flipped[56] ^= 1;
    assert_eq!(verify(&three, &one, &flipped, |_, _| Some(&hash), &options), Err(VerifyError::BadMic));
}

#[test]
fn an_announced_mic_must_be_present() {
    let bytes = hex(AUTHENTICATE);
    let without = AuthenticateMessage { mic: None, ..AuthenticateMessage::decode(&bytes).unwrap() };
    let without = without.encode(PayloadOrder::NamesFirst).unwrap();
    assert_eq!(check(&without, "Password"), Err(VerifyError::BadMic));
}

#[test]
fn a_key_exchange_without_a_key_is_rejected() {
    let bytes = hex(AUTHENTICATE);
    let without = AuthenticateMessage { encrypted_session_key: &[], ..AuthenticateMessage::decode(&bytes).unwrap() };
    let without = without.encode(PayloadOrder::NamesFirst).unwrap();
    assert_eq!(check(&without, "Password"), Err(VerifyError::SessionKeyLength { got: 0 }));
}

#[test]
fn the_description_contains_the_times_but_not_the_responses() {
    let lines = describe(&hex(AUTHENTICATE)).unwrap();
    let has = |field: &str, value: &str| lines.contains(&(field.to_owned(), value.to_owned()));
    assert!(has("response", "NTLMv2"));
    assert!(has("response time", "FILETIME 127003176000000000 = 2003-06-17 10:00:00.0000000Z"));
    assert!(has("AV_PAIR MsvAvFlags", "0x00000002"));
    assert!(has("MIC", "393373cbfd3a53846d427fd59e60d488"));
    let all = format!("{lines:?}");
    assert!(!all.contains("12101d9d2c17e55e") && !all.contains("c66170d5ea11f444"), "{all}");
}
