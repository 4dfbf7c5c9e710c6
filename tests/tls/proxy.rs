//! The proxy in `proxy.py`.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Stdio};

use crate::support::certificates::Issued;
use crate::support::in_process::ACCOUNT;
use crate::support::process::Process;
use crate::support::scratch::Scratch;
use crate::support::toolbox::ROOT;

/// A proxy of Python, which ends with the test.
pub struct Proxy {
    _process: Process,
    output: BufReader<ChildStdout>,
    /// Its port on the loopback address.
    pub port: u16,
}

impl Proxy {
    /// Starts it with a certificate, or without TLS.
    pub fn start(python: &std::path::Path, scratch: &Scratch, certificate: Option<&Issued>, further: &[&str]) -> Proxy {
        let (domain, user, password) = ACCOUNT;
        let users = scratch.write("users", format!("{domain}:{user}:{password}\n"));
        let mut command = Process::command(python);
        command.arg(format!("{ROOT}/tests/tls/proxy.py"));
        match certificate {
            Some(issued) => command.arg("--certificate").arg(&issued.certificate).arg("--key").arg(&issued.key),
            None => command.arg("--plain"),
        };
        command.args(further).env("NTLM_USER_FILE", users).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = Process::spawn("the proxy", command.stdout(Stdio::piped()));
        let output = BufReader::new(process.leader().stdout.take().expect("its output"));
        let mut proxy = Proxy { _process: process, output, port: 0 };
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
