//! px's `px.ini`, as px 0.10 documents it.

use ipnet::IpNet;

use super::draft::Draft;
use super::ini::{self, Line};
use super::report::{Outcome, Report};
use super::{Imported, networks, output};
use crate::config::redact;

use Outcome::{Decide, Dropped, Imported as Kept};

/// px's defaults; it writes all of them when it saves its configuration.
const DEFAULT_IDLE: &str = "30";
const DEFAULT_SOCKTIMEOUT: &str = "20";
const DEFAULT_PORT: &str = "3128";
const DEFAULT_LISTEN: &str = "127.0.0.1";

/// What is known after all lines have been read.
#[derive(Default)]
struct Seen<'a> {
    listen: Option<Line<'a>>,
    port: Option<Line<'a>>,
    gateway: Option<Line<'a>>,
    hostonly: Option<Line<'a>>,
    allow: Option<Line<'a>>,
    username: Option<usize>,
}

pub(super) fn import(text: &str) -> Imported {
    let (mut draft, mut report, mut seen) = (Draft::default(), Report::default(), Seen::default());
    for line in ini::px(text) {
        // px ignores the case, and writes `key =` for what is not set.
        let key = format!("{}:{}", line.section, line.key).to_ascii_lowercase();
        if line.value.is_empty() && key != "proxy:server" {
            continue;
        }
        match key.as_str() {
            "proxy:listen" => seen.listen = Some(line),
            "proxy:port" => seen.port = Some(line),
            "proxy:gateway" => seen.gateway = Some(line),
            "proxy:hostonly" => seen.hostonly = Some(line),
            "proxy:allow" => seen.allow = Some(line),
            "proxy:username" => seen.username = Some(line.number),
            _ => (),
        }
        one(&key, line, &mut draft, &mut report);
    }
    let place = seen.username.unwrap_or_default();
    let text = format!("px has the password in a keyring or PX_PASSWORD: write it to {}", output::PASSWORD);
    report.note(place, "username", Decide, if place == 0 { format!("there is none: set user. {text}") } else { text });
    let is_open = clients(&seen, &mut draft, &mut report);
    addresses(&seen, is_open, &mut draft, &mut report);
    Imported { draft, report }
}

/// A line that sets something by itself.
fn one(key: &str, line: Line<'_>, draft: &mut Draft, report: &mut Report) {
    let Line { number, value, .. } = line;
    let mut note = |outcome, text: &str| report.note(number, line.key, outcome, text);
    match key {
        "proxy:server" if value.is_empty() => {
            note(Decide, "px finds the proxy in the settings of Windows, the environment or a PAC file; set upstream");
        }
        "proxy:server" => {
            for address in list(value) {
                let (outcome, text) = draft.upstream(address);
                note(outcome, &text);
            }
        }
        "proxy:pac" => note(Decide, "PAC files are not supported: write their rules as [[upstreams]] and [[routes]]"),
        "proxy:pac_encoding" => note(Dropped, "PAC files are not supported"),
        "proxy:noproxy" => no_proxy(value, draft, &mut note),
        "proxy:useragent" => note(Dropped, "the gateway does not change fields of requests; set it in the client"),
        "proxy:username" => {
            // px accepts a doubled backslash, as its help writes it.
            let (domain, user) = value.split_once('\\').map_or((None, value), |(domain, user)| (Some(domain), user));
            draft.domain = domain.map(str::to_owned);
            draft.user = Some(user.trim_start_matches('\\').to_owned());
            note(Kept, "user");
        }
        "proxy:auth" => auth(value, draft, &mut note),
        "proxy:kerberos" if is_on(value) => {
            note(Decide, "for Kerberos set auth = [\"kerberos\"] or [\"kerberos\", \"ntlm\"], and kerberos.realm");
        }
        "proxy:kerberos" => note(Kept, "auth ntlm, the default"),
        "client:client_auth" if value.eq_ignore_ascii_case("none") => {
            note(Kept, "clients do not log on, as by default")
        }
        "client:client_auth" => {
            note(Decide, "clients log on only by Basic: use [[identities]] with proxy_user, or restrict allow_clients");
        }
        "client:client_username" => note(Decide, "see proxy_user of [[identities]], with a password of its own"),
        "client:client_nosspi" => note(Dropped, "there is no SSPI on Linux"),
        "settings:workers" => note(Dropped, "there is one event loop for each core; see shards"),
        "settings:threads" => note(Dropped, "a tunnel needs no thread; see max_tunnels"),
        "settings:idle" if value == DEFAULT_IDLE => note(Dropped, "px's default; the gateway's timeouts.idle is 1h"),
        "settings:idle" => {
            draft.idle = seconds(value);
            match draft.idle {
                Some(_) => note(Kept, "timeouts.idle"),
                None => note(Decide, "it is no number of seconds; set timeouts.idle"),
            }
        }
        "settings:socktimeout" if milliseconds(value) == milliseconds(DEFAULT_SOCKTIMEOUT) => {
            note(Dropped, "px's default; the gateway's timeouts.connect is 10s");
        }
        "settings:socktimeout" => {
            draft.connect = seconds(value);
            match draft.connect {
                Some(_) => note(Kept, "timeouts.connect"),
                None => note(Decide, "it is no number of seconds; set timeouts.connect"),
            }
        }
        "settings:proxyreload" => {
            note(Dropped, "there are no settings of the system to read again; SIGHUP reloads the file")
        }
        "settings:foreground" => note(Dropped, "the gateway always runs in the foreground"),
        "settings:log" => note(Dropped, "logs go to standard error; see log_level and log_format"),
        "proxy:listen" | "proxy:port" | "proxy:gateway" | "proxy:hostonly" | "proxy:allow" => (),
        _ => note(Dropped, "px 0.10 does not document it"),
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn is_on(value: &str) -> bool {
    !["0", "false", "no"].contains(&value.to_ascii_lowercase().as_str())
}

fn milliseconds(value: &str) -> Option<u64> {
    let seconds: f64 = value.parse().ok().filter(|seconds: &f64| (0.001..=604_800.0).contains(seconds))?;
    // At most a week, so it fits.
    format!("{:.0}", seconds * 1000.0).parse().ok()
}

fn seconds(value: &str) -> Option<String> {
    milliseconds(value).map(|ms| if ms % 1000 == 0 { format!("{}s", ms / 1000) } else { format!("{ms}ms") })
}

fn no_proxy(value: &str, draft: &mut Draft, note: &mut impl FnMut(Outcome, &str)) {
    let refused: Vec<&str> = list(value).filter(|pattern| !draft.direct(pattern)).collect();
    note(Kept, "direct [[routes]]");
    for pattern in refused {
        note(Decide, &format!("{} has no counterpart; write it as a route", redact::shown(pattern)));
    }
}

fn auth(value: &str, draft: &mut Draft, note: &mut impl FnMut(Outcome, &str)) {
    match value.to_ascii_uppercase().as_str() {
        "NTLM" | "ONLYNTLM" => note(Kept, "auth ntlm, the default"),
        "ANY" | "ANYSAFE" => note(Kept, "NTLM, also under the scheme Negotiate; for Kerberos see auth"),
        "NEGOTIATE" | "ONLYNEGOTIATE" => {
            note(Decide, "NTLM under that scheme works as it is; for Kerberos set auth and kerberos.realm");
        }
        "BASIC" | "ONLYBASIC" => {
            draft.allow_basic = true;
            note(Decide, "allow_basic, which sends the password in clear text");
        }
        "NONE" => note(Decide, "the gateway always authenticates by itself; clients cannot"),
        "DIGEST" | "ONLYDIGEST" => note(Decide, "Digest is not supported"),
        _ => note(Decide, "only Kerberos, NTLM and Basic are supported; see auth and allow_basic"),
    }
}

/// Whether px serves other machines, and which.
fn clients(seen: &Seen<'_>, draft: &mut Draft, report: &mut Report) -> bool {
    let is_open = seen.gateway.is_some_and(|line| is_on(line.value));
    if let Some(line) = seen.gateway {
        report.note(line.number, line.key, Kept, if is_open { "addresses beyond loopback" } else { "loopback only" });
    }
    if let Some(line) = seen.hostonly.filter(|line| !is_on(line.value) || is_open) {
        report.note(line.number, line.key, Kept, "no other addresses than those of listen and gateway");
    } else if let Some(line) = seen.hostonly {
        let text = "for virtual machines and containers, add the host's address in their network to listen, and that \
                    network to allow_clients";
        report.note(line.number, line.key, Decide, text);
    }
    let own = seen.listen.map_or(DEFAULT_LISTEN, |line| line.value);
    let is_reachable = is_open || list(own).any(|address| !address.starts_with("127."));
    let mut admitted: Vec<IpNet> = Vec::new();
    let mut admits_all = seen.allow.is_none();
    if let Some(line) = seen.allow {
        for entry in list(line.value) {
            match networks::pattern(entry) {
                Some(found) if found.iter().any(|network| network.prefix_len() == 0) => admits_all = true,
                Some(found) => admitted.extend(found),
                None => report.note(line.number, line.key, Decide, format!("{} is no network", redact::shown(entry))),
            }
        }
        let text = if is_reachable { "allow_clients" } else { "it has no effect on loopback" };
        report.note(line.number, line.key, if is_reachable { Kept } else { Dropped }, text);
    }
    if is_reachable && admits_all {
        let text = "px admits every client; allow_clients has the private networks: narrow it down";
        report.note(seen.allow.map_or(0, |line| line.number), "allow", Decide, text);
        draft.allow_clients.extend(output::private_networks());
    } else if is_reachable {
        draft.allow_clients = admitted;
    }
    is_open
}

fn addresses(seen: &Seen<'_>, is_open: bool, draft: &mut Draft, report: &mut Report) {
    let port = seen.port.map_or(DEFAULT_PORT, |line| line.value);
    let own = seen.listen.map_or(DEFAULT_LISTEN, |line| line.value);
    let hosts: Vec<&str> = if is_open { vec!["0.0.0.0"] } else { list(own).collect() };
    for host in hosts {
        let (outcome, text) = draft.listen(format!("{host}:{port}"));
        for line in [seen.listen, seen.port].into_iter().flatten() {
            report.note(line.number, line.key, outcome, text.as_str());
        }
    }
}
