//! cntlm's configuration, as `cntlm(1)` describes it.

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::draft::{Draft, Secret};
use super::ini::{self, Line};
use super::report::{Outcome, Report};
use super::{Imported, networks, output};
use crate::config::redact;

use Outcome::{Decide, Dropped, Imported as Kept};

/// Where cntlm listens if nothing says so.
const DEFAULT_PORT: &str = "3128";

/// What is known after all lines have been read.
#[derive(Default)]
struct Seen<'a> {
    listen: Vec<Line<'a>>,
    socks: Vec<Line<'a>>,
    tunnels: Vec<Line<'a>>,
    /// `Allow` and `Deny`, in their order.
    rules: Vec<Line<'a>>,
    password: Option<Line<'a>>,
    nt_hash: Option<Line<'a>>,
    ntlmv2_hash: Option<Line<'a>>,
    lm_hash: Option<Line<'a>>,
    gateway: Option<Line<'a>>,
    socks_users: Vec<Line<'a>>,
}

pub(super) fn import(text: &str) -> Imported {
    let (mut draft, mut report, mut seen) = (Draft::default(), Report::default(), Seen::default());
    for line in ini::cntlm(text) {
        if !line.section.is_empty() {
            let text = "it is in a section; the gateway has no sections for locations, so add what you need by hand";
            report.note(line.number, line.key, Decide, text);
            continue;
        }
        one(line, &mut draft, &mut report, &mut seen);
    }
    account(&mut draft, &mut report);
    secret(&seen, &mut draft, &mut report);
    let is_open = clients(&seen, &mut draft, &mut report);
    addresses(&seen, is_open, &mut draft, &mut report);
    if draft.upstreams.is_empty() {
        report.note(0, "Proxy", Decide, "there is none: set upstream");
    }
    Imported { draft, report }
}

/// A line that sets something by itself; the others are kept for later.
fn one<'a>(line: Line<'a>, draft: &mut Draft, report: &mut Report, seen: &mut Seen<'a>) {
    let Line { number, key, value, .. } = line;
    let first = |place: &mut Option<Line<'a>>| {
        place.get_or_insert(line);
    };
    let mut note = |outcome, text: &str| report.note(number, key, outcome, text);
    match key.to_ascii_lowercase().as_str() {
        "username" => set(&mut draft.user, value, "user", &mut note),
        "domain" => set(&mut draft.domain, value, "user", &mut note),
        "workstation" => set(&mut draft.workstation, value, "workstation", &mut note),
        "password" => first(&mut seen.password),
        "passnt" => first(&mut seen.nt_hash),
        "passntlmv2" => first(&mut seen.ntlmv2_hash),
        "passlm" => first(&mut seen.lm_hash),
        "gateway" => first(&mut seen.gateway),
        "listen" => seen.listen.push(line),
        "socks5proxy" => seen.socks.push(line),
        "socks5user" | "socks5users" => seen.socks_users.push(line),
        "tunnel" => seen.tunnels.push(line),
        "allow" | "deny" => seen.rules.push(line),
        "proxy" => {
            let (outcome, text) = draft.upstream(value);
            note(outcome, &text);
        }
        "noproxy" => no_proxy(value, draft, &mut note),
        "auth" => auth(value, draft, &mut note),
        "flags" => note(Dropped, "the gateway negotiates the flags that NTLMv2 needs; `probe` shows whether they work"),
        "header" => note(Dropped, "the gateway does not change fields of requests; set them in the client"),
        "ntlmtobasic" if is_no(value) => note(Kept, "off, as always"),
        "ntlmtobasic" => {
            note(Dropped, "clients cannot send domain accounts of their own; see [[identities]] for several accounts");
        }
        "isascannersize" | "isascanneragent" => {
            note(
                Dropped,
                "the gateway does not look into responses; exempt these downloads from scanning at the proxy",
            );
        }
        _ => note(Dropped, "cntlm 0.92 does not document it"),
    }
}

/// cntlm uses the first of several values.
fn set(place: &mut Option<String>, value: &str, name: &str, note: &mut impl FnMut(Outcome, &str)) {
    if place.is_some() {
        return note(Dropped, "cntlm uses the first of several");
    }
    *place = Some(value.to_owned());
    note(Kept, name);
}

fn is_no(value: &str) -> bool {
    !value.eq_ignore_ascii_case("yes")
}

fn no_proxy(value: &str, draft: &mut Draft, note: &mut impl FnMut(Outcome, &str)) {
    let patterns = value.split([',', ' ']).filter(|pattern| !pattern.is_empty());
    let refused: Vec<&str> = patterns.filter(|pattern| !draft.direct(pattern)).collect();
    note(Kept, "direct [[routes]]; the gateway itself does not log on to these hosts");
    for pattern in refused {
        let pattern = redact::shown(pattern);
        note(Decide, &format!("{pattern} has no counterpart: hosts have only * as a wildcard; write it as a route"));
    }
}

fn auth(value: &str, draft: &mut Draft, note: &mut impl FnMut(Outcome, &str)) {
    match value.to_ascii_lowercase().as_str() {
        "ntlmv2" => note(Kept, "method ntlmv2, the default"),
        "ntlm2sr" => {
            draft.method = Some("ntlmv1-ess");
            note(Decide, "method ntlmv1-ess, which is easily cracked: try ntlmv2 with `probe --method ntlmv2`");
        }
        _ => note(Decide, "LM and NTLMv1 are not supported: the configuration has NTLMv2; try it with `probe`"),
    }
}

fn account(draft: &mut Draft, report: &mut Report) {
    match &draft.user {
        None => report.note(0, "Username", Decide, "there is none: set user"),
        Some(user)
            if user.contains(['\\', '/', '@']) && draft.domain.as_deref().is_some_and(|name| !name.is_empty()) =>
        {
            let text = "a name with @, / or \\ already has its domain: it is used without Domain";
            report.note(0, "Username", Decide, text);
            draft.domain = None;
        }
        Some(_) => (),
    }
}

/// cntlm uses the password if there is one, otherwise the hashes. It stores them with every bit inverted.
fn secret(seen: &Seen<'_>, draft: &mut Draft, report: &mut Report) {
    let nt_hash = seen.nt_hash.and_then(|line| inverted(line.value));
    let has_nt_hash = nt_hash.is_some();
    if let Some(line) = seen.password {
        draft.secret = Some(Secret::Password(Zeroizing::new(line.value.to_owned())));
        report.note(line.number, line.key, Kept, format!("password_file {}", output::PASSWORD));
    } else {
        draft.secret = nt_hash.map(Secret::NtHash);
    }
    if let Some(line) = seen.nt_hash {
        let (outcome, text) = match (has_nt_hash, seen.password) {
            (false, _) => (Decide, "it is not a hash of 32 hexadecimal digits".to_owned()),
            (true, Some(_)) => (Dropped, "cntlm uses Password if there is one".to_owned()),
            (true, None) => (Kept, format!("nt_hash_file {}", output::NT_HASH)),
        };
        report.note(line.number, line.key, outcome, text);
    }
    for line in [seen.ntlmv2_hash, seen.lm_hash].into_iter().flatten() {
        let text = "it cannot be converted, and the password or PassNT takes its place";
        match draft.secret.is_some() {
            true => report.note(line.number, line.key, Dropped, text),
            false => {
                report.note(line.number, line.key, Dropped, "neither the password nor its NT hash follows from it")
            }
        }
    }
    if draft.secret.is_none() {
        let text = format!("neither Password nor PassNT: write the password to {}", output::PASSWORD);
        report.note(0, "Password", Decide, text);
    }
}

/// The hash of 32 hexadecimal digits whose every bit is the inverse; `None` if it is none.
fn inverted(digits: &str) -> Option<Zeroizing<String>> {
    let nibbles = digits.chars().map(|digit| digit.to_digit(16).and_then(|nibble| char::from_digit(15 - nibble, 16)));
    let inverse: Option<String> = nibbles.collect();
    inverse.map(Zeroizing::new).filter(|inverse| inverse.len() == 32)
}

/// Whether cntlm serves other machines, and which.
fn clients(seen: &Seen<'_>, draft: &mut Draft, report: &mut Report) -> bool {
    let is_open = seen.gateway.is_some_and(|line| !is_no(line.value));
    if let Some(line) = seen.gateway {
        report.note(line.number, line.key, Kept, if is_open { "addresses beyond loopback" } else { "loopback only" });
    }
    let mut denied: Vec<IpNet> = Vec::new();
    let mut allows_rest = true;
    for line in &seen.rules {
        let mut note = |outcome, text: &str| report.note(line.number, line.key, outcome, text);
        let Some(network) = networks::rule(line.value) else {
            note(Decide, "only addresses and networks can be allowed; look the name up");
            continue;
        };
        let overlaps = |other: &IpNet| other.contains(&network) || network.contains(other);
        let is_all = network.prefix_len() == 0;
        match line.key.eq_ignore_ascii_case("allow") {
            true if denied.iter().any(|other| other.contains(&network)) => note(Dropped, "an earlier Deny covers it"),
            true if denied.iter().any(overlaps) => {
                note(Decide, "it overlaps an earlier Deny, and allow_clients has no exceptions: list what is allowed");
            }
            true if is_all => note(Decide, "it admits everybody: list the networks in allow_clients"),
            true => {
                draft.allow_clients.push(network);
                note(Kept, &format!("allow_clients {network}"));
            }
            false if !is_all && draft.allow_clients.iter().any(overlaps) => {
                denied.push(network);
                note(Dropped, "an earlier Allow covers at least a part of it");
            }
            false => {
                allows_rest &= !is_all;
                denied.push(network);
                note(Kept, "clients that allow_clients does not list are rejected");
            }
        }
    }
    let names_address = |line: &Line<'_>| line.value.parse::<u16>().is_err() && !is_loopback(line.value);
    let is_reachable = is_open || seen.listen.iter().chain(&seen.socks).any(names_address);
    if is_reachable && allows_rest {
        let text =
            "cntlm admits every client that no rule names; allow_clients has the private networks: narrow it down";
        report.note(0, "Allow", Decide, text);
        draft.allow_clients.extend(output::private_networks());
    }
    is_open
}

fn is_loopback(address: &str) -> bool {
    address.starts_with("127.") || address.starts_with("localhost:") || address.starts_with("[::1]")
}

fn addresses(seen: &Seen<'_>, is_open: bool, draft: &mut Draft, report: &mut Report) {
    let host = if is_open { "0.0.0.0" } else { "127.0.0.1" };
    let full = |value: &str| match value.rsplit_once(':') {
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some(_) => value.to_owned(),
        None => format!("{host}:{value}"),
    };
    for line in &seen.listen {
        let (outcome, text) = draft.listen(full(line.value));
        report.note(line.number, line.key, outcome, text);
    }
    if seen.listen.is_empty() {
        draft.listen.push(full(DEFAULT_PORT));
    }
    for line in &seen.socks {
        let (outcome, text) = draft.listener(full(line.value), None);
        report.note(line.number, line.key, outcome, text);
    }
    for line in &seen.socks_users {
        let text = "the gateway cannot require a login for SOCKS alone: restrict allow_clients, or give these clients an \
                    [[identities]] entry with proxy_user";
        report.note(line.number, line.key, Decide, text);
    }
    for line in &seen.tunnels {
        // [address:]port:host:port, where the host may be an address in brackets.
        let parts = line.value.rsplit_once(':').and_then(|(rest, port)| {
            let at = if rest.ends_with(']') { rest.rfind('[')?.checked_sub(1)? } else { rest.rfind(':')? };
            Some((rest.get(..at)?, format!("{}:{port}", rest.get(at + 1..)?)))
        });
        match parts {
            Some((local, target)) => {
                let (outcome, text) = draft.listener(full(local), Some(target));
                report.note(line.number, line.key, outcome, text);
            }
            None => report.note(line.number, line.key, Decide, "it is not [ADDRESS:]PORT:HOST:PORT"),
        }
    }
}
