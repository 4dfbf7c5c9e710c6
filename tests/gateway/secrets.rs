//! No output of the process contains a secret or anything that can stand in for one: not standard output or standard
//! error at log level TRACE, not the metrics, the list of tunnels or the health, and not the responses to clients.

use crate::support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ntlm_gateway::ntlm::NtHash;
use ntlm_gateway::stub::{Personality, StubOptions, StubServer};
use rustix::process::Signal;
use support::client::{ask, connect_name, echo_through};
use support::gateway::{Gateway, GatewayOptions};
use support::listener::Listener;
use support::scratch::{Scratch, wait_for};
use support::tools::skip_without_root;

const BOUND: Duration = Duration::from_secs(20);
const PASSWORD: &str = "Qu33n-of-Spades";
const WRONG: &str = "Kn4ve-of-Hearts";

/// A relay in front of an upstream that records what the gateway sends.
struct RequestRecorder {
    listener: Listener,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl RequestRecorder {
    fn new(upstream: SocketAddr) -> Self {
        let sent: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = Arc::clone(&sent);
        let listener = Listener::start(move |mut client| {
            let Ok(mut upstream) = TcpStream::connect(upstream) else { return };
            let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), upstream.try_clone()) else { return };
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(Shutdown::Write);
            });
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = client.read(&mut buffer) {
                kept.lock().expect("the bytes").extend_from_slice(&buffer[..count]);
                if upstream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            let _ = upstream.shutdown(Shutdown::Write);
        });
        Self { listener, sent }
    }

    /// The recorded AUTHENTICATE_MESSAGEs, in base64.
    fn authenticates(&self) -> Vec<String> {
        let sent = String::from_utf8_lossy(&self.sent.lock().expect("the bytes")).into_owned();
        let tokens = sent.lines().filter_map(|line| line.strip_prefix("Proxy-Authorization: NTLM "));
        let is_authenticate = |token: &&str| STANDARD.decode(token).is_ok_and(|message| message.get(8) == Some(&3));
        tokens.map(str::trim).filter(is_authenticate).map(str::to_owned).collect()
    }
}

/// Texts that must not appear in any output, each with its name.
#[derive(Default)]
struct SecretForms(Vec<(String, String)>);

impl SecretForms {
    /// Adds a password, its encodings and its hash.
    fn password(&mut self, password: &str) {
        let utf16: Vec<u8> = password.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let hash = NtHash::from_password(password).to_hex().to_string();
        let bytes: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&hash[2 * at..][..2], 16).expect("hex")).collect();
        self.0.push((format!("the password {password}"), password.to_owned()));
        self.bytes("a password", password.as_bytes());
        self.bytes("a password in UTF-16", &utf16);
        self.bytes("an NT hash", &bytes);
    }

    /// Adds an AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3) and its secret parts.
    fn authenticate(&mut self, token: &str) {
        let message = STANDARD.decode(token).expect("base64");
        let field = |at: usize| {
            let length = usize::from(u16::from_le_bytes([message[at], message[at + 1]]));
            let offset = u32::from_le_bytes([message[at + 4], message[at + 5], message[at + 6], message[at + 7]]);
            (offset as usize, length)
        };
        self.0.push(("a whole AUTHENTICATE_MESSAGE".into(), token.to_owned()));
        for (name, at) in [("the LM response", 12), ("the NT response", 20), ("the session key", 52)] {
            let (offset, length) = field(at);
            let bytes = &message[offset..][..length];
            // An LM response of zeros reveals nothing.
            if length < 16 || bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            // With NTLMv2 the first 16 bytes of the NT response are the NTProofStr.
            self.bytes(&format!("the beginning of {name}"), &bytes[..16]);
            // Its part of the token, from the first character that encodes nothing else.
            let begin = offset.div_ceil(3) * 4;
            self.0.push((format!("{name} within the token"), token[begin..begin + 16].to_owned()));
        }
    }

    /// Adds bytes in hexadecimal, in base64, and as Rust prints a list.
    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push((format!("{name} in upper-case hex"), hex.to_uppercase()));
        self.0.push((format!("{name} in hex"), hex));
        self.0.push((format!("{name} in base64"), STANDARD.encode(bytes).trim_end_matches('=').to_owned()));
        let list = format!("{bytes:?}");
        self.0.push((format!("{name} as a list"), list.trim_matches(['[', ']']).to_owned()));
    }

    /// The names of the secrets that a text contains.
    fn found_in(&self, text: &str) -> Vec<&str> {
        self.0.iter().filter(|(_, secret)| text.contains(secret.as_str())).map(|(name, _)| name.as_str()).collect()
    }
}

/// Everything that a gateway printed, logged and sent to its clients.
struct Output {
    text: String,
    authenticates: Vec<String>,
}

/// Takes a gateway through success, rejections, faults, reloads, lists and shutdown, and collects its output.
fn output_of_a_run(further: &[&str]) -> Output {
    let personality = if further.contains(&"ntlmv1-ess") { Personality::V1Ess } else { Personality::Plain };
    let options = StubOptions { personality, ..StubOptions::default() };
    let stub = StubServer::start(options.account("CORP", "alice", PASSWORD)).expect("a stub");
    let recorder = RequestRecorder::new(stub.address());
    let scratch = Scratch::new("secrets");
    let by_hash = further.contains(&"--nt-hash-file");
    let secret_of = |password: &str| match by_hash {
        true => NtHash::from_password(password).to_hex().to_string(),
        false => password.to_owned(),
    };
    let file = scratch.write("secret", secret_of(PASSWORD));
    let mut options = GatewayOptions::through(recorder.listener.address());
    options.password_file = Some(file);
    options.secret_is_hash = by_hash;
    options.args = further.iter().filter(|arg| **arg != "--nt-hash-file").map(|arg| (*arg).to_owned()).collect();
    options.args.extend(["--admin-tunnels".into(), "--shards".into(), "1".into()]);
    options.env = vec![("RUST_LOG".into(), "trace".into())];
    let mut gateway = Gateway::start(&options);
    let mut text = String::new();
    let mut collect = |gateway: &Gateway, requests: &[&str]| {
        for request in requests {
            let answer = ask(gateway.address(), request.as_bytes()).expect("an answer");
            let mut body = String::new();
            answer.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
            let _ = (&answer.stream).read_to_string(&mut body);
            text.push_str(&format!("{}{body}\n", answer.head));
        }
        for path in ["/metrics", "/tunnels", "/readyz", "/healthz"] {
            text.push_str(&gateway.admin(path).1);
        }
    };
    let connect = "CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n\r\n";
    let with_token = "CONNECT echo.test:7 HTTP/1.1\r\nProxy-Authorization: NTLM TlRMTVNTUAABAAAA\r\n\r\n";

    let tunnel = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
    assert_eq!(echo_through(&tunnel.stream, b"12345").expect("an echo"), b"12345");
    collect(
        &gateway,
        &[connect, with_token, "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "nonsense\r\n\r\n"],
    );
    gateway.signal(Signal::USR1);
    gateway.wait_for_line("tunnels open: ");

    // First an invalid file that contains the right secret, then a wrong secret, then the right one again.
    scratch.write("secret", format!("{}\n{}\n", secret_of(PASSWORD), secret_of(WRONG)));
    gateway.wait_for_line("the new configuration is rejected");
    scratch.write("secret", secret_of(WRONG));
    gateway.wait_for_line("configuration reloaded, with new credentials");
    let refused = connect_name(gateway.address(), "echo.test:7").expect("an answer");
    assert_eq!(refused.status(), 502, "{}", refused.head);
    collect(&gateway, &[connect]);
    scratch.write("secret", secret_of(PASSWORD));
    let status = || connect_name(gateway.address(), "echo.test:7").expect("an answer").status();
    assert!(wait_for(BOUND, || (status() == 200).then_some(())).is_some(), "the right secret is used again");
    // The domain changes the password, and the gateway does not know.
    stub.set_password("CORP", "alice", "changed meanwhile");
    assert!(wait_for(BOUND, || (status() == 502).then_some(())).is_some(), "the old secret is rejected");
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("configuration reloaded; the credentials are ");
    collect(&gateway, &[connect]);
    gateway.signal(Signal::TERM);
    gateway.wait_for_line("listeners closed");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(BOUND).and_then(|status| status.code()), Some(0));
    gateway.wait_for_line("the gateway has stopped");
    drop(tunnel);
    text.push_str(&gateway.log().join("\n"));
    Output { text, authenticates: recorder.authenticates() }
}

#[track_caller]
fn expect_no_secret(output: &Output) {
    for part in
        ["end=finished", "end=credentials_refused", "end=request_malformed", "end=drained", " DEBUG ", "tunnel open"]
    {
        assert!(
            output.text.contains(part),
            "{part} is missing from the output, so the search for secrets shows little"
        );
    }
    assert!(output.authenticates.len() >= 3, "{} AUTHENTICATE_MESSAGEs", output.authenticates.len());
    let mut secrets = SecretForms::default();
    [PASSWORD, WRONG].into_iter().for_each(|password| secrets.password(password));
    output.authenticates.iter().for_each(|token| secrets.authenticate(token));
    let found = secrets.found_in(&output.text);
    let lines = output.text.lines().filter(|line| !secrets.found_in(line).is_empty());
    assert!(found.is_empty(), "{found:?} in\n{}", lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn no_secret_is_exposed_with_a_password_and_ntlmv2() {
    expect_no_secret(&output_of_a_run(&[]));
}

#[test]
fn no_secret_is_exposed_with_an_nt_hash_and_ntlmv1() {
    expect_no_secret(&output_of_a_run(&["--nt-hash-file", "--method", "ntlmv1-ess"]));
}

/// The search for secrets is useful only if it finds one that is present.
#[test]
fn the_search_finds_each_form_of_a_secret() {
    let output = output_of_a_run(&["--warm", "0"]);
    let token = output.authenticates.first().expect("a message");
    let mut secrets = SecretForms::default();
    secrets.password(PASSWORD);
    secrets.authenticate(token);
    assert!(secrets.0.len() >= 19, "{}", secrets.0.len());
    for (name, secret) in &secrets.0 {
        assert!(secrets.found_in(&format!("2026-01-01 TRACE x={secret} y")).contains(&name.as_str()), "{name}");
    }
    // A field of a request as a careless log line would contain it, and the message as `{:?}` prints it.
    let line = format!("TRACE sent: Proxy-Authorization: NTLM {}…", &token[..token.len() - 40]);
    assert!(secrets.found_in(&line).contains(&"the NT response within the token"), "{:?}", secrets.found_in(&line));
    let message = STANDARD.decode(token).expect("base64");
    let found = secrets.found_in(&format!("{message:?}")).join(", ");
    assert!(found.contains("the beginning of the NT response as a list"), "{found}");
}

/// A readable range of a process's memory, with its name in /proc/PID/maps.
struct MemoryRange {
    range: std::ops::Range<u64>,
    name: String,
}

fn memory_ranges(pid: rustix::process::Pid) -> Vec<MemoryRange> {
    let path = format!("/proc/{}/maps", pid.as_raw_nonzero());
    let maps = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let mapping = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, access) = (words.next()?, words.next()?);
        let (begin, end) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        // The kernel's clock pages ([vvar]) cannot be read.
        let name = words.nth(3).unwrap_or("anonymous").to_owned();
        let readable = access.starts_with("rw") && !name.starts_with("[vv");
        readable.then_some(MemoryRange { range: number(begin)?..number(end)?, name })
    };
    maps.lines().filter_map(mapping).collect()
}

const PAGE_BYTES: usize = 4096;

/// The places in a process's writable memory that hold the bytes, by the name of the mapping.
fn places_in_memory(pid: rustix::process::Pid, wanted: &[u8]) -> Vec<String> {
    use std::os::unix::fs::FileExt as _;
    let path = format!("/proc/{}/mem", pid.as_raw_nonzero());
    let memory = std::fs::File::open(&path).unwrap_or_else(|error| panic!("open {path}: {error}"));
    let mut found = Vec::new();
    for mapping in memory_ranges(pid) {
        let mut bytes = vec![0; usize::try_from(mapping.range.end - mapping.range.start).expect("a length")];
        // The mapping may have been removed since the list was read.
        if memory.read_exact_at(&mut bytes, mapping.range.start).is_err() {
            continue;
        }
        // Skips pages without the first byte, which is most of them, quickly.
        for page in (0..bytes.len()).step_by(PAGE_BYTES) {
            let end = (page + PAGE_BYTES + wanted.len() - 1).min(bytes.len());
            let page_bytes = &bytes[page..end];
            if !page_bytes.contains(&wanted[0]) {
                continue;
            }
            let at = page_bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted);
            found.extend(
                at.map(|(offset, _)| format!("{} +{:#x} of {:#x?}", mapping.name, page + offset, mapping.range)),
            );
        }
    }
    found
}

/// The forms in which the gateway keeps a password: NTOWFv1, what HMAC-MD5 makes of NTOWFv2 for `CORP\alice` before it
/// hashes anything (MS-NLMP 3.3.2), and the password itself for Basic.
fn kept_forms(password: &str) -> [(&'static str, Vec<u8>); 3] {
    use hmac::{KeyInit as _, Mac as _};
    let hex = NtHash::from_password(password).to_hex();
    let hash: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).expect("hex")).collect();
    let mut mac = hmac::Hmac::<md5::Md5>::new_from_slice(&hash).expect("any length is a key");
    "ALICECORP".encode_utf16().for_each(|unit| mac.update(&unit.to_le_bytes()));
    let second = mac.finalize().into_bytes();
    let mut block = [0x36; 64];
    block.iter_mut().zip(second).for_each(|(byte, key)| *byte ^= key);
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476_u32];
    md5::block_api::compress(&mut state, &[block]);
    let state = state.into_iter().flat_map(u32::to_le_bytes).collect();
    [("the NT hash", hash), ("the key of the responses", state), ("the password", password.as_bytes().to_vec())]
}

#[test]
fn an_old_secret_is_erased_from_memory_once_the_new_one_is_used() {
    require_tools!("curl");
    if skip_without_root() {
        return;
    }
    let stub = StubServer::start(StubOptions::default().account("CORP", "alice", PASSWORD)).expect("a stub");
    let mut options = GatewayOptions { password: PASSWORD.into(), ..GatewayOptions::through(stub.address()) };
    // The passwords of clients that log on are kept as hashes.
    let scratch = Scratch::new("logins");
    let login = |password: &str| scratch.write("joe", password).display().to_string();
    let (logins, desk) = (["J4ck-of-Diamonds", "Tw0-of-Diamonds"], scratch.write("desk", "any"));
    let file = scratch.write(
        "gateway.toml",
        format!(
            "[[identities]]\nname = 'desk'\nuser = 'desk'\npassword_file = '{}'\nproxy_user = 'joe'\nproxy_password_file = '{}'\n",
            desk.display(),
            login(logins[0])
        ),
    );
    options.args = ["--allow-basic", "--config", &file.display().to_string()].map(String::from).into();
    let gateway = Gateway::start(&options);
    let found_login = |password| places_in_memory(gateway.pid(), &kept_forms(password)[0].1);
    assert!(!found_login(logins[0]).is_empty(), "the search finds no login");
    let found = |password: &str| -> Vec<String> {
        let forms = kept_forms(password).into_iter();
        forms
            .flat_map(|(name, bytes)| {
                places_in_memory(gateway.pid(), &bytes).into_iter().map(move |place| format!("{name}: {place}"))
            })
            .collect()
    };
    // A tunnel that outlives its credentials, a keep-alive connection, and pre-challenged ones.
    let tunnel = || {
        let answer = connect_name(gateway.address(), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        assert_eq!(echo_through(&answer.stream, b"12345").expect("an echo"), b"12345");
        answer
    };
    let get = || {
        let answer = ask(gateway.address(), b"GET http://hello.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n");
        assert_eq!(answer.as_ref().map(support::client::Answered::status).ok(), Some(200));
        answer
    };
    let tunnels: Vec<_> = (0..3).map(|_| tunnel()).collect();
    let _idle = get();
    let present = found(PASSWORD);
    for (name, _) in kept_forms(PASSWORD) {
        assert!(present.iter().any(|place| place.starts_with(name)), "the search finds no {name}: {present:?}");
    }

    login(logins[1]);
    let mut old = PASSWORD;
    for (round, new) in ["Ace-of-Spades", "T3n-of-Clubs", PASSWORD].into_iter().enumerate() {
        stub.set_password("CORP", "alice", new);
        gateway.write_password(new);
        let reloaded = || {
            let log = gateway.log();
            let times = log.iter().filter(|line| line.contains("reloaded, with new credentials")).count();
            (times > round).then_some(())
        };
        assert!(wait_for(BOUND, reloaded).is_some(), "the reload does not happen");
        // The shards adopt the new configuration in their next loop iteration.
        let gone = || found(old).is_empty().then_some(());
        assert!(wait_for(BOUND, gone).is_some(), "round {round}: {:#?}", found(old));
        drop((tunnel(), get()));
        assert!(!found(new).is_empty(), "the new secret must be in use");
        old = new;
    }
    assert_eq!((found_login(logins[0]), found_login(logins[1]).is_empty()), (Vec::new(), false));
    drop(tunnels);
}

#[test]
fn a_request_in_progress_during_a_reload_uses_the_new_secret() {
    let stub = StubServer::start(StubOptions::default().account("CORP", "alice", PASSWORD)).expect("a stub");
    // Holds the first connection, with its NEGOTIATE_MESSAGE, and closes it without an answer on a signal.
    let (close, signal) = std::sync::mpsc::channel::<()>();
    let (first, through) = (Mutex::new(Some(signal)), stub.address());
    let front = Listener::start(move |mut client| {
        if let Some(signal) = first.lock().expect("the first").take() {
            let _ = signal.recv_timeout(BOUND);
            return;
        }
        let Ok(mut upstream) = TcpStream::connect(through) else { return };
        let (Ok(mut back), Ok(mut answers)) = (client.try_clone(), upstream.try_clone()) else { return };
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut back);
            let _ = back.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut client, &mut upstream);
        let _ = upstream.shutdown(Shutdown::Write);
    });
    let options = GatewayOptions { password: PASSWORD.into(), ..GatewayOptions::through(front.address()) };
    let gateway = Gateway::start(&options);
    let address = gateway.address();
    let client = std::thread::spawn(move || connect_name(address, "echo.test:7").expect("an answer").status());
    assert!(wait_for(BOUND, || (gateway.metric("ntlm_gateway_dials_total", &[]) == Some(1.0)).then_some(())).is_some());

    stub.set_password("CORP", "alice", WRONG);
    gateway.write_password(WRONG);
    gateway.wait_for_line("configuration reloaded, with new credentials");
    close.send(()).expect("the first connection is held");
    assert_eq!(client.join().expect("the client"), 200);
    assert_eq!((stub.counters().accepted, stub.counters().refused), (1, 0), "the old secret must not be tried");
}
