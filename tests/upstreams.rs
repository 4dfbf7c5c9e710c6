//! The gateway before every personality of the stub: what real proxies do, and what the client gets.

mod support;

use std::io::Read as _;

use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use support::client::{connect_name, echo_through};
use support::in_process::{self, ACCOUNT};

/// What the client gets.
#[derive(Debug, PartialEq, Eq)]
enum Expect {
    /// A tunnel through which bytes come back.
    Tunnel,
    /// This status with this error of RFC 9209 and this text in its details.
    Fault(u16, &'static str, &'static str),
    /// The upstream's own answer, with this text in its page.
    PassedOn(u16, &'static str),
}

fn expectation(personality: Personality) -> Expect {
    use Expect::{Fault, PassedOn, Tunnel};
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
        P::Transparent401 => PassedOn(401, ""),
        P::Forbidden => PassedOn(403, "<"),
        P::Unavailable => PassedOn(503, "<"),
        _ => Tunnel,
    }
}

fn check(personality: Personality) -> Result<(), String> {
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password).personality(personality))
        .map_err(|error| error.to_string())?;
    let timeout =
        if personality == Personality::Slow || personality == Personality::ByteAtATime { "20s" } else { "1500ms" };
    let gateway = in_process::gateway(&stub.address().to_string(), &[("timeouts.handshake", timeout)]);
    let mut answer = connect_name(in_process::address(&gateway), "echo.test:7").map_err(|error| error.to_string())?;
    let outcome = match expectation(personality) {
        Expect::Tunnel if answer.status() == 200 => match echo_through(&answer.stream, b"there and back") {
            Ok(back) if back == b"there and back" => Ok(()),
            other => Err(format!("the tunnel gave {other:?}")),
        },
        Expect::Fault(status, error, detail) => {
            let told = answer.field("proxy-status").unwrap_or_default();
            let right = answer.status() == status
                && told.starts_with("ntlm-gateway")
                && told.contains(&format!("error={error}"))
                && told.contains(detail);
            if right { Ok(()) } else { Err(answer.head.clone()) }
        }
        Expect::PassedOn(status, page) if answer.status() == status => {
            let mut body = String::new();
            answer.stream.read_to_string(&mut body).map_err(|error| error.to_string())?;
            let told = answer.field("proxy-status").unwrap_or_default();
            let right = body.contains(page) && told.contains(&format!("received-status={status}"));
            if right { Ok(()) } else { Err(format!("{}{body}", answer.head)) }
        }
        _ => Err(answer.head.clone()),
    };
    drop(answer);
    let counts = stub.counters();
    in_process::stop(gateway);
    match counts.protocol_errors() {
        0 => outcome,
        _ => Err(format!("the stub was wronged: {counts}")),
    }
}

#[test]
fn every_personality_gets_what_it_deserves() {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let checks: Vec<_> =
            Personality::ALL.iter().map(|personality| (personality, scope.spawn(|| check(*personality)))).collect();
        let outcome = |(personality, check): (&Personality, std::thread::ScopedJoinHandle<'_, Result<(), String>>)| {
            let result = check.join().unwrap_or_else(|_| Err("panicked".into()));
            result.err().map(|why| format!("{personality}: expected {:?}, got {why}", expectation(*personality)))
        };
        checks.into_iter().filter_map(outcome).collect()
    });
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), Personality::ALL.len(), failures.join("\n"));
}
