//! Both sides against each other, with the variations of real servers.

use super::*;

const TIME: FileTime = FileTime::from_unix(1_700_000_000, 0);

fn target_info(timestamp: Option<FileTime>) -> Vec<u8> {
    ServerChallengeOptions::target_info_of("CORP", "PROXY", "corp.example", "proxy.corp.example", timestamp).unwrap()
}

fn server(timestamp: Option<FileTime>) -> ServerChallengeOptions {
    ServerChallengeOptions {
        server_challenge: *b"schallng",
        target_name: "CORP".to_owned(),
        target_is_domain: true,
        target_info: Some(target_info(timestamp)),
        ..ServerChallengeOptions::default()
    }
}

fn identity(name: &str, method: Method, target_domain: bool) -> Identity {
    Identity::new(Account::parse(name, None).unwrap(), "NODE7", NtHash::from_password("s3cret"), method, target_domain)
}

fn corp_identity() -> Identity {
    identity("CORP\\svc", Method::NtlmV2, false)
}

/// The three messages of a handshake.
fn handshake(identity: &Identity, server: &ServerChallengeOptions, inputs: &AuthenticateInputs<'_>) -> [Vec<u8>; 3] {
    let one = negotiate(identity, &NegotiateOptions::default());
    let two = challenge(&one, server).unwrap();
    let three = authenticate(identity, &one, &two, inputs).unwrap();
    [one, two, three]
}

fn check([one, two, three]: &[Vec<u8>; 3], password: &str) -> Result<Verified, VerifyError> {
    let hash = NtHash::from_password(password);
    let options = VerifyOptions { allow_v1_ess: true, require_mic: false };
    verify(three, one, two, |_, _| Some(&hash), &options)
}

fn av_ids(message: &[u8]) -> Vec<u16> {
    let decoded = AuthenticateMessage::decode(message).unwrap();
    AvPairs::new(decoded.v2_response().unwrap().av_pairs).map(|pair| pair.unwrap().id.number()).collect()
}

#[test]
fn the_default_offer_is_that_of_browsers_on_windows() {
    let message = negotiate(&corp_identity(), &NegotiateOptions::default());
    let decoded = NegotiateMessage::decode(&message).unwrap();
    assert_eq!(decoded.flags.bits(), 0xa208_8207);
    assert_eq!(message.len(), 40);
    assert_eq!((decoded.domain, decoded.workstation), (None, None));
}

#[test]
fn the_version_and_name_flags_are_set_only_for_fields_that_are_present() {
    let options = NegotiateOptions {
        flags: NegotiateFlags::from_bits(u32::MAX),
        version: None,
        domain: Some("MÜLL".to_owned()),
        workstation: None,
    };
    let message = negotiate(&corp_identity(), &options);
    let decoded = NegotiateMessage::decode(&message).unwrap();
    assert_eq!(decoded.domain, Some(&b"M?LL"[..]));
    assert!(!decoded.flags.contains(NegotiateFlags::VERSION));
    assert!(!decoded.flags.contains(NegotiateFlags::OEM_WORKSTATION_SUPPLIED));
}

#[test]
fn an_overlong_domain_in_the_offer_is_truncated() {
    let options = NegotiateOptions { domain: Some("x".repeat(100_000)), ..NegotiateOptions::default() };
    let message = negotiate(&corp_identity(), &options);
    assert_eq!(NegotiateMessage::decode(&message).unwrap().domain.map(<[u8]>::len), Some(255));
}

#[test]
fn with_a_timestamp_the_response_has_that_time_a_zero_lm_response_and_a_mic() {
    let messages = handshake(&corp_identity(), &server(Some(TIME)), &spec_inputs());
    let message = AuthenticateMessage::decode(&messages[2]).unwrap();
    assert_eq!(message.v2_response().unwrap().time, TIME);
    assert_eq!(message.lm_response, [0; 24]);
    assert_eq!(av_ids(&messages[2]), [2, 1, 4, 3, 7, 6]);
    // KEY_EXCH was neither offered nor selected, so no session key is sent, and the key of the MIC is the
    // KeyExchangeKey.
    assert_eq!(message.encrypted_session_key, b"");
    let verified = check(&messages, "s3cret").unwrap();
    assert_eq!((verified.user.as_str(), verified.domain.as_str()), ("svc", "CORP"));
    assert_eq!(verified.workstation, "NODE7");
    assert!(verified.mic);
}

#[test]
fn without_a_timestamp_the_response_has_the_local_time_lm_v2_and_no_mic() {
    let inputs = AuthenticateInputs { now: TIME, ..spec_inputs() };
    let messages = handshake(&corp_identity(), &server(None), &inputs);
    let message = AuthenticateMessage::decode(&messages[2]).unwrap();
    assert_eq!(message.v2_response().unwrap().time, TIME);
    assert_ne!(message.lm_response, [0; 24]);
    assert_eq!(message.mic, None);
    assert_eq!(av_ids(&messages[2]), [2, 1, 4, 3]);
    assert!(check(&messages, "s3cret").is_ok_and(|verified| !verified.mic));
}

#[test]
fn the_reasons_for_rejection_are_distinguished() {
    let messages = handshake(&corp_identity(), &server(Some(TIME)), &spec_inputs());
    let [one, two, three] = &messages;
    let options = VerifyOptions::default();
    assert_eq!(check(&messages, "S3cret"), Err(VerifyError::WrongPassword));
    assert_eq!(verify(three, one, two, |_, _| None, &options), Err(VerifyError::UnknownUser));
    assert!(matches!(verify(two, one, two, |_, _| None, &options), Err(VerifyError::Malformed(_))));
    // A response to another challenge counts as a wrong password.
    let other = challenge(one, &ServerChallengeOptions { server_challenge: [9; 8], ..server(Some(TIME)) }).unwrap();
    assert_eq!(check(&[one.clone(), other, three.clone()], "s3cret"), Err(VerifyError::WrongPassword));
}

#[test]
fn a_zero_lm_response_is_rejected_if_the_server_sent_no_time() {
    let mut messages = handshake(&corp_identity(), &server(None), &spec_inputs());
    let three = messages[2].clone();
    let zeroed = AuthenticateMessage { lm_response: &[0; 24], ..AuthenticateMessage::decode(&three).unwrap() };
    messages[2] = zeroed.encode(PayloadOrder::NamesFirst).unwrap();
    assert_eq!(check(&messages, "s3cret"), Err(VerifyError::BadLmResponse));
}

#[test]
fn a_mic_can_be_required() {
    let [one, two, three] = handshake(&corp_identity(), &server(None), &spec_inputs());
    let hash = NtHash::from_password("s3cret");
    let options = VerifyOptions { require_mic: true, ..VerifyOptions::default() };
    assert_eq!(verify(&three, &one, &two, |_, _| Some(&hash), &options), Err(VerifyError::BadMic));
}

#[test]
fn an_anonymous_client_is_an_unknown_user() {
    let [one, two, three] = handshake(&corp_identity(), &server(None), &spec_inputs());
    let anonymous = AuthenticateMessage { nt_response: &[], user: &[], ..AuthenticateMessage::decode(&three).unwrap() };
    let three = anonymous.encode(PayloadOrder::NamesFirst).unwrap();
    assert_eq!(check(&[one, two, three], "s3cret"), Err(VerifyError::UnknownUser));
}

#[test]
fn a_key_exchange_that_was_not_offered_is_answered() {
    let sign = NegotiateFlags::SIGN;
    for offered in [NegotiateFlags::default(), sign] {
        let identity = corp_identity();
        let options =
            NegotiateOptions { flags: NegotiateOptions::DEFAULT_FLAGS | offered, ..NegotiateOptions::default() };
        let one = negotiate(&identity, &options);
        let insisting = ServerChallengeOptions { insisted: NegotiateFlags::KEY_EXCH, ..server(Some(TIME)) };
        let two = challenge(&one, &insisting).unwrap();
        let three = authenticate(&identity, &one, &two, &spec_inputs()).unwrap();
        let message = AuthenticateMessage::decode(&three).unwrap();
        assert!(message.flags.contains(NegotiateFlags::KEY_EXCH));
        assert_eq!(message.encrypted_session_key.len(), 16);
        assert!(check(&[one.clone(), two.clone(), three.clone()], "s3cret").is_ok_and(|verified| verified.mic));
        // Without SIGN or SEAL, a server that follows the specification ignores the key exchange and uses the
        // KeyExchangeKey for the MIC. The MIC must be valid for it too.
        if offered != sign {
            let key = key_exchange_key(&message);
            let mut zeroed = three.clone();
            zeroed[72..88].fill(0);
            assert_eq!(message.mic, Some(crypto::hmac_md5(&key, &[&one, &two, &zeroed])));
        }
    }
}

fn key_exchange_key(message: &AuthenticateMessage<'_>) -> [u8; 16] {
    let response = message.v2_response().unwrap();
    corp_identity().response_key().v2_proof(*b"schallng", response.temp).1
}

#[test]
fn the_response_to_a_challenge_without_target_info_has_an_empty_list() {
    let bare = ServerChallengeOptions { target_info: None, ..server(None) };
    let messages =
        handshake(&corp_identity(), &bare, &AuthenticateInputs { target_name: Some("HTTP/p"), ..spec_inputs() });
    assert_eq!(av_ids(&messages[2]), [0_u16; 0]);
    assert!(check(&messages, "s3cret").is_ok());
}

#[test]
fn a_challenge_of_32_bytes_is_answered() {
    let identity = corp_identity();
    let one = negotiate(&identity, &NegotiateOptions::default());
    let mut two = b"NTLMSSP\0\x02\0\0\0\0\0\0\0\0\0\0\0\x01\x82\0\0".to_vec();
    two.extend_from_slice(b"schallng");
    let three = authenticate(&identity, &one, &two, &spec_inputs()).unwrap();
    assert!(check(&[one, two, three], "s3cret").is_ok());
}

#[test]
fn a_server_that_selects_oem_gets_oem_strings() {
    let oem = ServerChallengeOptions {
        supported: ServerChallengeOptions::default().supported - NegotiateFlags::UNICODE,
        ..server(Some(TIME))
    };
    let messages = handshake(&corp_identity(), &oem, &spec_inputs());
    let message = AuthenticateMessage::decode(&messages[2]).unwrap();
    assert_eq!((message.domain, message.user, message.workstation), (&b"CORP"[..], &b"svc"[..], &b"NODE7"[..]));
    assert_eq!(ChallengeMessage::decode(&messages[1]).unwrap().target_name, b"CORP");
    assert!(check(&messages, "s3cret").is_ok_and(|verified| verified.domain == "CORP"));
}

#[test]
fn a_name_that_cannot_be_encoded_as_oem_is_an_error() {
    let identity = identity("CORP\\müller", Method::NtlmV2, false);
    let one = negotiate(&identity, &NegotiateOptions::default());
    let oem = ServerChallengeOptions {
        supported: ServerChallengeOptions::default().supported - NegotiateFlags::UNICODE,
        ..server(None)
    };
    let two = challenge(&one, &oem).unwrap();
    let result = authenticate(&identity, &one, &two, &spec_inputs());
    assert_eq!(result, Err(AuthenticateError::NotOem { field: "UserName" }));
}

#[test]
fn the_configured_domain_is_used_unless_the_servers_is_requested() {
    let domain_of = |target_domain, target_info| {
        let identity = identity("OTHER\\svc", Method::NtlmV2, target_domain);
        let messages = handshake(&identity, &ServerChallengeOptions { target_info, ..server(None) }, &spec_inputs());
        check(&messages, "s3cret").map(|verified| verified.domain)
    };
    assert_eq!(domain_of(false, Some(target_info(None))).as_deref(), Ok("OTHER"));
    assert_eq!(domain_of(true, Some(target_info(None))).as_deref(), Ok("CORP"));
    assert_eq!(domain_of(true, None).as_deref(), Ok("CORP"));
}

#[test]
fn a_upn_is_sent_whole_as_the_user_name() {
    let messages = handshake(&identity("svc@corp.example", Method::NtlmV2, false), &server(Some(TIME)), &spec_inputs());
    let verified = check(&messages, "s3cret").unwrap();
    assert_eq!((verified.user.as_str(), verified.domain.as_str()), ("svc@corp.example", ""));
}

#[test]
fn target_name_and_channel_bindings_are_sent_if_given() {
    let inputs =
        AuthenticateInputs { target_name: Some("HTTP/proxy.corp"), channel_bindings: Some([7; 16]), ..spec_inputs() };
    let messages = handshake(&corp_identity(), &server(Some(TIME)), &inputs);
    assert_eq!(av_ids(&messages[2]), [2, 1, 4, 3, 7, 6, 10, 9]);
    let message = AuthenticateMessage::decode(&messages[2]).unwrap();
    let pairs: Vec<_> = AvPairs::new(message.v2_response().unwrap().av_pairs).map(Result::unwrap).collect();
    assert_eq!(pairs[6].value, [7; 16]);
    assert_eq!(pairs[7].text().as_deref(), Some("HTTP/proxy.corp"));
    assert!(check(&messages, "s3cret").is_ok());
}

#[test]
fn pairs_of_the_server_cannot_replace_those_of_the_client() {
    let list = TargetInfoBuilder::new()
        .bytes(AvId::Flags, &3_u32.to_le_bytes())
        .and_then(|list| list.text(AvId::TargetName, "HTTP/evil"))
        .map(TargetInfoBuilder::finish)
        .unwrap();
    let odd = ServerChallengeOptions { target_info: Some(list), ..server(None) };
    let inputs = AuthenticateInputs { target_name: Some("HTTP/proxy.corp"), ..spec_inputs() };
    let messages = handshake(&corp_identity(), &odd, &inputs);
    // The MIC bit in the server's flags is cleared, because there is no MIC. The other bit is echoed.
    let message = AuthenticateMessage::decode(&messages[2]).unwrap();
    let pairs: Vec<_> = AvPairs::new(message.v2_response().unwrap().av_pairs).map(Result::unwrap).collect();
    assert_eq!(pairs.len(), 2);
    assert_eq!(pairs[0].word(), Ok(1));
    assert_eq!(pairs[1].text().as_deref(), Some("HTTP/proxy.corp"));
    assert!(check(&messages, "s3cret").is_ok());
}

#[test]
fn ntlm_v1_ess_verifies_and_sends_no_av_pairs() {
    let messages = handshake(&identity("CORP\\svc", Method::NtlmV1Ess, false), &server(Some(TIME)), &spec_inputs());
    let message = AuthenticateMessage::decode(&messages[2]).unwrap();
    assert_eq!((message.nt_response.len(), message.mic), (24, None));
    assert!(check(&messages, "s3cret").is_ok_and(|verified| verified.method == Method::NtlmV1Ess));
    assert_eq!(check(&messages, "secret"), Err(VerifyError::WrongPassword));
}

#[test]
fn flags_that_were_not_offered_are_not_agreed_on() {
    let insisting = ServerChallengeOptions { insisted: NegotiateFlags::SEAL | NegotiateFlags::LM_KEY, ..server(None) };
    let messages = handshake(&corp_identity(), &insisting, &spec_inputs());
    assert_eq!(AuthenticateMessage::decode(&messages[2]).unwrap().flags.bits(), 0xa288_8205);
}

#[test]
fn a_malformed_target_info_is_an_error() {
    let identity = corp_identity();
    let one = negotiate(&identity, &NegotiateOptions::default());
    let answer = |list: Vec<u8>| {
        let two = challenge(&one, &ServerChallengeOptions { target_info: Some(list), ..server(None) }).unwrap();
        authenticate(&identity, &one, &two, &spec_inputs())
    };
    let whole = target_info(Some(TIME));
    let mut no_eol = whole.clone();
    no_eol.truncate(whole.len() - 4);
    assert_eq!(answer(no_eol.clone()), Err(AuthenticateError::TargetInfo(AvError::NoEol { at: no_eol.len() })));
    let short_time = [7, 0, 4, 0, 1, 2, 3, 4, 0, 0, 0, 0].to_vec();
    let error = AvError::Length { id: AvId::Timestamp, expected: 8, got: 4 };
    assert_eq!(answer(short_time), Err(AuthenticateError::TargetInfo(error)));
    // 64 KiB without an end, and 64 KiB well-formed. The response to the latter does not fit into its field.
    assert!(matches!(answer(vec![0xff; 65_535]), Err(AuthenticateError::TargetInfo(AvError::Overrun { .. }))));
    let full = TargetInfoBuilder::new().bytes(AvId::Other(99), &vec![1; 65_527]).map(TargetInfoBuilder::finish);
    assert!(matches!(answer(full.unwrap()), Err(AuthenticateError::Encode(MessageError::TooLong { .. }))));
}

#[test]
fn errors_name_the_invalid_message() {
    let identity = corp_identity();
    let one = negotiate(&identity, &NegotiateOptions::default());
    let challenge = authenticate(&identity, &one, b"NTLMSSP\0\x03\0\0\0", &spec_inputs()).unwrap_err();
    assert_eq!(challenge.to_string(), "CHALLENGE_MESSAGE: expected message type 2, got 3");
    let negotiate = authenticate(&identity, b"", &one, &spec_inputs()).unwrap_err();
    assert!(matches!(negotiate, AuthenticateError::Negotiate(MessageError::Truncated { .. })));
}
