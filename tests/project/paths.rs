//! Checks that the files named in documents and comments exist.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose files are named by their path from the repository's root.
const TREES: [&str; 7] = ["tests/", "src/", "docs/", "deploy/", "benches/", "fuzz/", "loadtest/"];

/// The extensions of files with prose or comments.
const TEXTS: [&str; 6] = ["md", "rs", "py", "sh", "toml", "yaml"];

/// The documents, sources and scripts below `folder`, with their contents. The change log is left out: it may name
/// files that no longer exist.
fn collect_texts(folder: &Path, texts: &mut Vec<(PathBuf, String)>) {
    for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "work", "corpus"].contains(&name) {
                collect_texts(&path, texts);
            }
        } else if name != "CHANGELOG.md" && TEXTS.iter().any(|ending| path.extension() == Some(OsStr::new(ending))) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            texts.push((path, text));
        }
    }
}

/// The texts in backticks within a line that consist only of a path's characters: no patterns, placeholders or
/// commands.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |code: &&str| code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let codes = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    codes.filter(is_path).filter(|path| TREES.iter().any(|tree| path.starts_with(tree)))
}

#[test]
fn every_file_named_in_a_document_or_comment_exists() {
    let root = crate::root();
    let mut texts = Vec::new();
    collect_texts(root, &mut texts);
    let named: Vec<_> = texts.iter().flat_map(|(name, text)| paths(text).map(move |path| (name, path))).collect();
    assert!(named.len() > 30, "only {} paths were found", named.len());
    let missing: BTreeSet<String> = named
        .iter()
        .filter(|(_, path)| !root.join(path).exists())
        .map(|(name, path)| format!("{}: {path}", name.display()))
        .collect();
    assert!(missing.is_empty(), "these files do not exist: {missing:#?}");
}
