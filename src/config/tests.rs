//! The configuration as a whole: precedence, errors and their texts.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::keys::{Fallback, KEYS, find};
use super::*;
use crate::ntlm::Method;

const EXAMPLE: &str = include_str!("../../deploy/gateway.example.toml");
const PASSWORD: &str = "Qu33n-of-Spades";

/// A builder of [`Inputs`] for tests.
#[derive(Default)]
struct Given {
    flags: Vec<(&'static str, &'static str)>,
    environment: Vec<(&'static str, &'static str)>,
    file: Option<PathBuf>,
}

impl Given {
    /// A valid configuration.
    fn enough() -> Given {
        let flags = vec![("upstream", "proxy.corp.example:8080"), ("user", r"CORP\alice")];
        Given { flags, environment: vec![("NTLM_GATEWAY_PASSWORD", PASSWORD)], file: None }
    }

    fn flag(mut self, name: &'static str, text: &'static str) -> Given {
        self.flags.retain(|(known, _)| *known != name);
        self.flags.push((name, text));
        self
    }

    fn env(mut self, name: &'static str, text: &'static str) -> Given {
        self.environment.push((name, text));
        self
    }

    fn file(mut self, test: &str, text: &str) -> Given {
        let path = std::env::temp_dir().join(format!("ntlm-gateway-test-{}-{test}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        self.file = Some(path);
        self
    }

    fn inputs(&self) -> Inputs {
        let mut flags = Settings::default();
        for (name, text) in &self.flags {
            let key = find(name).unwrap();
            flags.give(key, Setting::new(*text, Source::Flag(format!("--{}", key.flag))));
        }
        if let Some(path) = &self.file {
            let setting = Setting::new(path.display().to_string(), Source::Flag("--config".into()));
            flags.give(find("config").unwrap(), setting);
        }
        let lookup = |name: &str| {
            self.environment.iter().find(|(known, _)| *known == name).map(|(_, text)| OsString::from(text))
        };
        Inputs::new(flags, lookup).unwrap()
    }

    fn config(&self) -> Config {
        load(&self.inputs()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The errors, with the file's directory left out.
    fn errors(&self) -> Vec<String> {
        let errors = load(&self.inputs()).expect_err("no error");
        let directory = self.file.as_deref().and_then(Path::parent).map(|path| format!("{}/", path.display()));
        let text_of = |error: &ConfigError| match &directory {
            Some(directory) => error.to_string().replace(directory, ""),
            None => error.to_string(),
        };
        errors.iter().map(text_of).collect()
    }

    fn error(&self) -> String {
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.concat()
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn the_defaults_are_those_in_limits() {
    let config = Given::enough().config();
    assert_eq!(config.listen, ["127.0.0.1:3128".parse().unwrap()]);
    assert_eq!(config.admin, "127.0.0.1:8128".parse().unwrap());
    assert!(!config.admin_tunnels);
    assert_eq!(config.first_address().to_string(), "proxy.corp.example:8080");
    assert_eq!((config.first_identity().domain(), config.first_identity().user()), ("CORP", "alice"));
    assert_eq!(config.first_identity().method(), Method::NtlmV2);
    assert_eq!(config.first_upstream().first_leg, FirstLeg::Negotiate);
    assert!(config.allow_clients.is_empty());
    assert!(config.shards >= 1);
    assert_eq!(config.max_tunnels, crate::limits::MAX_TUNNELS);
    assert_eq!(config.pipes_per_shard, crate::limits::PIPES_PER_SHARD);
    assert_eq!(config.first_upstream().warm, WarmSize::Auto);
    assert_eq!(config.head_limit_bytes, crate::limits::HEAD_LIMIT_BYTES);
    let expected = Timeouts {
        connect: crate::limits::CONNECT_TIMEOUT,
        tls: crate::limits::TLS_TIMEOUT,
        head: crate::limits::HEAD_TIMEOUT,
        sniff: crate::limits::SNIFF_TIMEOUT,
        challenge: crate::limits::CHALLENGE_TIMEOUT,
        handshake: crate::limits::HANDSHAKE_TIMEOUT,
        idle: crate::limits::IDLE_TIMEOUT,
        warm: crate::limits::WARM_AGE,
        body: crate::limits::BODY_TIMEOUT,
        response: crate::limits::RESPONSE_TIMEOUT,
        keep_alive: crate::limits::KEEP_ALIVE_TIMEOUT,
        keep: crate::limits::KEEP_AGE,
        half_closed: crate::limits::HALF_CLOSED_TIMEOUT,
        drain: crate::limits::DRAIN_TIMEOUT,
        shutdown_delay: crate::limits::SHUTDOWN_DELAY,
    };
    assert_eq!(config.timeouts, expected);
    assert_eq!((config.log_format, config.log_level), (LogFormat::Text, LevelFilter::Info));
    let (idle, probe, probes) = (crate::limits::TCP_IDLE, crate::limits::TCP_PROBE, crate::limits::TCP_PROBES);
    assert_eq!((config.keep_alive, config.via_name), (Some(KeepAlive { idle, probe, probes }), None));
}

/// A value for each setting that is given as a flag, different from the default.
const GIVEN: &[(&str, &str)] = &[
    ("order", "balance"),
    ("check", "handshake"),
    ("check_target", "example.com:443"),
    ("target_domain", "true"),
    ("no_proxy", "localhost,10.0.0.0/8"),
    ("without_credentials", ".exempt.example, *.update.example"),
    ("listen", "127.0.0.1:1, [::1]:2"),
    ("admin", "0.0.0.0:3"),
    ("admin_tunnels", "true"),
    ("allow_clients", "10.1.2.3/8,2001:db8::/32,192.0.2.7"),
    ("first_leg", "plain"),
    ("warm", "7"),
    ("user", "alice"),
    ("domain", "CORP"),
    ("workstation", "EGRESS1"),
    ("method", "ntlmv1-ess"),
    ("auth", "ntlm"),
    ("keytab", "/run/secrets/keytab"),
    ("principal", "alice@CORP.EXAMPLE"),
    ("spn", "HTTP/proxy.corp.example@CORP.EXAMPLE"),
    ("kerberos.realm", "CORP.EXAMPLE"),
    ("kerberos.kdc", "dc1.corp.example,tcp/dc2.corp.example:88"),
    ("kerberos.krb5_conf", "/etc/krb5.conf"),
    ("kerberos.allow_rc4", "false"),
    ("kerberos.canonicalize", "false"),
    ("tls.ca_file", "/etc/ssl/corp-ca.pem"),
    ("tls.pin_sha256", "AAAA"),
    ("tls.server_name", "proxy.corp.example"),
    ("tls.client_cert_file", "/run/secrets/client.crt"),
    ("tls.client_key_file", "/run/secrets/client.key"),
    ("tls.kernel", "true"),
    ("shards", "3"),
    ("max_tunnels", "44"),
    ("limits.pipes_per_shard", "0"),
    ("limits.head", "16KiB"),
    ("limits.fields", "200"),
    ("limits.socket_buffer", "15KiB"),
    ("limits.memory", "96MiB"),
    ("timeouts.connect", "1s"),
    ("timeouts.tls", "19s"),
    ("timeouts.head", "2s"),
    ("timeouts.sniff", "18ms"),
    ("timeouts.handshake", "3s"),
    ("timeouts.idle", "4s"),
    ("timeouts.half_closed", "5s"),
    ("timeouts.warm", "7s"),
    ("timeouts.body", "8s"),
    ("timeouts.response", "9s"),
    ("timeouts.keep_alive", "10s"),
    ("timeouts.keep", "11s"),
    ("keep", "12"),
    ("limits.tunnels_per_client", "13"),
    ("limits.new_tunnels_per_client", "14"),
    ("guard.attempts", "2"),
    ("guard.store", "file"),
    ("guard.max_replicas", "2"),
    ("guard.lease", "team-guard"),
    ("guard.directory", "/srv/guard"),
    ("via", "false"),
    ("via_name", "egress-7"),
    ("timeouts.challenge", "17s"),
    ("timeouts.tcp_idle", "2m"),
    ("timeouts.tcp_probe", "20s"),
    ("limits.tcp_probes", "5"),
    ("timeouts.drain", "0s"),
    ("timeouts.shutdown_delay", "6s"),
    ("log_format", "json"),
    ("log_level", "debug"),
];

fn all_given() -> Given {
    GIVEN.iter().fold(Given::enough(), |given, (name, value)| given.flag(name, value))
}

#[test]
fn every_setting_but_secrets_has_a_value_here() {
    let secret = [
        "config",
        "password",
        "password_file",
        "nt_hash_file",
        "previous_password_file",
        "previous_nt_hash_file",
        "password_fd",
        "allow_basic",
    ];
    let set: BTreeSet<&str> = all_given().flags.iter().map(|(name, _)| *name).collect();
    let missing: Vec<&str> = KEYS.iter().map(|key| key.name).filter(|name| !set.contains(name)).collect();
    assert!(missing.iter().all(|name| secret.contains(name)), "not in this test: {missing:?}");
}

#[test]
fn every_setting_of_addresses_identities_and_limits_reaches_the_configuration() {
    let config = all_given().config();
    assert_eq!(config.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!(config.admin, "0.0.0.0:3".parse().unwrap());
    assert!(config.admin_tunnels);
    let networks: Vec<String> = config.allow_clients.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]);
    assert_eq!(config.first_upstream().first_leg, FirstLeg::Plain);
    let identity = config.first_identity();
    assert_eq!((identity.domain(), identity.user(), identity.workstation()), ("CORP", "alice", "EGRESS1"));
    assert_eq!(identity.method(), Method::NtlmV1Ess);
    assert_eq!((config.shards, config.max_tunnels), (3, 44));
    assert_eq!((config.pipes_per_shard, config.head_limit_bytes, config.field_limit), (0, 16 * 1024, 200));
    assert_eq!((config.socket_buffer_bytes, config.memory_limit_bytes), (15 * 1024, 96 * 1024 * 1024));
    assert_eq!(config.first_upstream().warm, WarmSize::Fixed(7));
    let spn = config.first_upstream().spn.as_ref().unwrap();
    assert_eq!(
        (spn.name.to_string().as_str(), spn.realm.as_deref()),
        ("HTTP/proxy.corp.example", Some("CORP.EXAMPLE"))
    );
}

#[test]
fn every_setting_of_upstreams_time_outs_and_the_log_reaches_the_configuration() {
    let config = all_given().config();
    assert_eq!(config.identities[0].mechanisms, Mechanisms { kerberos: false, ntlm: true });
    assert_eq!((config.order, config.first_identity().target_domain()), (UpstreamOrder::Balance, true));
    assert_eq!(config.check, Check::Handshake { target: "example.com:443".into() });
    assert_eq!((config.rules.no_proxy.len(), config.rules.without_credentials.len()), (2, 2));
    let Timeouts { connect, head, handshake, idle, warm, .. } = config.timeouts;
    let Timeouts { body, response, keep_alive, keep, half_closed, drain, shutdown_delay, .. } = config.timeouts;
    let seconds = [connect, head, handshake, idle, warm, half_closed, drain, shutdown_delay].map(|time| time.as_secs());
    assert_eq!(seconds, [1, 2, 3, 4, 7, 5, 0, 6]);
    assert_eq!([body, response, keep_alive, keep].map(|time| time.as_secs()), [8, 9, 10, 11]);
    assert_eq!((config.timeouts.sniff.as_millis(), config.timeouts.tls.as_secs()), (18, 19));
    assert_eq!((config.first_upstream().keep, config.via), (12, false));
    assert_eq!((config.via_name.as_deref(), config.timeouts.challenge.as_secs()), (Some("egress-7"), 17));
    let seconds = Duration::from_secs;
    assert_eq!(config.keep_alive, Some(KeepAlive { idle: seconds(120), probe: seconds(20), probes: 5 }));
    assert_eq!((config.tunnels_per_client, config.new_tunnels_per_client), (13, 14));
    assert_eq!(config.guard.attempts, 2);
    assert_eq!((config.log_format, config.log_level), (LogFormat::Json, LevelFilter::Debug));
}

/// A keytab of MIT's `kadmin` with keys for `HTTP/proxy.test@EXAMPLE.TEST`.
const KEYTAB: &[u8] = include_bytes!("../kerberos/tests/recorded/http.keytab");

#[test]
fn kerberos_takes_a_keytab_or_a_password_and_its_realm_from_the_settings() {
    let keytab = std::env::temp_dir().join(format!("ntlm-gateway-test-{}-keytab", std::process::id()));
    std::fs::write(&keytab, KEYTAB).unwrap();
    let with_keytab = |auth: &'static str| {
        Given::enough()
            .flag("auth", auth)
            .flag("kerberos.realm", "EXAMPLE.TEST")
            .flag("kerberos.kdc", "127.0.0.1:88")
            .flag("keytab", keytab.display().to_string().leak())
            .flag("principal", "HTTP/proxy.test")
    };
    let config = with_keytab("kerberos,ntlm").config();
    let kerberos = config.identities[0].kerberos.as_ref().unwrap();
    assert_eq!(kerberos.client.to_string(), "HTTP/proxy.test@EXAMPLE.TEST");
    assert_eq!(config.identities[0].mechanisms, Mechanisms { kerberos: true, ntlm: true });
    assert!(config.files.contains(&keytab), "it is watched");
    assert_eq!(config.kerberos.unwrap().realms.configured.unwrap().1.len(), 1);
    let error = with_keytab("kerberos").flag("principal", "alice").error();
    assert!(error.contains("no key for alice@EXAMPLE.TEST") && error.contains("HTTP/proxy.test"), "{error}");
    assert!(with_keytab("ntlm,kerberos").error().contains("must come before"));
    assert!(with_keytab("kerberos,basic").error().contains("\"basic\" is not one of kerberos, ntlm"));
    std::fs::write(&keytab, "no keytab").unwrap();
    assert!(with_keytab("kerberos").error().contains("does not begin with the bytes 05 02"));
    std::fs::remove_file(&keytab).unwrap();
    assert!(with_keytab("kerberos").error().contains("No such file"));
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = "shards = 1\nmax_tunnels = 1\nlimits.pipes_per_shard = 1";
    let given = Given::enough()
        .file("precedence", file)
        .env("NTLM_GATEWAY_SHARDS", "2")
        .env("NTLM_GATEWAY_MAX_TUNNELS", "2")
        .env("NTLM_GATEWAY_LOG_LEVEL", "")
        .flag("shards", "3");
    let config = given.config();
    assert_eq!((config.shards, config.max_tunnels, config.pipes_per_shard), (3, 2, 1));
    assert_eq!(config.log_level, LevelFilter::Info, "an empty variable counts as not set");
}

#[test]
fn an_error_has_the_place_of_the_setting() {
    assert_eq!(
        Given::enough().flag("upstream", "proxy.corp").error(),
        "--upstream: \"proxy.corp\" has no port; write HOST:PORT, for example proxy.corp.example:8080"
    );
    let error = Given::enough().env("NTLM_GATEWAY_IDLE_TIMEOUT", "30").error();
    assert_eq!(error, "NTLM_GATEWAY_IDLE_TIMEOUT: \"30\" has no unit; write 500ms, 30s, 5m or 1h");
    let given = Given::enough().file("place", "\n[timeouts]\n    idle = 30\n");
    let name = given.file.as_deref().and_then(Path::file_name).unwrap().to_string_lossy().into_owned();
    assert_eq!(given.error(), format!("{name}:3:12: timeouts.idle: \"30\" has no unit; write 500ms, 30s, 5m or 1h"));
}

#[test]
fn all_errors_are_reported_at_once() {
    let file = "colour = 1\nshards = 0\nupstream = 7\nfirst_leg = 'ntlm'";
    let given = Given::default().file("all", file).flag("limits.head", "1GiB");
    let errors = given.errors();
    let keys = [
        ":1:1: colour: unknown",
        ":3:12: upstream: must be",
        "user: not given",
        "password: no password",
        ":2:10: shards:",
        "--head-limit:",
        ":4:13: first_leg:",
    ];
    for key in keys {
        assert_eq!(errors.iter().filter(|error| error.contains(key)).count(), 1, "{key}: {errors:#?}");
    }
    assert_eq!(errors.len(), keys.len(), "{errors:#?}");
}

#[test]
fn the_error_about_a_missing_setting_lists_the_ways_to_set_it() {
    let errors = Given::default().errors();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(
        errors[2].starts_with(
            "upstream: not given; name the corporate proxy with --upstream HOST:PORT, NTLM_GATEWAY_UPSTREAM"
        ),
        "{errors:#?}"
    );
}

#[test]
fn an_unreadable_file_is_the_only_error_about_its_content() {
    let given = Given::default().flag("config", "/nowhere/gateway.toml");
    assert!(
        given.error().starts_with("--config: cannot read /nowhere/gateway.toml: No such file"),
        "{}",
        given.error()
    );
}

#[test]
fn listening_beyond_loopback_requires_allow_clients() {
    for listen in ["0.0.0.0:3128", "127.0.0.1:1,[::]:3128", "10.0.0.1:3128", "[::ffff:10.0.0.1]:3128"] {
        let error = Given::enough().flag("listen", listen).error();
        assert!(error.starts_with("--listen: ") && error.contains(r"would use CORP\alice"), "{error}");
        assert!(error.contains("--allow-clients 10.0.0.0/8"), "{error}");
        Given::enough().flag("listen", listen).flag("allow_clients", "10.0.0.0/8").config();
    }
    for listen in ["127.0.0.2:3128", "[::1]:3128", "[::ffff:127.0.0.1]:3128"] {
        Given::enough().flag("listen", listen).config();
    }
}

#[test]
fn invalid_texts_are_rejected_with_a_helpful_error() {
    for (name, text, expected) in [
        ("listen", "localhost:3128", "--listen: \"localhost:3128\" is not a listening address; write ADDR:PORT"),
        ("listen", ",", "--listen: the list is empty"),
        ("listen", "127.0.0.1:1,127.0.0.1:1", "--listen: 127.0.0.1:1 is given twice"),
        ("admin", "127.0.0.1:3128", "--admin: 127.0.0.1:3128 is given twice"),
        ("admin", "9100", "--admin: \"9100\" is not a listening address"),
        ("allow_clients", "10.0.0.0/33", "--allow-clients: \"10.0.0.0/33\" is not a network"),
        ("allow_clients", "", "--allow-clients: the list is empty; leave the setting out"),
        ("first_leg", "ntlm", "--first-leg: \"ntlm\" is not one of negotiate, plain"),
        ("method", "ntlm", "--method: \"ntlm\" is not one of ntlmv2, ntlmv1-ess"),
        ("user", r"\alice", "--user: the domain is empty; write 'DOMAIN\\name'"),
        ("domain", "OTHER", "--user: the user name already includes a domain"),
        ("workstation", "", "--workstation: must have from 1 to 255 characters"),
        ("shards", "many", "--shards: \"many\" is not a whole number from 1 to 1024"),
        ("warm", "some", "--warm: \"some\" is neither auto nor a whole number from 0 to 1000"),
        ("warm", "1001", "--warm: \"1001\" is neither auto nor a whole number from 0 to 1000"),
        ("max_tunnels", "0", "--max-tunnels: \"0\" is not a whole number from 1"),
        ("timeouts.idle", "0s", "--idle-timeout: \"0s\" is out of range"),
        ("limits.head", "100", "--head-limit: \"100\" is out of range; the size must be from 1KiB to 1MiB"),
        ("log_level", "off", "--log-level: \"off\" is not one of error, warn, info, debug, trace"),
    ] {
        let error = Given::enough().flag(name, text).error();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn debug_output_of_a_configuration_contains_no_secrets() {
    let given = Given::enough();
    let inputs = given.inputs();
    let printed = format!("{inputs:?} {:?}", given.config()).to_lowercase();
    assert!(!printed.contains("qu33n"), "{printed}");
    let hash = NtHash::from_password(PASSWORD).to_hex().to_string();
    assert!(!printed.contains(&hash), "{printed}");
}

#[test]
fn a_reload_reads_the_file_again_and_keeps_flags_and_environment() {
    let given = Given::enough().file("reload", "max_tunnels = 1\nshards = 1").env("NTLM_GATEWAY_SHARDS", "2");
    let inputs = given.inputs();
    let first = load(&inputs).unwrap();
    assert_eq!((first.max_tunnels, first.shards), (1, 2));
    assert_eq!(first.files, [given.file.clone().unwrap()]);
    std::fs::write(given.file.as_ref().unwrap(), "max_tunnels = 9\nshards = 9").unwrap();
    let second = load(&inputs).unwrap();
    assert_eq!((second.max_tunnels, second.shards), (9, 2));
}

/// The example with every `# key = value` uncommented.
fn uncommented() -> String {
    let in_force = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(in_force).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_file_is_valid() {
    let (settings, errors) = file::parse(Path::new("gateway.example.toml"), EXAMPLE);
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors, _) = parse::read(&settings, &SecretStore::default());
    // The secret's file is not on this machine.
    let others: Vec<_> = errors.iter().filter(|error| !matches!(error.problem, Problem::Secret(_))).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn the_example_file_documents_every_setting_with_its_default() {
    let (settings, errors) = file::parse(Path::new("gateway.example.toml"), &uncommented());
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors, _) = parse::read(&settings, &SecretStore::default());
    let others: Vec<_> = errors.iter().filter(|error| !matches!(error.problem, Problem::Secret(_))).collect();
    assert!(others.is_empty(), "{others:?}");
    let in_force = file::parse(Path::new("gateway.example.toml"), EXAMPLE).0;
    assert_eq!(settings.entries("upstreams").len(), 0, "the tables are separate examples");
    for key in KEYS.iter().filter(|key| key.in_file()) {
        let shown = settings.given(key.name).unwrap_or_else(|| panic!("{} is not in the example", key.name));
        if let (Fallback::Value(default), None) = (key.default, in_force.given(key.name)) {
            assert_eq!(shown.text, default(), "{}", key.name);
        }
    }
}

#[test]
fn tcp_keep_alive_takes_whole_seconds_and_zero_disables_it() {
    assert_eq!(Given::enough().flag("timeouts.tcp_idle", "0s").config().keep_alive, None);
    for (name, text) in [
        ("timeouts.tcp_idle", "1500ms"),
        ("timeouts.tcp_idle", "10h"),
        ("timeouts.tcp_probe", "0s"),
        ("limits.tcp_probes", "0"),
        ("limits.tcp_probes", "128"),
    ] {
        assert_eq!(Given::enough().flag(name, text).errors().len(), 1, "{name} = {text}");
    }
}

#[test]
fn a_name_for_via_is_a_token() {
    for text in ["two words", "a,b", "(comment)", "é"] {
        assert_eq!(Given::enough().flag("via_name", text).errors().len(), 1, "{text}");
    }
}

#[test]
fn an_upstream_that_is_the_gateway_itself_is_rejected_under_any_address() {
    for (listen, upstream) in [
        ("127.0.0.1:3128", "127.0.0.1:3128"),
        ("127.0.0.1:3128", "localhost:3128"),
        ("127.0.0.1:3128", "0.0.0.0:3128"),
        ("127.0.0.1:3128", "[::ffff:127.0.0.1]:3128"),
        ("127.0.0.1:3128,[::1]:3129", "other.invalid:1,[::1]:3129"),
    ] {
        let errors = Given::enough().flag("listen", listen).flag("upstream", upstream).errors();
        assert!(errors.len() == 1 && errors[0].contains("the gateway itself listens"), "{upstream}: {errors:?}");
        assert!(errors[0].starts_with("--upstream: "), "{errors:?}");
    }
    let of_admin = Given::enough().flag("admin", "127.0.0.1:3130").flag("upstream", "127.0.0.1:3130").errors();
    assert_eq!(of_admin.len(), 1);
    for upstream in ["127.0.0.1:3129", "127.0.0.2:3128", "192.0.2.1:3128", "no-such-proxy.invalid:3128"] {
        Given::enough().flag("listen", "127.0.0.1:3128").flag("upstream", upstream).config();
    }
}
