//! The language of the project: no banned words, short test names, and comments that fit the width of the code.
//! CONTRIBUTING.md says how to write; this file checks what a program can check.

use std::fs;
use std::path::{Path, PathBuf};

use crate::architecture::source::{File, read_tree};
use crate::pages;

/// The most characters of a test's name.
const TEST_NAME_CHARACTERS: usize = 80;

/// The most columns of a line of comment, as of a line of code.
const COLUMNS: usize = 120;

/// Words that stand for something with a standard term, and that term.
const BANNED: &[(&str, &str)] = &[
    ("anew", "again"),
    ("challenged ahead", "pre-challenged"),
    ("fall upon", "fall back"),
    ("goes by", "uses an identity"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("oftener", "more often"),
    ("prove an identity", "authenticate"),
    ("proved anew", "authenticated again"),
    ("proves an identity", "authenticates"),
    ("proves itself", "authenticates"),
    ("proves themselves", "authenticate"),
    ("turn away", "reject"),
    ("turned away", "rejected"),
    ("turns away", "rejects"),
    ("what came of", "the outcome"),
    ("whoever", "the client, the user"),
];

/// The page that says which words not to use, in a table.
const STYLE_GUIDE: &str = "CONTRIBUTING.md";

/// This file, which names the banned words.
const THIS_FILE: &str = "tests/project/language.rs";

fn sources() -> Vec<File> {
    let root = crate::root();
    ["src", "tests"].iter().flat_map(|tree| read_tree(root, tree)).collect()
}

/// What is below `folder`, as far as it is text: its path and its text.
fn texts_below(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let read = |path: PathBuf| match path.is_dir() {
        true => texts_below(&path),
        false => fs::read_to_string(&path).map(|text| (path.display().to_string(), text)).into_iter().collect(),
    };
    paths.flat_map(read).collect()
}

/// The names of the functions under `#[test]`.
fn test_names(text: &str) -> impl Iterator<Item = &str> {
    let tests = text.split("#[test]\n").skip(1);
    tests.filter_map(|rest| rest.split_once("fn ")?.1.split(['(', '<']).next())
}

/// Whether a line of comment is part of a table or a drawing, which cannot be wrapped.
fn is_drawn(comment: &str) -> bool {
    let text = comment.trim_start_matches(['/', '!']);
    text.trim_start().starts_with('|') || text.contains(['─', '│', '→', '▶', '▼']) || text.contains("--->")
}

/// The lines of comment that are too wide, with their numbers.
fn wide_comments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| {
        line.trim_start().starts_with("//") && line.chars().count() > COLUMNS && !is_drawn(line.trim_start())
    })
}

/// The banned words in a text, even if a line of comment ends within them.
fn banned(text: &str) -> Vec<&'static str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let is_gap = |c: char| c.is_whitespace() || c == '/' || c == '!';
    let plain: String = text.to_lowercase().chars().map(|c| if is_gap(c) { ' ' } else { c }).collect();
    let pieces = plain.split(|c: char| !is_word(c) && c != ' ');
    let phrases: Vec<String> = pieces
        .map(|piece| format!(" {} ", piece.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")))
        .collect();
    let is_used = |banned: &str| phrases.iter().any(|phrase| phrase.contains(&format!(" {banned} ")));
    BANNED.iter().map(|(phrase, _)| *phrase).filter(|phrase| is_used(phrase)).collect()
}

/// A document without the table that lists what not to write.
fn prose(path: &str, text: &str) -> String {
    let is_listed = |line: &&str| path == STYLE_GUIDE && line.starts_with('|');
    text.lines().filter(|line| !is_listed(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_test_name_is_longer_than_80_characters() {
    let sources = sources();
    let names: Vec<(&str, &str)> =
        sources.iter().flat_map(|file| test_names(&file.text).map(|name| (file.name.as_str(), name))).collect();
    assert!(names.len() > 500, "only {} tests were found", names.len());
    let long: Vec<_> = names.iter().filter(|(_, name)| name.chars().count() > TEST_NAME_CHARACTERS).collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_comment_is_wider_than_120_columns() {
    let wide: Vec<String> = sources()
        .iter()
        .flat_map(|file| {
            wide_comments(&file.text)
                .map(|(number, line)| format!("{}:{number}: {line}", file.name))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn sources_and_documents_use_no_banned_word() {
    let mut texts: Vec<(String, String)> =
        sources().into_iter().filter(|file| file.name != THIS_FILE).map(|file| (file.name, file.text)).collect();
    let deploy = texts_below(&crate::root().join("deploy"));
    assert!(deploy.iter().any(|(name, _)| name.ends_with("ntlm-gateway.json")), "the dashboard is not found");
    texts.extend(deploy);
    texts.extend(pages::all().iter().map(|page| (page.path.to_owned(), prose(page.path, page.text))));
    let found: Vec<String> = texts
        .iter()
        .flat_map(|(name, text)| banned(text).into_iter().map(move |phrase| format!("{name}: {phrase}")))
        .collect();
    assert!(found.is_empty(), "{found:#?}\nwrite instead: {BANNED:#?}");
}

#[test]
fn violations_of_the_rules_of_language_are_found() {
    assert_eq!(banned("// It begins\n    // Anew."), ["anew"]);
    assert_eq!(banned("/// The side that proves\n/// an identity."), ["proves an identity"]);
    assert_eq!(banned("recommended, renewed, time goes, by and by"), Vec::<&str>::new());
    assert_eq!(test_names("#[test]\n#[ignore]\nfn a_name() {}\nfn helper() {}\n").collect::<Vec<_>>(), ["a_name"]);
    let wide = format!("    // {}\n", "x".repeat(COLUMNS));
    assert_eq!(wide_comments(&wide).map(|(number, _)| number).collect::<Vec<_>>(), [1]);
    assert_eq!(wide_comments(&wide.replace("// ", "// | ")).count(), 0, "a table");
}

#[test]
fn the_style_guide_names_banned_words_only_in_its_table() {
    let root = crate::root();
    let guide = fs::read_to_string(root.join(STYLE_GUIDE)).expect(STYLE_GUIDE);
    assert_eq!(banned(&prose(STYLE_GUIDE, &guide)), Vec::<&str>::new());
    assert!(!banned(&guide).is_empty(), "{STYLE_GUIDE} has no table of words");
}
