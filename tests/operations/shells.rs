//! Completions and manual pages, tried with the real shells and readers of manual pages.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Command;
use ntlm_gateway::cli;

use crate::support::command::run;
use crate::support::gateway::GATEWAY;
use crate::support::scratch::Scratch;
use crate::support::tools::path_of;

const BOUND: Duration = Duration::from_secs(60);

/// The words of each command, and the long options that it takes.
fn commands() -> Vec<(String, BTreeSet<String>)> {
    fn collect(command: &Command, words: &str, into: &mut Vec<(String, BTreeSet<String>)>) {
        let longs = command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?)));
        into.push((words.to_owned(), longs.collect()));
        for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
            collect(subcommand, &format!("{words} {}", subcommand.get_name()), into);
        }
    }
    let mut command = cli::command();
    command.build();
    let mut all = Vec::new();
    collect(&command, "ntlm-gateway", &mut all);
    assert!(all.len() >= 10, "only {} commands were found", all.len());
    all
}

/// The script that completes in a shell, as the program prints it.
fn script(scratch: &Scratch, shell: &str, name: &str) -> PathBuf {
    let printed = run(GATEWAY, BOUND, |command| {
        command.args(["completions", shell]);
    });
    scratch.write(name, printed.expect_success("completions").stdout)
}

/// What a shell offers for each line, one list a line.
fn offered(output: &str) -> Vec<BTreeSet<String>> {
    output.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// A line for each command that ends in `--`, then two more: values of an option, and subcommands.
fn lines() -> (Vec<String>, Vec<BTreeSet<String>>) {
    let mut lines: Vec<String> = commands().iter().map(|(words, _)| format!("{words} --")).collect();
    let mut expected: Vec<BTreeSet<String>> = commands().into_iter().map(|(_, longs)| longs).collect();
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    lines.push("ntlm-gateway run --order ".to_owned());
    expected.push(set(&["failover", "balance"]));
    lines.push("ntlm-gateway guard res".to_owned());
    expected.push(set(&["reset"]));
    (lines, expected)
}

#[test]
fn bash_completes_every_command_and_option() {
    require_tools!("bash");
    let scratch = Scratch::new("completions");
    let file = script(&scratch, "bash", "completions.bash");
    let (lines, expected) = lines();
    let shell = r#"source "$1"; shift
        function=$(complete -p ntlm-gateway | sed 's/.* -F \([^ ]*\) .*/\1/')
        for line; do
            read -ra COMP_WORDS <<<"$line"
            [[ "$line" == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            "$function" ntlm-gateway "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "${COMPREPLY[@]}"
        done"#;
    let output = run(path_of("bash"), BOUND, |command| {
        command.args(["--norc", "-c", shell, "bash"]).arg(&file).args(&lines);
    });
    let found = offered(&output.expect_success("bash").text());
    for ((line, expected), found) in lines.iter().zip(&expected).zip(&found) {
        // Before an option, bash offers the subcommands as well.
        let options: BTreeSet<String> =
            found.iter().filter(|word| !line.ends_with("--") || word.starts_with("--")).cloned().collect();
        assert_eq!(&options, expected, "{line}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn fish_completes_every_command_and_option() {
    require_tools!("fish");
    let scratch = Scratch::new("completions");
    let file = script(&scratch, "fish", "completions.fish");
    let (lines, expected) = lines();
    let shell = "source $argv[1]
        for line in $argv[2..-1]; echo (complete -C $line | string split -f1 \\t); end";
    let output = run(path_of("fish"), BOUND, |command| {
        command.env("HOME", scratch.path()).args(["--no-config", "-c", shell]).arg(&file).args(&lines);
    });
    let found = offered(&output.expect_success("fish").text());
    for ((line, expected), found) in lines.iter().zip(&expected).zip(&found) {
        assert_eq!(found, expected, "{line}");
    }
    assert_eq!(found.len(), expected.len());
}

/// zsh completes only at a terminal, so it runs in one.
const ZSH: &str = r"zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell $'PS1=; fpath=('$1$' $fpath); autoload -Uz compinit; compinit -u -D; bindkey \'^I\' complete-word; print READ\'\'Y'
zpty -r shell said '*READY*'
shift
for line; do
    zpty -w -n shell $line$'\t'
    # The prefix is echoed first, then the rest that was completed.
    zpty -r shell said '*=*'
    print -r -- $said
    zpty -w -n shell $'\x15'
done
zpty -d shell";

#[test]
fn zsh_completes_options_and_knows_all_of_them() {
    require_tools!("zsh");
    let scratch = Scratch::new("completions");
    let file = script(&scratch, "zsh", "_ntlm-gateway");
    let lines = ["ntlm-gateway run --upstr", "ntlm-gateway guard reset --identi"];
    let output = run(path_of("zsh"), BOUND, |command| {
        command.args(["-f", "-c", ZSH, "zsh"]).arg(scratch.path()).args(lines);
    });
    let text = output.expect_success("zsh").text();
    let plain: String = text.chars().filter(|c| c.is_ascii_graphic()).collect();
    assert!(plain.contains("--upstream") && plain.contains("--identity"), "{text}");
    let script = fs::read_to_string(file).expect("the script");
    for (words, longs) in commands() {
        let missing: Vec<&String> = longs
            .iter()
            .filter(|long| !script.contains(&format!("{long}=[")) && !script.contains(&format!("{long}[")))
            .collect();
        assert!(missing.is_empty(), "{words}: {missing:?}");
    }
}

#[test]
fn mandoc_and_groff_accept_every_manual_page() {
    require_tools!("mandoc", "groff");
    let scratch = Scratch::new("man");
    let written = run(GATEWAY, BOUND, |command| {
        command.env("SOURCE_DATE_EPOCH", "1767225600").args(["man", "--dir"]).arg(scratch.path());
    });
    written.expect_success("man --dir");
    let pages: Vec<PathBuf> = ["man1", "man5"]
        .iter()
        .flat_map(|section| fs::read_dir(scratch.join(section)).expect("a section"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    // One for each command, and one about the configuration file.
    assert_eq!(pages.len(), commands().len() + 1);
    for page in &pages {
        let linted = run(path_of("mandoc"), BOUND, |command| {
            command.args(["-T", "lint", "-W", "warning"]).arg(page);
        });
        assert_eq!(linted.expect_success("mandoc").text(), "", "{}", page.display());
        let formatted = run(path_of("groff"), BOUND, |command| {
            command.args(["-ww", "-man", "-T", "utf8", "-P", "-cbou"]).arg(page);
        });
        let formatted = formatted.expect_success("groff");
        assert_eq!(formatted.stderr, "", "{}", page.display());
        assert!(formatted.text().contains("SEE ALSO"), "{}", page.display());
    }
    let one = run(GATEWAY, BOUND, |command| {
        command.env("SOURCE_DATE_EPOCH", "1767225600").arg("man");
    });
    let page = fs::read(scratch.join("man1/ntlm-gateway.1")).expect("the page");
    assert_eq!(one.expect_success("man").stdout, page, "without --dir it prints the first page");
}
