//! Truncated and corrupted messages cause errors, never a panic.

use super::*;

const TIME: FileTime = FileTime::from_unix(1_700_000_000, 0);

/// xorshift64, which yields the same bytes in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// A handshake with all optional elements: names in the offer, a timestamp, KEY_EXCH, a MIC.
fn handshake() -> [Vec<u8>; 3] {
    let identity = spec_identity(Method::NtlmV2);
    let options = NegotiateOptions {
        flags: NegotiateOptions::DEFAULT_FLAGS | NegotiateFlags::KEY_EXCH | NegotiateFlags::SIGN,
        domain: Some("D".to_owned()),
        workstation: Some("W".to_owned()),
        ..NegotiateOptions::default()
    };
    let one = negotiate(&identity, &options);
    let server = ServerChallengeOptions {
        target_name: "Server".to_owned(),
        target_info: ServerChallengeOptions::target_info_of("A", "B", "c", "d", Some(TIME)).ok(),
        ..ServerChallengeOptions::default()
    };
    let two = challenge(&one, &server).unwrap();
    let inputs = AuthenticateInputs { target_name: Some("HTTP/proxy"), ..spec_inputs() };
    let three = authenticate(&identity, &one, &two, &inputs).unwrap();
    [one, two, three]
}

/// Feeds the messages to all functions that read messages.
fn read([one, two, three]: [&[u8]; 3]) -> Result<Verified, VerifyError> {
    for message in [one, two, three] {
        let _ = describe(message);
    }
    let _ = challenge(one, &ServerChallengeOptions::default());
    for method in [Method::NtlmV2, Method::NtlmV1Ess] {
        let account = Account { domain: "Domain".to_owned(), user: "User".to_owned() };
        let identity = Identity::new(account, "W", NtHash::from_password("Password"), method, true);
        let _ = authenticate(&identity, one, two, &spec_inputs());
    }
    let hash = NtHash::from_password("Password");
    let options = VerifyOptions { allow_v1_ess: true, require_mic: true };
    verify(three, one, two, |_, _| Some(&hash), &options)
}

#[test]
fn messages_truncated_at_any_byte_are_rejected_without_a_panic() {
    let whole = handshake();
    assert!(read([&whole[0], &whole[1], &whole[2]]).is_ok());
    for which in 0..3 {
        for length in 0..whole[which].len() {
            let mut messages = [&whole[0][..], &whole[1][..], &whole[2][..]];
            messages[which] = &whole[which][..length];
            assert!(read(messages).is_err(), "message {} cut at {length} is accepted", which + 1);
        }
    }
}

#[test]
fn messages_with_a_corrupted_byte_are_rejected_without_a_panic() {
    let whole = handshake();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for which in 0..3 {
        for at in 0..whole[which].len() {
            for value in [0, 0x7f, 0xff, u8::try_from(random.below(256)).unwrap()] {
                let mut corrupted = whole.clone();
                if corrupted[which][at] == value {
                    continue;
                }
                corrupted[which][at] = value;
                // The MIC covers every other byte of all three messages.
                let result = read([&corrupted[0], &corrupted[1], &corrupted[2]]);
                assert!(result.is_err(), "message {} byte {at} = {value:#04x} is accepted", which + 1);
            }
        }
    }
}

#[test]
fn messages_with_many_corrupted_bytes_cause_no_panic() {
    let whole = handshake();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..5_000 {
        let mut corrupted = whole.clone();
        for message in &mut corrupted {
            for _ in 0..random.below(6) {
                // After signature and type, so that the corrupted bytes reach the parsers.
                let at = 12 + random.below(message.len() - 12);
                message[at] = u8::try_from(random.below(256)).unwrap();
            }
        }
        let _ = read([&corrupted[0], &corrupted[1], &corrupted[2]]);
    }
}
