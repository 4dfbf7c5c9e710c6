//! `ntlm-gateway man`: the manual pages, made from the command line and the table of settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{fail, print, utc};
use crate::config::keys::{Fallback, KEYS, Key, TABLES};
use crate::config::table_keys::TABLE_KEYS;

const DIR: &str = "dir";

/// The page about the configuration file.
const FILE_PAGE: &str = "ntlm-gateway.toml";

/// In seconds since 1970. Makers of packages set it, so that the same source makes the same pages.
const DATE_VARIABLE: &str = "SOURCE_DATE_EPOCH";

const AFTER: &str = "Examples:
  ntlm-gateway man | man -l -
  ntlm-gateway man --dir /usr/local/share/man

With --dir, the pages are written to man1 and man5 in that directory. If SOURCE_DATE_EPOCH is set, it is their date.";

pub(super) fn command() -> Command {
    let dir = Arg::new(DIR).long(DIR).value_name("DIR").value_parser(value_parser!(PathBuf));
    Command::new("man")
        .about("Print the manual page ntlm-gateway(1), or write all manual pages to a directory")
        .arg(dir.help("Write the pages of all commands, and ntlm-gateway.toml(5), below this directory"))
        .after_help(AFTER)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let date = date(std::env::var(DATE_VARIABLE).ok());
    let pages = pages(super::command(), &date);
    match matches.get_one::<PathBuf>(DIR) {
        Some(dir) => match write(dir, &pages) {
            Ok(()) => ExitCode::SUCCESS,
            Err((path, error)) => fail(format_args!("cannot write {}: {error}", path.display())),
        },
        None => print(pages.iter().find(|page| page.name == "ntlm-gateway").map_or("", |page| &page.text)),
    }
}

/// A manual page.
struct Page {
    name: String,
    section: &'static str,
    text: String,
}

/// The day of a time in seconds since 1970; nothing if it is missing or no number.
fn date(seconds: Option<String>) -> String {
    let seconds = seconds.and_then(|text| text.parse::<u64>().ok());
    let day = |seconds: u64| utc::rfc3339(seconds.saturating_mul(1000)).split('T').next().map(str::to_owned);
    seconds.and_then(day).unwrap_or_default()
}

fn write(dir: &Path, pages: &[Page]) -> Result<(), (PathBuf, io::Error)> {
    for page in pages {
        let folder = dir.join(format!("man{}", page.section));
        fs::create_dir_all(&folder).map_err(|error| (folder.clone(), error))?;
        let path = folder.join(format!("{}.{}", page.name, page.section));
        fs::write(&path, &page.text).map_err(|error| (path, error))?;
    }
    Ok(())
}

fn pages(command: Command, date: &str) -> Vec<Page> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut commands = Vec::new();
    collect(&command, &mut commands);
    let names: Vec<String> = commands.iter().map(|command| name(command).to_owned()).collect();
    let mut pages: Vec<Page> = commands
        .into_iter()
        .map(|command| Page {
            name: name(&command).to_owned(),
            section: "1",
            text: command_page(command, date, &names),
        })
        .collect();
    pages.push(Page { name: FILE_PAGE.to_owned(), section: "5", text: file_page(date) });
    pages
}

/// `ntlm-gateway-guard-show` for `ntlm-gateway guard show`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn collect(command: &Command, into: &mut Vec<Command>) {
    into.push(command.clone());
    for subcommand in command.get_subcommands() {
        collect(subcommand, into);
    }
}

fn command_page(command: Command, date: &str, names: &[String]) -> String {
    let own = name(&command).to_owned();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_subcommands = command.has_subcommands();
    let has_options = command.get_arguments().next().is_some();
    let source = format!("ntlm-gateway {}", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command).date(date).source(source).manual("ntlm-gateway");
    let mut out = Vec::new();
    // Writing to a vector cannot fail.
    let _ = page.render_title(&mut out);
    let _ = page.render_name_section(&mut out);
    let _ = page.render_synopsis_section(&mut out);
    let _ = page.render_description_section(&mut out);
    if has_options {
        let _ = page.render_options_section(&mut out);
    }
    if has_subcommands {
        let _ = page.render_subcommands_section(&mut out);
    }
    let mut roff = Roff::new();
    if !after.is_empty() {
        roff.control("SH", ["NOTES"]);
        notes(&mut roff, &after);
    }
    see_also(&mut roff, names.iter().filter(|name| **name != own).map(|name| (name.as_str(), "1")));
    let _ = roff.to_writer(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// The paragraphs of a help text; indented lines are shown as they are.
fn notes(roff: &mut Roff, text: &str) {
    let mut is_example = false;
    for line in text.lines() {
        let indented = line.starts_with(' ');
        if indented != is_example {
            roff.control(if indented { "RS" } else { "RE" }, if indented { vec!["4"] } else { vec![] });
            roff.control(if indented { "nf" } else { "fi" }, []);
            is_example = indented;
        }
        match line.strip_prefix("  ").unwrap_or(line) {
            "" => roff.control("PP", []),
            line => roff.text([roman(line)]),
        };
    }
    if is_example {
        roff.control("fi", []).control("RE", []);
    }
}

fn see_also<'a>(roff: &mut Roff, pages: impl Iterator<Item = (&'a str, &'static str)>) {
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for (name, section) in pages.chain([(FILE_PAGE, "5")]) {
        line.extend([roman(if line.is_empty() { "" } else { ", " }), bold(name), roman(format!("({section})"))]);
    }
    roff.text(line);
}

/// The page about the configuration file.
fn file_page(date: &str) -> String {
    let mut roff = Roff::new();
    let source = format!("ntlm-gateway {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [FILE_PAGE, "5", date, &source, "ntlm-gateway"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("ntlm-gateway.toml - the configuration file of ntlm-gateway")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([
        roman("The file that "),
        bold("ntlm-gateway run"),
        roman(" reads, usually /etc/ntlm-gateway/gateway.toml, in TOML. A flag overrides the environment, the environment \
               overrides the file, and the file overrides the default. Unknown names are errors. A relative path is \
               relative to the directory of the file. Durations are a whole number with ms, s, m or h; sizes are a \
               number of bytes, or a number with KiB or MiB. "),
        bold("ntlm-gateway check"),
        roman(" reports every error with its line and column. The password is never in the file."),
    ]);
    let in_file = || KEYS.iter().filter(|key| key.in_file());
    let of_section = |section: &'static str| {
        in_file().filter(move |key| key.name.split_once('.').map_or("", |(name, _)| name) == section)
    };
    roff.control("SH", ["SETTINGS"]);
    of_section("").for_each(|key| setting(&mut roff, key));
    let mut sections: Vec<&str> = in_file().filter_map(|key| Some(key.name.split_once('.')?.0)).collect();
    sections.dedup();
    for section in sections {
        roff.control("SH", [format!("[{section}]").as_str()]);
        of_section(section).for_each(|key| setting(&mut roff, key));
    }
    for table in TABLES {
        roff.control("SH", [format!("[[{table}]]").as_str()]);
        let of_table = |key: &&Key| key.name.split_once('.').is_some_and(|(name, _)| name == table);
        TABLE_KEYS.iter().filter(of_table).for_each(|key| setting(&mut roff, key));
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("ntlm-gateway"), roman("(1), "), bold("ntlm-gateway-check"), roman("(1)")]);
    let mut out = Vec::new();
    let _ = roff.to_writer(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn setting(roff: &mut Roff, key: &Key) {
    roff.control("TP", []);
    let name = key.name.rsplit('.').next().unwrap_or(key.name);
    roff.text([bold(name), roman(" = "), italic(key.value_name)]);
    let default = match key.default {
        Fallback::Required(_) => " Required.".to_owned(),
        _ => key.default.shown().map(|shown| format!(" Default: {shown}.")).unwrap_or_default(),
    };
    roff.text([roman(format!("{}.{default}", key.help))]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Page> {
        pages(super::super::command(), "2026-01-02")
    }

    /// A page's text as a reader sees it.
    fn plain(page: &Page) -> String {
        page.text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\&", "")
    }

    #[test]
    fn every_command_and_option_is_in_a_page() {
        let pages = all();
        let mut command = super::super::command().disable_help_subcommand(true);
        command.build();
        let mut commands = Vec::new();
        collect(&command, &mut commands);
        assert!(commands.len() >= 10, "only {} commands were found", commands.len());
        for command in &commands {
            let page = pages.iter().find(|page| page.name == name(command)).expect("its page");
            let text = plain(page);
            for arg in command.get_arguments().filter_map(Arg::get_long) {
                let is_listed = ["\n", ", "].iter().any(|before| text.contains(&format!("{before}--{arg}")));
                assert!(is_listed, "--{arg} is not in {}", page.name);
            }
            for subcommand in command.get_subcommands() {
                assert!(text.contains(&format!("\n{}(1)", name(subcommand))), "{} in {}", name(subcommand), page.name);
            }
        }
        assert_eq!(pages.len(), commands.len() + 1);
    }

    #[test]
    fn every_setting_of_the_file_is_in_its_page_once() {
        let pages = all();
        let text = plain(pages.iter().find(|page| page.name == FILE_PAGE).expect("the page"));
        for key in KEYS.iter().filter(|key| key.in_file()).chain(TABLE_KEYS) {
            let name = key.name.rsplit('.').next().unwrap_or_default();
            assert!(text.contains(&format!("\n{name} = {}", key.value_name)), "{}", key.name);
        }
        let headings = KEYS.iter().filter(|key| key.in_file()).count() + TABLE_KEYS.len();
        assert_eq!(text.matches("\n.TP\n").count(), headings);
    }

    #[test]
    fn the_date_of_the_pages_comes_from_source_date_epoch() {
        assert_eq!(date(Some("1767225600".into())), "2026-01-01");
        assert_eq!(date(Some("yesterday".into())), "");
        assert_eq!(date(None), "");
    }
}
