//! The TOML file: its tables are flattened into settings, which keep their places for later errors.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::keys::{self, Key, Kind};
use super::settings::{self, Entry, Part, Setting, Settings, Source};

/// The longest configuration file that is read: a hundred times as long as any reasonable one.
const FILE_LIMIT_BYTES: usize = 1024 * 1024;

/// The parser's message for a key that a table already has.
const DUPLICATE_KEY: &str = "duplicate key";

/// Reads a file.
pub(super) fn read(path: &Path, named_by: Source) -> (Settings, Vec<ConfigError>) {
    match text_of(path) {
        Ok(text) => parse(path, &text),
        Err(problem) => {
            let error = ConfigError { source: named_by, key: "config".into(), problem };
            let mut settings = Settings::default();
            settings.mark_all_broken();
            (settings, vec![error])
        }
    }
}

fn text_of(path: &Path) -> Result<String, Problem> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT_BYTES as u64 + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length > FILE_LIMIT_BYTES => {
            Err(Problem::TooLong { path: path.into(), limit_bytes: FILE_LIMIT_BYTES })
        }
        Ok(_) => Ok(text),
        Err(source) => Err(Problem::Unreadable { path: path.into(), source }),
    }
}

/// Parses a file's text. After a syntax error, the settings that could be read are still returned.
pub(super) fn parse(path: &Path, text: &str) -> (Settings, Vec<ConfigError>) {
    let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut flattening = Flattening { path, text, line_starts, settings: Settings::default(), errors: Vec::new() };
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        let hint = match error.message() {
            DUPLICATE_KEY => flattening.first_use(document.get_ref(), &span),
            _ => flattening.hint(&span).to_owned(),
        };
        let problem = Problem::Syntax(format!("{}{hint}", error.message()));
        flattening.fail(span, String::new(), problem);
    }
    flattening.table(document.get_ref(), "");
    if !syntax_errors.is_empty() {
        // Report neither settings that an incomplete document lacks, nor further errors behind a syntax error on the
        // same line.
        flattening.errors.truncate(syntax_errors.len());
        flattening.settings.mark_all_broken();
    }
    let mut errors = flattening.errors;
    errors.sort_by_key(place);
    if !syntax_errors.is_empty() {
        errors.dedup_by_key(|error| place(error).0);
    }
    (flattening.settings, errors)
}

fn place(error: &ConfigError) -> (usize, usize) {
    match error.source {
        Source::File { line, column, .. } => (line, column),
        _ => (0, 0),
    }
}

struct Flattening<'a> {
    path: &'a Path,
    text: &'a str,
    /// The first byte of each line, in ascending order.
    line_starts: Vec<usize>,
    settings: Settings,
    errors: Vec<ConfigError>,
}

impl Flattening<'_> {
    /// Enters known sections only, so the depth is limited.
    fn table(&mut self, table: &DeTable<'_>, prefix: &str) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            if prefix.is_empty() && keys::is_section(&name) {
                match value.get_ref() {
                    DeValue::Table(section) => self.table(section, &format!("{name}.")),
                    other => {
                        let problem = Problem::WrongType { expected: "a section", got: type_name(other) };
                        self.fail(value.span(), name, problem);
                    }
                }
                continue;
            }
            if let Some(table) = keys::find_table(&name).filter(|_| prefix.is_empty()) {
                self.entries(table, value.get_ref(), value.span());
                continue;
            }
            match keys::find(&name) {
                Some(key) if key.in_file() => self.value(key, value.get_ref(), value.span()),
                found => {
                    let problem = found.map_or_else(|| unknown(&name), misplaced);
                    self.fail(key.span(), name, problem);
                }
            }
        }
    }

    /// Reads the entries of a table, each like a small file.
    fn entries(&mut self, table: &'static str, value: &DeValue<'_>, span: Range<usize>) {
        let expected = "a list of entries, each under [[name]]";
        let DeValue::Array(entries) = value else {
            // Its content is unknown, so nothing may be reported as missing.
            self.settings.mark_all_broken();
            return self.fail(span, table.into(), Problem::WrongType { expected, got: type_name(value) });
        };
        for entry in entries {
            let DeValue::Table(content) = entry.get_ref() else {
                let problem = Problem::WrongType { expected, got: type_name(entry.get_ref()) };
                self.fail(entry.span(), table.into(), problem);
                continue;
            };
            let outer = std::mem::take(&mut self.settings);
            self.table(content, &format!("{table}."));
            let settings = std::mem::replace(&mut self.settings, outer);
            self.settings.give_entry(table, Entry { source: self.source(&entry.span()), settings });
        }
    }

    fn value(&mut self, key: &'static Key, value: &DeValue<'_>, span: Range<usize>) {
        if key.kind == Kind::List {
            return self.list(key, value, span);
        }
        match text_for(key, value) {
            Ok(text) => {
                let source = self.source(&span);
                self.settings.give(key, Setting::new(text, source));
            }
            Err(problem) => {
                self.settings.mark_broken(key);
                self.fail(span, key.name.into(), problem);
            }
        }
    }

    /// Reads a list. Valid elements are kept even if others are not, so that their errors are found too.
    fn list(&mut self, key: &'static Key, value: &DeValue<'_>, span: Range<usize>) {
        let alone = [(value, span.clone())];
        let in_array: Vec<(&DeValue<'_>, Range<usize>)>;
        let elements = match value {
            DeValue::Array(array) => {
                in_array = array.iter().map(|element| (element.get_ref(), element.span())).collect();
                in_array.as_slice()
            }
            _ => alone.as_slice(),
        };
        let mut parts = Vec::new();
        for (element, span) in elements {
            match text_for(key, element) {
                Ok(text) => parts.extend(self.parts(&text, span)),
                Err(problem) => {
                    self.settings.mark_broken(key);
                    self.fail(span.clone(), key.name.into(), problem);
                }
            }
        }
        let source = self.source(&span);
        self.settings.give(key, Setting::list(parts, source));
    }

    /// The entries of one string. They have their own columns if the string contains no escapes.
    fn parts(&self, text: &str, span: &Range<usize>) -> Vec<Part> {
        let quoted = self.text.get(span.clone()).unwrap_or_default();
        let is_plain = quoted.len() == text.len() + 2 && quoted.get(1..=text.len()) == Some(text);
        settings::split(text, |at| match is_plain && at > 0 {
            true => self.source(&(span.start + 1 + at..span.end)),
            false => self.source(span),
        })
    }

    fn fail(&mut self, span: Range<usize>, key: String, problem: Problem) {
        let source = self.source(&span);
        self.errors.push(ConfigError { source, key, problem });
    }

    fn source(&self, span: &Range<usize>) -> Source {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        let line_start = line.checked_sub(1).and_then(|index| self.line_starts.get(index)).copied().unwrap_or(0);
        let before = self.text.get(line_start..span.start.min(self.text.len())).unwrap_or_default();
        Source::File { path: self.path.into(), line, column: before.chars().count() + 1 }
    }

    /// The first place of a duplicate key at `span`: the nearest key of the same name before it.
    fn first_use(&self, document: &DeTable<'_>, span: &Range<usize>) -> String {
        let key = self.text.get(span.clone()).unwrap_or_default().trim_matches(['"', '\'']);
        let mut first = None;
        nearest_before(document, DEPTH, key, span.start, &mut first);
        let first = first.or_else(|| self.header_before(key, span.start));
        first.map_or_else(String::new, |at| format!("; the first one is at {}", self.source(&(at..at))))
    }

    /// The place of a section's header before `end`. Of two sections with the same name, the document contains only
    /// one.
    fn header_before(&self, key: &str, end: usize) -> Option<usize> {
        let starts = self.line_starts.iter().filter(|start| **start < end);
        let header = format!("[{key}]");
        let of_section = |start: &&usize| self.text.get(**start..).is_some_and(|line| line.starts_with(&header));
        starts.filter(of_section).map(|start| start + 1).find(|at| *at < end)
    }

    /// A hint for the most common syntax error: a Windows account in double quotes.
    fn hint(&self, span: &Range<usize>) -> &'static str {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
        if line.contains('"') && line.contains('\\') {
            r"; a backslash needs single quotes: user = 'DOMAIN\name'"
        } else {
            ""
        }
    }
}

/// The depth of a setting in an entry of a table, the deepest there is.
const DEPTH: usize = 3;

/// Finds the last place before `end` at which a table, or a nested one, has a key of this name.
fn nearest_before(table: &DeTable<'_>, depth: usize, name: &str, end: usize, found: &mut Option<usize>) {
    for (key, value) in table {
        let at = key.span().start;
        if key.get_ref() == name && at < end && found.is_none_or(|best| best < at) {
            *found = Some(at);
        }
        let inner = match value.get_ref() {
            DeValue::Table(inner) => vec![inner],
            DeValue::Array(entries) => entries.iter().filter_map(|entry| entry.get_ref().as_table()).collect(),
            _ => Vec::new(),
        };
        if let Some(depth) = depth.checked_sub(1) {
            inner.into_iter().for_each(|inner| nearest_before(inner, depth, name, end, found));
        }
    }
}

fn unknown(name: &str) -> Problem {
    if matches!(name, "passwd" | "secret" | "nt_hash") {
        return Problem::Unknown { nearest: Some("password_file") };
    }
    Problem::Unknown { nearest: keys::nearest(name) }
}

fn misplaced(key: &'static Key) -> Problem {
    Problem::Misplaced(match key.name {
        "config" => "it is the path of the file itself",
        _ => "put the password into a separate file, and set password_file to its path",
    })
}

/// The text of a value, or of an element of a list.
fn text_for(key: &Key, value: &DeValue<'_>) -> Result<String, Problem> {
    let kind = key.kind;
    // Ports are the only numbers in lists.
    let takes_numbers = key.value_name == "PORT";
    let is_decimal = matches!(value, DeValue::Integer(number) if number.radix() == 10);
    match (kind, value) {
        (_, DeValue::String(text)) => Ok(text.to_string()),
        (Kind::List, DeValue::Integer(number)) if is_decimal && takes_numbers => Ok(number.as_str().to_owned()),
        (Kind::Switch, DeValue::Boolean(value)) => Ok(value.to_string()),
        // A duration without a unit is passed on as text: a later error shows the correct form.
        (Kind::Integer | Kind::IntegerOrAuto | Kind::Size | Kind::Duration, DeValue::Integer(number)) if is_decimal => {
            Ok(number.as_str().to_owned())
        }
        _ => Err(Problem::WrongType { expected: expected(kind), got: type_name(value) }),
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a string in quotes",
        Kind::List => "an array of strings, or one string",
        Kind::Integer => "a whole number",
        Kind::IntegerOrAuto => "a whole number, or \"auto\"",
        Kind::Duration => "a string such as \"30s\"",
        Kind::Switch => "true or false",
        Kind::Size => "a string such as \"64KiB\", or a number of bytes",
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a section",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Settings, Vec<String>) {
        let (settings, errors) = parse(Path::new("gateway.toml"), text);
        (settings, errors.iter().map(ToString::to_string).collect())
    }

    fn errors(text: &str) -> Vec<String> {
        parsed(text).1
    }

    #[test]
    fn values_keep_their_line_and_column() {
        let (settings, errors) = parsed("# first\n\nupstream = \"proxy.corp\"\n[timeouts]\n  idle = '5m'\n");
        assert_eq!(errors, Vec::<String>::new());
        let at = |line, column| Source::File { path: "gateway.toml".into(), line, column };
        let given = |name: &str| settings.given(name).unwrap().clone();
        assert_eq!((given("upstream").text.as_str(), given("upstream").source), ("proxy.corp", at(3, 12)));
        assert_eq!(given("timeouts.idle"), Setting::new("5m", at(5, 10)));
    }

    #[test]
    fn all_sensible_types_are_accepted() {
        let (settings, errors) = parsed(
            "listen = ['127.0.0.1:1', '127.0.0.1:2']\nallow_clients = '10.0.0.0/8'\nshards = 4\nmax_tunnels = '1_0'\n\
             limits = { head = 65_536 }\ntimeouts.drain = 30\nadmin_tunnels = true",
        );
        assert_eq!(errors, Vec::<String>::new());
        for (name, text) in [
            ("listen", "127.0.0.1:1,127.0.0.1:2"),
            ("allow_clients", "10.0.0.0/8"),
            ("shards", "4"),
            ("limits.head", "65536"),
            ("timeouts.drain", "30"),
            ("admin_tunnels", "true"),
        ] {
            assert_eq!(settings.given(name).unwrap().text, text, "{name}");
        }
    }

    #[test]
    fn an_unknown_setting_is_an_error_with_its_place_and_the_most_similar_name() {
        assert_eq!(
            errors("listen = '127.0.0.1:1'\n  upsteam = 'p:1'\n[timeout]\nidle = '1s'\n[limits]\nflavour = 1"),
            [
                "gateway.toml:2:3: upsteam: unknown setting; did you mean upstream?",
                "gateway.toml:3:2: timeout: unknown setting; did you mean timeouts?",
                "gateway.toml:6:1: limits.flavour: unknown setting",
            ]
        );
    }

    #[test]
    fn wrong_types_are_named() {
        assert_eq!(
            errors("listen = [1]\nshards = 1.5\ntimeouts = '5s'\nfirst_leg = ['a:1']\nuser = 42\nlog_level = true"),
            [
                "gateway.toml:1:11: listen: must be an array of strings, or one string, but is an integer",
                "gateway.toml:2:10: shards: must be a whole number, but is a number with a fraction",
                "gateway.toml:3:12: timeouts: must be a section, but is a string",
                "gateway.toml:4:13: first_leg: must be a string in quotes, but is an array",
                "gateway.toml:5:8: user: must be a string in quotes, but is an integer",
                "gateway.toml:6:13: log_level: must be a string in quotes, but is a boolean",
            ]
        );
    }

    #[test]
    fn a_password_in_the_file_is_rejected_and_not_repeated() {
        let errors = errors("password = 'hunter2'\nnt_hash = 'hunter2'\nconfig = 'x'");
        assert_eq!(errors.len(), 3);
        assert!(errors.iter().any(|error| error.contains("password_file")), "{errors:?}");
        assert!(!errors.concat().contains("hunter2"), "{errors:?}");
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let errors = errors("listen = '127.0.0.1:1'\nupstream =\nshards = = 4\n");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].starts_with("gateway.toml:2:11: "), "{errors:?}");
        assert!(errors[1].starts_with("gateway.toml:3:10: "), "{errors:?}");
    }

    #[test]
    fn an_account_in_double_quotes_gets_a_hint_about_single_quotes() {
        let errors = errors("user = \"CORP\\alice\"\n");
        assert!(errors[0].starts_with("gateway.toml:1:"), "{errors:?}");
        assert!(errors[0].contains(r"user = 'DOMAIN\name'"), "{errors:?}");
    }

    #[test]
    fn the_error_about_a_missing_file_has_its_path() {
        let (_, errors) = read(Path::new("/nowhere/gateway.toml"), Source::Flag("--config".into()));
        let error = errors[0].to_string();
        assert!(error.starts_with("--config: cannot read /nowhere/gateway.toml: No such file"), "{error}");
    }
}
