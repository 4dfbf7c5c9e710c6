//! Origins: an HTTPS or HTTP server in Python, and a TCP echo server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::command::run;
use super::listener::Listener;
use super::process::Process;
use super::scratch::Scratch;
use super::tools::path_of;

/// The server in `https_origin.py`, with a new certificate.
pub struct HttpOrigin {
    _process: Process,
    scratch: Scratch,
    scheme: &'static str,
    port: u16,
}

impl HttpOrigin {
    /// Starts it with TLS. Needs python3 and openssl.
    pub fn https() -> Self {
        let scratch = Scratch::new("origin");
        let (certificate, key) = (scratch.join("cert.pem"), scratch.join("key.pem"));
        run(path_of("openssl"), Duration::from_secs(30), |command| {
            command.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
            command.args(["-days", "2", "-subj", "/CN=localhost"]);
            command.args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
            command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        })
        .expect_success("make the origin's certificate");
        Self::start(scratch, "https", certificate, key)
    }

    /// Starts it without TLS. Needs python3.
    pub fn http() -> Self {
        Self::start(Scratch::new("origin"), "http", "-".into(), "-".into())
    }

    fn start(scratch: Scratch, scheme: &'static str, certificate: PathBuf, key: PathBuf) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/https_origin.py");
        let mut command = Process::command(path_of("python3"));
        command.arg(script).arg(certificate).arg(key).stdout(Stdio::piped());
        let mut process = Process::spawn("origin", &mut command);
        let stdout = process.leader().stdout.take().expect("the origin's piped output");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("read the origin's port");
        let port = line.trim().strip_prefix("port ").and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("the origin printed {line:?} instead of its port"));
        Self { _process: process, scratch, scheme, port }
    }

    /// The URL of `path`, which must begin with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme, self.port)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The path of the certificate that a client must trust.
    pub fn certificate(&self) -> String {
        self.scratch.join("cert.pem").display().to_string()
    }
}

/// Starts an origin that echoes every byte and closes its side after the other side has closed.
pub fn echo_origin() -> Listener {
    Listener::start(|mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        // The other side may already be gone.
        let _ = stream.shutdown(Shutdown::Write);
    })
}
