//! A directory with Python packages, helm and kubectl for tests, filled by `tests/deploy/toolbox.py`.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use super::command::{Finished, run};
use super::tools::{python_with, skip_for_want_of};

/// How long filling it may take on a slow network.
const FILL_BOUND: Duration = Duration::from_secs(600);

/// How long one of its scripts may take.
const SCRIPT_BOUND: Duration = Duration::from_secs(600);

/// The repository.
pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The directory, filled once and kept for later test runs. `None` if it cannot be filled; reports SKIPPED.
pub fn toolbox() -> Option<PathBuf> {
    static TOOLBOX: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match TOOLBOX.get_or_init(fill) {
        Ok(directory) => Some(directory.clone()),
        Err(missing) => {
            skip_for_want_of(missing);
            None
        }
    }
}

fn fill() -> Result<PathBuf, String> {
    let recipe = concat!(include_str!("../deploy/requirements.txt"), include_str!("../deploy/toolbox.py"));
    // FNV-1a: another recipe uses another directory.
    let hash = recipe
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let user = rustix::process::geteuid().as_raw();
    let directory = std::env::temp_dir().join(format!("ntlm-gateway-toolbox-{user}-{hash:016x}"));
    let python = python_with("ensurepip").ok_or("python3 with venv")?;
    let script = format!("{ROOT}/tests/deploy/toolbox.py");
    let filled = run(python, FILL_BOUND, |command| {
        command.arg(script).arg(&directory);
    });
    if filled.code == Some(0) {
        Ok(directory)
    } else {
        Err(format!("the packages from PyPI ({})", filled.stderr.trim()))
    }
}

/// Runs a script of `tests/deploy` with the toolbox's Python. It prints the errors that it finds.
pub fn script(toolbox: &std::path::Path, name: &str, arguments: &[&str]) -> Finished {
    run(toolbox.join("bin/python"), SCRIPT_BOUND, |command| {
        // No .pyc files in the repository.
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(format!("{ROOT}/{name}")).args(arguments);
    })
}
