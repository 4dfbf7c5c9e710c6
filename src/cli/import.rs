//! `ntlm-gateway import`: makes a `gateway.toml` from the configuration of cntlm or px.

mod cntlm;
mod draft;
mod ini;
mod networks;
mod output;
mod px;
mod report;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use zeroize::Zeroizing;

use super::{fail, print};
use draft::Draft;
use report::Report;

const FILE: &str = "FILE";
const OUT: &str = "out";
const FROM: &str = "from";

/// Configurations are short; anything longer is another file.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

const AFTER: &str = "For each line that has no counterpart or needs a decision, it says so on standard error. With --out, a password or \
hash goes to a file of its own beside FILE, which only you can read; otherwise it is left out. Existing files are not overwritten.

Examples:
  ntlm-gateway import /etc/cntlm.conf
  ntlm-gateway import px.ini --out gateway.toml
  ntlm-gateway check gateway.toml";

pub(super) fn command() -> Command {
    let file = Arg::new(FILE).value_name(FILE).required(true).value_parser(value_parser!(PathBuf));
    let out = Arg::new(OUT).long(OUT).value_name(FILE).value_parser(value_parser!(PathBuf));
    let formats = PossibleValuesParser::new(["cntlm", "px"]);
    let from = Arg::new(FROM).long(FROM).value_name("cntlm|px").value_parser(formats).hide_possible_values(true);
    Command::new("import")
        .about("Make a configuration from that of cntlm or px")
        .arg(file.help("cntlm.conf (or cntlm.ini), or px.ini"))
        .arg(out.help("Write the configuration to this file instead of standard output"))
        .arg(from.help("What FILE is, if it is not clear from its contents"))
        .after_help(AFTER)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Some(path) = matches.get_one::<PathBuf>(FILE) else { unreachable!("clap requires it") };
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => return fail(format_args!("cannot read {}: {error}", path.display())),
    };
    let format = matches.get_one::<String>(FROM).map_or_else(|| Format::of(&text), |name| Format::named(name));
    let Imported { draft, report } = import(&text, format);
    if report.is_empty() {
        return fail(format_args!("{} has no setting of cntlm or px", path.display()));
    }
    let (config, secrets) = output::made(&draft);
    let done = match matches.get_one::<PathBuf>(OUT) {
        Some(out) => match output::write(out, &config, &secrets) {
            Ok(written) => {
                let _ = std::io::stderr().write_all(written.as_bytes());
                ExitCode::SUCCESS
            }
            Err(what) => return fail(what),
        },
        None => print(&config),
    };
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let _ = std::io::stderr().write_all(report.text(&name).as_bytes());
    done
}

/// A configuration holds a password, so it is wiped. Characters that are not UTF-8 are replaced.
fn read(path: &Path) -> std::io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT_BYTES {
        return Err(std::io::Error::other("it is longer than 1 MiB"));
    }
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Cntlm,
    Px,
}

impl Format {
    /// A file of px begins with a section and has `=` between names and values; one of cntlm has blanks.
    fn of(text: &str) -> Format {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', ';']));
        let is_px = first.is_some_and(|line| ["[proxy]", "[client]", "[settings]"].contains(&line));
        if is_px { Format::Px } else { Format::Cntlm }
    }

    fn named(name: &str) -> Format {
        if name == "px" { Format::Px } else { Format::Cntlm }
    }
}

/// What became of a configuration.
struct Imported {
    draft: Draft,
    report: Report,
}

fn import(text: &str, format: Format) -> Imported {
    match format {
        Format::Cntlm => cntlm::import(text),
        Format::Px => px::import(text),
    }
}
