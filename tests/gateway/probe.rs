//! `ntlm-gateway probe` before the stub's personalities, a real Squid, and nothing at all.

use crate::support;

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ntlm_gateway::ntlm::NtHash;
use ntlm_gateway::stub::{Counts, Personality, StubOptions, StubServer};
use serde_json::Value;
use support::client::read_head;
use support::command::{Finished, run};
use support::gateway::GATEWAY;
use support::in_process::ACCOUNT;
use support::listener::Listener;
use support::origin::echo_origin;
use support::scratch::{Scratch, free_port};
use support::squid::{Leg, Squid, SquidOptions};
use support::{PASSWORD, USER};

const BOUND: Duration = Duration::from_secs(60);

/// Probes `upstream` with a password; checks that the output tells nothing of it.
fn probe(upstream: &str, password: &str, args: &[&str]) -> Finished {
    let scratch = Scratch::new("probe");
    let file = scratch.write("password", password);
    let finished = run(GATEWAY, BOUND, |command| {
        command.args(["probe", "--upstream", upstream, "--user", USER, "--workstation", "PROBE"]);
        command.arg("--password-file").arg(&file).args(args).env_remove("RUST_LOG");
    });
    let said = format!("{}{}", finished.text(), finished.stderr);
    let hash = NtHash::from_password(password).to_hex();
    for secret in [password, hash.as_str(), "TlRMTVNT"] {
        assert!(!said.to_lowercase().contains(&secret.to_lowercase()), "a secret is shown:\n{said}");
    }
    finished
}

fn stub(personality: Personality) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password).personality(personality)).expect("a stub")
}

/// What a probe of a personality comes to.
struct Seen {
    code: Option<i32>,
    report: Value,
    counts: Counts,
}

impl Seen {
    fn verdict(&self) -> &str {
        self.report["verdict"]["id"].as_str().unwrap_or_default()
    }

    fn behaviours(&self) -> Vec<&str> {
        let list = self.report["behaviours"].as_array().expect("behaviours");
        list.iter().filter_map(|behaviour| behaviour["id"].as_str()).collect()
    }
}

fn seen(personality: Personality, password: &str, args: &[&str]) -> Seen {
    let stub = stub(personality);
    let all: Vec<&str> = ["--json", "--target", "echo.test:7"].into_iter().chain(args.iter().copied()).collect();
    let finished = probe(&stub.address().to_string(), password, &all);
    let report = serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{personality}: {error}\n{}{}", finished.text(), finished.stderr));
    Seen { code: finished.code, report, counts: stub.counters() }
}

/// Personality, exit code, verdict, and behaviours that must be seen.
const EXPECTED: &[(Personality, i32, &str, &[&str])] = &[
    (Personality::Plain, 0, "works", &["offers", "timestamp"]),
    (Personality::IsaFirst407Closes, 0, "works", &["first-407-closes", "407-body-length", "offers"]),
    (Personality::ChallengeThenClose, 5, "handshake_fails", &["challenge-with-close"]),
    (Personality::ProxyConnectionCloseOnly, 5, "handshake_fails", &["challenge-with-close", "proxy-connection-only"]),
    (Personality::Http10KeepAlive, 0, "works", &["http-1.0"]),
    (Personality::BodyChunkedTrailers, 0, "works", &["407-body-chunked"]),
    (Personality::BodyToClose, 0, "works", &["407-body-to-close", "first-407-closes"]),
    (Personality::ByteAtATime, 0, "works", &["offers"]),
    (Personality::FoldedLines, 0, "works", &["offers"]),
    (Personality::AsksFirst, 0, "works_but", &["asks-first"]),
    (Personality::Open, 0, "works_but", &["open"]),
    (Personality::HangsOnCredentials, 5, "handshake_fails", &["open"]),
    (Personality::Refuses, 3, "credentials_refused", &["offers"]),
    (Personality::Rechallenges, 3, "credentials_refused", &["rechallenge"]),
    (Personality::NegotiateOnly, 0, "works", &["negotiate-only", "ntlm-in-negotiate"]),
    (Personality::SpnegoUnderNtlm, 5, "handshake_fails", &["spnego-under-ntlm"]),
    (Personality::Transparent401, 5, "not_ntlm", &["transparent-401"]),
    (Personality::BasicOnly, 5, "not_ntlm", &["offers"]),
    (Personality::SquidNoKeepAlive, 5, "handshake_fails", &["squid-no-keep-alive", "first-407-closes"]),
    (Personality::TimestampMic, 0, "works", &["timestamp"]),
    (Personality::KeyExchange, 0, "works", &["key-exchange"]),
    (Personality::NoTargetInfo, 0, "works", &["no-target-info"]),
    (Personality::OemOnly, 0, "works", &["oem-strings"]),
    (Personality::LyingLengths, 5, "handshake_fails", &["challenge-malformed"]),
    (Personality::Forbidden, 6, "declined", &["offers"]),
    (Personality::Unavailable, 5, "handshake_fails", &[]),
    (Personality::Silent, 5, "handshake_fails", &[]),
    (Personality::ClosesOnAccept, 5, "handshake_fails", &[]),
    (Personality::ResetsMidHandshake, 5, "handshake_fails", &["offers"]),
];

#[test]
fn each_personality_gets_its_verdict_with_one_proof_at_most() {
    let mut failures = Vec::new();
    for (personality, code, verdict, behaviours) in EXPECTED {
        let impatient = matches!(personality, Personality::Silent | Personality::HangsOnCredentials);
        let timeout = if impatient { "400ms" } else { "20s" };
        let seen = seen(*personality, PASSWORD, &["--handshake-timeout", timeout]);
        let shown = seen.behaviours();
        let right = seen.code == Some(*code)
            && seen.verdict() == *verdict
            && behaviours.iter().all(|id| shown.contains(id))
            && seen.counts.authenticates <= 1
            && seen.counts.protocol_errors() == 0;
        if !right {
            failures.push(format!(
                "{personality}: expected {code} {verdict} {behaviours:?}, got {:?} {} {shown:?}, {} proofs, {} wrongs\n{}",
                seen.code,
                seen.verdict(),
                seen.counts.authenticates,
                seen.counts.protocol_errors(),
                seen.report["events"],
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_password_is_refused_once_and_exits_with_3() {
    let seen = seen(Personality::Plain, "Wr0ng-Horse", &[]);
    assert_eq!((seen.code, seen.verdict()), (Some(3), "credentials_refused"), "{}", seen.report);
    assert_eq!((seen.counts.authenticates, seen.counts.refused), (1, 1));
}

#[test]
fn a_proxy_that_asks_first_gets_the_line_to_use() {
    let asks = seen(Personality::AsksFirst, PASSWORD, &[]);
    let settings = asks.report["verdict"]["settings"].to_string();
    assert!(settings.contains(r#"first_leg = \"plain\""#), "{settings}");
    // With that line there is nothing left to say.
    let told = seen(Personality::AsksFirst, PASSWORD, &["--first-leg", "plain"]);
    assert_eq!((told.code, told.verdict()), (Some(0), "works"), "{}", told.report);
}

#[test]
fn a_proxy_that_hangs_up_on_an_unasked_message_works_with_a_plain_first_leg() {
    let stub = stub(Personality::Plain);
    let behind = stub.address();
    // Closes a connection whose first request has credentials, and passes all others on.
    let front = Listener::start(move |mut client| {
        let Ok(head) = read_head(&mut client) else { return };
        if head.to_ascii_lowercase().contains("proxy-authorization") {
            return;
        }
        let mut upstream = TcpStream::connect(behind).expect("the stub");
        upstream.write_all(head.as_bytes()).expect("the head");
        let (mut from, mut to) = (upstream.try_clone().expect("a clone"), client.try_clone().expect("a clone"));
        let back = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        // Either side may be gone first.
        let _ = std::io::copy(&mut client, &mut upstream);
        let _ = upstream.shutdown(Shutdown::Both);
        let _ = back.join();
    });
    let text =
        probe(&front.address().to_string(), PASSWORD, &["--target", "echo.test:7"]).expect_success("probe").text();
    assert!(text.contains("Verdict: works, but") && text.contains("  first_leg = \"plain\"\n"), "{text}");
    assert_eq!(stub.counters().authenticates, 1);
}

#[test]
fn a_transparent_proxy_is_named_with_its_cookie() {
    let seen = seen(Personality::Transparent401, PASSWORD, &[]);
    let told = seen.report["behaviours"].to_string();
    assert!(told.contains("BCSI-CS-5a3c1e02f9d4b786"), "{told}");
    assert_eq!(seen.report["proxy"]["guess"], "Symantec (Blue Coat) ProxySG");
    assert_eq!(seen.counts.authenticates, 0);
}

#[test]
fn what_cannot_be_reached_exits_with_4_and_what_is_misconfigured_with_1_or_2() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    let refused = probe(&nobody, PASSWORD, &[]);
    assert_eq!(refused.code, Some(4), "{}{}", refused.text(), refused.stderr);
    assert!(refused.text().contains("Verdict: unreachable"), "{}", refused.text());
    let unknown = probe("proxy.invalid:3128", PASSWORD, &["--connect-timeout", "3s"]);
    assert_eq!(unknown.code, Some(4), "{}{}", unknown.text(), unknown.stderr);
    assert_eq!(probe(&nobody, PASSWORD, &["--method", "kerberos"]).code, Some(1));
    assert_eq!(probe(&nobody, PASSWORD, &["--target", "no-port"]).code, Some(2));
}

#[test]
fn the_report_of_a_good_proxy_and_of_a_refusal_read_as_before() {
    for (name, personality) in [("plain", Personality::Plain), ("refused", Personality::Refuses)] {
        let stub = stub(personality);
        let upstream = stub.address();
        let text = probe(&upstream.to_string(), PASSWORD, &["--target", "echo.test:7"]).text();
        let masked = masked(&text, &upstream.port().to_string());
        let path = format!("{}/tests/snapshots/probe-{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &masked).expect("write the snapshot");
        }
        let expected = std::fs::read_to_string(&path).expect("the snapshot; UPDATE_SNAPSHOTS=1 writes it");
        assert_eq!(masked, expected, "UPDATE_SNAPSHOTS=1 takes the new text");
    }
}

#[test]
fn the_upstream_to_probe_is_chosen_by_its_name_and_probed_as_its_own_identity() {
    let account = |user, password| StubServer::start(StubOptions::default().account("CORP", user, password));
    let (own, partner) = (account("alice", PASSWORD).expect("a stub"), account("partner", "P4rtner").expect("a stub"));
    let scratch = Scratch::new("probe");
    let secret = |name: &str, password: &str| scratch.write(name, password).display().to_string();
    let (wrong, right, theirs) =
        (secret("wrong", "Wr0ng-Horse"), secret("right", PASSWORD), secret("theirs", "P4rtner"));
    // The first identity is for certain clients, and so neither upstream's.
    let identity = |name: &str, user: &str, file: &str, further: &str| {
        format!("[[identities]]\nname = '{name}'\nuser = 'CORP\\{user}'\npassword_file = '{file}'\n{further}\n")
    };
    let file = scratch.write(
        "gateway.toml",
        [
            identity("ci", "alice", &wrong, "clients = '10.0.0.0/8'"),
            identity("everybody", "alice", &right, ""),
            identity("partner", "partner", &theirs, "clients = '192.0.2.0/24'"),
            format!("[[upstreams]]\nname = 'own'\naddress = '{}'\n", own.address()),
            format!("[[upstreams]]\nname = 'theirs'\naddress = '{}'\nidentity = 'partner'\n", partner.address()),
        ]
        .concat(),
    );
    let probe = |args: &[&str]| {
        run(GATEWAY, BOUND, |command| {
            command.args(["probe", "--target", "echo.test:7", "--config"]).arg(&file).args(args).env_remove("RUST_LOG");
        })
    };
    probe(&[]).expect_success("the first");
    probe(&["--of", "own"]).expect_success("by name");
    assert_eq!((own.counters().accepted, partner.counters().connections_opened), (2, 0));
    probe(&["--of", "theirs"]).expect_success("the other");
    assert_eq!((own.counters().accepted, partner.counters().accepted), (2, 1));
    let unknown = probe(&["--of", "nobody"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no upstream \"nobody\"; there is own, theirs"), "{}", unknown.stderr);
}

/// Without what differs from run to run: the port, times in milliseconds, the server's time.
fn masked(text: &str, port: &str) -> String {
    let mut out = String::new();
    for line in text.replace(&format!(":{port}"), ":PORT").lines() {
        let line = line.split_once("FILETIME").map_or(line, |(before, _)| before);
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for at in 1..words.len() {
            if words[at].starts_with("ms") && words[at - 1].parse::<f64>().is_ok() {
                words[at - 1] = "N".to_owned();
            }
        }
        // The width of a number is no news either.
        let line = words.join(" ");
        let line = match line.trim_start().strip_prefix("N ms") {
            Some(rest) => format!("  N ms{rest}"),
            None => line,
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[test]
fn a_real_squid_is_named_and_takes_the_account() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let origin = echo_origin();
    let finished = probe(&squid.address().to_string(), PASSWORD, &["--target", &origin.address().to_string()]);
    let text = finished.expect_success("probe of Squid").text();
    assert!(text.contains("Verdict: works (exit code 0"), "{text}");
    assert!(text.contains("Squid, by "), "{text}");
    assert!(squid.count(Leg::Authenticate) <= 1);

    let refused = probe(&squid.address().to_string(), "Wr0ng-Horse", &[]);
    assert_eq!(refused.code, Some(3), "{}", refused.text());
}
