//! A real Squid that verifies NTLM with Samba's `ntlm_auth`, for one account and without a domain controller.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::PASSWORD;
use super::certificates::Issued;
use super::command::run;
use super::process::Process;
use super::scratch::{Scratch, accepts, free_port, wait_for};
use super::tools::{find, path_of, say};

/// How long Squid may take to accept its first connection on a busy machine.
const START_BOUND: Duration = Duration::from_secs(20);

/// How long it may take to answer a request without credentials, and to log it.
const LOG_BOUND: Duration = Duration::from_secs(10);

/// Begins the path of the requests that only mark a place in access.log.
const MARKER: &str = "/place-in-the-log/";

/// The format of access.log; [`LogLine::parse`] reads it back.
const LOG_FORMAT: &str = "%ul %Ss/%>Hs %rm %ru %{Proxy-Authorization}>h";

/// Options of a Squid.
pub struct SquidOptions {
    /// The maximum number of `ntlm_auth` helpers. Each serves one challenged connection until it is answered.
    pub helpers: u32,
    /// Further lines of squid.conf, before the access rules.
    pub extra: String,
    /// Offers Basic with these users and passwords instead of NTLM.
    pub basic: Option<Vec<(String, String)>>,
    /// Offers Negotiate with Kerberos instead of NTLM, or before it.
    pub kerberos: Option<SquidKerberos>,
    /// Asks the domain that winbind has joined, not one account of its own.
    pub asks_domain: bool,
    /// Serves TLS with this certificate, and nothing else.
    pub tls: Option<Issued>,
}

/// How a Squid verifies Kerberos.
#[derive(Clone)]
pub struct SquidKerberos {
    /// The keys of its service.
    pub keytab: PathBuf,
    /// The service, with its realm.
    pub principal: String,
    /// krb5.conf for its helper.
    pub krb5_conf: PathBuf,
    /// Whether it offers NTLM as well.
    pub with_ntlm: bool,
}

impl Default for SquidOptions {
    fn default() -> Self {
        Self { helpers: 20, extra: String::new(), basic: None, kerberos: None, asks_domain: false, tls: None }
    }
}

/// A running Squid on a loopback port.
pub struct Squid {
    process: Option<Process>,
    address: SocketAddr,
    scratch: Scratch,
    krb5_conf: Option<PathBuf>,
    is_tls: bool,
}

impl Squid {
    /// Starts a Squid that knows `CORP\alice` and waits until it accepts.
    pub fn start(options: &SquidOptions) -> Self {
        print_versions_once();
        let scratch = Scratch::new("squid");
        let krb5_conf = options.kerberos.as_ref().map(|kerberos| {
            let conf = std::fs::read(&kerberos.krb5_conf).expect("krb5.conf");
            let copy = scratch.write("krb5.conf", conf);
            std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).expect("chmod krb5.conf");
            copy
        });
        let mut failures = String::new();
        // Another process may have taken the free port in the meantime.
        for _ in 0..3 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            configure(&scratch, address, options);
            match launch(&scratch, address, krb5_conf.as_deref()) {
                Ok(process) => {
                    let is_tls = options.tls.is_some();
                    return Self { process: Some(process), address, scratch, krb5_conf, is_tls };
                }
                Err(log) => failures.push_str(&log),
            }
        }
        panic!("Squid did not start:\n{failures}");
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shuts it down as an operator would: its listening port closes, and open tunnels are cut within seconds.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(10));
        }
    }

    /// Kills it without a shutdown.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::ZERO);
        }
    }

    /// Starts it again on the same port with the same settings.
    pub fn restart(&mut self) {
        self.stop();
        let process = launch(&self.scratch, self.address, self.krb5_conf.as_deref())
            .unwrap_or_else(|log| panic!("Squid did not restart:\n{log}"));
        self.process = Some(process);
    }

    /// Gives it other keys for its service, from the next restart on.
    pub fn set_keytab(&self, keytab: &Path) {
        copy_keytab(&self.scratch, keytab);
    }

    /// The requests that it has logged: at least those that it had answered before this call, and each tunnel of which
    /// it has seen the end.
    pub fn log(&self) -> Vec<LogLine> {
        self.wait_for_what_it_has_answered();
        self.log_text().lines().filter(|line| !line.contains(MARKER)).filter_map(LogLine::parse).collect()
    }

    /// The requests that it has logged, once `count` tunnels have ended that it granted, or after a while without them.
    pub fn log_with_tunnels(&self, count: usize) -> Vec<LogLine> {
        let granted = |log: &[LogLine]| log.iter().filter(|line| line.status == "TCP_TUNNEL/200").count();
        wait_for(LOG_BOUND, || Some(self.log()).filter(|log| granted(log) >= count)).unwrap_or_else(|| self.log())
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(self.scratch.join("access.log")).unwrap_or_default()
    }

    /// Squid logs a request after its client has the answer, but requests in the order in which it answers them. So
    /// this sends one more and waits until that is logged. A Squid that has been stopped logs no more.
    fn wait_for_what_it_has_answered(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if self.process.is_none() || self.is_tls {
            return;
        }
        // Nothing listens there, for a Squid that lets the request pass.
        let target = format!("http://127.0.0.1:1{MARKER}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&self.address, LOG_BOUND)?;
            stream.set_read_timeout(Some(LOG_BOUND))?;
            write!(stream, "GET {target} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())
        };
        // While it restarts, it answers nothing.
        if ask().is_ok_and(|count| count > 0) {
            let logged = wait_for(LOG_BOUND, || self.log_text().contains(&format!("{target} ")).then_some(()));
            assert!(logged.is_some(), "Squid has answered a request for {target} and not logged it");
        }
    }

    /// How many logged requests carried this kind of credentials.
    pub fn count(&self, credentials: LoggedCredentials) -> usize {
        self.log().iter().filter(|line| line.credentials == credentials).count()
    }

    /// The content of its cache.log, which has the errors.
    pub fn cache_log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("cache.log")).unwrap_or_default()
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.cache_log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- last lines of Squid's cache.log ---");
            for line in lines.iter().skip(lines.len().saturating_sub(30)) {
                eprintln!("{line}");
            }
        }
        // Must end before its shared memory and its directory are removed.
        drop(self.process.take());
        remove_shared_memory(&self.scratch);
    }
}

/// What a logged request carried in Proxy-Authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedCredentials {
    /// No such field.
    None,
    /// NTLM with a NEGOTIATE_MESSAGE.
    Negotiate,
    /// NTLM with an AUTHENTICATE_MESSAGE.
    Authenticate,
    /// Negotiate with a token of SPNEGO for Kerberos.
    Kerberos,
    /// Anything else.
    Other,
}

/// One request, as Squid logged it.
#[derive(Debug)]
pub struct LogLine {
    /// The authenticated user, or `-`.
    pub user: String,
    /// Squid's result and the status sent, such as `TCP_DENIED/407`.
    pub status: String,
    /// The request's method.
    pub method: String,
    /// The request's target.
    pub target: String,
    /// The credentials that it carried.
    pub credentials: LoggedCredentials,
}

impl LogLine {
    /// Parses a line in [`LOG_FORMAT`]. Drops the message itself, which is derived from the password.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').map(str::to_owned);
        let (user, status) = (fields.next()?, fields.next()?);
        let (method, target, authorization) = (fields.next()?, fields.next()?, fields.next()?);
        // Base64 of "NTLMSSP\0" and the first byte of MessageType (MS-NLMP 2.2.1), for types 1 and 3.
        let credentials = match authorization.as_str() {
            "-" => LoggedCredentials::None,
            value if value.contains("TlRMTVNTUAAB") => LoggedCredentials::Negotiate,
            value if value.contains("TlRMTVNTUAAD") => LoggedCredentials::Authenticate,
            // The first byte of a NegTokenInit behind its tag.
            value if value.contains("Negotiate%20YI") || value.contains("Negotiate YI") => LoggedCredentials::Kerberos,
            _ => LoggedCredentials::Other,
        };
        Some(Self { user, status, method, target, credentials })
    }
}

/// Writes squid.conf and smb.conf, and makes the user that Squid will run as their owner.
fn configure(scratch: &Scratch, address: SocketAddr, options: &SquidOptions) {
    let directory = scratch.path().display();
    let samba = scratch.join("samba");
    std::fs::create_dir_all(&samba).expect("mkdir for Samba");
    let smb_conf = scratch.write("smb.conf", samba_conf(&samba));
    let users = scratch.write("users", basic_users(options.basic.as_deref().unwrap_or_default()));
    let ntlm = || ntlm_scheme((!options.asks_domain).then_some(smb_conf.as_path()), options.helpers);
    let scheme = match (&options.kerberos, &options.basic) {
        (Some(kerberos), _) => {
            copy_keytab(scratch, &kerberos.keytab);
            let ntlm = if kerberos.with_ntlm { ntlm() } else { String::new() };
            format!("{}\n{ntlm}", kerberos_scheme(scratch, kerberos, options.helpers))
        }
        // Otherwise it looks the user up in lower case.
        (None, Some(_)) => format!(
            "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\nauth_param basic casesensitive on",
            users.display()
        ),
        (None, None) => ntlm(),
    };
    // It reads both files before it changes to another user.
    let port = match &options.tls {
        Some(Issued { certificate, key }) => {
            format!("https_port {address} tls-cert={} tls-key={}", certificate.display(), key.display())
        }
        None => format!("http_port {address}"),
    };
    let mut conf = format!(
        "{port}\n\
         visible_hostname squid.test\n\
         {scheme}\n\
         acl authenticated proxy_auth REQUIRED\n\
         {extra}\n\
         http_access allow authenticated\n\
         http_access deny all\n\
         cache deny all\n\
         cache_mem 8 MB\n\
         max_filedescriptors 4096\n\
         pinger_enable off\n\
         shutdown_lifetime 1 second\n\
         pid_filename {directory}/squid.pid\n\
         coredump_dir {directory}\n\
         cache_log {directory}/cache.log\n\
         logformat rig {LOG_FORMAT}\n\
         access_log stdio:{directory}/access.log rig\n\
         logfile_rotate 0\n",
        extra = options.extra,
    );
    // Started as root, Squid switches to another user, who must own what it reads and writes.
    if rustix::process::geteuid().is_root() {
        let (user, uid, gid) = unprivileged_user();
        let _ = writeln!(conf, "cache_effective_user {user}");
        for path in [scratch.path(), &samba, &smb_conf, &users] {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown for Squid");
        }
    }
    scratch.write("squid.conf", conf);
}

/// NTLM for one account with settings of its own, or for the domain without any.
fn ntlm_scheme(smb_conf: Option<&Path>, helpers: u32) -> String {
    let account = smb_conf.map(|smb_conf| {
        format!(" --configfile={} --username=alice --domain=CORP --password={PASSWORD}", smb_conf.display())
    });
    format!(
        "auth_param ntlm program {ntlm_auth} --helper-protocol=squid-2.5-ntlmssp{account}\n\
         auth_param ntlm children {helpers} startup={startup} idle=1 queue-size=4096\n\
         auth_param ntlm keep_alive on",
        ntlm_auth = path_of("ntlm_auth").display(),
        account = account.unwrap_or_default(),
        startup = helpers.min(4),
    )
}

fn copy_keytab(scratch: &Scratch, keytab: &Path) {
    let copy = scratch.write("keytab", std::fs::read(keytab).expect("the keytab"));
    if rustix::process::geteuid().is_root() {
        let (_, uid, gid) = unprivileged_user();
        std::os::unix::fs::chown(copy, Some(uid), Some(gid)).expect("chown for Squid");
    }
}

fn kerberos_scheme(scratch: &Scratch, kerberos: &SquidKerberos, helpers: u32) -> String {
    format!(
        "auth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth -k {keytab} -s {principal}\n\
         auth_param negotiate children {helpers} startup={startup} idle=1 queue-size=4096\n\
         auth_param negotiate keep_alive on",
        keytab = scratch.join("keytab").display(),
        principal = kerberos.principal,
        startup = helpers.min(2),
    )
}

/// The file for `basic_ncsa_auth`: a user and the MD5 hash of a password on each line.
fn basic_users(users: &[(String, String)]) -> String {
    let line = |(user, password): &(String, String)| {
        let hash = run(path_of("openssl"), Duration::from_secs(10), |command| {
            command.args(["passwd", "-apr1", password]);
        });
        format!("{user}:{}\n", hash.text().trim())
    };
    users.iter().map(line).collect()
}

/// Settings that confine Samba's helper to its own directory. It checks the one password that it was started with.
fn samba_conf(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "[global]\n\
         workgroup = CORP\n\
         netbios name = SQUIDTEST\n\
         lock directory = {directory}\n\
         state directory = {directory}\n\
         cache directory = {directory}\n\
         private dir = {directory}\n\
         pid directory = {directory}\n\
         ncalrpc dir = {directory}/ncalrpc\n\
         log file = {directory}/log\n\
         ntlm auth = ntlmv2-only\n"
    )
}

/// A unique service name. Squid names its shared memory after it, and leftovers of another user's Squid under the
/// default name would prevent a start.
fn service_name(scratch: &Scratch) -> String {
    let directory = scratch.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    directory.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Removes the shared memory that a killed Squid leaves behind.
fn remove_shared_memory(scratch: &Scratch) {
    let prefix = format!("{}-", service_name(scratch));
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // It may already be gone.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Starts Squid in the foreground and waits until it accepts. Returns its logs if it does not.
fn launch(scratch: &Scratch, address: SocketAddr, krb5_conf: Option<&Path>) -> Result<Process, String> {
    let output = std::fs::File::create(scratch.join("output")).expect("create Squid's output file");
    let mut command = Process::command(path_of("squid"));
    command.args(["-N", "-n", &service_name(scratch), "-f"]).arg(scratch.join("squid.conf"));
    command.stdout(Stdio::null()).stderr(output);
    if let Some(krb5_conf) = krb5_conf {
        command.env("KRB5_CONFIG", krb5_conf).env("KRB5RCACHEDIR", scratch.path());
    }
    let mut process = Process::spawn("squid", &mut command);
    let accepting = wait_for(START_BOUND, || {
        if process.exit_status().is_some() {
            return Some(false);
        }
        accepts(address).then_some(true)
    });
    if accepting == Some(true) {
        return Ok(process);
    }
    process.stop(Duration::ZERO);
    remove_shared_memory(scratch);
    let read = |name| std::fs::read_to_string(scratch.join(name)).unwrap_or_default();
    // A recent pid file would prevent the next start.
    let _ = std::fs::remove_file(scratch.join("squid.pid"));
    Err(format!("{}\n{}", read("output"), read("cache.log")))
}

/// Prints the versions of the real software to the test's output, as evidence of what the tests ran against.
fn print_versions_once() {
    static SAID: std::sync::Once = std::sync::Once::new();
    let first_line = |program: &str, flag: &str| {
        // A Squid with Basic does not need `ntlm_auth`.
        let Some(program) = find(program) else { return "not found".to_owned() };
        let version = run(program, Duration::from_secs(10), |command| {
            command.arg(flag);
        });
        version.text().lines().next().unwrap_or_default().to_owned()
    };
    SAID.call_once(|| {
        let (squid, ntlm_auth) = (first_line("squid", "-v"), first_line("ntlm_auth", "--version"));
        say(&format!("running against real software: {squid}; ntlm_auth {ntlm_auth}"));
    });
}

/// The unprivileged user for a proxy with its ids: Debian's, Red Hat's, or `nobody`.
pub fn unprivileged_user() -> (&'static str, u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    ["proxy", "squid", "nobody"]
        .into_iter()
        .find_map(|name| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut ids = line.split(':').skip(2);
            Some((name, ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
        })
        .expect("a user that Squid can run as")
}
