//! The gateway with every personality of the stub: how real proxies behave, and what the client receives.
//!
//! The rows of `cases!` below map the numbered list of behaviours that users have reported to tests. Behaviours of the
//! gateway itself are tested elsewhere: 18 (requests without credentials) in `tests/gateway/routes.rs`; 26 (request
//! bodies) at the end of this file; 32, 33 and 40 (names of domains, users and workstations) and 41 (channel bindings)
//! in `src/ntlm/tests` and `src/config/tests.rs`.

use crate::support;

use std::io::Read as _;

use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{connect_name, echo_through};
use support::in_process::{self, ACCOUNT};

/// What the client receives.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// A tunnel that echoes.
    Tunnel,
    /// This status, with this error of RFC 9209 and this text in its details.
    Fault(u16, &'static str, &'static str),
    /// The upstream's own response, with this text in its page.
    Forwarded(u16, &'static str),
}

fn expectation(personality: Personality) -> Expected {
    use Expected::{Fault, Forwarded, Tunnel};
    use Personality as P;
    match personality {
        P::ChallengeThenClose | P::ProxyConnectionCloseOnly => {
            Fault(502, "http_protocol_error", "closes the connection")
        }
        P::BodyEndless | P::BodyHuge => Fault(502, "http_response_body_size", "larger than"),
        P::BytesAfterBody => Fault(502, "http_protocol_error", "bytes behind the body"),
        P::HangsOnCredentials | P::Silent => Fault(504, "http_response_timeout", "did not answer in time"),
        P::BasicOnly => Fault(502, "proxy_configuration_error", "it offers: Basic"),
        P::SpnegoUnderNtlm => Fault(502, "http_protocol_error", "SPNEGO"),
        P::SquidNoKeepAlive => Fault(502, "http_protocol_error", "no challenge"),
        P::LyingLengths | P::NoEol => Fault(502, "http_protocol_error", "cannot be answered"),
        P::HugeTargetInfo => Fault(502, "http_response_header_section_size", "does not end within"),
        P::Refuses | P::Rechallenges => Fault(502, "proxy_configuration_error", "refused the credentials"),
        P::V1Ess => Fault(502, "proxy_configuration_error", "refused the credentials"),
        P::ClosesOnAccept => Fault(502, "connection_terminated", ""),
        P::ResetsMidHandshake => Fault(502, "connection_terminated", ""),
        P::Transparent401 => Fault(502, "http_protocol_error", "transparent proxy"),
        P::Forbidden => Forwarded(403, "<"),
        P::Unavailable => Forwarded(503, "<"),
        _ => Tunnel,
    }
}

fn check(personality: Personality) -> Result<(), String> {
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password).personality(personality))
        .map_err(|error| error.to_string())?;
    let expected = expectation(personality);
    // Short only where it has to run out.
    let timeout = if matches!(expected, Expected::Fault(504, ..)) { "1500ms" } else { "20s" };
    let gateway = in_process::gateway(&stub.address().to_string(), &[("timeouts.handshake", timeout)]);
    let mut answer = connect_name(in_process::address(&gateway), "echo.test:7").map_err(|error| error.to_string())?;
    let outcome = match expected {
        Expected::Tunnel if answer.status() == 200 => match echo_through(&answer.stream, b"there and back") {
            Ok(back) if back == b"there and back" => Ok(()),
            other => Err(format!("the tunnel gave {other:?}")),
        },
        Expected::Fault(status, error, text) => {
            let detail = answer.field("proxy-status").unwrap_or_default();
            let right = answer.status() == status
                && detail.starts_with("ntlm-gateway")
                && detail.contains(&format!("error={error}"))
                && detail.contains(text);
            if right { Ok(()) } else { Err(answer.head.clone()) }
        }
        Expected::Forwarded(status, page) if answer.status() == status => {
            let mut body = String::new();
            answer.stream.read_to_string(&mut body).map_err(|error| error.to_string())?;
            let detail = answer.field("proxy-status").unwrap_or_default();
            let right = body.contains(page) && detail.contains(&format!("received-status={status}"));
            if right { Ok(()) } else { Err(format!("{}{body}", answer.head)) }
        }
        _ => Err(answer.head.clone()),
    };
    drop(answer);
    let counts = stub.counters();
    in_process::stop(gateway);
    match counts.protocol_errors() {
        0 => outcome,
        _ => Err(format!("the stub counted protocol errors: {counts}")),
    }
}

/// Makes a test of each row: the number of the reported behaviour (0: none), the test's name, the personality.
macro_rules! cases {
    ($($line:literal $name:ident $personality:ident;)*) => {
        $(#[test]
        fn $name() {
            if let Err(why) = check(Personality::$personality) {
                panic!("behaviour {}: expected {:?}, got {why}", $line, expectation(Personality::$personality));
            }
        })*

        /// The personalities that have a test.
        const COVERED: &[Personality] = &[$(Personality::$personality,)*];
    };
}

cases! {
    0 a_plain_ntlm_proxy_works Plain;
    1 negotiate_uses_a_new_connection_when_the_first_407_closes IsaFirst407Closes;
    2 a_challenge_with_a_close_is_never_answered_on_another_connection ChallengeThenClose;
    3 proxy_connection_close_alone_is_a_close ProxyConnectionCloseOnly;
    4 an_http_1_0_407_with_keep_alive_keeps_the_connection Http10KeepAlive;
    5 an_http_1_0_proxy_is_asked_to_keep_the_connection Http10;
    6 a_407_body_with_a_length_is_drained_exactly BodyLength3k;
    7 a_chunked_407_body_with_trailers_is_drained BodyChunkedTrailers;
    8 a_407_body_delimited_by_close_ends_the_connection BodyToClose;
    9 an_endless_407_body_is_abandoned BodyEndless;
    9 a_huge_407_body_is_abandoned BodyHuge;
    10 bytes_after_the_407_body_make_the_connection_unusable BytesAfterBody;
    11 informational_answers_are_skipped InformationalFirst;
    11 a_missing_reason_phrase_is_accepted NoReason;
    11 an_odd_reason_phrase_is_accepted OddReason;
    11 folded_lines_are_unfolded FoldedLines;
    12 a_200_with_content_length_is_a_tunnel OkWithContentLength;
    12 a_200_with_transfer_encoding_is_a_tunnel OkWithTransferEncoding;
    13 tunnel_bytes_in_the_segment_of_the_200_arrive OkWithTunnelBytes;
    14 answers_one_byte_at_a_time_work ByteAtATime;
    15 a_proxy_that_closes_idle_connections_works ClosesIdle;
    16 a_handshake_stays_on_one_connection OneConnection;
    0 a_proxy_that_asks_first_works AsksFirst;
    17 a_200_to_negotiate_is_a_tunnel Open;
    18 a_proxy_that_hangs_on_credentials_is_reported_in_time HangsOnCredentials;
    18 a_proxy_that_exempts_some_destinations_serves_the_others ExemptHangs;
    19 challenges_joined_on_one_line_are_found ChallengesJoined;
    19 challenges_in_any_case_are_found ChallengesAnyCase;
    19 ntlm_is_found_behind_other_schemes ChallengesNotFirst;
    20 a_challenge_is_found_beside_other_schemes OtherSchemesBeside;
    21 a_bare_ntlm_after_authenticate_is_a_rejection Refuses;
    22 a_proxy_that_forbids_some_destinations_serves_the_others Policy407;
    23 a_proxy_that_forgets_the_challenge_is_asked_again Forgets;
    24 a_proxy_that_authenticates_one_request_works PerRequestAuth;
    25 a_clients_own_proxy_fields_are_not_forwarded DeniesClientFields;
    27 ntlm_is_sent_as_negotiate_if_only_that_is_offered NegotiateOnly;
    28 spnego_under_ntlm_is_reported SpnegoUnderNtlm;
    29 a_401_from_a_transparent_proxy_is_reported Transparent401;
    30 a_proxy_without_ntlm_is_reported_with_its_schemes BasicOnly;
    31 a_squid_without_keep_alive_is_reported SquidNoKeepAlive;
    34 a_proxy_that_requires_ntlm_and_always_sign_works Wingate;
    35 a_proxy_that_requires_128_bit_and_ess_works Strict128Ess;
    36 a_timestamp_is_used_and_a_mic_is_sent TimestampMic;
    37 key_exchange_works KeyExchange;
    38 a_challenge_without_target_info_is_answered NoTargetInfo;
    38 an_oem_only_challenge_is_answered OemOnly;
    39 wrong_length_fields_are_a_clean_fault LyingLengths;
    39 a_target_info_without_eol_is_a_clean_fault NoEol;
    39 a_target_info_of_16_kib_is_answered BigTargetInfo;
    39 a_target_info_of_64_kib_is_a_clean_fault HugeTargetInfo;
    0 a_proxy_that_requires_ntlmv1_rejects_the_credentials V1Ess;
    0 a_403_is_forwarded Forbidden;
    0 a_503_is_forwarded Unavailable;
    0 a_slow_proxy_works Slow;
    0 a_silent_proxy_is_reported_in_time Silent;
    0 a_proxy_that_closes_on_accept_is_reported ClosesOnAccept;
    0 a_proxy_that_resets_during_the_handshake_is_reported ResetsMidHandshake;
    0 a_challenge_after_authenticate_is_a_rejection Rechallenges;
    0 a_proxy_with_stale_challenges_works StaleChallenges;
}

#[test]
fn every_personality_has_a_test() {
    for personality in Personality::ALL {
        assert!(COVERED.contains(personality), "{personality} has no test");
    }
}

/// Behaviour 26: the NEGOTIATE leg of a request with a body announces an empty one. The body is sent once, with the
/// AUTHENTICATE leg.
#[test]
fn a_request_body_is_sent_once_with_the_authenticate_message() {
    let (domain, user, password) = ACCOUNT;
    let body = support::bytes::pseudo_random(26, 300_000);
    for personality in
        [Personality::Plain, Personality::AsksFirst, Personality::IsaFirst407Closes, Personality::Http10KeepAlive]
    {
        let stub =
            StubServer::start(StubOptions::default().account(domain, user, password).personality(personality)).unwrap();
        let gateway = in_process::gateway(&stub.address().to_string(), &[("warm", "0")]);
        let mut client = support::wire::Wire::connect(in_process::address(&gateway));
        let head = support::web::request("POST", "http://sink.test/", "Content-Length: 300000\r\n");
        let answer = client.ask([head.as_bytes(), &body].concat()).unwrap();
        let mut sum = ntlm_gateway::stub::Checksum::default();
        sum.update(&body);
        assert_eq!(answer.text(), ntlm_gateway::stub::sink_line(&sum), "{personality}: {}", answer.head);
        let counts = stub.counters();
        in_process::stop(gateway);
        assert_eq!((counts.protocol_errors(), counts.negotiates_with_body), (0, 0), "{personality}: {counts}");
        assert_eq!(counts.body_bytes, body.len() as u64, "{personality}: once");
        assert_eq!(counts.authenticates, 1, "{personality}: {counts}");
    }
}
