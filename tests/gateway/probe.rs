//! `ntlm-gateway probe` against the stub's personalities, a real Squid, and no proxy at all.

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
use support::squid::{LoggedCredentials, Squid, SquidOptions};
use support::{PASSWORD, USER};

const BOUND: Duration = Duration::from_secs(60);

/// Probes `upstream` with a password and checks that the output does not contain it.
fn probe(upstream: &str, password: &str, args: &[&str]) -> Finished {
    let scratch = Scratch::new("probe");
    let file = scratch.write("password", password);
    let finished = run(GATEWAY, BOUND, |command| {
        command.args(["probe", "--upstream", upstream, "--user", USER, "--workstation", "PROBE"]);
        command.arg("--password-file").arg(&file).args(args).env_remove("RUST_LOG");
    });
    let output = format!("{}{}", finished.text(), finished.stderr);
    let hash = NtHash::from_password(password).to_hex();
    for secret in [password, hash.as_str(), "TlRMTVNT"] {
        assert!(!output.to_lowercase().contains(&secret.to_lowercase()), "a secret is printed:\n{output}");
    }
    finished
}

fn json(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}\n{}{}", finished.text(), finished.stderr))
}

fn stub(personality: Personality) -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password).personality(personality)).expect("a stub")
}

/// The result of probing a personality.
struct ProbeResult {
    code: Option<i32>,
    report: Value,
    counts: Counts,
}

impl ProbeResult {
    fn verdict(&self) -> &str {
        self.report["verdict"]["id"].as_str().unwrap_or_default()
    }

    fn behaviours(&self) -> Vec<&str> {
        let list = self.report["behaviours"].as_array().expect("behaviours");
        list.iter().filter_map(|behaviour| behaviour["id"].as_str()).collect()
    }
}

fn probe_stub(personality: Personality, password: &str, args: &[&str]) -> ProbeResult {
    let stub = stub(personality);
    let all: Vec<&str> = ["--json", "--target", "echo.test:7"].into_iter().chain(args.iter().copied()).collect();
    let finished = probe(&stub.address().to_string(), password, &all);
    let report = serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{personality}: {error}\n{}{}", finished.text(), finished.stderr));
    ProbeResult { code: finished.code, report, counts: stub.counters() }
}

/// Personality, exit code, verdict, and behaviours that must be reported.
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
fn the_verdict_on_each_personality_takes_one_authentication_at_most() {
    let mut failures = Vec::new();
    for (personality, code, verdict, behaviours) in EXPECTED {
        let impatient = matches!(personality, Personality::Silent | Personality::HangsOnCredentials);
        let timeout = if impatient { "400ms" } else { "20s" };
        let result = probe_stub(*personality, PASSWORD, &["--handshake-timeout", timeout]);
        let shown = result.behaviours();
        let right = result.code == Some(*code)
            && result.verdict() == *verdict
            && behaviours.iter().all(|id| shown.contains(id))
            && result.counts.authenticates <= 1
            && result.counts.protocol_errors() == 0;
        if !right {
            failures.push(format!(
                "{personality}: expected {code} {verdict} {behaviours:?}, got {:?} {} {shown:?}, {} authentications, {} protocol errors\n{}",
                result.code,
                result.verdict(),
                result.counts.authenticates,
                result.counts.protocol_errors(),
                result.report["events"],
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_password_is_rejected_once_and_exits_with_3() {
    let result = probe_stub(Personality::Plain, "Wr0ng-Horse", &[]);
    assert_eq!((result.code, result.verdict()), (Some(3), "credentials_refused"), "{}", result.report);
    assert_eq!((result.counts.authenticates, result.counts.refused), (1, 1));
}

#[test]
fn probe_prints_the_setting_for_a_proxy_that_asks_first() {
    let asks = probe_stub(Personality::AsksFirst, PASSWORD, &[]);
    let settings = &asks.report["verdict"]["settings"];
    assert_eq!(settings["first_leg"], "plain", "{settings}");
    // With that setting there is nothing left to report.
    let plain = probe_stub(Personality::AsksFirst, PASSWORD, &["--first-leg", "plain"]);
    assert_eq!((plain.code, plain.verdict()), (Some(0), "works"), "{}", plain.report);
}

#[test]
fn a_proxy_that_drops_unsolicited_messages_works_with_a_plain_first_leg() {
    let stub = stub(Personality::Plain);
    let behind = stub.address();
    // Closes a connection whose first request has credentials, and forwards all others.
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
fn a_transparent_proxy_is_identified_by_its_cookie() {
    let result = probe_stub(Personality::Transparent401, PASSWORD, &[]);
    let behaviours = result.report["behaviours"].to_string();
    assert!(behaviours.contains("BCSI-CS-5a3c1e02f9d4b786"), "{behaviours}");
    assert_eq!(result.report["proxy"]["id"], "symantec-blue-coat-proxysg");
    assert_eq!(result.counts.authenticates, 0);
}

#[test]
fn an_unreachable_proxy_exits_with_4_and_a_wrong_setting_with_1_or_2() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    let refused = probe(&nobody, PASSWORD, &[]);
    assert_eq!(refused.code, Some(4), "{}{}", refused.text(), refused.stderr);
    assert!(refused.text().contains("Verdict: unreachable"), "{}", refused.text());
    assert_eq!(probe(&nobody, PASSWORD, &["--method", "kerberos"]).code, Some(1));
    assert_eq!(probe(&nobody, PASSWORD, &["--target", "http://no-url/"]).code, Some(2));
}

#[test]
fn an_unresolved_name_is_reported_as_typed_and_with_the_time_taken() {
    let args = ["--connect-timeout", "3s"];
    let unknown = probe("proxy.invalid:3128", PASSWORD, &args);
    let text = unknown.text();
    assert_eq!(unknown.code, Some(4), "{text}{}", unknown.stderr);
    assert!(text.contains(" ms  no address for proxy.invalid:3128 after "), "{text}");
    assert!(text.contains("\n  proxy.invalid:3128: "), "{text}");
    let report = json(&probe("proxy.invalid:3128", PASSWORD, &[args.as_slice(), &["--json"]].concat()));
    let event = &report["events"][0];
    assert_eq!((&event["event"], &event["name"]), (&"resolve_failed".into(), &"proxy.invalid:3128".into()), "{report}");
    let took = |value: &Value| value.as_f64().expect("milliseconds");
    assert!(took(&event["took_ms"]) > 0.0 && took(&report["took_ms"]) >= took(&event["took_ms"]), "{report}");
}

#[test]
fn a_failure_is_reported_with_the_time_taken() {
    let silent = probe_stub(Personality::Silent, PASSWORD, &["--handshake-timeout", "400ms"]);
    let took = |value: &Value| value.as_f64().expect("milliseconds");
    let waited = events(&silent.report, "unanswered").into_iter().map(|event| took(&event["after_ms"]));
    assert!(waited.clone().count() > 0 && waited.into_iter().all(|ms| ms >= 390.0), "{}", silent.report);
    assert!(took(&silent.report["took_ms"]) >= 390.0, "{}", silent.report);
    let closes = probe_stub(Personality::ClosesOnAccept, PASSWORD, &[]);
    assert!(events(&closes.report, "closed").iter().all(|event| event["after_ms"].is_f64()), "{}", closes.report);
}

/// The events of the given kind.
fn events<'r>(report: &'r Value, kind: &str) -> Vec<&'r Value> {
    let all = report["events"].as_array().expect("events").iter();
    all.filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_web_server_is_recognised_as_not_a_proxy() {
    for (answer, advice) in [
        ("HTTP/1.1 405 Not Allowed\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n", "check-port"),
        ("HTTP/1.0 501 Unsupported method ('CONNECT')\r\nServer: SimpleHTTP/0.6\r\n\r\n", "check-port"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nHello", "check-port"),
        (
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 49\r\nConnection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\r\n",
            "tls-port",
        ),
    ] {
        let web = Listener::start(move |mut client| {
            if read_head(&mut client).is_ok() {
                let _ = client.write_all(answer.as_bytes());
            }
        });
        let finished = probe(&web.address().to_string(), PASSWORD, &["--json", "--handshake-timeout", "2s"]);
        let verdict = &json(&finished)["verdict"];
        assert_eq!((finished.code, &verdict["id"]), (Some(5), &"not_a_proxy".into()), "{verdict}");
        assert_eq!(verdict["advice"][0]["id"], advice, "{verdict}");
    }
}

#[test]
fn probe_prints_the_settings_for_a_basic_only_proxy() {
    let first = probe_stub(Personality::BasicOnly, PASSWORD, &[]);
    let verdict = &first.report["verdict"];
    assert_eq!((&verdict["id"], &verdict["cause"]), (&"not_ntlm".into(), &"scheme_not_offered".into()), "{verdict}");
    assert_eq!(verdict["advice"][0]["id"], "allow-basic", "{verdict}");
    let settings = &verdict["settings"];
    assert_eq!((&settings["allow_basic"], &settings["user"]), (&true.into(), &USER.into()), "{settings}");
    assert!(settings["password_file"].as_str().is_some_and(|path| path.starts_with('/')), "{settings}");
    let text = probe(&stub(Personality::BasicOnly).address().to_string(), PASSWORD, &[]).text();
    assert!(
        text.contains("allow_basic = true and the password itself") && text.contains("\n  allow_basic = true\n"),
        "{text}"
    );
    // If Basic is already allowed there is no setting to suggest.
    let allowed = probe_stub(Personality::BasicOnly, PASSWORD, &["--allow-basic"]);
    let verdict = &allowed.report["verdict"];
    assert_eq!((&verdict["advice"][0]["id"], &verdict["settings"]), (&"basic-allowed".into(), &serde_json::json!({})));
}

#[test]
fn the_suggested_settings_name_the_file_of_the_secret() {
    let (stub, scratch) = (stub(Personality::Plain), Scratch::new("probe"));
    let upstream = stub.address().to_string();
    let hash = scratch.write("hash", NtHash::from_password(PASSWORD).to_hex().as_bytes());
    let password = scratch.write("password", PASSWORD);
    let file = scratch.write(
        "gateway.toml",
        format!("[[upstreams]]\naddress = '{upstream}'\n[[identities]]\nname = 'one'\nuser = 'CORP\\alice'\npassword_file = './password'\n"),
    );
    let secret_of = |args: &[&str], environment: Option<&str>| {
        let finished = run(GATEWAY, BOUND, |command| {
            command.args(["probe", "--json", "--target", "echo.test:7"]).args(args).env_remove("RUST_LOG");
            command.envs(environment.map(|password| ("NTLM_GATEWAY_PASSWORD", password)));
        });
        let report = json(&finished.expect_success("probe"));
        assert_eq!(report["verdict"]["id"], "works", "{report}");
        let settings = report["verdict"]["settings"].clone();
        (report["secret"]["from"].clone(), settings["password_file"].clone(), settings["nt_hash_file"].clone())
    };
    let [hash, password, file] = [hash, password, file].map(|path| path.display().to_string());
    let plain = ["--upstream", &upstream, "--user", USER];
    let by_hash = [plain.as_slice(), &["--nt-hash-file", &hash]].concat();
    assert_eq!(secret_of(&by_hash, None), ("nt_hash_file".into(), Value::Null, hash.as_str().into()));
    assert_eq!(secret_of(&plain, Some(PASSWORD)), ("environment".into(), Value::Null, Value::Null));
    let (from, path, _) = secret_of(&[&file], None);
    assert_eq!(from, "password_file");
    let same = |path: &str| std::fs::canonicalize(path).expect("a path");
    assert_eq!(same(path.as_str().expect("a path")), same(&password));
}

/// Collects the paths of all keys, with `[]` for the entries of a list.
fn keys_of(value: &Value, path: &str, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.insert(path.clone());
                // The keys in there are those of the configuration.
                if path != "verdict.settings" {
                    keys_of(value, &path, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|entry| keys_of(entry, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_manual_documents_every_key_of_the_json() {
    let page = include_str!("../../docs/troubleshooting.md");
    let (_, rest) = page.split_once("<!-- probe-json -->\n").expect("the table");
    let (table, _) = rest.split_once("<!-- /probe-json -->").expect("the end of the table");
    let documented: std::collections::BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    let mut found = std::collections::BTreeSet::new();
    let personalities = [
        Personality::Plain,
        Personality::AsksFirst,
        Personality::LyingLengths,
        Personality::Silent,
        Personality::ClosesOnAccept,
    ];
    for personality in personalities {
        keys_of(&probe_stub(personality, PASSWORD, &["--handshake-timeout", "2s"]).report, "", &mut found);
    }
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    for upstream in [nobody.as_str(), "proxy.invalid:3128"] {
        keys_of(&json(&probe(upstream, PASSWORD, &["--json", "--connect-timeout", "3s"])), "", &mut found);
    }
    let undocumented: Vec<_> = found.difference(&documented).collect();
    let unprinted: Vec<_> = documented.difference(&found).collect();
    assert!(
        undocumented.is_empty() && unprinted.is_empty(),
        "undocumented: {undocumented:#?}, never printed: {unprinted:#?}"
    );
}

#[test]
fn the_reports_on_success_and_on_rejection_match_their_snapshots() {
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
        assert_eq!(masked, expected, "UPDATE_SNAPSHOTS=1 accepts the new text");
    }
}

#[test]
fn probe_selects_an_upstream_by_name_and_uses_its_identity() {
    let account = |user, password| StubServer::start(StubOptions::default().account("CORP", user, password));
    let (own, partner) = (account("alice", PASSWORD).expect("a stub"), account("partner", "P4rtner").expect("a stub"));
    let scratch = Scratch::new("probe");
    let secret = |name: &str, password: &str| scratch.write(name, password).display().to_string();
    let (wrong, right, theirs) =
        (secret("wrong", "Wr0ng-Horse"), secret("right", PASSWORD), secret("theirs", "P4rtner"));
    // The first identity is for certain clients only, so neither upstream uses it.
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
    assert!(
        unknown.stderr.contains("no upstream \"nobody\"; the configured ones are own, theirs"),
        "{}",
        unknown.stderr
    );
}

/// Removes what differs from run to run: the port, durations in milliseconds, the server's time.
fn masked(text: &str, port: &str) -> String {
    let mut out = String::new();
    for line in text.replace(&format!(":{port}"), ":PORT").lines() {
        let line = line.split_once("FILETIME").map_or(line, |(before, _)| before);
        let line = if line.starts_with("  password_file = \"/") { "  password_file = \"FILE\"" } else { line };
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for at in 1..words.len() {
            if words[at].starts_with("ms") && words[at - 1].parse::<f64>().is_ok() {
                words[at - 1] = "N".to_owned();
            }
        }
        // The width of a number varies as well.
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
fn a_real_squid_is_identified_and_accepts_the_account() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let origin = echo_origin();
    let finished = probe(&squid.address().to_string(), PASSWORD, &["--target", &origin.address().to_string()]);
    let text = finished.expect_success("probe of Squid").text();
    assert!(text.contains("Verdict: works (exit code 0"), "{text}");
    assert!(text.contains("Squid, according to "), "{text}");
    assert!(squid.count(LoggedCredentials::Authenticate) <= 1);

    let refused = probe(&squid.address().to_string(), "Wr0ng-Horse", &[]);
    assert_eq!(refused.code, Some(3), "{}", refused.text());
}
