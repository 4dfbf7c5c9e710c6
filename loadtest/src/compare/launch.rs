//! Starts and stops candidates and stubs.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::candidate::{Candidate, Kind, Peer, UpstreamKind, find, stream_module};
use super::namespace;
use crate::arguments::{DEFAULT_PASSWORD, DEFAULT_SERVICE, DEFAULT_USER};
use crate::net::{free_address, wait_until_accepting};
use crate::process::tree;
use crate::scenario::Protocol;

/// How long a candidate may take to start listening. Px is slow.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_millis(500);
/// The realm of the stub's KDC.
const REALM: &str = "EXAMPLE.TEST";

/// The environment that a candidate is configured for.
pub struct TestBed<'a> {
    /// Where configuration files and logs go.
    pub scratch: &'a Path,
    /// The stub that demands NTLM.
    pub upstream: SocketAddr,
    /// The stub that demands Kerberos, and its KDC; if a candidate needs them.
    pub kerberos: Option<(SocketAddr, SocketAddr)>,
    /// The stubs with TLS, that demand NTLM and nothing; if a candidate needs them.
    pub tls: Option<[SocketAddr; 2]>,
    /// The stub that demands none.
    pub open_upstream: SocketAddr,
    /// Shards or threads.
    pub shards: usize,
    /// Concurrent tunnels.
    pub tunnels: usize,
    /// Pipes for splicing, if their number must be configured.
    pub pipes: usize,
    /// Additional arguments for the gateway.
    pub gateway_args: &'a [String],
}

/// A running candidate. Dropping it stops the candidate, if it was started here.
pub struct Running {
    child: Option<Child>,
    pid: Option<u32>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it serves metrics.
    pub admin: Option<SocketAddr>,
}

impl Running {
    /// The root of its process tree.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

/// Asks a child to stop, then kills it and its remaining descendants.
fn end(child: &mut Child) {
    let family = tree(child.id());
    let signal = |pid: u32, signal: Signal| {
        if let Ok(pid) = i32::try_from(pid) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    };
    signal(child.id(), Signal::SIGTERM);
    let deadline = Instant::now() + STOP_LIMIT;
    while Instant::now() < deadline {
        if let Ok(Some(_)) = child.try_wait() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Ok(None) = child.try_wait() {
        // Their parent is still alive, so the PIDs have not been reused.
        family.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
    }
    // Collects its exit status, so that it does not remain as a zombie.
    let _ = child.wait();
}

/// Starts a candidate and waits until it accepts connections.
///
/// # Errors
/// If it cannot be started or does not listen in time; the text names its log.
pub fn launch(candidate: &Candidate, test_bed: &TestBed<'_>) -> Result<Running, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", candidate.name);
    let address = match &candidate.kind {
        Kind::Direct => test_bed.open_upstream,
        Kind::Running { address, .. } => *address,
        _ => free_address().map_err(|error| failed(&error))?,
    };
    if let Kind::Running { pid, .. } = candidate.kind {
        return Ok(Running { child: None, pid, address, admin: None });
    }
    let (command, admin) = match &candidate.kind {
        Kind::Direct | Kind::Running { .. } => return Ok(Running { child: None, pid: None, address, admin: None }),
        Kind::Gateway { program, upstream } => {
            let admin = free_address().map_err(|error| failed(&error))?;
            (gateway(program, *upstream, test_bed, address, admin), Some(admin))
        }
        Kind::Peer(peer) => (start_of(*peer, test_bed, address), None),
    };
    let mut command = command.map_err(|error| failed(&error))?;
    let entrance = entrance(candidate.protocol, test_bed, &mut command).map_err(|error| failed(&error))?;
    let log_path = test_bed.scratch.join(format!("{}.log", candidate.name));
    let log = File::create(&log_path).map_err(|error| failed(&error))?;
    let copy = log.try_clone().map_err(|error| failed(&error))?;
    let child = command.stdin(Stdio::null()).stdout(copy).stderr(log).spawn().map_err(|error| failed(&error))?;
    let entrance = entrance.unwrap_or(address);
    let running = Running { pid: Some(child.id()), child: Some(child), address: entrance, admin };
    let deadline = Instant::now() + START_LIMIT;
    for address in [Some(address), admin].into_iter().flatten() {
        wait_until_accepting(address, deadline)
            .map_err(|error| format!("{}: {address} {error}; see {}", candidate.name, log_path.display()))?;
    }
    Ok(running)
}

/// Adds the listener that clients of this protocol need. Returns where they connect to, if it is not the usual address.
fn entrance(protocol: Protocol, test_bed: &TestBed<'_>, command: &mut Command) -> io::Result<Option<SocketAddr>> {
    let (file, entrance) = match protocol {
        Protocol::Connect | Protocol::Socks | Protocol::SocksPipelined | Protocol::Socks4 => return Ok(None),
        Protocol::Forward => {
            let address = free_address()?;
            (format!("[[listeners]]\naddress = \"{address}\"\ntarget = \"echo.test:443\"\n"), address)
        }
        Protocol::Transparent => {
            // The system connects from the address that it connects to, which is its own.
            let (origin, listener) = (namespace::ORIGIN, namespace::LISTENER);
            let file = format!(
                "allow_clients = [\"127.0.0.0/8\", \"{}\"]\n[[listeners]]\naddress = \"{listener}\"\n\
                 transparent = \"redirect\"\n",
                origin.ip()
            );
            (file, origin)
        }
    };
    let path = test_bed.scratch.join("listeners.toml");
    fs::write(&path, file)?;
    command.arg("--config").arg(path);
    Ok(Some(entrance))
}

fn password_file(test_bed: &TestBed<'_>) -> io::Result<PathBuf> {
    let path = test_bed.scratch.join("password");
    fs::write(&path, DEFAULT_PASSWORD)?;
    Ok(path)
}

/// How a gateway is started in front of that upstream.
fn gateway(
    program: &Path,
    upstream: UpstreamKind,
    test_bed: &TestBed<'_>,
    listen: SocketAddr,
    admin: SocketAddr,
) -> io::Result<Command> {
    let mut command = any_gateway(program, test_bed, listen, admin)?;
    match upstream {
        UpstreamKind::Ntlm | UpstreamKind::Open => {
            command.args(["--upstream", &test_bed.upstream.to_string(), "--user", DEFAULT_USER]);
        }
        UpstreamKind::Kerberos => {
            let (upstream, kdc) = test_bed.kerberos.ok_or(io::ErrorKind::NotFound)?;
            let user = DEFAULT_USER.rsplit('\\').next().unwrap_or_default();
            command.args(["--upstream", &upstream.to_string(), "--user", &format!("{user}@{REALM}")]);
            command.args(["--auth", "kerberos", "--kerberos-realm", REALM]);
            command.args(["--kdc", &kdc.to_string(), "--spn", DEFAULT_SERVICE]);
        }
        UpstreamKind::NtlmTls | UpstreamKind::OpenTls => {
            let [upstream, _] = test_bed.tls.ok_or(io::ErrorKind::NotFound)?;
            command.args(["--upstream", &format!("https://{upstream}"), "--user", DEFAULT_USER]);
            command.arg("--tls-ca-file").arg(certificate(test_bed.scratch, "plain"));
        }
    }
    Ok(command)
}

/// How another proxy is started.
fn start_of(peer: Peer, test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    match peer {
        Peer::Cntlm => cntlm(test_bed, listen),
        Peer::Haproxy { forced_splice } => haproxy(test_bed, listen, forced_splice),
        Peer::HaproxyHttp => haproxy_http(test_bed, listen),
        Peer::HaproxyTls => haproxy_tls(test_bed, listen),
        Peer::Nginx => nginx(test_bed, listen),
        Peer::Squid => squid(test_bed, listen),
        Peer::Px => px(test_bed, listen),
    }
}

/// The certificate of a stub with TLS.
pub fn certificate(scratch: &Path, personality: &str) -> PathBuf {
    scratch.join(format!("stub-{personality}.pem"))
}

fn any_gateway(binary: &Path, test_bed: &TestBed<'_>, listen: SocketAddr, admin: SocketAddr) -> io::Result<Command> {
    let mut command = Command::new(binary);
    // All settings are given as arguments, and the gateway rejects unknown variables with this prefix.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NTLM_GATEWAY_")) {
        command.env_remove(name);
    }
    command.arg("run").args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
    command.arg("--password-file").arg(password_file(test_bed)?);
    command.args(["--shards", &test_bed.shards.to_string()]).args(test_bed.gateway_args);
    Ok(command)
}

fn cntlm(test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    let (domain, user) = DEFAULT_USER.split_once('\\').unwrap_or(("", DEFAULT_USER));
    let config = format!(
        "Username {user}\nDomain {domain}\nPassword {DEFAULT_PASSWORD}\nAuth NTLMv2\nProxy {}\nListen {listen}\n",
        test_bed.upstream
    );
    let path = test_bed.scratch.join("cntlm.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(find("cntlm").ok_or(io::ErrorKind::NotFound)?);
    command.arg("-f").arg("-c").arg(path);
    Ok(command)
}

fn haproxy(test_bed: &TestBed<'_>, listen: SocketAddr, forced_splice: bool) -> io::Result<Command> {
    // Two descriptors per tunnel and two per pipe must fit into the process's limit, or HAProxy does not start.
    let mut config = format!("global\n  nbthread {}\n  maxconn {}\n", test_bed.shards, test_bed.tunnels + 64);
    writeln!(config, "  maxpipes {}", test_bed.pipes).map_err(io::Error::other)?;
    if forced_splice {
        config.push_str("  tune.pipesize 524288\n");
    }
    let splice =
        if forced_splice { "  option splice-request\n  option splice-response\n" } else { "  option splice-auto\n" };
    write!(
        config,
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n{splice}\
         listen relay\n  bind {listen}\n  maxconn {}\n  server stub {}\n",
        test_bed.tunnels + 64,
        test_bed.open_upstream
    )
    .map_err(io::Error::other)?;
    let name = if forced_splice { "haproxy-splice.cfg" } else { "haproxy.cfg" };
    let path = test_bed.scratch.join(name);
    fs::write(&path, config)?;
    let mut command = Command::new(find("haproxy").ok_or(io::ErrorKind::NotFound)?);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

/// It resumes sessions, as the gateway does.
fn haproxy_tls(test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    let [_, open_upstream] = test_bed.tls.ok_or(io::ErrorKind::NotFound)?;
    let config = format!(
        "global\n  nbthread {}\n  maxconn {most}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\nlisten relay\n  bind {listen}\n  maxconn {most}\n  \
         server stub {open_upstream} ssl verify none\n",
        test_bed.shards,
        most = test_bed.tunnels + 64
    );
    let path = test_bed.scratch.join("haproxy-tls.cfg");
    fs::write(&path, config)?;
    let mut command = Command::new(find("haproxy").ok_or(io::ErrorKind::NotFound)?);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

fn haproxy_http(test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    let config = format!(
        "global\n  nbthread {}\n  maxconn {most}\ndefaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\n  timeout http-keep-alive 1h\nlisten proxy\n  bind {listen}\n  \
         maxconn {most}\n  server stub {}\n",
        test_bed.shards,
        test_bed.open_upstream,
        most = test_bed.tunnels + 64
    );
    let path = test_bed.scratch.join("haproxy-http.cfg");
    fs::write(&path, config)?;
    let mut command = Command::new(find("haproxy").ok_or(io::ErrorKind::NotFound)?);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

fn squid(test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    let log = |name: &str| -> io::Result<PathBuf> {
        let path = test_bed.scratch.join(name);
        // Squid drops root and writes as a different user.
        File::create(&path)?.set_permissions(fs::Permissions::from_mode(0o666))?;
        Ok(path)
    };
    let (access, messages) = (log("squid-access.log")?, log("squid-cache.log")?);
    let config = format!(
        "http_port {listen}\nworkers {}\ncache deny all\nhttp_access allow all\nnever_direct allow all\n\
         cache_peer {} parent {} 0 no-query no-digest default name=stub\nbuffered_logs on\naccess_log stdio:{}\n\
         cache_log {}\npid_filename none\npinger_enable off\nshutdown_lifetime 0 seconds\nvisible_hostname squid.test\n",
        test_bed.shards,
        test_bed.open_upstream.ip(),
        test_bed.open_upstream.port(),
        access.display(),
        messages.display()
    );
    let path = test_bed.scratch.join("squid.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(find("squid").ok_or(io::ErrorKind::NotFound)?);
    // The name separates its shared memory from that of other Squid processes on this machine.
    command.arg("-N").arg("-n").arg(format!("loadtest{}", std::process::id())).arg("-f").arg(path);
    Ok(command)
}

fn nginx(test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    let module = stream_module().ok_or(io::ErrorKind::NotFound)?;
    let load =
        if module.as_os_str().is_empty() { String::new() } else { format!("load_module {};\n", module.display()) };
    let prefix = test_bed.scratch.display();
    let config = format!(
        "{load}daemon off;\nmaster_process on;\nworker_processes {};\npid {prefix}/nginx.pid;\nuser {};\n\
         error_log {prefix}/nginx-error.log;\nevents {{ worker_connections {}; }}\n\
         stream {{ server {{ listen {listen} backlog=4096; proxy_pass {}; proxy_timeout 1h; proxy_half_close on; tcp_nodelay on; }} }}\n",
        test_bed.shards,
        user_name(),
        test_bed.tunnels * 2 + 128,
        test_bed.open_upstream
    );
    let path = test_bed.scratch.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(find("nginx").ok_or(io::ErrorKind::NotFound)?);
    command.arg("-p").arg(test_bed.scratch).arg("-c").arg(path);
    Ok(command)
}

/// The user for nginx's workers: the current one.
fn user_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map_or("root".to_owned(), |user| user.name)
}

fn px(test_bed: &TestBed<'_>, listen: SocketAddr) -> io::Result<Command> {
    let mut command = Command::new(find("px").ok_or(io::ErrorKind::NotFound)?);
    command.arg(format!("--proxy={}", test_bed.upstream));
    command.arg(format!("--listen={}", listen.ip())).arg(format!("--port={}", listen.port()));
    command.arg(format!("--username={DEFAULT_USER}")).args(["--auth=NTLM", "--workers=1"]);
    command.arg(format!("--threads={}", test_bed.tunnels.min(512)));
    command.env("PX_PASSWORD", DEFAULT_PASSWORD).current_dir(test_bed.scratch);
    Ok(command)
}

/// A stub in its own process, so that its CPU time and descriptors are separate.
pub struct StubProcess {
    child: Child,
    pub address: SocketAddr,
    pub control: SocketAddr,
    /// Its KDC, if it has one.
    pub kdc: Option<SocketAddr>,
}

impl StubProcess {
    /// Starts this program's `upstream` on free ports.
    ///
    /// # Errors
    /// If it cannot be started or does not report its addresses.
    pub fn start(personality: &str, threads: NonZeroUsize, delay_ms: u64) -> io::Result<StubProcess> {
        StubProcess::start_with(personality, threads, delay_ms, &[])
    }

    /// The same, for Kerberos, with a KDC whose tickets have this many additional bytes.
    ///
    /// # Errors
    /// As above.
    pub fn start_kerberos(threads: NonZeroUsize, delay_ms: u64, ticket_bytes: usize) -> io::Result<StubProcess> {
        let ticket_bytes = ticket_bytes.to_string();
        StubProcess::start_with("plain", threads, delay_ms, &["--realm", REALM, "--ticket-bytes", &ticket_bytes])
    }

    /// The same as the first, with TLS; its certificate is written to the file, and sessions are resumed or not.
    ///
    /// # Errors
    /// As above.
    pub fn start_tls(
        personality: &str,
        threads: NonZeroUsize,
        delay_ms: u64,
        certificate: &Path,
        no_resumption: bool,
    ) -> io::Result<StubProcess> {
        let certificate = certificate.to_string_lossy();
        let all = ["--tls", &certificate, "--no-resumption"];
        StubProcess::start_with(personality, threads, delay_ms, if no_resumption { &all } else { &all[..2] })
    }

    fn start_with(personality: &str, threads: NonZeroUsize, delay_ms: u64, more: &[&str]) -> io::Result<StubProcess> {
        let mut child = Command::new(env::current_exe()?)
            .args(["upstream", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--until-eof"])
            .args(["--personality", personality, "--threads", &threads.to_string()])
            .args(["--delay-ms", &delay_ms.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(out).lines();
        let mut address = |what: &str| -> io::Result<SocketAddr> {
            let line = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
            let text = line
                .strip_prefix(what)
                .ok_or_else(|| io::Error::other(format!("unexpected output of the stub: {line:?}")))?;
            text.parse().map_err(io::Error::other)
        };
        let mut all = || -> io::Result<_> {
            let (listening, control) = (address("listening on ")?, address("control on ")?);
            let kdc = if more.contains(&"--realm") { Some(address("kdc on ")?) } else { None };
            Ok((listening, control, kdc))
        };
        match all() {
            Ok((address, control, kdc)) => Ok(StubProcess { child, address, control, kdc }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }
}

impl Drop for StubProcess {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
