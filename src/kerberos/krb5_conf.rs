//! krb5.conf, the parts that a client needs: the default realm, the KDCs of realms, the realms of hosts, and when UDP
//! is used.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::limits;

/// Where a KDC listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KdcAddress {
    /// A name or an address.
    pub host: String,
    /// Usually 88.
    pub port: u16,
    /// The only transport to use, if the configuration says so.
    pub only: Option<KdcTransport>,
}

/// How a KDC is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KdcTransport {
    /// One datagram each way.
    Udp,
    /// Messages with their length in front.
    Tcp,
}

/// What a krb5.conf says. Of several values for one thing the first counts, as in MIT's library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Krb5Conf {
    /// The realm of names without one.
    pub default_realm: Option<String>,
    /// Longer requests go by TCP first, in bytes. Zero or one: all do.
    pub udp_preference_limit: Option<usize>,
    /// Whether KDCs that are not listed are looked up in DNS.
    pub dns_lookup_kdc: Option<bool>,
    realms: Vec<(String, Vec<KdcAddress>)>,
    domains: Vec<(String, String)>,
}

/// Other files that a krb5.conf includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Include {
    /// `include`: one file.
    File(PathBuf),
    /// `includedir`: all files of a folder whose names consist of letters, digits, `-` and `_`, or end in `.conf`.
    Folder(PathBuf),
}

/// Why a krb5.conf cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Krb5ConfError {
    /// A line is not what it should be.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// A brace is never closed.
    #[error("a brace is not closed")]
    Open,
    /// It is too long, with what it includes.
    #[error("the file and what it includes is too long: at most {} bytes are read", limits::KRB5_CONF_BYTES)]
    TooLong,
}

impl KdcAddress {
    /// Reads `host`, `host:port`, `[address]:port`, or one of them behind `tcp/` or `udp/`. `None` for anything else,
    /// such as a KDC proxy (`https://…`).
    pub fn parse(text: &str) -> Option<KdcAddress> {
        let (only, place) = match text.split_once('/') {
            None => (None, text),
            Some(("tcp", place)) => (Some(KdcTransport::Tcp), place),
            Some(("udp", place)) => (Some(KdcTransport::Udp), place),
            Some(_) => return None,
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(place) => {
                let (host, behind) = place.split_once(']')?;
                (host, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
            }
            // More than one colon: an IPv6 address without a port.
            None if place.matches(':').count() > 1 => (place, None),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(limits::KDC_PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
        let is_host = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_' | ':' | '%');
        let fits = !host.is_empty() && host.len() <= limits::KERBEROS_NAME_BYTES && host.chars().all(is_host);
        fits.then(|| KdcAddress { host: host.to_owned(), port, only })
    }
}

impl Krb5Conf {
    /// Reads a file's text. `include` returns the texts of what a line includes, in order.
    ///
    /// # Errors
    /// [`Krb5ConfError`] if it is malformed. What is not known is ignored.
    pub fn parse(text: &str, include: &mut dyn FnMut(&Include) -> Vec<String>) -> Result<Krb5Conf, Krb5ConfError> {
        let mut conf = Krb5Conf::default();
        let mut bytes_left = limits::KRB5_CONF_BYTES;
        conf.read(text, include, limits::KRB5_CONF_INCLUDE_DEPTH, &mut bytes_left)?;
        Ok(conf)
    }

    /// The KDCs of a realm, in the order in which they are asked.
    pub fn kdcs(&self, realm: &str) -> &[KdcAddress] {
        self.realms.iter().find(|(name, _)| name == realm).map_or(&[], |(_, kdcs)| kdcs)
    }

    /// The realms whose KDCs are listed.
    pub fn realms(&self) -> impl Iterator<Item = &str> {
        self.realms.iter().map(|(name, _)| name.as_str())
    }

    /// The realm of a host: that of its name, or of the longest domain that it is in.
    pub fn realm_of_host(&self, host: &str) -> Option<&str> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let exact = |key: &str| self.domains.iter().find(|(domain, _)| domain == key).map(|(_, realm)| realm.as_str());
        let parents = host.match_indices('.').map(|(at, _)| &host[at..]);
        exact(&host).or_else(|| parents.into_iter().find_map(|parent| exact(parent).or_else(|| exact(&parent[1..]))))
    }

    fn read(
        &mut self,
        text: &str,
        include: &mut dyn FnMut(&Include) -> Vec<String>,
        depth: usize,
        bytes_left: &mut usize,
    ) -> Result<(), Krb5ConfError> {
        *bytes_left = bytes_left.checked_sub(text.len()).ok_or(Krb5ConfError::TooLong)?;
        // The section, then the names of the braces that are open.
        let mut path: Vec<String> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let at = |problem| Krb5ConfError::Line { line: number + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(included) = included(line) {
                if depth == 0 {
                    return Err(at("files are included too deeply"));
                }
                for text in include(&included) {
                    self.read(&text, include, depth - 1, bytes_left)?;
                }
                continue;
            }
            if let Some(section) = line.strip_prefix('[') {
                let (name, _) = section.split_once(']').ok_or_else(|| at("a section has no closing bracket"))?;
                if path.len() > 1 {
                    return Err(at("a section begins within braces"));
                }
                path = vec![name.trim().to_owned()];
                continue;
            }
            if line.starts_with('}') {
                if path.len() < 2 {
                    return Err(at("a brace is closed that was not opened"));
                }
                path.pop();
                continue;
            }
            // Lines that load code are not for us.
            if line.starts_with("module ") {
                continue;
            }
            let (key, value) = line.split_once('=').ok_or_else(|| at("a line has no equals sign"))?;
            if path.is_empty() {
                return Err(at("a value is in no section"));
            }
            let (key, value) = (key.trim().trim_end_matches('*'), value.trim());
            if value == "{" {
                if path.len() > limits::KRB5_CONF_INCLUDE_DEPTH {
                    return Err(at("braces are nested too deeply"));
                }
                path.push(key.to_owned());
                continue;
            }
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.set(&path, key, value.trim_matches('"'));
        }
        match path.len() {
            0 | 1 => Ok(()),
            _ => Err(Krb5ConfError::Open),
        }
    }

    fn set(&mut self, path: &[&str], key: &str, value: &str) {
        match (path, key) {
            (["libdefaults"], "default_realm") => first(&mut self.default_realm, Some(value.to_owned())),
            (["libdefaults"], "udp_preference_limit") => first(&mut self.udp_preference_limit, value.parse().ok()),
            (["libdefaults"], "dns_lookup_kdc") => first(&mut self.dns_lookup_kdc, boolean(value)),
            (["realms", realm], "kdc") => {
                let Some(address) = KdcAddress::parse(value) else { return };
                match self.realms.iter_mut().find(|(name, _)| name == realm) {
                    Some((_, kdcs)) if kdcs.len() < limits::KDCS_PER_REALM => kdcs.push(address),
                    Some(_) => {}
                    None => self.realms.push(((*realm).to_owned(), vec![address])),
                }
            }
            (["domain_realm"], _) => self.domains.push((key.to_ascii_lowercase(), value.to_owned())),
            _ => {}
        }
    }
}

fn first<T>(slot: &mut Option<T>, value: Option<T>) {
    if slot.is_none() {
        *slot = value;
    }
}

fn included(line: &str) -> Option<Include> {
    let (directive, path) = line.split_once([' ', '\t'])?;
    let path = Path::new(path.trim()).to_path_buf();
    match directive {
        "include" => Some(Include::File(path)),
        "includedir" => Some(Include::Folder(path)),
        _ => None,
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" | "nil" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Krb5Conf, Krb5ConfError> {
        Krb5Conf::parse(text, &mut |_| Vec::new())
    }

    #[test]
    fn the_parts_that_matter_are_read() {
        let conf = parsed(
            "# a comment\n\
             [logging]\n default = FILE:/var/log/krb5libs.log\n\
             [libdefaults]\n\tdefault_realm = EXAMPLE.COM\n default_realm = SECOND\n udp_preference_limit = 1\n\
             dns_lookup_kdc = no\n permitted_enctypes = aes256-cts\n\
             [realms]\n EXAMPLE.COM = {\n  kdc = kdc1.example.com\n  kdc = tcp/kdc2.example.com:750\n\
             kdc = https://kdcproxy.example.com/KdcProxy\n kdc = [2001:db8::1]:89\n  admin_server = a\n\
             auth_to_local_names = {\n a = b\n }\n }\n\
             OTHER = {\n kdc = 10.0.0.1\n }\n\
             [domain_realm]\n .example.com = EXAMPLE.COM\n example.com = EXAMPLE.COM\n\
             .sub.example.com = SUB\n special.example.com = SPECIAL\n",
        )
        .unwrap();
        assert_eq!(conf.default_realm.as_deref(), Some("EXAMPLE.COM"));
        assert_eq!((conf.udp_preference_limit, conf.dns_lookup_kdc), (Some(1), Some(false)));
        let address = |host: &str, port, only| KdcAddress { host: host.into(), port, only };
        let kdcs = [
            address("kdc1.example.com", 88, None),
            address("kdc2.example.com", 750, Some(KdcTransport::Tcp)),
            address("2001:db8::1", 89, None),
        ];
        assert_eq!(conf.kdcs("EXAMPLE.COM"), kdcs);
        assert_eq!(conf.kdcs("OTHER"), [address("10.0.0.1", 88, None)]);
        assert_eq!(conf.kdcs("UNKNOWN"), []);
        for (host, realm) in [
            ("proxy.example.com", Some("EXAMPLE.COM")),
            ("PROXY.Example.com.", Some("EXAMPLE.COM")),
            ("example.com", Some("EXAMPLE.COM")),
            ("a.sub.example.com", Some("SUB")),
            ("special.example.com", Some("SPECIAL")),
            ("other.test", None),
        ] {
            assert_eq!(conf.realm_of_host(host), realm, "{host}");
        }
    }

    #[test]
    fn included_files_count_in_their_place() {
        let mut asked = Vec::new();
        let conf =
            Krb5Conf::parse("includedir /etc/krb5.conf.d\n[libdefaults]\ndefault_realm = LATER\n", &mut |include| {
                asked.push(include.clone());
                vec!["[libdefaults]\ndefault_realm = FIRST\n".to_owned()]
            });
        assert_eq!(conf.unwrap().default_realm.as_deref(), Some("FIRST"));
        assert_eq!(asked, [Include::Folder("/etc/krb5.conf.d".into())]);
        let endless = Krb5Conf::parse("include a", &mut |_| vec!["include a".to_owned()]);
        assert!(matches!(endless, Err(Krb5ConfError::Line { .. })));
        let long = Krb5Conf::parse("include a", &mut |_| vec!["#".repeat(limits::KRB5_CONF_BYTES)]);
        assert_eq!(long, Err(Krb5ConfError::TooLong));
    }

    #[test]
    fn a_malformed_file_is_reported_with_its_line() {
        for (text, line) in [
            ("a = b\n", 1),
            ("[libdefaults]\nnothing\n", 2),
            ("[libdefaults\n", 1),
            ("[realms]\n}\n", 2),
            ("[realms]\nR = {\n[libdefaults]\n", 3),
        ] {
            assert!(matches!(parsed(text), Err(Krb5ConfError::Line { line: at, .. }) if at == line), "{text}");
        }
        assert_eq!(parsed("[realms]\nR = {\n"), Err(Krb5ConfError::Open));
    }

    #[test]
    fn what_is_no_address_of_a_kdc_is_none() {
        for text in ["", "a:0", "a:b", "[::1", "[::1]88", "http://a", "a b", "tcp/"] {
            assert_eq!(KdcAddress::parse(text), None, "{text}");
        }
    }
}
