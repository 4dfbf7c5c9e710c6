//! The documents describe the program: their tables list what exists, no less and no more, and the commands and the
//! configuration files that they show are valid.

use super::pages::{self, codes, rows, section};
use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use log::kv::{self, Key, Value, VisitSource};
use ntlm_gateway::cli;
use ntlm_gateway::client_protocol;
use ntlm_gateway::config::keys::{Fallback, KEYS, Key as SettingKey};
use ntlm_gateway::config::table_keys::TABLE_KEYS;
use ntlm_gateway::config::{self, Inputs, Settings};
use ntlm_gateway::fault::Cause;
use ntlm_gateway::session::ACCESS;
use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{ask, connect_name};
use support::in_process::{self, ACCOUNT};
use support::scratch::{Scratch, wait_for};

/// A cell's text without its backticks.
fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn the_table_of_settings_is_the_programs_own() {
    let expected = settings_table();
    assert_eq!(section("flags"), expected, "the table between the flags marks must be:\n\n{expected}");
}

fn settings_table() -> String {
    let mut table = "| flag | environment | in the file | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let flag = if key.has_flag() { format!("`--{} {}`", key.flag, key.value_name) } else { String::new() };
        let name = if key.in_file() { format!("`{}`", key.name) } else { String::new() };
        let cells = [flag, format!("`{}`", key.env()), name, default_of(key), key.help.to_owned()];
        for cell in cells {
            // A bar ends a cell, even in backticks.
            let cell = cell.replace('|', "\\|");
            let space = if cell.is_empty() { "" } else { " " };
            write!(table, "|{space}{cell} ").expect("writing to a string");
        }
        table.push_str("|\n");
    }
    table
}

#[test]
fn the_table_of_the_tables_settings_is_the_programs_own() {
    let mut expected = "| in the file | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in TABLE_KEYS {
        let cells = [format!("`{}`", key.name), format!("`{}`", key.value_name), default_of(key), key.help.to_owned()];
        for cell in cells {
            let cell = cell.replace('|', "\\|");
            let space = if cell.is_empty() { "" } else { " " };
            write!(expected, "|{space}{cell} ").expect("writing to a string");
        }
        expected.push_str("|\n");
    }
    assert_eq!(section("tables"), expected, "the table between the tables marks must be:\n\n{expected}");
}

fn default_of(key: &SettingKey) -> String {
    match key.default {
        Fallback::Required(_) => "must be given".to_owned(),
        Fallback::Nothing => String::new(),
        Fallback::Value(value) => format!("`{}`", value()),
        Fallback::Machine(shown, _) => shown.to_owned(),
    }
}

#[test]
fn the_tables_of_failures_list_every_cause_with_its_status() {
    let told = rows("statuses").into_iter().map(|row| (code(row[1]), row[0].parse::<u16>().expect("a status")));
    let untold = rows("untold").into_iter().map(|row| (code(row[0]), 0));
    let documented: Vec<(&str, u16)> = told.chain(untold).collect();
    let causes = Cause::ALL.iter().map(|cause| (cause.label(), client_protocol::status(*cause).unwrap_or(0)));
    assert_eq!(documented.iter().copied().collect::<BTreeSet<_>>(), causes.collect::<BTreeSet<_>>());
    assert_eq!(documented.len(), Cause::ALL.len(), "a cause is listed twice");
}

#[test]
fn the_table_of_reply_codes_is_the_programs_own() {
    let mut documented = BTreeMap::new();
    for row in rows("replies") {
        let code: u8 = row[0].parse().expect("a reply code");
        documented.extend(codes(row[2]).into_iter().map(|cause| (cause, code)));
    }
    let told =
        Cause::ALL.iter().filter_map(|cause| Some((cause.label().to_owned(), client_protocol::socks_reply(*cause)?)));
    let named = told.filter(|(_, code)| *code != 1).collect::<BTreeMap<_, _>>();
    assert_eq!(documented, named, "the others are general failures, code 1");
}

#[test]
fn the_tables_of_metrics_and_log_fields_list_what_comes_out() {
    let lines: &'static FieldNames = Box::leak(Box::default());
    log::set_logger(lines).expect("the only logger of this process");
    log::set_max_level(log::LevelFilter::Info);
    let exported = exported_families();

    let mut documented: BTreeMap<String, Family> = BTreeMap::new();
    for row in rows("metrics").into_iter().chain(rows("process")) {
        let help = exported.get(code(row[0])).map(|family| family.help.clone()).unwrap_or_default();
        let family = Family { kind: row[1].to_owned(), labels: codes(row[2]), help };
        assert!(documented.insert(code(row[0]).to_owned(), family).is_none(), "{} is listed twice", row[0]);
        assert!(!row[3].is_empty(), "{} has no meaning", row[0]);
    }
    assert!(documented == exported, "{}", differences(&documented, &exported));
    let names: Vec<&str> = rows("metrics").iter().map(|row| code(row[0])).collect();
    assert!(names.is_sorted(), "the metrics are not in alphabetical order: {names:?}");

    let fields: Vec<String> = rows("access").into_iter().map(|row| code(row[0]).to_owned()).collect();
    assert_eq!(*lines.0.lock().expect("the names"), fields);
}

/// A metric family as documented.
#[derive(Debug, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    /// Its help text in `/metrics`.
    help: String,
}

/// How to correct the tables of metrics, with the rows to begin with.
fn differences(documented: &BTreeMap<String, Family>, exported: &BTreeMap<String, Family>) -> String {
    let row = |name: &str, family: &Family| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{} ", labels.join(", ")) };
        format!("| `{name}` | {} | {labels}| {}. |\n", family.kind, family.help)
    };
    let mut text = "the tables of metrics do not list what is exported\n".to_owned();
    for (name, family) in exported.iter().filter(|(name, family)| documented.get(*name) != Some(family)) {
        let verb = if documented.contains_key(name) { "correct" } else { "add" };
        write!(text, "{verb}: {}", row(name, family)).expect("writing to a string");
    }
    for name in documented.keys().filter(|name| !exported.contains_key(*name)) {
        writeln!(text, "remove: {name}").expect("writing to a string");
    }
    text
}

/// The families of `/metrics` after a good tunnel and a fault.
fn exported_families() -> BTreeMap<String, Family> {
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub");
    let gateway = in_process::gateway(&stub.address().to_string(), &[]);
    let address = in_process::address(&gateway);
    let good = connect_name(address, "echo.test:7").expect("an answer");
    assert_eq!(good.status(), 200, "{}", good.head);
    let bad = ask(address, b"GET ftp://echo.test/ HTTP/1.1\r\nHost: echo.test\r\n\r\n").expect("an answer");
    assert_eq!(bad.status(), 501, "{}", bad.head);
    drop((good, bad));
    let closed = wait_for(Duration::from_secs(10), || (gateway.tunnels_open() == 0).then_some(()));
    assert!(closed.is_some(), "the tunnels stay open");
    let text = scrape(gateway.admin_address());
    in_process::stop(gateway);

    families(&text)
}

/// `/metrics` as a scraper gets it.
fn scrape(admin: SocketAddr) -> String {
    let mut stream = TcpStream::connect(admin).expect("the administration address");
    // HTTP/1.0 has no chunks that would have to be joined.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut help = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = rest.trim_end_matches('.');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.insert(
                name.to_owned(),
                Family { kind: kind.to_owned(), labels: BTreeSet::new(), help: help.to_owned() },
            );
        } else if let Some((sample, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let stem = |suffix| sample.strip_suffix(suffix).unwrap_or(sample);
            let name = [sample, stem("_bucket"), stem("_sum"), stem("_count")]
                .into_iter()
                .find(|name| families.contains_key(*name));
            let family =
                name.and_then(|name| families.get_mut(name)).unwrap_or_else(|| panic!("no TYPE before {line}"));
            let labels = labels.rsplit_once('}').expect("a brace").0;
            // `le` belongs to the histogram itself.
            let names = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name);
            family.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    families
}

/// Keeps the names of the fields of the access log's last line.
#[derive(Default)]
struct FieldNames(Mutex<Vec<String>>);

impl log::Log for FieldNames {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == ACCESS
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Names(Vec<String>);
        impl<'kvs> VisitSource<'kvs> for Names {
            fn visit_pair(&mut self, name: Key<'kvs>, _: Value<'kvs>) -> Result<(), kv::Error> {
                self.0.push(name.to_string());
                Ok(())
            }
        }
        if self.enabled(record.metadata()) {
            let mut names = Names(Vec::new());
            record.key_values().visit(&mut names).expect("the fields");
            *self.0.lock().expect("the names") = names.0;
        }
    }

    fn flush(&self) {}
}

#[test]
fn the_two_commands_to_begin_with_exist() {
    let shown = pages::page("README.md").blocks("sh");
    assert_eq!(shown.first().map(|block| block.trim()), Some("cargo run --release -- demo --once"));
    assert_eq!(shown.get(1).map(|block| block.trim()), Some("tests/run"));
    let script = crate::root().join("tests/run");
    let permissions = std::fs::metadata(&script).expect("tests/run").permissions();
    assert_ne!(std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o111, 0, "tests/run is not executable");
}

#[test]
fn every_command_line_of_the_manual_is_understood() {
    let mut understood = 0;
    for line in pages::manual().flat_map(|page| page.blocks("sh")).flat_map(str::lines) {
        let words = words(line);
        let before = |word: &str| words.iter().position(|known| known == word);
        let Some(at) = before("ntlm-gateway").or_else(|| before("--").filter(|_| words[0] == "cargo")) else {
            continue;
        };
        let arguments = ["ntlm-gateway".to_owned()].into_iter().chain(words[at + 1..].iter().cloned());
        cli::command().try_get_matches_from(arguments).unwrap_or_else(|error| panic!("{line}\n{error}"));
        understood += 1;
    }
    assert!(understood >= 15, "only {understood} command lines were found");
}

/// A command's words, up to a redirection, as the shell splits them where nothing but single quotes is special.
fn words(line: &str) -> Vec<String> {
    let words = line.split(' ').map(|word| word.replace('\'', ""));
    let redirects =
        |word: &String| word.trim_start_matches(|digit: char| digit.is_ascii_digit()).starts_with(['<', '>', '#']);
    words.filter(|word| !word.is_empty()).take_while(|word| !redirects(word)).collect()
}

#[test]
fn every_configuration_file_of_the_manual_is_valid() {
    let scratch = Scratch::new("manual");
    // All the secret files that the examples name. A hash is valid as a password, too.
    for name in ["password", "ci-password", "batch-nt-hash", "desk-password", "joe-password"] {
        scratch.write(name, "cd06ca7c7e10c99b1d33b7485a2ed808\n");
    }
    let certificate = rcgen::generate_simple_self_signed(["ca.corp.example".to_owned()]).expect("a certificate");
    scratch.write("corp-ca.crt", certificate.cert.pem());
    scratch.write("keytab", keytab(&["CORP.EXAMPLE", "svc-egress"]));
    let examples: Vec<&str> = pages::manual().flat_map(|page| page.blocks("toml")).collect();
    assert!(examples.len() >= 5, "only {} examples were found", examples.len());
    for example in examples {
        let here = format!("\"{}/", scratch.path().display());
        let file = scratch.write("gateway.toml", example.replace("\"./", &here));
        let lookup = |name: &str| (name == "NTLM_GATEWAY_CONFIG").then(|| file.clone().into_os_string());
        let inputs = Inputs::new(Settings::default(), lookup).unwrap_or_else(|errors| panic!("{errors}"));
        config::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"));
    }
}

/// A keytab with one key for a realm's user.
fn keytab(names: &[&str; 2]) -> Vec<u8> {
    let mut record = vec![0, 1];
    for name in names {
        record.extend(u16::try_from(name.len()).expect("a short name").to_be_bytes());
        record.extend(name.bytes());
    }
    record.extend([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 17, 0, 16]);
    record.extend([7; 16]);
    [&[5, 2], &u32::try_from(record.len()).expect("short").to_be_bytes()[..], &record].concat()
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let mut named = BTreeSet::new();
    for manifest in [
        include_str!("../../Cargo.toml"),
        include_str!("../../loadtest/Cargo.toml"),
        include_str!("../../fuzz/Cargo.toml"),
    ] {
        let manifest: toml::Table = manifest.parse().expect("TOML");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = manifest.get(section).and_then(toml::Value::as_table);
            named.extend(dependencies.into_iter().flat_map(toml::Table::keys).cloned());
        }
    }
    named.remove("ntlm-gateway");
    let reasons = rows("dependencies");
    let explained: BTreeSet<String> = reasons.iter().flat_map(|row| row[0].split(", ")).map(str::to_owned).collect();
    assert_eq!(explained, named);
    assert!(reasons.iter().all(|row| row.len() == 2 && !row[1].is_empty()), "{reasons:?}");
}
