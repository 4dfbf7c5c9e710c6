//! Reads the password from exactly one of four places, and the previous one from a file if there is one. Usually only
//! their NT hashes are kept.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use thiserror::Error;
use zeroize::Zeroizing;

use super::error::ConfigError;
use super::exposure;
use super::keys;
use super::settings::{Setting, Settings, Source};
use super::values::parse_integer;
use super::warning::Advice;
use crate::ntlm::{NtHash, NtHashError};

/// The longest password, including its newline. Windows accepts 256 characters at most.
pub const SECRET_LIMIT_BYTES: usize = 4096;

/// The beginning of the password in the example overlay. It must not be sent to a proxy: three attempts may lock the
/// account.
const PLACEHOLDER: &str = "PLACEHOLDER";

/// The settings that name a secret's place, apart from the variable.
const PLACES: [&str; 3] = ["password_file", "nt_hash_file", "password_fd"];

/// The settings that name the file of the previous secret.
const PREVIOUS_PLACES: [&str; 2] = ["previous_password_file", "previous_nt_hash_file"];

/// The settings that name a file with a secret of an account.
pub(super) const FILES: [&str; 4] =
    ["password_file", "nt_hash_file", "previous_password_file", "previous_nt_hash_file"];

/// Why there is no secret. The error never contains what was read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// No place is given.
    #[error(
        "no password given; put it into a file and set --password-file FILE (or --nt-hash-file FILE for a file with its NT \
         hash), pass a descriptor with --password-fd NUMBER, or set NTLM_GATEWAY_PASSWORD"
    )]
    NoSource,
    /// No place is given for an identity of the file's table.
    #[error(
        "no password given; put it into a file and set password_file (or nt_hash_file for a file with its NT hash)"
    )]
    NoFile,
    /// More than one place is given.
    #[error("the {which} is given in several places, but only one is allowed: {}", places.join(", "))]
    SeveralPlaces {
        /// Which password.
        which: &'static str,
        /// The settings and their places.
        places: Vec<String>,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}; it must be a file that the gateway's user can read{help}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// What a relative path is relative to, if it was one.
        help: &'static str,
    },
    /// The descriptor cannot be read.
    #[error("cannot read descriptor {number}: {source}; it must be open for reading when the gateway starts")]
    Descriptor {
        /// The descriptor.
        number: usize,
        /// The system's error.
        source: io::Error,
    },
    /// Not the number of a descriptor to read from. It is not repeated: it may be a misplaced password.
    #[error("is not the number of a descriptor to read from; use 0 for standard input, or 3 and above")]
    DescriptorNumber,
    /// The text that was read is not a secret.
    #[error("the secret in {place} {source}")]
    Content {
        /// Where it was read.
        place: String,
        /// What is wrong with it.
        source: ContentError,
    },
}

/// What is wrong with a secret's text.
#[derive(Debug, Error)]
pub enum ContentError {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("is longer than {SECRET_LIMIT_BYTES} bytes")]
    TooLong,
    /// It is not UTF-8.
    #[error("is not UTF-8; save it in that encoding")]
    NotUtf8,
    /// It has more than one line.
    #[error("has more than one line")]
    Lines,
    /// It is the placeholder from the examples.
    #[error("is the placeholder from the example; replace it with the account's password")]
    Placeholder,
    /// It is not an NT hash.
    #[error("is not an NT hash: {0}")]
    NtHash(#[from] NtHashError),
}

/// A secret as it was read.
#[derive(Clone, Debug)]
pub(super) struct Secret {
    pub hash: NtHash,
    /// The setting that names its place.
    pub key: String,
    pub source: Source,
    /// Warnings about it.
    pub advice: Vec<Advice>,
}

impl Secret {
    /// That of an account whose password nobody needs.
    pub(super) fn none() -> Secret {
        let hash = NtHash::from_password("");
        Secret { hash, key: "password".into(), source: Source::Default, advice: Vec::new() }
    }
}

/// The hash of a secret's text, and warnings about the text.
type Checked = (NtHash, Vec<Advice>);

/// The secrets that can be read only once, kept as hashes for reloads.
#[derive(Debug, Default)]
pub struct SecretStore {
    environment: Option<Checked>,
    /// The environment's password cannot be read, which has been reported.
    is_broken: bool,
    descriptor: OnceLock<(usize, Checked)>,
}

impl SecretStore {
    /// Reads the password from the environment with `lookup`. An empty variable counts as not set.
    pub(super) fn from_environment(lookup: impl Fn(&str) -> Option<OsString>) -> (SecretStore, Option<ConfigError>) {
        let variable = password_variable();
        let Some(value) = lookup(&variable).filter(|value| !value.is_empty()) else {
            return (SecretStore::default(), None);
        };
        let bytes = Zeroizing::new(value.into_encoded_bytes());
        match checked_password(&bytes) {
            Ok(checked) => (SecretStore { environment: Some(checked), ..SecretStore::default() }, None),
            Err(error) => {
                let source = Source::Env(variable.clone());
                let problem = SecretError::Content { place: variable, source: error }.into();
                let error = ConfigError { source, key: "password".into(), problem };
                (SecretStore { is_broken: true, ..SecretStore::default() }, Some(error))
            }
        }
    }

    /// Whether the setting that names the place could not be read, so that the secret is unknown.
    pub(super) fn is_broken(&self, settings: &Settings, prefix: &str) -> bool {
        let broken = |name: &&str| settings.is_broken(&format!("{prefix}{name}"));
        (self.is_broken && prefix.is_empty()) || PLACES.iter().any(broken)
    }

    /// Whether a place is given for the secret of the settings that begin with `prefix`.
    pub(super) fn is_given(&self, settings: &Settings, prefix: &str) -> bool {
        let is_given = |name: &&str| settings.given(&format!("{prefix}{name}")).is_some();
        (prefix.is_empty() && self.has_environment()) || PLACES.iter().any(is_given)
    }

    /// Whether the environment has a password.
    #[must_use]
    pub fn has_environment(&self) -> bool {
        self.environment.is_some()
    }

    /// Reads the secret that is named by the settings that begin with `prefix`: "" for the plain ones. Only these may
    /// use the environment's password.
    pub(super) fn secret(&self, settings: &Settings, prefix: &str) -> Result<Secret, Box<ConfigError>> {
        let given = given(settings, prefix, &PLACES);
        let environment = self.environment.as_ref().filter(|_| prefix.is_empty());
        match (given.as_slice(), environment) {
            ([], None) if prefix.is_empty() => Err(fail(Source::Default, "password", SecretError::NoSource)),
            ([], None) => Err(fail(Source::Default, "identities.password_file", SecretError::NoFile)),
            ([], Some((hash, advice))) => {
                let source = Source::Env(password_variable());
                Ok(Secret { hash: hash.clone(), key: "password".into(), source, advice: advice.clone() })
            }
            ([(name, setting)], None) => {
                let key = format!("{prefix}{name}");
                match self.read(name, setting) {
                    Ok((hash, advice)) => Ok(Secret { hash, key, source: setting.source.clone(), advice }),
                    Err(error) => Err(fail(setting.source.clone(), &key, error)),
                }
            }
            (several, environment) => {
                let places = named(several).chain(environment.iter().map(|_| password_variable())).collect();
                let last = several.last().map_or(Source::Default, |(_, setting)| setting.source.clone());
                Err(fail(last, "password", SecretError::SeveralPlaces { which: "password", places }))
            }
        }
    }

    fn read(&self, name: &str, setting: &Setting) -> Result<Checked, SecretError> {
        match name {
            "password_fd" => self.of_descriptor(setting.text.trim()),
            _ => of_file(name, setting),
        }
    }

    fn of_descriptor(&self, text: &str) -> Result<Checked, SecretError> {
        let number = parse_integer(text, 0..=1_048_576).map_err(|_| SecretError::DescriptorNumber)?;
        if matches!(number, 1 | 2) {
            return Err(SecretError::DescriptorNumber);
        }
        if let Some((_, checked)) = self.descriptor.get().filter(|(known, _)| *known == number) {
            return Ok(checked.clone());
        }
        // Opening it by name creates a new descriptor, which can be owned without unsafe code.
        let read = File::open(format!("/dev/fd/{number}")).and_then(read_bounded);
        let bytes = read.map_err(|source| SecretError::Descriptor { number, source })?;
        let content = |source| SecretError::Content { place: format!("descriptor {number}"), source };
        let checked = checked_password(&bytes).map_err(content)?;
        // Only the first descriptor is kept. Another number after a reload is read again each time.
        let _ = self.descriptor.set((number, checked.clone()));
        Ok(checked)
    }
}

/// Reads the previous secret that is named by the settings that begin with `prefix`; `None` if there is none. Its file
/// may be missing or empty, so that the setting can stay in the configuration between two changes of the password.
pub(super) fn previous(settings: &Settings, prefix: &str) -> Result<Option<Secret>, Box<ConfigError>> {
    match given(settings, prefix, &PREVIOUS_PLACES).as_slice() {
        [] => Ok(None),
        [(name, setting)] => {
            let (key, source) = (format!("{prefix}{name}"), setting.source.clone());
            match of_file(name, setting) {
                Ok((hash, advice)) => Ok(Some(Secret { hash, key, source, advice })),
                Err(error) if error.is_absence() => Ok(None),
                Err(error) => Err(fail(source, &key, error)),
            }
        }
        several => {
            let last = several.last().map_or(Source::Default, |(_, setting)| setting.source.clone());
            let places = named(several).collect();
            let error = SecretError::SeveralPlaces { which: "previous password", places };
            Err(fail(last, "previous_password_file", error))
        }
    }
}

impl SecretError {
    /// Whether the file is empty, or missing in a directory that exists.
    fn is_absence(&self) -> bool {
        match self {
            SecretError::File { path, source, .. } => {
                source.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir)
            }
            SecretError::Content { source, .. } => matches!(source, ContentError::Empty),
            _ => false,
        }
    }
}

/// The settings among `places` that are given.
fn given<'a>(settings: &'a Settings, prefix: &str, places: &[&'static str]) -> Vec<(&'static str, &'a Setting)> {
    let place = |name: &&'static str| Some((*name, settings.given(&format!("{prefix}{name}"))?));
    places.iter().filter_map(place).collect()
}

/// The settings and their places, for an error's text.
fn named<'a>(given: &'a [(&'static str, &'a Setting)]) -> impl Iterator<Item = String> + 'a {
    given.iter().map(|(name, setting)| match &setting.source {
        Source::File { .. } => format!("{name} ({})", setting.source),
        source => source.to_string(),
    })
}

fn fail(source: Source, key: &str, error: SecretError) -> Box<ConfigError> {
    Box::new(ConfigError { source, key: key.into(), problem: error.into() })
}

/// A password in plain text, overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Password")
    }
}

/// The password in a file, for Basic, which sends it.
pub(super) fn password_of_file(setting: &Setting) -> Result<Password, SecretError> {
    from_file(setting, |bytes| line(bytes).map(|text| Password(Zeroizing::new(text.to_owned()))))
}

/// The hash of the password in the file that the setting `key` names.
pub(super) fn of_password_file(key: &str, setting: &Setting) -> Result<Secret, SecretError> {
    let (hash, advice) = with_exposure(from_file(setting, checked_password)?, setting);
    Ok(Secret { hash, key: key.into(), source: setting.source.clone(), advice })
}

/// The variable that may contain the password.
#[must_use]
pub fn password_variable() -> String {
    format!("{}PASSWORD", keys::ENV_PREFIX)
}

/// The secret in a file: its hash, or the password, as the name of the setting says.
fn of_file(name: &str, setting: &Setting) -> Result<Checked, SecretError> {
    let checked = match name.ends_with("nt_hash_file") {
        true => from_file(setting, nt_hash).map(|hash| (hash, Vec::new())),
        false => from_file(setting, checked_password),
    };
    checked.map(|checked| with_exposure(checked, setting))
}

fn from_file<T>(setting: &Setting, parse: fn(&[u8]) -> Result<T, ContentError>) -> Result<T, SecretError> {
    let path = setting.path();
    match File::open(&path).and_then(read_bounded) {
        Ok(bytes) => parse(&bytes).map_err(|source| SecretError::Content { place: path.display().to_string(), source }),
        Err(source) => Err(SecretError::File { path, source, help: setting.path_help() }),
    }
}

/// Reads up to one byte more than [`SECRET_LIMIT_BYTES`]. The buffer never grows, so no copies are left in memory.
pub fn read_bounded(mut from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(vec![0; SECRET_LIMIT_BYTES + 1]);
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// The hash of a password in UTF-8, without a final newline and a byte order mark.
///
/// # Errors
/// [`ContentError`].
pub fn password(bytes: &[u8]) -> Result<NtHash, ContentError> {
    line(bytes).map(NtHash::from_password)
}

fn checked_password(bytes: &[u8]) -> Result<Checked, ContentError> {
    let text = line(bytes)?;
    let mut advice = Vec::new();
    // In password dumps, the LM hash and a colon precede the NT hash.
    let last = text.trim().rsplit(':').next().unwrap_or_default();
    if NtHash::from_hex(last).is_ok() {
        advice.push(Advice::LikeHash);
    }
    if text != text.trim() {
        advice.push(Advice::PasswordBlanks);
    }
    Ok((NtHash::from_password(text), advice))
}

fn with_exposure((hash, mut advice): Checked, setting: &Setting) -> Checked {
    advice.extend(exposure::of(&setting.path()).map(Advice::from));
    (hash, advice)
}

fn nt_hash(bytes: &[u8]) -> Result<NtHash, ContentError> {
    Ok(NtHash::from_hex(line(bytes)?.trim_ascii())?)
}

fn line(bytes: &[u8]) -> Result<&str, ContentError> {
    if bytes.len() > SECRET_LIMIT_BYTES {
        return Err(ContentError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ContentError::NotUtf8)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    match text {
        "" => Err(ContentError::Empty),
        _ if text.contains(['\n', '\r', '\0']) => Err(ContentError::Lines),
        _ if text.starts_with(PLACEHOLDER) => Err(ContentError::Placeholder),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::find;
    use crate::config::settings::Setting;
    use std::io::Write;

    const PASSWORD: &str = "Qu33n-of-Spades";

    /// A file that is removed when it is dropped.
    struct TestFile(PathBuf);

    impl TestFile {
        fn new(name: &str, content: &[u8]) -> TestFile {
            let path = std::env::temp_dir().join(format!("ntlm-gateway-test-{}-{name}", std::process::id()));
            File::create(&path).unwrap().write_all(content).unwrap();
            TestFile(path)
        }

        fn path(&self) -> String {
            self.0.display().to_string()
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn settings(given: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, text) in given {
            let key = find(name).unwrap();
            settings.give(key, Setting::new(*text, Source::Flag(format!("--{}", key.flag))));
        }
        settings
    }

    fn environment() -> SecretStore {
        SecretStore::from_environment(|name| (name == "NTLM_GATEWAY_PASSWORD").then(|| PASSWORD.into())).0
    }

    fn failure(store: &SecretStore, given: &[(&str, &str)]) -> String {
        store.secret(&settings(given), "").unwrap_err().to_string()
    }

    #[test]
    fn one_newline_and_a_byte_order_mark_do_not_belong_to_the_password() {
        let expected = NtHash::from_password(PASSWORD);
        for (name, content) in [
            ("bare", PASSWORD.to_owned()),
            ("unix", format!("{PASSWORD}\n")),
            ("dos", format!("{PASSWORD}\r\n")),
            ("bom", format!("\u{feff}{PASSWORD}\r\n")),
        ] {
            let file = TestFile::new(name, content.as_bytes());
            let hash = SecretStore::default().secret(&settings(&[("password_file", &file.path())]), "").unwrap().hash;
            assert!(hash == expected, "{name}");
        }
        assert!(password(b" blank ").unwrap() == NtHash::from_password(" blank "));
    }

    #[test]
    fn a_hash_file_contains_hexadecimal_digits() {
        let file = TestFile::new("hash", b"AA8CEA2A92B3CE52E8362A64302EA129 \n");
        let hash = SecretStore::default().secret(&settings(&[("nt_hash_file", &file.path())]), "").unwrap().hash;
        assert!(hash == NtHash::from_password("qa"));
    }

    #[test]
    fn the_errors_about_invalid_secrets_never_repeat_them() {
        let two_lines = format!("{PASSWORD}\n{PASSWORD}\n");
        let long = PASSWORD.repeat(300);
        let no_utf8 = [PASSWORD.as_bytes(), b"\xff"].concat();
        for (name, key, content, expected) in [
            ("empty", "password_file", b"\n".as_slice(), "is empty"),
            ("lines", "password_file", two_lines.as_bytes(), "has more than one line"),
            ("long", "password_file", long.as_bytes(), "is longer than 4096 bytes"),
            ("utf8", "password_file", &no_utf8, "is not UTF-8"),
            (
                "example",
                "password_file",
                include_bytes!("../../deploy/kustomize/overlays/example/password"),
                "is the placeholder",
            ),
            ("nohash", "nt_hash_file", PASSWORD.as_bytes(), "is not an NT hash: an NT hash has 32"),
        ] {
            let file = TestFile::new(name, content);
            let error = SecretStore::default().secret(&settings(&[(key, &file.path())]), "").unwrap_err();
            let texts = format!("{error} {error:?}");
            assert!(texts.contains(expected) && texts.contains(&file.path()), "{texts}");
            assert!(!texts.contains("Qu33n"), "{texts}");
        }
    }

    #[test]
    fn the_error_about_a_missing_file_names_it() {
        let error = failure(&SecretStore::default(), &[("password_file", "/nowhere/secret")]);
        assert!(error.starts_with("--password-file: cannot read /nowhere/secret: No such file"), "{error}");
        assert!(error.contains("can read"), "{error}");
    }

    #[test]
    fn errors_list_the_ways_to_give_a_password_and_conflicting_places() {
        let none = failure(&SecretStore::default(), &[]);
        for way in ["--password-file", "--nt-hash-file", "--password-fd", "NTLM_GATEWAY_PASSWORD"] {
            assert!(none.contains(way), "{none}");
        }
        let several = failure(&environment(), &[("password_file", "/a"), ("password_fd", "3")]);
        assert!(several.contains("--password-file, --password-fd, NTLM_GATEWAY_PASSWORD"), "{several}");
    }

    #[test]
    fn an_empty_variable_is_not_a_password() {
        assert!(environment().secret(&Settings::default(), "").unwrap().hash == NtHash::from_password(PASSWORD));
        let empty = SecretStore::from_environment(|_| Some(OsString::new())).0;
        assert!(!empty.has_environment());
    }

    #[test]
    fn a_descriptor_is_read_once_and_kept_for_reloads() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(PASSWORD.as_bytes()).unwrap();
        drop(writer);
        let store = SecretStore::default();
        let number = reader.as_raw_fd().to_string();
        for _ in 0..2 {
            let hash = store.secret(&settings(&[("password_fd", &number)]), "").unwrap().hash;
            assert!(hash == NtHash::from_password(PASSWORD));
        }
    }

    #[test]
    fn an_invalid_descriptor_is_rejected_without_repeating_it() {
        for text in ["1", "2", "-1", PASSWORD] {
            let error = failure(&SecretStore::default(), &[("password_fd", text)]);
            assert!(error.starts_with("--password-fd: is not the number of a descriptor"), "{error}");
            assert!(!error.contains(PASSWORD), "{error}");
        }
        let error = failure(&SecretStore::default(), &[("password_fd", "9999")]);
        assert!(error.starts_with("--password-fd: cannot read descriptor 9999"), "{error}");
    }

    #[test]
    fn no_debug_print_shows_the_secret() {
        let store = environment();
        let printed = format!("{store:?}").to_lowercase();
        assert!(!printed.contains("qu33n"), "{printed}");
        let hash = NtHash::from_password(PASSWORD).to_hex().to_string();
        assert!(!printed.contains(&hash), "{printed}");
    }
}
