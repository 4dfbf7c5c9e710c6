//! The cell against an API that others have written: kmock, an emulator from PyPI.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use ntlm_gateway::guard_store::cell::{Cell, Replaced, Version};
use ntlm_gateway::guard_store::kubernetes::{InCluster, KubernetesCell, Timing};

use super::{LEASE, TIMING, create, read, replaced};
use crate::support::kubernetes::{Identity, NAMESPACE};
use crate::support::process::Process;
use crate::support::scratch::Scratch;
use crate::support::toolbox::{ROOT, toolbox};

/// kmock in a process of its own, and the directory of a service account for it.
struct Emulator {
    port: String,
    directory: Scratch,
    _process: Process,
}

impl Emulator {
    /// `None` if it cannot be installed; reports SKIPPED.
    fn start() -> Option<Self> {
        let python = toolbox()?.join("bin/python");
        let identity = Identity::new();
        let directory = Scratch::new("kmock");
        directory.write("namespace", NAMESPACE);
        directory.write("token", "a-token");
        directory.write("ca.crt", &identity.ca_pem);
        let certificate = directory.write("certificate.pem", &identity.certificate_pem);
        let key = directory.write("key.pem", &identity.key_pem);
        let mut command = Process::command(python);
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(format!("{ROOT}/tests/support/kmock_api.py"));
        command.arg(certificate).arg(key).stdout(Stdio::piped());
        let mut process = Process::spawn("kmock", &mut command);
        let mut port = String::new();
        let output = process.leader().stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut port).expect("its port");
        Some(Self { port: port.trim().to_owned(), directory, _process: process })
    }

    fn cell(&self) -> KubernetesCell {
        let cluster = InCluster::new("127.0.0.1", &self.port, self.directory.path()).expect("a cluster");
        // It does not end a watch.
        let timing = Timing { watch_silence: Duration::from_secs(30), ..TIMING };
        KubernetesCell::with_timing(cluster, LEASE, timing).expect("a cell")
    }
}

#[test]
fn an_emulator_from_elsewhere_keeps_the_text_by_the_same_rules() {
    let Some(api) = Emulator::start() else { return };
    let (mut first, mut second) = (api.cell(), api.cell());
    let missing = read(&mut first);
    assert_eq!((missing.text, &missing.version), (None, &Version::default()));
    let old = create(&mut first, "1");
    assert_eq!(second.replace("lost", &Version::default()), Ok(Replaced::Conflict));
    let new = replaced(second.replace("2 \"ä\"\n", &old));
    assert_eq!(first.replace("lost", &old), Ok(Replaced::Conflict));
    let kept = read(&mut first);
    assert_eq!((kept.text.as_deref(), &kept.version), (Some("2 \"ä\"\n"), &new));
    assert!(kept.at_ms >= missing.at_ms && kept.at_ms - missing.at_ms < 60_000);
}

#[test]
fn an_emulator_from_elsewhere_reports_changes_to_a_watch() {
    let Some(api) = Emulator::start() else { return };
    let (mut writer, reader) = (api.cell(), api.cell());
    let mut version = create(&mut writer, "0");
    let mut watch = reader.watch().expect("a watch");
    assert_eq!(watch.next().expect("a state").text.as_deref(), Some("0"));
    for number in 1..4 {
        let text = number.to_string();
        version = replaced(writer.replace(&text, &version));
        let kept = watch.next().expect("a state");
        assert_eq!((kept.text, &kept.version), (Some(text), &version));
    }
}

#[test]
fn no_addition_is_lost_at_an_emulator_from_elsewhere() {
    let Some(api) = Emulator::start() else { return };
    super::add_from_four_threads(|| api.cell());
    assert_eq!(read(&mut api.cell()).text, Some(super::ADDITIONS.to_string()));
}
