//! The documents, and what they are made of: marked sections, tables, fenced blocks, headings and links.

use std::collections::BTreeSet;
use std::fs;
use std::sync::LazyLock;

/// A document; it is leaked, so tests can keep parts of it.
pub(crate) struct Page {
    /// Its path from the repository's root.
    pub path: &'static str,
    pub text: &'static str,
}

/// Folders whose Markdown files are documents, from the repository's root.
const FOLDERS: [&str; 8] =
    ["", "docs", "docs/recipes", "deploy", "deploy/helm/ntlm-gateway", "loadtest", "benches", "tests"];

static PAGES: LazyLock<Vec<Page>> = LazyLock::new(|| {
    let root = crate::root();
    let mut pages = Vec::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let name = path.strip_prefix(root).expect("a path below the root").to_str().expect("UTF-8");
                pages.push(Page { path: name.to_owned().leak(), text: text.leak() });
            }
        }
    }
    pages.sort_by_key(|page| page.path);
    pages
});

/// All documents, ordered by their paths.
pub(crate) fn all() -> &'static [Page] {
    &PAGES
}

/// The document with this path.
pub(crate) fn page(path: &str) -> &'static Page {
    PAGES.iter().find(|page| page.path == path).unwrap_or_else(|| panic!("there is no {path}"))
}

/// The front page and the pages of the manual.
pub(crate) fn manual() -> impl Iterator<Item = &'static Page> {
    PAGES.iter().filter(|page| page.path == "README.md" || page.path.starts_with("docs/"))
}

/// The text between `<!-- name -->` and `<!-- /name -->`, which one document has.
pub(crate) fn section(name: &str) -> &'static str {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let mut found = PAGES.iter().filter_map(|page| page.text.split_once(&begin));
    let (_, rest) = found.next().unwrap_or_else(|| panic!("no {begin}"));
    assert!(found.next().is_none(), "{begin} appears in two documents");
    rest.split_once(&end).unwrap_or_else(|| panic!("no {end}")).0
}

/// The cells of a marked table's rows, without its head.
pub(crate) fn rows(name: &str) -> Vec<Vec<&'static str>> {
    section(name).lines().skip(2).map(cells).collect()
}

/// The cells of a table's row.
pub(crate) fn cells(row: &'static str) -> Vec<&'static str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

/// The texts in backticks.
pub(crate) fn codes(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

impl Page {
    /// The contents of the fenced blocks of one language.
    pub(crate) fn blocks(&self, language: &str) -> Vec<&'static str> {
        let fence = format!("```{language}\n");
        self.text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
    }

    /// The lines outside fenced blocks, with their numbers.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &'static str)> {
        let mut is_fenced = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let is_fence = line.trim_start().starts_with("```");
            is_fenced ^= is_fence;
            (!is_fenced && !is_fence).then_some((index + 1, line))
        })
    }

    /// The anchors of the headings, as GitHub makes them.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().filter_map(|(_, line)| line.strip_prefix('#'));
        headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect()
    }

    /// The targets of the links, with the numbers of their lines.
    pub(crate) fn links(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.prose().flat_map(|(number, line)| {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            targets.map(move |target| (number, target))
        })
    }
}

/// The anchor of a heading, as GitHub makes it.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
