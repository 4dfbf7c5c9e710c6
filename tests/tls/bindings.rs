//! Channel bindings, judged by acceptors that we did not write: pyspnego for NTLM, with the value that Python computes
//! from the certificate.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ntlm_gateway::ntlm::{self, Account, AuthenticateInputs, FileTime, Identity, Method, NegotiateOptions, NtHash};
use ntlm_gateway::tls::bindings::server_end_point;

use crate::support::certificates::{self, Algorithm, ECDSA_SHA384, ED25519, FURTHER, RSA_SHA256};
use crate::support::process::Process;
use crate::support::scratch::Scratch;
use crate::support::toolbox::{ROOT, toolbox};
use crate::support::{PASSWORD, USER};

/// A program of Python that accepts NTLM with channel bindings.
struct Acceptor {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The hash of the bindings that it demands.
    bindings: [u8; 16],
}

impl Acceptor {
    fn start(toolbox: &std::path::Path, scratch: &Scratch, certificate: &std::path::Path) -> Acceptor {
        let (domain, user) = USER.split_once('\\').expect("an account with a domain");
        let users = scratch.write("users", format!("{domain}:{user}:{PASSWORD}\n"));
        let mut command = Process::command(toolbox.join("bin/python"));
        command.arg(format!("{ROOT}/tests/tls/accept.py")).arg(certificate);
        command.env("NTLM_USER_FILE", users).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = Process::spawn("the acceptor", command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let input = process.leader().stdin.take().expect("its input");
        let output = BufReader::new(process.leader().stdout.take().expect("its output"));
        let mut acceptor = Acceptor { _process: process, input, output, bindings: [0; 16] };
        let hex = acceptor.line();
        let number = u128::from_str_radix(&hex, 16).expect("hexadecimal digits");
        acceptor.bindings = number.to_be_bytes();
        acceptor
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn tell(&mut self, message: &[u8]) -> String {
        writeln!(self.input, "{}", BASE64_STANDARD.encode(message)).expect("it reads");
        self.line()
    }

    /// What it says to a logon with these bindings.
    fn judge(&mut self, channel_bindings: Option<[u8; 16]>) -> String {
        let account = Account::parse(USER, None).expect("an account");
        let identity = Identity::new(account, "GATEWAY", NtHash::from_password(PASSWORD), Method::NtlmV2, false);
        let negotiate = ntlm::negotiate(&identity, &NegotiateOptions::default());
        let challenge = BASE64_STANDARD.decode(self.tell(&negotiate)).expect("a CHALLENGE_MESSAGE");
        let inputs = AuthenticateInputs {
            client_challenge: *b"8 bytes.",
            exported_session_key: *b"sixteen bytes...",
            now: FileTime(0x01dc_5bd0_1234_5678),
            target_name: Some("HTTP/proxy.example"),
            channel_bindings,
        };
        let authenticate = ntlm::authenticate(&identity, &negotiate, &challenge, &inputs).expect("an answer");
        self.tell(&authenticate)
    }
}

#[test]
fn pyspnego_accepts_our_channel_bindings_for_each_algorithm_and_no_others() {
    require_tools!("openssl");
    let Some(toolbox) = toolbox() else { return };
    let scratch = Scratch::new("bindings");
    let common = [RSA_SHA256, ECDSA_SHA384, ED25519];
    for algorithm @ Algorithm { name, .. } in common.into_iter().chain(FURTHER) {
        let extensions = certificates::server("DNS:proxy.example");
        let issued = certificates::self_signed(&scratch, name, algorithm, &extensions, 30);
        let ours = server_end_point(&certificates::der(&issued.certificate));
        let mut acceptor = Acceptor::start(&toolbox, &scratch, &issued.certificate);
        assert_eq!(ours, Some(acceptor.bindings), "{name}: Python computes something else");
        assert_eq!(acceptor.judge(ours), r"accepted CORP\alice", "{name}");
        let rejected = acceptor.judge(Some([7; 16]));
        assert!(rejected.starts_with("rejected") && rejected.contains("bindings"), "{name}: {rejected}");
        let rejected = acceptor.judge(None);
        assert!(rejected.starts_with("rejected") && rejected.contains("bindings"), "{name}: {rejected}");
    }
}
