//! The account, the proxy and the nonces of the NTLM properties, from MS-NLMP section 4.2.1.

use ntlm_gateway::ntlm::{
    Account, AuthenticateInputs, FileTime, Identity, Method, NegotiateFlags, NegotiateOptions, NtHash,
    ServerChallengeOptions, Version, challenge, negotiate,
};

/// The account's password.
pub const PASSWORD: &str = "Password";

/// A server's time.
pub const TIME: FileTime = FileTime::from_unix(1_700_000_000, 0);

/// The hash of [`PASSWORD`].
pub fn right_hash() -> NtHash {
    NtHash::from_password(PASSWORD)
}

/// The hash of another password.
pub fn wrong_hash() -> NtHash {
    NtHash::from_password("password")
}

/// The account that authenticates.
pub fn identity(method: Method, target_domain: bool) -> Identity {
    let account = Account { domain: "Domain".to_owned(), user: "User".to_owned() };
    Identity::new(account, "COMPUTER", right_hash(), method, target_domain)
}

/// The external inputs of an AUTHENTICATE_MESSAGE.
pub fn inputs() -> AuthenticateInputs<'static> {
    AuthenticateInputs {
        client_challenge: [0xaa; 8],
        exported_session_key: [0x55; 16],
        now: FileTime(TIME.0 + 1),
        target_name: Some("HTTP/proxy"),
        channel_bindings: None,
    }
}

/// NEGOTIATE_MESSAGEs: the usual one, one that requests every feature, one with names, and one without a version.
pub fn negotiates() -> Vec<Vec<u8>> {
    let all = NegotiateOptions::DEFAULT_FLAGS | NegotiateFlags::KEY_EXCH | NegotiateFlags::SIGN | NegotiateFlags::SEAL;
    let named = NegotiateOptions {
        flags: NegotiateFlags::from_bits(0xe208_b2b7),
        version: Some(Version { major: 5, minor: 1, build: 2600, revision: 15 }),
        domain: Some("WORKGROUP".to_owned()),
        workstation: Some("LABSMOKE3".to_owned()),
    };
    let asks_all = NegotiateOptions { flags: all, ..NegotiateOptions::default() };
    let without_version = NegotiateOptions { version: None, ..NegotiateOptions::default() };
    let identity = identity(Method::NtlmV2, false);
    [NegotiateOptions::default(), asks_all, named, without_version]
        .iter()
        .map(|options| negotiate(&identity, options))
        .collect()
}

/// A server that sends its names, and optionally its time.
pub fn server(time: Option<FileTime>) -> ServerChallengeOptions {
    ServerChallengeOptions {
        server_challenge: [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef],
        target_name: "Server".to_owned(),
        target_info: ServerChallengeOptions::target_info_of("Domain", "Server", "domain.test", "server.test", time)
            .ok(),
        ..ServerChallengeOptions::default()
    }
}

/// CHALLENGE_MESSAGEs of such servers, one with OEM strings, one with key exchange, and one without names.
pub fn challenges_to(negotiate: &[u8]) -> Vec<Vec<u8>> {
    let oem = ServerChallengeOptions {
        supported: server(None).supported - NegotiateFlags::UNICODE,
        insisted: NegotiateFlags::OEM,
        ..server(Some(TIME))
    };
    let key_exchange = ServerChallengeOptions { insisted: NegotiateFlags::KEY_EXCH, ..server(Some(TIME)) };
    [server(Some(TIME)), server(None), oem, key_exchange, ServerChallengeOptions::default()]
        .iter()
        .filter_map(|options| challenge(negotiate, options).ok())
        .collect()
}
