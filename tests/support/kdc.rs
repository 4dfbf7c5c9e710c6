//! A real MIT KDC for one realm, on a loopback port, with its database in a scratch directory.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::command::{Finished, run};
use super::process::Process;
use super::scratch::{Scratch, accepts, free_port, wait_for};
use super::tools::path_of;

/// How long the KDC may take to accept its first connection on a busy machine.
const START_BOUND: Duration = Duration::from_secs(20);

/// How long an administration command may take.
const COMMAND_BOUND: Duration = Duration::from_secs(30);

/// A password with which the database is encrypted; no test needs it.
const MASTER_PASSWORD: &str = "master";

/// Options of a KDC.
pub struct KdcOptions {
    /// Further lines of the realm's section in kdc.conf.
    pub realm_extra: String,
    /// Further lines of `[kdcdefaults]`, which configure what the KDC does for all realms.
    pub extra: String,
    /// The etypes for which keys are made.
    pub etypes: String,
    /// Further lines of `[libdefaults]` in krb5.conf, which is also the KDC's own.
    pub libdefaults: String,
    /// Further realms with their KDCs.
    pub other_realms: Vec<(String, SocketAddr)>,
    /// Further lines of krb5.conf.
    pub conf_extra: String,
}

impl Default for KdcOptions {
    fn default() -> Self {
        Self {
            realm_extra: String::new(),
            extra: String::new(),
            etypes: "aes256-cts-hmac-sha384-192:normal aes256-cts-hmac-sha1-96:normal \
                     aes128-cts-hmac-sha256-128:normal aes128-cts-hmac-sha1-96:normal"
                .into(),
            libdefaults: String::new(),
            other_realms: Vec::new(),
            conf_extra: String::new(),
        }
    }
}

/// A running KDC. Accounts must be pre-authenticated.
pub struct Kdc {
    process: Option<Process>,
    realm: String,
    address: SocketAddr,
    scratch: Scratch,
}

impl Kdc {
    /// Starts a KDC of `realm` with an empty database.
    pub fn start(realm: &str, options: &KdcOptions) -> Self {
        Self::start_at(realm, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), options)
    }

    /// As [`Kdc::start`], on an address that others know already.
    pub fn start_at(realm: &str, address: SocketAddr, options: &KdcOptions) -> Self {
        let scratch = Scratch::new("kdc");
        scratch.write("krb5.conf", krb5_conf(realm, address, options));
        scratch.write("kdc.conf", kdc_conf(&scratch, realm, address, options));
        let mut kdc = Self { process: None, realm: realm.to_owned(), address, scratch };
        kdc.tool("kdb5_util", &["create", "-s", "-P", MASTER_PASSWORD]).expect_success("kdb5_util");
        kdc.resume();
        kdc
    }

    /// Where it listens, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A krb5.conf that names it.
    pub fn krb5_conf(&self) -> PathBuf {
        self.scratch.join("krb5.conf")
    }

    /// Stops it.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(5));
        }
    }

    /// Starts it again with the same database on the same port.
    pub fn resume(&mut self) {
        let mut command = Process::command(path_of("krb5kdc"));
        self.environment(&mut command);
        command.arg("-n").stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Process::spawn("krb5kdc", &mut command));
        let address = self.address;
        let accepting = wait_for(START_BOUND, || accepts(address).then_some(()));
        assert!(accepting.is_some(), "the KDC does not start:\n{}", self.log());
    }

    /// Adds an account with a password.
    pub fn add_user(&self, name: &str, password: &str, options: &str) {
        self.kadmin(&format!("addprinc {options} -pw {password} {name}"));
    }

    /// Adds an account with a random key, and adds the key to a keytab, whose path is returned.
    pub fn add_with_keytab(&self, name: &str, options: &str, keytab: &str) -> PathBuf {
        self.kadmin(&format!("addprinc {options} -randkey {name}"));
        self.new_keys(name, keytab)
    }

    /// Gives an account new random keys, and adds them to a keytab, whose path is returned.
    pub fn new_keys(&self, name: &str, keytab: &str) -> PathBuf {
        let path = self.scratch.join(keytab);
        self.kadmin(&format!("ktadd -k {} {name}", path.display()));
        path
    }

    /// Runs a command of `kadmin.local`.
    pub fn kadmin(&self, query: &str) -> String {
        let finished = self.tool("kadmin.local", &["-q", query]).expect_success(query);
        // It reports errors with a status of success.
        let failed = ["kadmin.local:", "add_principal:", "ktadd:", "modify_principal:", "change_password:"];
        let error = finished.stderr.lines().find(|line| failed.iter().any(|prefix| line.starts_with(prefix)));
        assert_eq!(error, None, "{query}");
        finished.text()
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("kdc.log")).unwrap_or_default()
    }

    /// How many lines of its log contain all of these.
    pub fn count(&self, parts: &[&str]) -> usize {
        self.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> Finished {
        run(path_of(program), COMMAND_BOUND, |command| {
            self.environment(command);
            command.args(["-r", &self.realm]).args(arguments);
        })
    }

    fn environment(&self, command: &mut std::process::Command) {
        command.env("KRB5_CONFIG", self.krb5_conf()).env("KRB5_KDC_PROFILE", self.scratch.join("kdc.conf"));
        // The replay cache is beside the database then.
        command.env("KRB5RCACHEDIR", self.scratch.path());
    }
}

impl Drop for Kdc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of the KDC of {} ---\n{}", self.realm, self.log());
        }
        self.stop();
    }
}

fn krb5_conf(realm: &str, address: SocketAddr, options: &KdcOptions) -> String {
    let mut text = format!(
        "[libdefaults]\n default_realm = {realm}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
         dns_canonicalize_hostname = false\n rdns = false\n{}\n[realms]\n",
        options.libdefaults
    );
    let own = (realm.to_owned(), address);
    for (realm, address) in [own].iter().chain(&options.other_realms) {
        let _ = writeln!(text, " {realm} = {{\n  kdc = {address}\n }}");
    }
    text + &options.conf_extra
}

fn kdc_conf(scratch: &Scratch, realm: &str, address: SocketAddr, options: &KdcOptions) -> String {
    let directory = scratch.path().display();
    format!(
        "[kdcdefaults]\n kdc_listen = {address}\n kdc_tcp_listen = {address}\n{extra}\n\
         [realms]\n {realm} = {{\n  database_name = {directory}/principal\n  key_stash_file = {directory}/stash\n  \
         acl_file = {directory}/acl\n  default_principal_flags = +preauth\n  supported_enctypes = {etypes}\n  \
         max_life = 10h\n  max_renewable_life = 7d\n  {realm_extra}\n }}\n\
         [logging]\n kdc = FILE:{directory}/kdc.log\n",
        extra = options.extra,
        etypes = options.etypes,
        realm_extra = options.realm_extra,
    )
}
