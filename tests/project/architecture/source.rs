//! Parses just enough Rust to find the paths that a file names.

use std::path::{Path, PathBuf};

/// A source file.
pub struct File {
    /// Its path from the package's root.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// A path named in a file: one leaf of a `use` tree, or a plain path.
pub struct NamedPath {
    /// The line of its first segment, from 1; in a group, the line of the leaf.
    pub line: usize,
    /// Its segments.
    pub segments: Vec<String>,
}

impl NamedPath {
    /// The top-level module it refers to, seen from the module `from`; `None` for a path outside the crate or within
    /// the module.
    pub fn module(&self, from: &[String]) -> Option<&str> {
        if self.is_absolute() {
            return self.segments.get(1).map(String::as_str);
        }
        let up = self.segments.iter().take_while(|segment| *segment == "super").count();
        (up > 0 && up == from.len()).then(|| self.segments.get(up).map(String::as_str)).flatten()
    }

    /// Whether it starts at the crate's root.
    pub fn is_absolute(&self) -> bool {
        self.segments.first().is_some_and(|first| first == "crate" || first == "ntlm_gateway")
    }
}

impl File {
    /// The path of the file's module from the crate's root; empty for `lib.rs` and `main.rs`.
    pub fn module_path(&self) -> Vec<String> {
        let path = Path::new(self.name.trim_start_matches("src/")).with_extension("");
        let mut path: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            path.pop();
        }
        path
    }

    /// The top-level module that contains the file.
    pub fn module(&self) -> String {
        self.module_path().first().cloned().unwrap_or_else(|| "main".to_owned())
    }

    /// A line of the file, trimmed.
    pub fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or_default().trim()
    }

    /// Every path that the file names outside comments, strings and tests.
    pub fn paths(&self) -> Vec<NamedPath> {
        let code = without_test_items(&code_only(&self.text)).0;
        let tokens = tokens(&code);
        let mut found = Vec::new();
        let mut at = 0;
        while let Some((_, token)) = tokens.get(at) {
            let before = |back| at.checked_sub(back).map(|before: usize| tokens[before].1.as_str());
            // A field or a method, but not the end of a range.
            let continues = before(1) == Some("::") || before(1) == Some(".") && before(2) != Some(".");
            if is_name(token) && !continues {
                at = leaves(&tokens, at, &mut Vec::new(), &mut found);
            } else {
                at += 1;
            }
        }
        found
    }

    /// The paths, without extension, of the modules this file declares for tests only.
    pub fn test_modules(&self) -> Vec<PathBuf> {
        let (_, names) = without_test_items(&code_only(&self.text));
        let own = Path::new(&self.name);
        let is_directory = matches!(own.file_stem().and_then(|stem| stem.to_str()), Some("mod" | "lib" | "main"));
        let directory = if is_directory { own.parent().unwrap_or(own).to_path_buf() } else { own.with_extension("") };
        names.into_iter().map(|name| directory.join(name)).collect()
    }
}

/// Every Rust file below `root/tree`, in order; none if there is no such directory.
pub fn read_tree(root: &Path, tree: &str) -> Vec<File> {
    let mut files = Vec::new();
    let mut directories = vec![root.join(tree)];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for path in entries.map(|entry| entry.expect("a directory entry").path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("a path below the root").display().to_string();
                let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {name}: {e}"));
                files.push(File { name, text });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// The text with comments, string and character literals blanked out; lines keep their numbers.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_name = code.chars().next_back().is_some_and(is_name_char);
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !in_name && prefixed_string(rest).is_some() => prefixed_string(rest).unwrap_or(1),
            '\'' => character(rest).unwrap_or(0),
            _ => 0,
        };
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the block comment at the start of `text`; block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut rest) = (0_usize, text);
    while let Some(first) = rest.chars().next() {
        if let Some(inside) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, inside);
        } else if let Some(behind) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, behind);
            if depth == 0 {
                break;
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    text.len() - rest.len()
}

/// The length of the string literal at the start of `text`.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a literal such as `b"…"`, `r#"…"#` or `b'…'` at the start of `text`, if there is one.
fn prefixed_string(text: &str) -> Option<usize> {
    let letters = text.len() - text.trim_start_matches(['b', 'c', 'r']).len();
    let (prefix, rest) = text.split_at_checked(letters).filter(|(prefix, _)| prefix.len() <= 2)?;
    if !prefix.contains('r') {
        return match rest.chars().next()? {
            '"' => Some(letters + string(rest)),
            '\'' => character(rest).map(|length| letters + length),
            _ => None,
        };
    }
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(letters + hashes + 1 + body.find(&end).map_or(body.len(), |at| at + end.len()))
}

/// The length of the character literal at the start of `text`; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut inner = text.char_indices().skip(1);
    let (_, first) = inner.next()?;
    if first == '\\' {
        inner.next()?;
        return inner.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    inner.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

/// Code without the items under `#[cfg(test)]`, and the names of those that are modules in files of their own.
fn without_test_items(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let length = item_length(item);
        let words: Vec<&str> = item[..length].trim_end_matches(';').split_whitespace().collect();
        if let [.., "mod", name] = words[..] {
            modules.push(name.to_owned());
        }
        kept.extend(item[..length].chars().filter(|c| *c == '\n'));
        rest = &item[length..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// The end of an item: after its first `;` outside brackets or the brace that closes its first block.
fn item_length(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// Names, `::` and single characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_name_char(first) {
                rest.find(|c| !is_name_char(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((number + 1, rest[..length].to_owned()));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_name(token: &str) -> bool {
    token.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
}

/// Reads the path or `use` tree whose name is at `at`, adds its leaves, and returns its end.
fn leaves(tokens: &[(usize, String)], at: usize, prefix: &mut Vec<String>, found: &mut Vec<NamedPath>) -> usize {
    let token = |at: usize| tokens.get(at).map(|token| token.1.as_str());
    let depth = prefix.len();
    let line = tokens[at].0;
    let mut at = at;
    prefix.push(tokens[at].1.clone());
    at += 1;
    while token(at) == Some("::") && token(at + 1).is_some_and(is_name) {
        prefix.push(tokens[at + 1].1.clone());
        at += 2;
    }
    if token(at) == Some("::") && token(at + 1) == Some("{") {
        at += 2;
        while token(at).is_some_and(|t| t != "}") {
            at = if token(at).is_some_and(is_name) { leaves(tokens, at, prefix, found) } else { at + 1 };
        }
        at += 1;
    } else {
        found.push(NamedPath { line, segments: prefix.clone() });
    }
    prefix.truncate(depth);
    at
}
