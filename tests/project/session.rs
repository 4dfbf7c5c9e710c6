//! The shape of `src/session`: the drawn edges are the edges in the code, stages do not know each other, there is no
//! circle among the files, and effects leave through one file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The stages, by the files that make them. `follow_route` and `select_hop` decide at once; the others wait.
const STAGES: &[&str] = &[
    "read_request",
    "choose_route",
    "follow_route",
    "select_hop",
    "connect",
    "authenticate",
    "exchange",
    "decline",
    "reply",
    "relay",
    "linger",
];

fn session() -> PathBuf {
    crate::root().join("src/session")
}

/// Every file below `src/session` by its module's path in it (`exchange::flow`; the folder's `mod.rs` is `exchange`),
/// without its tests and comments.
fn files() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![session()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let relative = path.strip_prefix(session()).expect("a path in it").with_extension("");
                let module = relative.to_string_lossy().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
                found.insert(module, code(&text));
            }
        }
    }
    found
}

/// A file's code: no tests, no comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The first part of a module's path.
fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// What follows each occurrence of `before`, as far as it is a name.
fn names_after<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(before)
        .map(|(place, _)| &text[place + before.len()..])
        .map(|rest| &rest[..rest.find(|letter| !is_name(letter)).unwrap_or(rest.len())])
        .collect()
}

/// The edges that the code takes: what each stage's files construct, be it through [`respond`].
fn edges_in_code(files: &BTreeMap<String, String>) -> BTreeSet<(String, String)> {
    let mut edges = BTreeSet::new();
    for (module, text) in files.iter().filter(|(module, _)| STAGES.contains(&room(module))) {
        let from = room(module).to_owned();
        for to in names_after(text, "Transition::") {
            edges.insert((from.clone(), snake(to)));
        }
        // Of these one may end the session instead, where no client is left to be told.
        for told in ["respond::failed(", "respond::failed_behind(", "respond::established(", "respond::declined("] {
            if text.contains(told) {
                edges.insert((from.clone(), "reply".into()));
            }
        }
    }
    edges
}

/// The rows of the table at the head of `transition.rs`.
fn edges_in_table() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(session().join("transition.rs")).expect("the transitions");
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    text.lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .filter_map(|row| {
            let mut cells = row.split('|');
            Some((cell(cells.next()?), cell(cells.next()?)))
        })
        .collect()
}

#[test]
fn the_table_of_transitions_has_the_edges_of_the_code_and_no_others() {
    let files = files();
    assert_eq!(edges_in_table(), edges_in_code(&files));
    let text = &files["transition"];
    let body = text.split("enum Transition {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the enum");
    let variants: BTreeSet<String> = body
        .lines()
        .filter_map(|line| line.trim().split('(').next())
        .filter(|name| !name.is_empty())
        .map(snake)
        .collect();
    let targets: BTreeSet<String> = edges_in_table().into_iter().map(|(_, to)| to).collect();
    assert_eq!(targets, variants);
}

/// The modules of the session that a file names.
fn named_modules(module: &str, text: &str, all: &BTreeSet<String>) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let is_folder = all.iter().any(|other| other.starts_with(&format!("{module}::")));
    let mut named = BTreeSet::new();
    for line in text.lines().filter(|line| line.trim_start().starts_with("use ") || line.contains("crate::session::")) {
        let rest = line.trim_start().trim_start_matches("pub ").trim_start_matches("use ");
        let bases: &[(&str, &str)] = &[("crate::session::", ""), ("super::", parent)];
        for (prefix, base) in bases {
            for (place, _) in rest.match_indices(prefix) {
                let tail = &rest[place + prefix.len()..];
                let listed = tail.strip_prefix('{').and_then(|list| list.split('}').next());
                let heads: Vec<&str> = listed.map_or_else(|| vec![tail], |list| list.split(',').collect());
                for head in heads {
                    let name = head.trim().split([':', ';', ' ', ',']).next().unwrap_or_default();
                    let path = if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") };
                    named.extend(all.get(&path).cloned());
                }
            }
        }
        // A folder's own file names what is in the folder.
        if is_folder || module.is_empty() {
            let name = rest.split("::").next().unwrap_or_default();
            named.extend(all.get(&format!("{module}::{name}")).cloned());
        }
    }
    named.remove(module);
    named
}

#[test]
fn no_stage_names_another_stage() {
    let files = files();
    let all: BTreeSet<String> = files.keys().cloned().collect();
    let mut found = Vec::new();
    for (module, text) in files.iter().filter(|(module, _)| STAGES.contains(&room(module))) {
        for named in named_modules(module, text, &all) {
            if STAGES.contains(&room(&named)) && room(&named) != room(module) {
                found.push(format!("{module} names {named}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_files_of_the_session_form_no_circle() {
    let files = files();
    let all: BTreeSet<String> = files.keys().cloned().collect();
    // A folder counts as one file: what is in it may know its parent.
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in files.iter().filter(|(module, _)| module.as_str() != "mod") {
        let targets = edges.entry(room(module).to_owned()).or_default();
        targets.extend(named_modules(module, text, &all).iter().map(|named| room(named).to_owned()));
        targets.remove(room(module));
    }
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 20, "the edges are not found: {edges:?}");
    // What names nothing that is left can be taken off, until nothing is left.
    while let Some(free) = edges.iter().find(|(_, targets)| targets.is_empty()).map(|(name, _)| name.clone()) {
        edges.remove(&free);
        edges.values_mut().for_each(|targets| {
            targets.remove(&free);
        });
    }
    assert!(edges.is_empty(), "these form a circle: {edges:#?}");
}

#[test]
fn effects_leave_the_session_through_one_file() {
    let effects = [
        ".metrics.",
        "crate::metrics",
        "health.failed",
        "health.succeeded",
        "habits.responded",
        "habits.challenged_",
        "habits.challenge_was",
        "habits.served_",
        "habits.refused_",
        "habits.asked_for",
        "unchallenged.served",
        "unchallenged.challenged",
        "guard.unreachable",
        "ticket.settle",
        "HopLease::new",
    ];
    let mut found = Vec::new();
    // The context holds the counters, and reads one of them.
    for (module, text) in files().iter().filter(|(module, _)| !["effects", "context"].contains(&module.as_str())) {
        for effect in effects {
            if text.contains(effect) {
                found.push(format!("{module} has `{effect}`"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
