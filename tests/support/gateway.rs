//! The gateway under test as a separate process.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::process::{LIFETIME_BOUND, Process, bounded_command};
use super::scratch::{Scratch, wait_for};
use super::tools::path_of;
use super::vitals::get;
use super::{PASSWORD, USER, metrics};

/// The program under test.
pub const GATEWAY: &str = env!("CARGO_BIN_EXE_ntlm-gateway");

/// How long the gateway may take to log its addresses.
const START_BOUND: Duration = Duration::from_secs(20);

const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Options of a gateway under test.
pub struct GatewayOptions {
    /// Each becomes an `--upstream`.
    pub upstreams: Vec<String>,
    /// For `--user`.
    pub user: String,
    /// The content of the file for `--password-file`.
    pub password: String,
    /// A file to use instead of one written from `password`.
    pub password_file: Option<PathBuf>,
    /// The file contains the NT hash and is passed with `--nt-hash-file`.
    pub secret_is_hash: bool,
    /// For `--listen`; by default a free port.
    pub listen: SocketAddr,
    /// For `--admin`; by default a free port.
    pub admin: SocketAddr,
    /// Whether `args` alone provide the account, its secret and the upstreams, for example in a configuration file.
    pub only_args: bool,
    /// Further arguments of `run`.
    pub args: Vec<String>,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
    /// A shell line to run first in the same process: limits, a control group, another user.
    pub setup: Option<String>,
    /// Files to mount over others, for this process only. The test must first call
    /// [`super::tools::skip_without_mounts`].
    pub mounts: Vec<(PathBuf, &'static str)>,
    /// How long it may run, whatever happens to the test.
    pub lifetime: Duration,
}

impl GatewayOptions {
    /// The options for one upstream, with the user and password that it accepts.
    pub fn through(upstream: SocketAddr) -> Self {
        Self {
            upstreams: vec![upstream.to_string()],
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            password_file: None,
            secret_is_hash: false,
            listen: ANY_PORT,
            admin: ANY_PORT,
            only_args: false,
            args: Vec::new(),
            env: Vec::new(),
            setup: None,
            mounts: Vec::new(),
            lifetime: LIFETIME_BOUND,
        }
    }
}

/// A running gateway.
pub struct Gateway {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    scratch: Scratch,
}

impl Gateway {
    /// Starts it and waits until it has logged its addresses.
    pub fn start(options: &GatewayOptions) -> Self {
        let scratch = Scratch::new("gateway");
        let own_file = scratch.write("password", format!("{}\n", options.password));
        let password_file = options.password_file.as_ref().unwrap_or(&own_file);
        let mut command = command_of(options);
        let (listen, admin) = (options.listen.to_string(), options.admin.to_string());
        command.args(["run", "--listen", &listen, "--admin", &admin]);
        if !options.only_args {
            command.args(["--user", &options.user]);
            command.arg(if options.secret_is_hash { "--nt-hash-file" } else { "--password-file" }).arg(password_file);
            command.args(options.upstreams.iter().flat_map(|upstream| ["--upstream", upstream]));
        }
        command.args(&options.args).env_remove("RUST_LOG").envs(options.env.iter().map(|(k, v)| (k, v)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn("ntlm-gateway", &mut command);
        let log = collect_lines(&mut process);
        let find = |marker: &str| {
            let lines = log.lock().unwrap_or_else(PoisonError::into_inner);
            // Text lines have it after the level, JSON lines at the beginning of the message.
            let markers = [format!("INFO  {marker}"), format!("\"message\":\"{marker}")];
            lines.iter().find_map(|line| markers.iter().find_map(|marker| address_after(line, marker)))
        };
        let addresses = wait_for(START_BOUND, || {
            let both = find("listening on ").zip(find("admin on http://"));
            if both.is_none() && process.exit_status().is_some() {
                return Some(None);
            }
            both.map(Some)
        });
        let Some((listen, admin)) = addresses.flatten() else {
            let lines = log.lock().unwrap_or_else(PoisonError::into_inner);
            panic!("the gateway did not start ({:?}); its output:\n{}", process.exit_status(), lines.join("\n"));
        };
        Self { process, listen, admin, log, scratch }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where clients connect, as the URL for `https_proxy` and `curl --proxy`.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Where its metrics and health are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until a log line contains `part`, and returns that line.
    pub fn wait_for_line(&self, part: &str) -> String {
        let line = || self.log().into_iter().find(|line| line.contains(part));
        wait_for(START_BOUND, line).unwrap_or_else(|| panic!("no log line contains {part:?}"))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.process.exit_status().is_none()
    }

    /// Its current and highest memory from /proc, in KiB: VmRSS and VmHWM.
    pub fn memory_kib(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.process.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {path}: {e}"));
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number of KiB")
        };
        (value("VmRSS"), value("VmHWM"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for it to exit by itself.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.process.wait(bound)
    }

    /// Replaces the content of its password file. The gateway notices it by watching the file, or on SIGHUP.
    pub fn write_password(&self, password: &str) {
        self.scratch.write("password", format!("{password}\n"));
    }

    /// The lines it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The status and body of a GET to its admin address.
    pub fn admin(&self, path: &str) -> (u16, String) {
        get(self.admin, path, Duration::from_secs(10)).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The text of /metrics.
    pub fn metrics(&self) -> String {
        let (status, body) = self.admin("/metrics");
        assert_eq!(status, 200, "/metrics: {body}");
        body
    }

    /// The sum of a metric's samples with all of `labels`; `None` if there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metrics::sum(&self.metrics(), name, labels)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- last lines of the gateway's log ---");
            for line in log.iter().skip(log.len().saturating_sub(40)) {
                eprintln!("{line}");
            }
        }
    }
}

/// The gateway's command without its arguments.
fn command_of(options: &GatewayOptions) -> Command {
    let mounts = options.mounts.iter().map(|(file, over)| format!("mount --bind {} {over}", file.display()));
    let lines: Vec<String> = mounts.chain(options.setup.clone()).collect();
    if lines.is_empty() {
        return bounded_command(GATEWAY, options.lifetime);
    }
    let mut command = if options.mounts.is_empty() {
        bounded_command("sh", options.lifetime)
    } else {
        let mut unshare = bounded_command(path_of("unshare"), options.lifetime);
        unshare.args(["--mount", "sh"]);
        unshare
    };
    command.args(["-ec", &format!("{}; exec \"$0\" \"$@\"", lines.join("; ")), GATEWAY]);
    command
}

/// Reads the process's standard output and standard error on threads that end with the process.
fn collect_lines(process: &mut Process) -> Arc<Mutex<Vec<String>>> {
    let stdout = process.leader().stdout.take().expect("the gateway's piped standard output");
    let stderr = process.leader().stderr.take().expect("the gateway's piped standard error");
    let lines = Arc::new(Mutex::new(Vec::new()));
    collect_from(stdout, &lines);
    collect_from(stderr, &lines);
    lines
}

fn collect_from(stream: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let sink = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}

/// The address directly after `marker`.
fn address_after(line: &str, marker: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(marker)?;
    let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c))).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}
