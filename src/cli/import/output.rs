//! The new configuration as a file, and its secrets as files beside it.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::draft::{Draft, Secret};

/// The files of the secrets, relative to the configuration.
pub(super) const PASSWORD: &str = "./password";
pub(super) const NT_HASH: &str = "./nt-hash";

/// The bit of a directory's mode by which new files get its group.
const SET_GROUP_ID: u32 = 0o2000;

const HEAD: &str = "# Made by `ntlm-gateway import`. All settings: ntlm-gateway.toml(5), or docs/configuration.md.\n\n";

/// Added for a service, so that `guard show` finds the count that the unit has it keep.
const STORE_OF_THE_SERVICE: &str =
    "\n[guard]\n# The service's count of failed logons survives restarts.\nstore = \"file\"\n";

/// A secret's file: its name relative to the configuration, and its contents.
pub(super) struct SecretFile {
    name: &'static str,
    contents: Zeroizing<String>,
}

/// The networks that are private (RFC 1918, RFC 4193) or this machine.
pub(super) fn private_networks() -> Vec<IpNet> {
    let networks = ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
    networks.iter().filter_map(|network| network.parse().ok()).collect()
}

/// The configuration in TOML, and the secrets that belong beside it.
pub(super) fn made(draft: &Draft) -> (String, Vec<SecretFile>) {
    let mut out = String::from(HEAD);
    let mut put = |key: &str, value: toml::Value| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{key} = {value}");
    };
    match draft.upstreams.as_slice() {
        [one] => put("upstream", one.as_str().into()),
        [] => (),
        several => put("upstream", several.to_vec().into()),
    }
    if let Some(account) = draft.account() {
        put("user", account.as_str().into());
        if !account.contains(['\\', '@']) {
            // An account without a domain is intended.
            put("domain", draft.domain.clone().unwrap_or_default().into());
        }
    }
    let mut secrets = Vec::new();
    match &draft.secret {
        Some(Secret::NtHash(hash)) => {
            put("nt_hash_file", NT_HASH.into());
            secrets.push(SecretFile { name: NT_HASH, contents: Zeroizing::new(format!("{}\n", hash.as_str())) });
        }
        other => {
            put("password_file", PASSWORD.into());
            if let Some(Secret::Password(password)) = other {
                secrets
                    .push(SecretFile { name: PASSWORD, contents: Zeroizing::new(format!("{}\n", password.as_str())) });
            }
        }
    }
    if let Some(method) = draft.method {
        put("method", method.into());
    }
    if let Some(workstation) = &draft.workstation {
        put("workstation", workstation.as_str().into());
    }
    if draft.allow_basic {
        put("allow_basic", true.into());
    }
    if !draft.listen.is_empty() {
        put("listen", draft.listen.clone().into());
    }
    if !draft.allow_clients.is_empty() {
        put("allow_clients", texts(&draft.allow_clients));
    }
    if draft.idle.is_some() || draft.connect.is_some() {
        out.push_str("\n[timeouts]\n");
        for (key, value) in [("idle", &draft.idle), ("connect", &draft.connect)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = \"{value}\"");
            }
        }
    }
    tables(draft, &mut out);
    (out, secrets)
}

fn tables(draft: &Draft, out: &mut String) {
    for listener in &draft.listeners {
        let _ = writeln!(out, "\n[[listeners]]\naddress = {}", toml::Value::from(listener.address.as_str()));
        let _ = match &listener.target {
            Some(target) => writeln!(out, "target = {}", toml::Value::from(target.as_str())),
            None => writeln!(out, "protocols = [\"socks\"]"),
        };
    }
    let hosts = toml::Value::from(draft.direct_hosts.clone());
    let lists = [
        ("host", draft.direct_hosts.len(), hosts),
        ("network", draft.direct_networks.len(), texts(&draft.direct_networks)),
    ];
    for (key, _, list) in lists.iter().filter(|(_, count, _)| *count > 0) {
        let _ = writeln!(out, "\n[[routes]]\n{key} = {list}\nto = \"direct\"");
    }
}

fn texts(networks: &[IpNet]) -> toml::Value {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

/// Writes the configuration and the secrets, and says what was written. Nothing that exists is overwritten.
pub(super) fn write(out: &Path, config: &str, secrets: &[SecretFile]) -> Result<String, String> {
    let folder = out.parent().unwrap_or(Path::new(""));
    // A directory that passes its group on to new files is shared with the service that reads them.
    let is_shared = |folder: &Path| fs::metadata(folder).is_ok_and(|found| found.mode() & SET_GROUP_ID != 0);
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (secret_mode, store) = if is_shared(here) { (0o640, STORE_OF_THE_SERVICE) } else { (0o600, "") };
    let config = format!("{config}{store}");
    let files: Vec<_> = secrets
        .iter()
        .map(|secret| (folder.join(secret.name.trim_start_matches("./")), secret.contents.as_str(), secret_mode))
        .chain([(out.to_owned(), config.as_str(), 0o644)])
        .collect();
    if let Some((path, ..)) = files.iter().find(|(path, ..)| fs::symlink_metadata(path).is_ok()) {
        return Err(format!("{} exists; nothing was written", path.display()));
    }
    let mut written = String::new();
    for (path, contents, mode) in files {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(contents.as_bytes()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        let _ = writeln!(written, "wrote {}", path.display());
    }
    Ok(written)
}
