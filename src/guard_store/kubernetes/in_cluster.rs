//! How a pod reaches its cluster's API: an address from the environment, and a service account's files.
//!
//! Kubernetes documents both under "Accessing the Kubernetes API from a Pod".

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::super::cell::{Reason, StoreFault};
use crate::limits::SERVICE_ACCOUNT_FILE_BYTES;

/// Where Kubernetes mounts the service account of a pod.
pub const SERVICE_ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Longest name of a namespace (an RFC 1123 label).
const LABEL_BYTES: usize = 63;

/// Longest name of a Lease (an RFC 1123 subdomain).
const SUBDOMAIN_BYTES: usize = 253;

/// The API's address, the pod's namespace, and the directory with the service account's token and the API's CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InCluster {
    origin: String,
    namespace: String,
    directory: PathBuf,
}

impl InCluster {
    /// Reads `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, which Kubernetes sets in every container, and the
    /// namespace in `directory` (in a pod [`SERVICE_ACCOUNT_DIRECTORY`]).
    ///
    /// # Errors
    /// As for [`InCluster::new`], or if a variable is missing.
    pub fn from_environment(directory: &Path) -> Result<Self, StoreFault> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| {
                refused(format!("{name} is not set: the store `kubernetes` needs a gateway that runs in a pod"))
            })
        };
        Self::new(&variable("KUBERNETES_SERVICE_HOST")?, &variable("KUBERNETES_SERVICE_PORT")?, directory)
    }

    /// The API at this host, which is a name, an IPv4 address, or an IPv6 address with or without brackets.
    ///
    /// # Errors
    /// [`StoreFault::Refused`] if the host, the port or the namespace is invalid, or if the file with the namespace
    /// cannot be read.
    pub fn new(host: &str, port: &str, directory: &Path) -> Result<Self, StoreFault> {
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| refused(format!("KUBERNETES_SERVICE_PORT is no port: {port:?}")))?;
        let host = host_in_url(host).ok_or_else(|| refused(format!("KUBERNETES_SERVICE_HOST is no host: {host:?}")))?;
        let cluster = Self {
            origin: format!("https://{host}:{port}"),
            namespace: String::new(),
            directory: directory.to_owned(),
        };
        let file = cluster.directory.join("namespace");
        let namespace = String::from_utf8(cluster.read("namespace")?.to_vec()).unwrap_or_default();
        let namespace = namespace.trim();
        if !is_name(namespace, LABEL_BYTES, false) {
            return Err(refused(format!("{} does not contain the name of a namespace", file.display())));
        }
        Ok(Self { namespace: namespace.to_owned(), ..cluster })
    }

    /// Scheme, host and port of the API.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The pod's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The file with the certificates that sign the API's.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The file with the service account's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Reads the service account's token. The kubelet replaces it before it expires, so it is read for each request.
    ///
    /// # Errors
    /// [`StoreFault::Refused`] if the file cannot be read, or holds no token.
    pub fn token(&self) -> Result<Zeroizing<String>, StoreFault> {
        let bytes = self.read("token")?;
        let token = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused(format!("{} does not contain a token", self.token_file().display())));
        }
        Ok(Zeroizing::new(token.to_owned()))
    }

    /// Reads the certificates that sign the API's, in PEM.
    ///
    /// # Errors
    /// [`StoreFault::Refused`] if the file cannot be read.
    pub fn ca(&self) -> Result<Vec<u8>, StoreFault> {
        Ok(self.read("ca.crt")?.to_vec())
    }

    fn read(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, StoreFault> {
        let path = self.directory.join(name);
        let cannot = |why: String| {
            let hint = "does the pod mount its service account's token (automountServiceAccountToken)?";
            refused(format!("cannot read {}: {why}; {hint}", path.display()))
        };
        let file = File::open(&path).map_err(|error| cannot(error.to_string()))?;
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(SERVICE_ACCOUNT_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| cannot(error.to_string()))?;
        if bytes.len() as u64 > SERVICE_ACCOUNT_FILE_BYTES {
            return Err(refused(format!("{} is longer than {SERVICE_ACCOUNT_FILE_BYTES} bytes", path.display())));
        }
        Ok(bytes)
    }
}

/// Whether Kubernetes accepts this as the name of a Lease (RFC 1123 subdomain).
#[must_use]
pub fn is_lease_name(name: &str) -> bool {
    is_name(name, SUBDOMAIN_BYTES, true)
}

fn is_name(name: &str, limit_bytes: usize, with_dots: bool) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= limit_bytes && if with_dots { name.split('.').all(is_label) } else { is_label(name) }
}

fn host_in_url(host: &str) -> Option<String> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    match bare.parse() {
        Ok(IpAddr::V6(address)) => Some(format!("[{address}]")),
        Ok(IpAddr::V4(address)) if bare == host => Some(address.to_string()),
        Ok(IpAddr::V4(_)) => None,
        Err(_) => is_name(&host.to_ascii_lowercase(), SUBDOMAIN_BYTES, true).then(|| host.to_owned()),
    }
}

fn refused(reason: String) -> StoreFault {
    StoreFault::Refused(Reason(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of a service account, removed when dropped.
    struct Account(PathBuf);

    impl Account {
        fn new(test: &str) -> Self {
            let name = format!("ntlm-gateway-in-cluster-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).expect("a directory");
            let account = Self(path);
            account.write("namespace", "egress");
            account
        }

        fn write(&self, name: &str, contents: &str) {
            std::fs::write(self.0.join(name), contents).expect("a file");
        }
    }

    impl Drop for Account {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn reason(fault: StoreFault) -> String {
        match fault {
            StoreFault::Refused(reason) => reason.0,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn ipv6_hosts_are_put_in_brackets_once() {
        let account = Account::new("hosts");
        for (host, origin) in [
            ("10.96.0.1", "https://10.96.0.1:443"),
            ("fd00::1", "https://[fd00::1]:443"),
            ("[fd00::1]", "https://[fd00::1]:443"),
            ("kubernetes.default.svc", "https://kubernetes.default.svc:443"),
        ] {
            let cluster = InCluster::new(host, "443", &account.0).expect(host);
            assert_eq!((cluster.origin(), cluster.namespace()), (origin, "egress"));
        }
    }

    #[test]
    fn hosts_and_ports_that_would_change_the_url_are_rejected() {
        let account = Account::new("bad-hosts");
        for (host, port) in [
            ("", "443"),
            ("a b", "443"),
            ("host/path", "443"),
            ("user@host", "443"),
            ("[10.0.0.1]", "443"),
            ("host", "0"),
            ("host", "65536"),
            ("host", "443/x"),
        ] {
            let fault = InCluster::new(host, port, &account.0).expect_err(host);
            assert!(reason(fault).starts_with("KUBERNETES_SERVICE_"), "{host}:{port}");
        }
    }

    #[test]
    fn a_namespace_that_is_no_name_is_rejected_with_its_file() {
        let account = Account::new("namespace");
        for contents in ["", "../kube-system", "Upper", "-a", "a.b", &"a".repeat(64)] {
            account.write("namespace", contents);
            let fault = InCluster::new("host", "443", &account.0).expect_err(contents);
            assert!(reason(fault).contains("/namespace does not contain"), "{contents}");
        }
        account.write("namespace", "egress\n");
        assert_eq!(InCluster::new("host", "443", &account.0).expect("valid").namespace(), "egress");
    }

    #[test]
    fn the_token_is_read_again_each_time_and_never_shown() {
        let account = Account::new("token");
        let cluster = InCluster::new("host", "443", &account.0).expect("valid");
        assert!(reason(cluster.token().expect_err("missing")).contains("automountServiceAccountToken"));
        for token in ["first", "second\n"] {
            account.write("token", token);
            assert_eq!(*cluster.token().expect("a token"), token.trim());
        }
        for contents in ["", " \n", "two words", "a\r\nX-Header: b", "grün"] {
            account.write("token", contents);
            let reason = reason(cluster.token().expect_err(contents));
            assert!(reason.ends_with("/token does not contain a token"), "{reason}");
        }
    }

    #[test]
    fn a_file_of_the_service_account_is_not_read_beyond_its_limit() {
        let account = Account::new("long");
        let cluster = InCluster::new("host", "443", &account.0).expect("valid");
        account.write("ca.crt", &"x".repeat(300 * 1024));
        assert!(reason(cluster.ca().expect_err("too long")).contains("is longer than"));
    }

    #[test]
    fn names_of_leases_follow_rfc_1123() {
        for name in ["ntlm-gateway-guard", "a.b", "0"] {
            assert!(is_lease_name(name), "{name}");
        }
        for name in ["", "a/b", "A", "a..b", "-a", "a?watch=1", &"a".repeat(254)] {
            assert!(!is_lease_name(name), "{name}");
        }
    }
}
