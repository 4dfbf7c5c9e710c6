//! Checks that the tests and properties named in SECURITY.md exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const SECURITY: &str = include_str!("../../SECURITY.md");

/// Appends the Rust sources below a folder.
fn sources(folder: &Path, text: &mut String) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("a folder can be read to its end").path()) {
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
}

/// The texts in backticks that consist of letters, digits and underscores only.
fn names(text: &str) -> BTreeSet<&str> {
    let is_name =
        |code: &&str| code.contains('_') && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn every_test_and_property_named_in_the_threat_model_exists() {
    let root = crate::root();
    let mut text = String::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut text);
    }
    let functions: BTreeSet<&str> =
        text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next()).collect();
    let is_property = |name: &str| root.join("fuzz/properties").join(name).with_extension("rs").exists();
    let is_setting = |name: &str| ntlm_gateway::config::keys::find(name).is_some();
    let named = names(SECURITY);
    let tests = named.iter().filter(|name| name.matches('_').count() >= 3).count();
    assert!(tests > 30, "only {tests} tests were found in SECURITY.md");
    let missing: Vec<&&str> =
        named.iter().filter(|name| !functions.contains(**name) && !is_property(name) && !is_setting(name)).collect();
    assert!(missing.is_empty(), "SECURITY.md names missing tests: {missing:?}");
}
