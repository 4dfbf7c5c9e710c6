//! A bug in the program itself: a shard's thread panics.
//!
//! No peer can cause this, so the panic comes from a part that the embedding program provides: the logger, which is
//! called on the shard's thread. The process under test is another run of this test program.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ntlm_gateway::{config, session, supervisor};

use crate::stub;
use crate::support::client::{connect_name, echo_through};
use crate::support::in_process;
use crate::support::process::Process;
use crate::support::scratch::{Scratch, free_port, wait_for};

/// The upstream, and the port to listen on.
const ARGUMENTS: &str = "HARD_FAULTS_PANIC";

const POISON: &str = "poison.test:7";

const BOUND: Duration = Duration::from_secs(30);

/// Writes lines to standard error and panics at a certain line of the access log.
struct Poisoned;

impl log::Log for Poisoned {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let target = record.key_values().get("target".into()).map(|target| target.to_string());
        let is_poison = record.target() == session::ACCESS && target.as_deref() == Some(POISON);
        assert!(!is_poison, "a shard panics in {:?}", std::thread::current().name());
        if record.level() <= log::Level::Info {
            eprintln!("{} {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Not a test: the process that the next test starts.
#[test]
#[ignore = "started by the test of a panicking shard"]
fn a_gateway_with_a_poisoned_logger() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let (upstream, port) = arguments.split_once(' ').expect("an upstream and a port");
    log::set_boxed_logger(Box::new(Poisoned)).expect("the first logger");
    log::set_max_level(log::LevelFilter::Info);
    let listen = format!("127.0.0.1:{port}");
    let inputs = in_process::inputs(upstream, &[("listen", &listen), ("shards", "2")]);
    let config = config::load(&inputs).expect("a configuration");
    // Any status but 0, because returning from this function means success.
    let status = supervisor::run(config, &inputs);
    if format!("{status:?}") != format!("{:?}", std::process::ExitCode::SUCCESS) {
        std::process::exit(7);
    }
}

#[test]
fn a_panicking_shard_ends_the_process_with_an_error_and_no_client_hangs() {
    let (stub, scratch) = (stub(), Scratch::new("panic"));
    let said = scratch.join("said");
    let port = free_port();
    let mut command = Process::command(std::env::current_exe().expect("this program"));
    command.args(["--exact", "panic::a_gateway_with_a_poisoned_logger", "--ignored", "--nocapture"]);
    command.env(ARGUMENTS, format!("{} {port}", stub.address())).stdout(Stdio::null());
    command.stderr(std::fs::File::create(&said).expect("a file"));
    let mut process = Process::spawn("gateway", &mut command);
    let address = ([127, 0, 0, 1], port).into();
    let first = wait_for(BOUND, || connect_name(address, "echo.test:7").ok());
    let other = first.expect("a tunnel");
    assert_eq!(echo_through(&other.stream, b"before").expect("an echo"), b"before");

    // No origin has this name: the stub's response is forwarded, then the tunnel's log line is written.
    let began = Instant::now();
    drop(connect_name(address, POISON));
    let status = process.wait(BOUND).expect("it exits and does not go on with one shard");
    let said = std::fs::read_to_string(&said).expect("what it said");
    assert_eq!(status.code(), Some(7), "{said}");
    assert!(said.contains("a shard panics in Some(\"shard-"), "{said}");
    assert!(said.contains("ERROR a shard has ended"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
