//! The dependency rule: which module may name which other, and which may use sockets, clocks and the system.
//!
//! The rule is the table below. The test reads every `use` line and every path in `src`, except in tests. To let a
//! module name another, change the table, `src/lib.rs` and `ARCHITECTURE.md` together.

pub(crate) mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use source::{File, read_tree};

/// The line limit of a file; a longer one has more than one subject.
const FILE_LIMIT_LINES: usize = 800;

/// What a module may name outside the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    /// Bytes in, bytes out: no sockets, clocks, files, threads or randomness.
    Pure,
    /// No mio.
    NoMio,
    /// Anything.
    Any,
}

use Outside::{Any, NoMio, Pure};

/// The module, the modules it may name, and what it may name outside the crate. `main` is `src/main.rs`.
const TABLE: &[(&str, &[&str], Outside)] = &[
    ("limits", &[], NoMio),
    ("timeouts", &["limits"], NoMio),
    ("calendar", &[], Pure),
    ("ntlm", &["calendar"], Pure),
    ("kerberos", &["limits"], Pure),
    ("tickets", &["auth", "kerberos", "fault", "limits"], NoMio),
    ("http", &[], Pure),
    ("forward", &["http"], Pure),
    ("fault", &["http", "tls"], NoMio),
    ("auth", &["ntlm", "http", "forward", "fault", "kerberos", "limits"], NoMio),
    ("route", &["http", "limits"], NoMio),
    (
        "config",
        &[
            "client_protocol",
            "guard_store",
            "egress",
            "upstream",
            "transport",
            "tls",
            "auth",
            "route",
            "ntlm",
            "timeouts",
            "kerberos",
            "tickets",
            "limits",
        ],
        NoMio,
    ),
    ("logging", &["config", "calendar", "limits"], NoMio),
    ("tls", &["calendar", "limits"], NoMio),
    ("transport", &["tls"], Any),
    ("event", &["transport", "limits"], Any),
    ("relay", &["transport", "limits"], Any),
    ("upstream", &["transport", "limits"], Any),
    ("guard_store", &["upstream", "calendar", "limits"], NoMio),
    ("metrics", &["fault", "relay", "upstream"], NoMio),
    ("client_protocol", &["auth", "http", "forward", "fault"], Pure),
    (
        "egress",
        &["client_protocol", "upstream", "transport", "auth", "metrics", "route", "http", "fault", "ntlm", "limits"],
        NoMio,
    ),
    (
        "pool",
        &["egress", "auth", "forward", "upstream", "transport", "event", "http", "metrics", "timeouts", "limits"],
        Any,
    ),
    (
        "session",
        &[
            "client_protocol",
            "pool",
            "egress",
            "route",
            "forward",
            "auth",
            "relay",
            "upstream",
            "transport",
            "event",
            "http",
            "fault",
            "logging",
            "metrics",
            "timeouts",
            "limits",
        ],
        Any,
    ),
    (
        "shard",
        &["session", "pool", "relay", "route", "upstream", "transport", "event", "metrics", "fault", "limits"],
        Any,
    ),
    ("admin", &["http", "limits"], NoMio),
    ("inspect", &["shard", "session", "limits"], NoMio),
    ("notify", &["limits"], NoMio),
    (
        "gateway",
        &[
            "shard",
            "admin",
            "inspect",
            "guard_store",
            "session",
            "egress",
            "auth",
            "upstream",
            "transport",
            "tls",
            "event",
            "config",
            "logging",
            "metrics",
            "kerberos",
            "tickets",
            "limits",
        ],
        NoMio,
    ),
    ("watch", &["limits"], Any),
    ("supervisor", &["gateway", "watch", "notify", "config", "limits"], Any),
    ("stub", &["ntlm", "kerberos", "http", "transport", "event", "limits"], Any),
    (
        "cli",
        &[
            "supervisor",
            "gateway",
            "guard_store",
            "auth",
            "stub",
            "config",
            "logging",
            "upstream",
            "transport",
            "fault",
            "http",
            "ntlm",
            "metrics",
            "kerberos",
            "tickets",
            "calendar",
            "limits",
        ],
        NoMio,
    ),
    ("main", &["cli"], NoMio),
];

/// What a pure module must not name; it gets times, nonces and bytes as arguments.
const IMPURE: &[&str] = &[
    "mio",
    "rustix",
    "getrandom",
    "std::net",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Addresses are values, not sockets, so a pure module may name them.
const PURE_AFTER_ALL: &[&str] =
    &["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr", "std::net::SocketAddr"];

/// Whether `path` is `name` or something in it.
fn lies_in(path: &str, name: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Each place where `file` names something that the table does not allow, as `path:line: source line`.
fn violations(file: &File) -> Vec<String> {
    let module = file.module();
    let Some((_, allowed, outside)) = TABLE.iter().find(|rule| rule.0 == module) else {
        return vec![format!("{}: the table has no row for the module `{module}`", file.name)];
    };
    let forbidden: &[&str] = match outside {
        Pure => IMPURE,
        NoMio => &["mio"],
        Any => &[],
    };
    let mut found = Vec::new();
    for path in file.paths() {
        let line = format!("{}:{}: {}", file.name, path.line, file.line(path.line));
        if let Some(target) = path.module(&file.module_path()) {
            let known = TABLE.iter().any(|rule| rule.0 == target);
            if known && target != module && !allowed.contains(&target) {
                found.push(format!("{line}\n    `{module}` may not name `{target}`"));
            } else if !known && path.is_absolute() {
                found.push(format!("{line}\n    `{target}` is not a module of the table"));
            }
        }
        let full = path.segments.join("::");
        let harmless = PURE_AFTER_ALL.iter().any(|name| lies_in(&full, name));
        if let Some(name) = forbidden.iter().find(|name| !harmless && lies_in(&full, name)) {
            found.push(format!("{line}\n    `{module}` may not name {name}"));
        }
    }
    found.dedup();
    found
}

/// The crate's files, except those used only by its tests. `lib.rs` is the list of modules and has no row.
fn sources() -> Vec<File> {
    let mut files = read_tree(crate::root(), "src");
    let tests: Vec<PathBuf> = files.iter().flat_map(File::test_modules).collect();
    files.retain(|file| {
        let path = Path::new(&file.name);
        file.name != "src/lib.rs" && !tests.iter().any(|test| path.with_extension("").starts_with(test))
    });
    files
}

#[test]
fn every_module_names_only_what_the_table_allows() {
    let found: Vec<String> = sources().iter().flat_map(violations).collect();
    assert!(found.is_empty(), "the dependency rule is broken:\n{}", found.join("\n"));
}

#[test]
fn the_table_has_no_circular_dependencies() {
    // A row may only name modules that are already removed, so modules are removed until nothing is left.
    let mut left: Vec<_> = TABLE.iter().collect();
    while !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|rule| rule.0).collect();
        let before = left.len();
        left.retain(|rule| rule.1.iter().any(|target| names.contains(target)));
        assert!(left.len() < before, "a cycle among {names:?}");
    }
}

/// The dependency rule as drawn at the start of `src/lib.rs`, with lines like `module, module → module, module`.
fn drawn_rule() -> BTreeMap<String, BTreeSet<String>> {
    let names = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect::<BTreeSet<_>>();
    let lib = std::fs::read_to_string(crate::root().join("src/lib.rs")).expect("src/lib.rs");
    let (_, rule) = lib.split_once("//! # Dependency rule\n").expect("the heading");
    let lines = rule.lines().take_while(|line| line.starts_with("//!"));
    let rows = lines.filter_map(|line| line.trim_start_matches("//!").split_once('→'));
    rows.flat_map(|(modules, targets)| names(modules).into_iter().map(move |module| (module, names(targets)))).collect()
}

#[test]
fn lib_rs_draws_the_dependency_rule_completely() {
    let is_drawn = |target: &&&str| !matches!(**target, "limits" | "timeouts" | "calendar");
    let table = TABLE.iter().map(|(module, targets, _)| {
        let targets = targets.iter().filter(is_drawn).map(ToString::to_string).collect::<BTreeSet<_>>();
        ((*module).to_owned(), targets)
    });
    let expected: BTreeMap<String, BTreeSet<String>> = table.filter(|(_, targets)| !targets.is_empty()).collect();
    let drawn = drawn_rule();
    let row = |(module, targets): &(&String, &BTreeSet<String>)| {
        format!("{module} → {}", targets.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
    };
    let missing: Vec<String> =
        expected.iter().filter(|(name, row)| drawn.get(*name) != Some(row)).map(|pair| row(&pair)).collect();
    let wrong: Vec<&String> = drawn.keys().filter(|name| !expected.contains_key(*name)).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "src/lib.rs lacks {missing:#?} and has no use for {wrong:?}");
}

#[test]
fn no_source_file_exceeds_the_line_limit() {
    let trees = ["src", "tests", "benches", "loadtest/src"];
    let files = trees.iter().flat_map(|tree| read_tree(crate::root(), tree));
    let long: Vec<String> = files
        .map(|file| (file.text.lines().count(), file))
        .filter(|(lines, _)| *lines > FILE_LIMIT_LINES)
        .map(|(lines, file)| format!("{}: {lines} lines", file.name))
        .collect();
    assert!(long.is_empty(), "more than {FILE_LIMIT_LINES} lines:\n{}", long.join("\n"));
}

/// The violations in a file with that name and text.
fn violations_in(name: &str, text: &str) -> Vec<String> {
    violations(&File { name: name.to_owned(), text: text.to_owned() })
}

#[test]
fn a_forbidden_use_line_is_reported_with_its_number() {
    let found = violations_in("src/ntlm/wire.rs", "//! Doc.\n\nuse crate::http::Head;\n");
    assert_eq!(found, ["src/ntlm/wire.rs:3: use crate::http::Head;\n    `ntlm` may not name `http`"]);
}

#[test]
fn forbidden_names_are_found_in_groups_plain_paths_and_through_super() {
    for text in [
        "use crate::{\n    fault::Fault,\n    relay::{Half, Pipe},\n};\n",
        "fn f() -> crate::relay::Half { todo!() }\n",
        "use super::super::relay::Half;\n",
        "use super::{super::relay, other};\n",
        "pub(crate) use crate::relay::*;\n",
    ] {
        let found = violations_in("src/auth/step.rs", text);
        assert_eq!(found.len(), 1, "{text}{found:#?}");
        assert!(found[0].ends_with("`auth` may not name `relay`"), "{found:#?}");
    }
}

#[test]
fn sockets_clocks_and_mio_are_found_where_they_do_not_belong() {
    for (name, text, forbidden) in [
        ("src/ntlm/client.rs", "use std::{fmt, time::{Duration, SystemTime}};", "std::time::SystemTime"),
        ("src/http/encode.rs", "fn f(stream: &std::net::TcpStream) {}", "std::net"),
        ("src/http/mod.rs", "use std::net::{IpAddr, TcpStream};", "std::net"),
        ("src/auth/mod.rs", "use mio::Token;", "mio"),
        ("src/main.rs", "fn main() { mio::Poll::new(); }", "mio"),
    ] {
        let found = violations_in(name, text);
        assert!(!found.is_empty(), "{text}");
        assert!(found.iter().all(|line| line.ends_with(&format!("may not name {forbidden}"))), "{found:#?}");
    }
}

#[test]
fn what_the_table_allows_is_accepted() {
    for (name, text) in [
        ("src/ntlm/wire.rs", "use std::time::Duration;\nuse super::flags::Flags;\nuse crate::ntlm::av_pair;\n"),
        ("src/auth/mod.rs", "use crate::{fault::Fault, http, ntlm::Exchange};\n"),
        ("src/relay/splice.rs", "use mio::net::TcpStream;\nuse crate::transport::Readiness;\n"),
        ("src/http/authority.rs", "use std::net::{Ipv4Addr, Ipv6Addr};\n"),
        ("src/main.rs", "use ntlm_gateway::cli;\n"),
    ] {
        assert_eq!(violations_in(name, text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn names_in_comments_strings_and_tests_are_ignored() {
    let text = "// use crate::relay::Half;\n/* crate::relay /* nested */ crate::relay */\n\
                const A: &str = \"crate::relay\\\" crate::relay\"; const B: &str = r#\"crate::relay \" \"#;\n\
                const C: char = '\"'; fn f<'a>(x: &'a str) {}\n\
                #[cfg(test)]\nmod tests {\n    use crate::relay::Half;\n    fn g() { if true { } }\n}\n\
                #[cfg(test)]\nuse crate::relay::Half;\n";
    assert_eq!(violations_in("src/http/head.rs", text), Vec::<String>::new());
    // Names after all that are still found.
    assert_eq!(violations_in("src/http/head.rs", &format!("{text}use crate::relay;\n")).len(), 1);
}

#[test]
fn a_module_missing_from_the_table_is_reported() {
    assert_eq!(violations_in("src/novel/mod.rs", "").len(), 1);
    assert_eq!(violations_in("src/session/mod.rs", "use crate::novel::X;\n").len(), 1);
}

#[test]
fn a_test_only_file_is_recognised_by_its_declaration() {
    let file = |name: &str, text: &str| File { name: name.to_owned(), text: text.to_owned() };
    let declared = "#[cfg(test)]\nmod tests;\nmod wire;\n";
    assert_eq!(file("src/ntlm/mod.rs", declared).test_modules(), [Path::new("src/ntlm/tests")]);
    assert_eq!(file("src/ntlm/wire.rs", declared).test_modules(), [Path::new("src/ntlm/wire/tests")]);
    assert_eq!(file("src/lib.rs", declared).test_modules(), [Path::new("src/tests")]);
}
