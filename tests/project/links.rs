//! Readers find their way: links lead to existing pages and headings, and the front page leads to every page of the
//! manual.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::pages::{self, Page};

/// The most columns of a line of prose. Tables and examples may be wider.
const COLUMNS: usize = 120;

/// Its diagrams and tables are not wrapped.
const NOT_WRAPPED: &str = "ARCHITECTURE.md";

/// The most lines of the front page.
const FRONT_PAGE_LINES: usize = 200;

/// The file that a link leads to, from the repository's root, and the heading in it; `None` for other sites.
fn target(page: &Page, link: &str) -> Option<(PathBuf, String)> {
    if link.contains("://") {
        return None;
    }
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    if file.is_empty() {
        return Some((page.path.into(), heading.to_owned()));
    }
    let mut path = PathBuf::new();
    for part in Path::new(page.path).parent().expect("a folder").join(file).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {link} leads out of the repository", page.path),
            part => path.push(part),
        }
    }
    Some((path, heading.to_owned()))
}

/// Why a link leads nowhere, if it does.
fn broken(page: &Page, link: &str) -> Option<String> {
    let (path, heading) = target(page, link)?;
    if !crate::root().join(&path).exists() {
        return Some(format!("{}: {link} leads to no file", page.path));
    }
    if heading.is_empty() {
        return None;
    }
    let found = pages::all().iter().find(|page| Path::new(page.path) == path);
    let has_heading = found.is_some_and(|page| page.anchors().contains(&heading));
    (!has_heading).then(|| format!("{}: {link} leads to no heading", page.path))
}

#[test]
fn every_link_of_the_documents_leads_to_a_file_and_a_heading() {
    let links: Vec<(&Page, &str)> =
        pages::all().iter().flat_map(|page| page.links().map(move |(_, link)| (page, link))).collect();
    assert!(links.len() > 100, "only {} links were found", links.len());
    let broken: Vec<String> = links.iter().filter_map(|(page, link)| broken(page, link)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_link_of_the_documents_leads_to_a_file_of_the_archives() {
    let script = crate::root().join("deploy/release");
    let script = fs::read_to_string(script).expect("deploy/release");
    let listed =
        script.split_once("git ls-files -z -- ").and_then(|(_, rest)| rest.split_once(" |")).expect("a list").0;
    let listed: Vec<&str> = listed.split(' ').filter(|path| *path != "'*.md'").collect();
    // The documents are all there, and the licences are copied beside them.
    let is_there = |path: &Path| {
        let name = path.to_str().expect("UTF-8");
        name.ends_with(".md") || name.starts_with("LICENSE-") || listed.iter().any(|listed| path.starts_with(listed))
    };
    let missing: BTreeSet<PathBuf> = pages::all()
        .iter()
        .flat_map(|page| page.links().filter_map(|(_, link)| Some(target(page, link)?.0)))
        .filter(|path| !is_there(path))
        .collect();
    assert!(missing.is_empty(), "deploy/release leaves out {missing:?}");
}

#[test]
fn no_document_has_two_headings_with_one_anchor() {
    for page in pages::all().iter().filter(|page| page.path != "CHANGELOG.md") {
        let headings = page.prose().filter(|(_, line)| line.starts_with('#')).count();
        assert_eq!(page.anchors().len(), headings, "{}", page.path);
    }
}

#[test]
fn a_link_to_a_missing_file_or_heading_is_found() {
    let page = Page { path: "docs/errors.md", text: "" };
    for good in ["credential-guard.md", "../README.md#try-it", "#causes-with-a-status", "https://example.com/#x"] {
        assert_eq!(broken(&page, good), None);
    }
    for bad in ["no-such-page.md", "../README.md#no-such-heading", "#no-such-heading", "../docs/no-such-page.md"] {
        assert!(broken(&page, bad).is_some(), "{bad}");
    }
}

#[test]
fn the_front_page_is_short_and_leads_to_every_page_of_the_manual() {
    let front = pages::page("README.md");
    let lines = front.text.lines().count();
    assert!(lines <= FRONT_PAGE_LINES, "README.md has {lines} lines");
    let linked: BTreeSet<PathBuf> = front.links().filter_map(|(_, link)| Some(target(front, link)?.0)).collect();
    let missing: Vec<&str> = pages::manual()
        .map(|page| page.path)
        .filter(|path| *path != front.path && !linked.contains(Path::new(path)))
        .collect();
    assert!(missing.is_empty(), "README.md does not link to {missing:?}");
}

#[test]
fn every_page_of_the_manual_begins_with_its_purpose() {
    for page in pages::manual() {
        let mut lines = page.text.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("# ")), "{} has no title", page.path);
        let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
        assert!(first.starts_with(char::is_alphabetic), "{} does not begin with its purpose: {first}", page.path);
    }
}

#[test]
fn prose_is_at_most_120_columns_wide() {
    let is_table = |line: &str| line.trim_start().starts_with('|');
    let too_wide: Vec<String> = pages::all()
        .iter()
        .filter(|page| page.path != NOT_WRAPPED)
        .flat_map(|page| page.prose().map(move |(number, line)| (page, number, line)))
        .filter(|(_, _, line)| line.chars().count() > COLUMNS && !is_table(line))
        .map(|(page, number, line)| format!("{}:{number}: {line}", page.path))
        .collect();
    assert!(too_wide.is_empty(), "{too_wide:#?}");
}
