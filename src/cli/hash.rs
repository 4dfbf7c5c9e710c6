//! `ntlm-gateway hash`: the NT hash of a password, for `--nt-hash-file`.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::ExitCode;

use clap::Command;
use zeroize::Zeroizing;

use super::fail;
use crate::config::secrets::{self, SECRET_LIMIT_BYTES};
use crate::ntlm::NtHash;

const AFTER: &str =
    "The password is the first line of standard input, so that it is in no process list and no shell history:
  ntlm-gateway hash < ./password > ./nt-hash
  systemd-ask-password | ntlm-gateway hash > ./nt-hash

Keep the hash like the password: whoever has it can log on with it.";

const PROMPT: &str = "Password (it is shown as you type; to hide it, pipe it in): ";

pub(super) fn command() -> Command {
    Command::new("hash").about("Print the NT hash of a password read from standard input").after_help(AFTER)
}

pub(super) fn run() -> ExitCode {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let _ = io::stderr().write_all(PROMPT.as_bytes());
    }
    match first_line(stdin.lock()) {
        Ok(hash) => match writeln!(io::stdout(), "{}", hash.to_hex().as_str()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(format_args!("cannot write: {error}")),
        },
        Err(what) => fail(what),
    }
}

fn first_line(from: impl Read) -> Result<NtHash, String> {
    // Room for the longest line at once: growing would leave copies of it behind.
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
    fn no_password_and_what_is_none_are_refused_without_repeating_it() {
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
