//! A recorded handshake of a Windows XP client with an ISA Server on Windows Server 2003. The password is `qa`.

use super::*;
use crate::ntlm::crypto;

const NEGOTIATE: &str = "
    4e544c4d5353500001000000b7b208e2090009003100000009000900280000000501280a0000000f4c4142534d4f4b45
    33574f524b47524f5550";

const CHALLENGE: &str = "
    4e544c4d5353500002000000100010003800000035828ae296e08360771823fb00000000000000005400540048000000
    0502ce0e0000000f53005000490052004900540031004200020010005300500049005200490054003100420001001000
    530050004900520049005400310042000400100073007000690072006900740031006200030010007300700069007200
    690074003100620000000000";

const AUTHENTICATE: &str = "
    4e544c4d53535000030000001800180072000000180018008a0000001200120048000000060006005a00000012001200
    6000000010001000a2000000358288e20501280a0000000f4c004100420053004d004f004b00450033005f0071006100
    4c004100420053004d004f004b0045003300d0d2aaf07618863f000000000000000000000000000000003888a2877991
    f80932338afdf6ccb599d1689c2bb620b383ae8d564d3ac9e1be0971713350103622";

const SESSION_KEY: &str = "e90b25d2945b70b05cd4d2ab2b2c686d";

fn identity() -> Identity {
    let account = Account::parse("LABSMOKE3\\_qa", None).unwrap();
    Identity::new(account, "LABSMOKE3", NtHash::from_password("qa"), Method::NtlmV1Ess, false)
}

#[test]
fn message_1_is_encoded_byte_for_byte() {
    let options = NegotiateOptions {
        flags: NegotiateFlags::from_bits(0xe208_b2b7),
        version: Some(WINDOWS_XP),
        domain: Some("WORKGROUP".to_owned()),
        workstation: Some("LABSMOKE3".to_owned()),
    };
    assert_eq!(negotiate(&identity(), &options), hex(NEGOTIATE));
}

#[test]
fn message_1_decodes() {
    let bytes = hex(NEGOTIATE);
    let message = NegotiateMessage::decode(&bytes).unwrap();
    assert_eq!(message.flags.bits(), 0xe208_b2b7);
    assert_eq!(message.domain, Some(&b"WORKGROUP"[..]));
    assert_eq!(message.workstation, Some(&b"LABSMOKE3"[..]));
    assert_eq!(message.version, Some(WINDOWS_XP));
    assert_eq!(message.encode().unwrap(), bytes);
}

#[test]
fn message_2_is_encoded_byte_for_byte() {
    let target_info =
        ServerChallengeOptions::target_info_of("SPIRIT1B", "SPIRIT1B", "spirit1b", "spirit1b", None).unwrap();
    let options = ServerChallengeOptions {
        server_challenge: hex_array("96e08360771823fb"),
        target_name: "SPIRIT1B".to_owned(),
        target_info: Some(target_info),
        version: Some(Version { major: 5, minor: 2, build: 3790, revision: 15 }),
        ..ServerChallengeOptions::default()
    };
    assert_eq!(challenge(&hex(NEGOTIATE), &options), Ok(hex(CHALLENGE)));
}

#[test]
fn message_2_decodes() {
    let bytes = hex(CHALLENGE);
    let message = ChallengeMessage::decode(&bytes).unwrap();
    assert_eq!(message.flags.bits(), 0xe28a_8235);
    assert_eq!(message.target_name_text().as_deref(), Ok("SPIRIT1B"));
    let pairs: Vec<_> = AvPairs::new(message.target_info.unwrap()).map(Result::unwrap).collect();
    let texts: Vec<_> = pairs.iter().map(|pair| (pair.id.number(), pair.text().unwrap())).collect();
    let expected = [(2, "SPIRIT1B"), (1, "SPIRIT1B"), (4, "spirit1b"), (3, "spirit1b")];
    assert_eq!(texts, expected.map(|(id, text)| (id, text.to_owned())));
    assert_eq!(recoded_challenge(&bytes), bytes);
}

#[test]
fn message_3_is_encoded_byte_for_byte() {
    let inputs = AuthenticateInputs {
        client_challenge: hex_array("d0d2aaf07618863f"),
        exported_session_key: hex_array(SESSION_KEY),
        ..spec_inputs()
    };
    let message = authenticate(&identity(), &hex(NEGOTIATE), &hex(CHALLENGE), &inputs).unwrap();
    assert_eq!(message, hex(AUTHENTICATE));
}

#[test]
fn message_3_decodes() {
    let bytes = hex(AUTHENTICATE);
    let message = AuthenticateMessage::decode(&bytes).unwrap();
    assert_eq!(message.flags.bits(), 0xe288_8235);
    assert_eq!(message.response_kind(), NtResponseKind::NtlmV1Ess);
    assert_eq!((message.version, message.mic), (Some(WINDOWS_XP), None));
    assert_eq!(message.encrypted_session_key, hex("ae8d564d3ac9e1be0971713350103622"));
    assert_eq!(recoded_authenticate(&bytes, PayloadOrder::NamesFirst), bytes);
}

#[test]
fn message_3_is_verified_if_the_method_is_allowed() {
    let hash = NtHash::from_password("qa");
    let check = |hash: &NtHash, allow_v1_ess| {
        let options = VerifyOptions { allow_v1_ess, require_mic: false };
        verify(&hex(AUTHENTICATE), &hex(NEGOTIATE), &hex(CHALLENGE), |_, _| Some(hash), &options)
    };
    let verified = check(&hash, true).unwrap();
    assert_eq!((verified.user.as_str(), verified.domain.as_str()), ("_qa", "LABSMOKE3"));
    assert_eq!(verified.method, Method::NtlmV1Ess);
    assert_eq!(check(&NtHash::from_password("aq"), true), Err(VerifyError::WrongPassword));
    assert_eq!(check(&hash, false), Err(VerifyError::MethodNotAllowed(NtResponseKind::NtlmV1Ess)));
}

#[test]
fn the_derived_keys_match_the_trace() {
    let hash = NtHash::from_password("qa");
    assert_eq!(hash.to_hex().as_str(), "aa8cea2a92b3ce52e8362a64302ea129");
    let (response, key_exchange_key) =
        crypto::v1_ess(hash.key(), hex_array("96e08360771823fb"), hex_array("d0d2aaf07618863f"));
    assert_eq!(response, hex_array("3888a2877991f80932338afdf6ccb599d1689c2bb620b383"));
    assert_eq!(key_exchange_key, hex_array("76a1e3c5cfad1d20a5d8decd4c40c3ac"));
    let encrypted = hex_array("ae8d564d3ac9e1be0971713350103622");
    assert_eq!(crypto::rc4k(&key_exchange_key, &encrypted), hex_array(SESSION_KEY));
}

#[test]
fn an_ntlm_v1_ess_identity_does_not_fall_back_to_plain_ntlm_v1() {
    let mut challenge = hex(CHALLENGE);
    challenge[22] &= !0x08;
    let refused = authenticate(&identity(), &hex(NEGOTIATE), &challenge, &spec_inputs());
    let flags = NegotiateFlags::from_bits(0xe282_8235);
    assert_eq!(refused, Err(AuthenticateError::NoExtendedSessionSecurity { flags }));
}

#[test]
fn the_messages_are_described_field_by_field() {
    let lines = describe(&hex(AUTHENTICATE)).unwrap();
    let value = |name: &str| lines.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    assert_eq!(value("message"), Some("AUTHENTICATE_MESSAGE (3)"));
    assert_eq!(value("UserName"), Some(r#""_qa", 6 bytes at offset 90"#));
    assert_eq!(value("NtChallengeResponse"), Some("24 bytes at offset 138"));
    assert_eq!(value("response"), Some("NTLMv1-ESS"));
    assert_eq!(value("Version"), Some("5.1 build 2600, NTLM revision 15"));
    assert_eq!(value("MIC"), Some("none"));
    let lines = describe(&hex(NEGOTIATE)).unwrap();
    assert!(lines.contains(&("Workstation".to_owned(), r#""LABSMOKE3", 9 bytes at offset 40"#.to_owned())));
    let lines = describe(&hex(CHALLENGE)).unwrap();
    assert!(lines.contains(&("AV_PAIR MsvAvDnsDomainName".to_owned(), r#""spirit1b""#.to_owned())));
    assert!(lines.iter().any(|(_, value)| value.contains("NTLMSSP_TARGET_TYPE_SERVER")));
}
