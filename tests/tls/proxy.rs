//! The proxy in `proxy.py`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use crate::support::certificates::Issued;
use crate::support::in_process::ACCOUNT;
use crate::support::process::bounded_command;
use crate::support::scratch::Scratch;
use crate::support::toolbox::ROOT;

/// A proxy of Python, which ends with the test.
pub struct Proxy {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Its port on the loopback address.
    pub port: u16,
}

impl Proxy {
    /// Starts it with a certificate, or without TLS.
    pub fn start(python: &std::path::Path, scratch: &Scratch, certificate: Option<&Issued>, further: &[&str]) -> Proxy {
        let (domain, user, password) = ACCOUNT;
        let users = scratch.write("users", format!("{domain}:{user}:{password}\n"));
        let mut command = bounded_command(python, Duration::from_secs(120));
        command.arg(format!("{ROOT}/tests/tls/proxy.py"));
        match certificate {
            Some(issued) => command.arg("--certificate").arg(&issued.certificate).arg("--key").arg(&issued.key),
            None => command.arg("--plain"),
        };
        command.args(further).env("NTLM_USER_FILE", users).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdout(Stdio::piped()).spawn().expect("Python");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut proxy = Proxy { child, output, port: 0 };
        proxy.port = proxy.line().parse().expect("a port");
        proxy
    }

    /// What it prints next.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
