//! Each recipe says with which version it was tried, or that it was not tried, and the list of recipes leads to it.

use std::collections::BTreeSet;

use super::pages::{self, Page};

const FOLDER: &str = "docs/recipes/";
const LIST: &str = "docs/recipes/README.md";

fn recipes() -> impl Iterator<Item = &'static Page> {
    pages::all().iter().filter(|page| page.path.starts_with(FOLDER) && page.path != LIST)
}

/// The sections of a page: each one's heading and text.
fn sections(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("\n## ").skip(1).filter_map(|section| section.split_once('\n'))
}

/// Whether the last paragraph says with which version the recipe was tried, or that it was not.
fn says_what_was_tried(section: &str) -> bool {
    let last = section.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let names_version = last.chars().any(|c| c.is_ascii_digit());
    (last.starts_with("Tried with ") && names_version) || last.starts_with("Not tried.")
}

#[test]
fn every_recipe_says_with_which_version_it_was_tried() {
    let all: Vec<_> = recipes().flat_map(|page| sections(page.text).map(move |section| (page.path, section))).collect();
    assert!(all.len() >= 18, "only {} recipes were found", all.len());
    let silent: Vec<_> = all.iter().filter(|(_, (_, text))| !says_what_was_tried(text)).collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn a_recipe_that_does_not_say_what_was_tried_is_found() {
    assert!(says_what_was_tried("A line.\n\nTried with curl 8.5.\n"));
    assert!(says_what_was_tried("A line.\n\nNot tried.\n"));
    for bad in ["A line.\n", "A line.\n\nTried with curl.\n", "Tried with curl 8.5.\n\nA line.\n"] {
        assert!(!says_what_was_tried(bad), "{bad}");
    }
}

#[test]
fn the_list_of_recipes_leads_to_each_of_them() {
    let linked: BTreeSet<String> = pages::page(LIST).links().map(|(_, link)| format!("{FOLDER}{link}")).collect();
    for page in recipes() {
        let address = |heading: &str| format!("{}#{}", page.path, pages::anchor(heading));
        let missing: Vec<String> = sections(page.text)
            .map(|(heading, _)| address(heading))
            .filter(|address| !linked.contains(address))
            .collect();
        assert!(missing.is_empty(), "{LIST} does not lead to {missing:?}");
    }
}
