//! A real Squid that verifies NTLM with Samba's `ntlm_auth`, one account, no domain controller.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::PASSWORD;
use super::command::run;
use super::process::Process;
use super::scratch::{Scratch, accepts, free_port, wait_for};
use super::tools::{find, path_of, say};

/// How long Squid may take to accept its first connection on a busy machine.
const START_BOUND: Duration = Duration::from_secs(20);

/// The format of access.log; [`LogLine::parse`] reads it back.
const LOG_FORMAT: &str = "%ul %Ss/%>Hs %rm %ru %{Proxy-Authorization}>h";

/// What a test may choose about its Squid.
pub struct SquidOptions {
    /// Most `ntlm_auth` helpers at once; each holds one challenged connection until it is answered.
    pub helpers: u32,
    /// Further lines of squid.conf, ahead of the access rules.
    pub extra: String,
    /// It asks for Basic with these users and passwords, and not for NTLM.
    pub basic: Option<Vec<(String, String)>>,
}

impl Default for SquidOptions {
    fn default() -> Self {
        Self { helpers: 20, extra: String::new(), basic: None }
    }
}

/// A running Squid on a loopback port.
pub struct Squid {
    process: Option<Process>,
    address: SocketAddr,
    scratch: Scratch,
}

impl Squid {
    /// Starts a Squid that knows `CORP\alice` and waits until it accepts.
    pub fn start(options: &SquidOptions) -> Self {
        say_versions_once();
        let scratch = Scratch::new("squid");
        let mut failures = String::new();
        // The port was free a moment ago; another process may have been quicker.
        for _ in 0..3 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            configure(&scratch, address, options);
            match launch(&scratch, address) {
                Ok(process) => {
                    return Self { process: Some(process), address, scratch };
                }
                Err(log) => failures.push_str(&log),
            }
        }
        panic!("Squid did not start:\n{failures}");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as an operator would; its listening port closes, open tunnels are cut within seconds.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(10));
        }
    }

    /// Ends it without a word to anybody.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::ZERO);
        }
    }

    /// Starts it again on the same port with the same settings.
    pub fn restart(&mut self) {
        self.stop();
        let process = launch(&self.scratch, self.address).unwrap_or_else(|log| panic!("Squid did not restart:\n{log}"));
        self.process = Some(process);
    }

    /// The requests it has logged. A refused one is logged at once, a tunnel when it closes.
    pub fn log(&self) -> Vec<LogLine> {
        let text = std::fs::read_to_string(self.scratch.join("access.log")).unwrap_or_default();
        text.lines().filter_map(LogLine::parse).collect()
    }

    /// How many requests of its log carried this leg of NTLM.
    pub fn count(&self, leg: Leg) -> usize {
        self.log().iter().filter(|line| line.leg == leg).count()
    }

    /// Its own account of what went wrong.
    pub fn cache_log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("cache.log")).unwrap_or_default()
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.cache_log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- Squid's cache.log, its last lines ---");
            for line in lines.iter().skip(lines.len().saturating_sub(30)) {
                eprintln!("{line}");
            }
        }
        // Ended before its memory and its directory go.
        drop(self.process.take());
        remove_shared_memory(&self.scratch);
    }
}

/// What a request carried in Proxy-Authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// No such field.
    None,
    /// NTLM with a NEGOTIATE_MESSAGE.
    Negotiate,
    /// NTLM with an AUTHENTICATE_MESSAGE.
    Authenticate,
    /// Anything else.
    Other,
}

/// One request, as Squid logged it.
#[derive(Debug)]
pub struct LogLine {
    /// The user Squid holds the client for, or `-`.
    pub user: String,
    /// Squid's verdict and the status sent, such as `TCP_DENIED/407`.
    pub status: String,
    /// The request's method.
    pub method: String,
    /// The request's target.
    pub target: String,
    /// What it carried of NTLM.
    pub leg: Leg,
}

impl LogLine {
    /// Reads a line in [`LOG_FORMAT`]. The message itself is dropped: it is the answer to a challenge.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').map(str::to_owned);
        let (user, status) = (fields.next()?, fields.next()?);
        let (method, target, authorization) = (fields.next()?, fields.next()?, fields.next()?);
        // Base64 of "NTLMSSP\0" and the first byte of MessageType (MS-NLMP 2.2.1), for types 1 and 3.
        let leg = match authorization.as_str() {
            "-" => Leg::None,
            value if value.contains("TlRMTVNTUAAB") => Leg::Negotiate,
            value if value.contains("TlRMTVNTUAAD") => Leg::Authenticate,
            _ => Leg::Other,
        };
        Some(Self { user, status, method, target, leg })
    }
}

/// Writes squid.conf and smb.conf, and gives the directory to the user Squid will run as.
fn configure(scratch: &Scratch, address: SocketAddr, options: &SquidOptions) {
    let directory = scratch.path().display();
    let samba = scratch.join("samba");
    std::fs::create_dir_all(&samba).expect("mkdir for Samba");
    let smb_conf = scratch.write("smb.conf", samba_conf(&samba));
    let users = scratch.write("users", basic_users(options.basic.as_deref().unwrap_or_default()));
    let scheme = match options.basic {
        // Or else it looks the user up in lower case.
        Some(_) => format!(
            "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\nauth_param basic casesensitive on",
            users.display()
        ),
        None => ntlm_scheme(&smb_conf, options.helpers),
    };
    let mut conf = format!(
        "http_port {address}\n\
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
    // Started as root, Squid gives root up; what it reads and writes must then belong to that user.
    if rustix::process::geteuid().is_root() {
        let (user, uid, gid) = unprivileged_user();
        let _ = writeln!(conf, "cache_effective_user {user}");
        for path in [scratch.path(), &samba, &smb_conf, &users] {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("chown for Squid");
        }
    }
    scratch.write("squid.conf", conf);
}

fn ntlm_scheme(smb_conf: &Path, helpers: u32) -> String {
    format!(
        "auth_param ntlm program {ntlm_auth} --helper-protocol=squid-2.5-ntlmssp --configfile={smb_conf} \
         --username=alice --domain=CORP --password={PASSWORD}\n\
         auth_param ntlm children {helpers} startup={startup} idle=1 queue-size=4096\n\
         auth_param ntlm keep_alive on",
        ntlm_auth = path_of("ntlm_auth").display(),
        smb_conf = smb_conf.display(),
        startup = helpers.min(4),
    )
}

/// The file that `basic_ncsa_auth` reads: a user and the MD5 of a password, a line.
fn basic_users(users: &[(String, String)]) -> String {
    let line = |(user, password): &(String, String)| {
        let hash = run(path_of("openssl"), Duration::from_secs(10), |command| {
            command.args(["passwd", "-apr1", password]);
        });
        format!("{user}:{}\n", hash.text().trim())
    };
    users.iter().map(line).collect()
}

/// Settings that keep Samba's helper in its own directory; it checks the one password it was started with.
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

/// A name of this Squid's own. Squid names its shared memory after its service, and one that another user's Squid
/// left behind under the usual name would keep it from starting.
fn service_name(scratch: &Scratch) -> String {
    let directory = scratch.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    directory.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Removes the shared memory that a Squid which was killed could not remove itself.
fn remove_shared_memory(scratch: &Scratch) {
    let prefix = format!("{}-", service_name(scratch));
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // Gone already is as good.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Starts Squid in the foreground and waits until it accepts; its logs when it does not.
fn launch(scratch: &Scratch, address: SocketAddr) -> Result<Process, String> {
    let output = std::fs::File::create(scratch.join("output")).expect("create Squid's output file");
    let mut command = Process::command(path_of("squid"));
    command.args(["-N", "-n", &service_name(scratch), "-f"]).arg(scratch.join("squid.conf"));
    command.stdout(Stdio::null()).stderr(output);
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
    // A fresh pid file would keep the next try from starting.
    let _ = std::fs::remove_file(scratch.join("squid.pid"));
    Err(format!("{}\n{}", read("output"), read("cache.log")))
}

/// Names the real software in the test's output, so that a reader of it need not trust the tests' names.
fn say_versions_once() {
    static SAID: std::sync::Once = std::sync::Once::new();
    let first_line = |program: &str, flag: &str| {
        // A Squid that asks for Basic does without `ntlm_auth`.
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

/// Debian's, Red Hat's and everyone's user for a proxy, with its ids.
fn unprivileged_user() -> (&'static str, u32, u32) {
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
