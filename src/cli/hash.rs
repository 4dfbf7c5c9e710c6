//! `ntlm-gateway hash`: the NT hash of a password, for `--nt-hash-file`.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use rustix::fs::{FileType, fstat};
use zeroize::Zeroizing;

use super::fail;
use crate::config::secrets::{self, SECRET_LIMIT_BYTES};
use crate::ntlm::NtHash;

const AFTER: &str =
    "The password is the first line of standard input, so that it does not appear in the process list or the shell history:
  ntlm-gateway hash --output ./nt-hash < ./password
  systemd-ask-password | ntlm-gateway hash --output ./nt-hash

Protect the hash like the password: it is enough to log on. Only you can read a file written with --output. A file created by the shell, \
as with > ./nt-hash, can usually be read by others.";

/// Readable or writable by anyone but its owner.
const OPEN_TO_OTHERS: u32 = 0o077;

const PROMPT: &str = "Password (visible as you type; to avoid that, pipe it in): ";

pub(super) fn command() -> Command {
    Command::new("hash")
        .about("Print the NT hash of a password read from standard input")
        .arg(
            Arg::new("output")
                .long("output")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write the hash to this file, readable only by you, instead of standard output"),
        )
        .after_help(AFTER)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let _ = io::stderr().write_all(PROMPT.as_bytes());
    }
    match first_line(stdin.lock()) {
        Ok(hash) => match matches.get_one::<PathBuf>("output") {
            Some(path) => match write_private(path, &hash) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(format_args!("cannot write {}: {error}", path.display())),
            },
            None => match writeln!(io::stdout(), "{}", hash.to_hex().as_str()) {
                Ok(()) => {
                    warn_if_open_to_others();
                    ExitCode::SUCCESS
                }
                Err(error) => fail(format_args!("cannot write: {error}")),
            },
        },
        Err(what) => fail(what),
    }
}

/// Writes the hash to a file that only its owner can read, atomically, because a gateway may be watching it.
fn write_private(path: &Path, hash: &NtHash) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other("it exists and is not a regular file"));
    }
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = writeln!(file, "{}", hash.to_hex().as_str()).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&fresh, path)).inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&fresh);
    })
}

/// The shell has created the file of a redirection before the program starts, so a warning is all that can be done.
fn warn_if_open_to_others() {
    let is_open = fstat(io::stdout())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_mode & OPEN_TO_OTHERS != 0);
    if is_open {
        let _ = writeln!(io::stderr(), "others can read that file: run chmod 600 on it, or use --output");
    }
}

fn first_line(from: impl Read) -> Result<NtHash, String> {
    // Enough capacity for the longest line: growing would leave copies in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(SECRET_LIMIT_BYTES + 1));
    let mut from = BufReader::with_capacity(1, from.take(SECRET_LIMIT_BYTES as u64 + 1));
    from.read_until(b'\n', &mut line).map_err(|error| format!("cannot read standard input: {error}"))?;
    secrets::password(&line).map_err(|error| format!("the password on standard input {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(input: &[u8]) -> Result<String, String> {
        first_line(input).map(|hash| hash.to_hex().to_string())
    }

    #[test]
    fn the_first_line_is_hashed_without_its_newline() {
        // NTOWFv1("Password") as in [MS-NLMP] section 4.2.2.1.1.
        for input in [b"Password".as_slice(), b"Password\n", b"Password\r\n", b"Password\nnot this\n"] {
            assert_eq!(hashed(input).as_deref(), Ok("a4f49c406510bdcab6824ee7c30fd852"), "{input:?}");
        }
    }

    #[test]
    fn an_invalid_password_is_rejected_without_repeating_it() {
        for (input, expected) in [
            (b"".as_slice(), "is empty"),
            (b"\n", "is empty"),
            (b"Qu33n\xff", "is not UTF-8"),
            (&[b'q'; 5000], "is longer than"),
        ] {
            let error = hashed(input).unwrap_err();
            assert!(error.contains(expected) && !error.contains("Qu33n") && !error.contains("qq"), "{error}");
        }
    }
}
