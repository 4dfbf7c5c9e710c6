//! The places of errors, in the order of the file's lines, and the paths of files that a file names.

use std::path::Path;

use super::*;
use crate::ntlm::NtHash;

const PASSWORD: &str = "Qu33n-of-Spades";

/// A directory with a configuration and passwords, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("ntlm-gateway-places-{}-{test}", std::process::id()));
        std::fs::create_dir_all(path.join("secrets")).unwrap();
        for name in ["password", "secrets/ci", "secrets/joe"] {
            std::fs::write(path.join(name), PASSWORD).unwrap();
        }
        Directory(path)
    }

    fn load(&self, text: &str) -> Result<Config, ConfigErrors> {
        let file = self.0.join("gateway.toml");
        std::fs::write(&file, text).unwrap();
        let mut flags = Settings::default();
        let name = Setting::new(file.display().to_string(), Source::Flag("--config".into()));
        flags.give(keys::find("config").unwrap(), name);
        load(&Inputs::new(flags, |_| None).unwrap())
    }

    /// The errors, without the directory.
    fn errors(&self, text: &str) -> Vec<String> {
        let errors = self.load(text).expect_err("no error");
        let directory = format!("{}/", self.0.display());
        errors.iter().map(|error| error.to_string().replace(&directory, "")).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Checks that the errors begin with the file's name and these texts.
#[track_caller]
fn expect(errors: &[String], expected: &[&str]) {
    let begins = |(error, expected): (&String, &&str)| error.starts_with(&format!("gateway.toml:{expected}"));
    let fits = errors.len() == expected.len() && errors.iter().zip(expected).all(begins);
    assert!(fits, "{errors:#?}\ninstead of {expected:#?}");
}

const PLAIN: &str = "upstream = 'a:1'\nuser = 'CORP\\svc'\npassword_file = 'password'\n";

#[test]
fn every_invalid_entry_of_a_list_is_reported_with_its_own_column() {
    let directory = Directory::new("entries");
    let text = "upstream = ['a:1', 'b', 'https://c:0']\nuser = 'CORP\\svc'\npassword_file = 'password'\n\
                listen = \"127.0.0.1:1, localhost:2 127.0.0.1\"\nallow_clients = [\n  '10.0.0.0/8',\n  'x',\n  7, '10.0.0.0/33',\n]\n\
                no_proxy = 'a, b c/d, *.e:0'\n";
    expect(
        &directory.errors(text),
        &[
            "1:20: upstream: \"b\" has no port",
            "1:25: upstream: \"0\" in \"c:0\" is not a port",
            "4:24: listen: \"localhost:2\" is not a listening address",
            "4:36: listen: \"127.0.0.1\" is not a listening address",
            "7:3: allow_clients: \"x\" is not a network",
            "8:3: allow_clients: must be an array of strings, or one string, but is an integer",
            "8:6: allow_clients: \"10.0.0.0/33\" is not a network",
            "10:18: no_proxy: \"c/d\" is not an entry",
            "10:23: no_proxy: \"*.e:0\" is not an entry",
        ],
    );
}

#[test]
fn every_invalid_entry_of_a_list_in_a_table_is_reported_with_its_own_column() {
    let text = "user = 'CORP\\svc'\npassword_file = 'password'\n[[upstreams]]\naddress = ['a', 'b:1', 'c:0']\n\
                [[routes]]\nhost = ['a b/c', '*.ok', '..']\nport = [443, 0, '9-8']\nto = 'deny'\n\
                [[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = 'secrets/ci'\nclients = ['10.0.0.0/8', 'y', 'z']\n";
    expect(
        &Directory::new("table-entries").errors(text),
        &[
            "4:12: upstreams.address: \"a\" has no port",
            "4:24: upstreams.address: \"0\" in \"c:0\" is not a port",
            "6:12: routes.host: \"b/c\" is not a host pattern",
            "6:26: routes.host: \"..\" is not a host pattern",
            "7:14: routes.port: \"0\" is not a port",
            "7:17: routes.port: \"9-8\" is not a port",
            "13:26: identities.clients: \"y\" is not a network",
            "13:31: identities.clients: \"z\" is not a network",
        ],
    );
}

#[test]
fn a_duplicate_address_is_reported_with_both_places() {
    let directory = Directory::new("twice");
    let text = format!(
        "{PLAIN}listen = ['127.0.0.1:1', '127.0.0.1:2', '127.0.0.1:1']\nadmin = '127.0.0.1:2'\n\
         [[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = 'secrets/ci'\nlisten = ['127.0.0.1:3', '127.0.0.1:3', '127.0.0.1:2']\n"
    );
    expect(
        &directory.errors(&text),
        &[
            "4:41: listen: 127.0.0.1:1 is given twice; the other one is listen (gateway.toml:4:11)",
            "5:9: admin: 127.0.0.1:2 is given twice; the other one is listen (gateway.toml:4:26)",
            "10:26: identities.listen: 127.0.0.1:3 is given twice; the other one is identities.listen (gateway.toml:10:11)",
            "10:41: identities.listen: 127.0.0.1:2 is given twice; the other one is listen (gateway.toml:4:26)",
        ],
    );
    let text = format!("{PLAIN}admin = '127.0.0.1:3128'\n");
    expect(&directory.errors(&text), &["4:9: admin: 127.0.0.1:3128 is given twice; the other one is listen (default)"]);
    let text = format!("{PLAIN}listen = ['127.0.0.1:0', '127.0.0.1:0']\nadmin = '127.0.0.1:0'\n");
    assert!(directory.load(&text).is_ok(), "port 0 is a different port each time");
}

#[test]
fn a_conflict_with_a_listener_on_all_addresses_is_reported_with_both_places() {
    let directory = Directory::new("overlap");
    let open = format!("{PLAIN}allow_clients = ['127.0.0.0/8', '::1']\n");
    for (listen, expected) in [
        (
            "['0.0.0.0:1', '127.0.0.1:1']",
            "5:24: listen: 127.0.0.1:1 conflicts with 0.0.0.0:1 of listen (gateway.toml:5:11)",
        ),
        ("['[::1]:1', '[::]:1']", "5:22: listen: [::]:1 conflicts with [::1]:1 of listen (gateway.toml:5:11)"),
        (
            "'0.0.0.0:9100'\nadmin = '127.0.0.1:9100'",
            "6:9: admin: 127.0.0.1:9100 conflicts with 0.0.0.0:9100 of listen (gateway.toml:5:10)",
        ),
    ] {
        expect(&directory.errors(&format!("{open}listen = {listen}\n")), &[expected]);
    }
    for listen in
        ["['0.0.0.0:1', '127.0.0.1:2']", "['[::]:1', '0.0.0.0:1', '127.0.0.1:3']", "['127.0.0.1:1', '127.0.0.2:1']"]
    {
        let loaded = directory.load(&format!("{open}listen = {listen}\n"));
        assert!(loaded.is_ok(), "{listen}: {}", loaded.unwrap_err());
    }
}

#[test]
fn a_duplicate_name_or_key_is_reported_with_both_places() {
    let directory = Directory::new("names");
    let text = "upstream = ['a:1', 'b:1', 'a:1']\nuser = 'CORP\\svc'\npassword_file = 'password'\n";
    expect(
        &directory.errors(text),
        &[
            "1:27: upstreams: the name a:1 is used twice, but names must be unique; the other one is at gateway.toml:1:13",
        ],
    );
    let text = "[[identities]]\nname = 'ci'\nuser = 'a@b'\npassword_file = 'password'\n[[identities]]\nuser = 'c@d'\npassword_file = 'password'\nname = 'ci'\n\
                [[upstreams]]\naddress = 'a:1'\n[[upstreams]]\nname = 'a:1'\naddress = 'b:1'\n";
    expect(
        &directory.errors(text),
        &[
            "8:8: identities: the name ci is used twice, but names must be unique; the other one is at gateway.toml:2:8",
            "12:8: upstreams: the name a:1 is used twice, but names must be unique; the other one is at gateway.toml:9:1",
        ],
    );
    let errors = directory.errors(&format!("{PLAIN}nt_hash_file = 'password'\n"));
    expect(
        &errors,
        &["4:16: password: the password is given in several places, but only one is allowed: \
           password_file (gateway.toml:3:17), nt_hash_file (gateway.toml:4:16)"],
    );
    let errors = directory.errors("shards = 1\nuser = 'a'\nshards = 2\n");
    expect(&errors, &["3:1: duplicate key; the first one is at gateway.toml:1:1"]);
    let errors = directory
        .errors("[timeouts]\nidle = '1s'\n[[upstreams]]\nname = 'a'\n[[upstreams]]\nname = 'b'\n\"name\" = 'c'\n");
    expect(&errors, &["7:1: duplicate key; the first one is at gateway.toml:6:1"]);
    let errors = directory.errors("[timeouts]\nidle = '1s'\n[limits]\n[timeouts]\nhead = '1s'\n");
    expect(&errors, &["4:2: duplicate key; the first one is at gateway.toml:1:2"]);
}

#[test]
fn errors_are_in_the_order_of_the_lines_with_missing_settings_last() {
    let text = "log_level = 'loud'\n[[routes]]\nto = 'nowhere'\n[[upstreams]]\naddress = 'a:1'\nweight = 0\n[timeouts]\nidle = 30\n[limits]\ncolour = 1\nhead = 1\n";
    let errors = Directory::new("order").errors(text);
    let (placed, missing) = errors.split_at(errors.len() - 2);
    expect(
        placed,
        &[
            "1:13: log_level",
            "6:10: upstreams.weight",
            "8:8: timeouts.idle",
            "10:1: limits.colour",
            "11:8: limits.head",
        ],
    );
    assert!(missing[0].starts_with("user: ") && missing[1].starts_with("password: "), "{errors:#?}");
}

#[test]
fn a_relative_path_in_a_file_is_relative_to_that_files_directory() {
    let directory = Directory::new("relative");
    let text = format!(
        "{PLAIN}allow_basic = true\n[[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = './secrets/ci'\n\
         proxy_user = 'joe'\nproxy_password_file = 'secrets/joe'\n"
    );
    let config = directory.load(&text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.identities[0].basic_password.as_ref().map(Password::reveal), Some(PASSWORD));
    let files: Vec<&Path> = config.files.iter().filter_map(|file| file.strip_prefix(&directory.0).ok()).collect();
    assert_eq!(files, ["password", "secrets/ci", "secrets/joe", "gateway.toml"].map(Path::new), "all are watched");
}

#[test]
fn paths_are_relative_to_the_directory_of_a_link_to_the_configuration() {
    let directory = Directory::new("link");
    // As in a mounted ConfigMap, whose files are links into a directory with a changing name.
    let text = "upstream = 'a:1'\nuser = 'CORP\\svc'\npassword_file = 'password'\n";
    std::fs::write(directory.0.join("secrets/data.toml"), text).unwrap();
    let link = directory.0.join("link.toml");
    std::os::unix::fs::symlink("secrets/data.toml", &link).unwrap();
    let mut flags = Settings::default();
    let name = Setting::new(link.display().to_string(), Source::Flag("--config".into()));
    flags.give(keys::find("config").unwrap(), name);
    let config = load(&Inputs::new(flags, |_| None).unwrap()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.files, [directory.0.join("password"), link]);
}

fn has_previous(directory: &Directory, text: &str) -> Vec<bool> {
    let config = directory.load(text).unwrap_or_else(|errors| panic!("{errors}"));
    config.identities.iter().map(|identity| identity.previous.is_some()).collect()
}

#[test]
fn each_identity_may_have_a_previous_secret_in_a_watched_file() {
    let directory = Directory::new("previous");
    let old = NtHash::from_password("0ld");
    std::fs::write(directory.0.join("secrets/old"), "0ld\n").unwrap();
    std::fs::write(directory.0.join("secrets/old-hash"), old.to_hex().as_str()).unwrap();
    let text = format!(
        "{PLAIN}previous_password_file = 'secrets/old'\n[[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\n\
         nt_hash_file = 'secrets/old-hash'\nprevious_nt_hash_file = 'secrets/none'\n\
         [[identities]]\nname = 'x'\nuser = 'CORP\\x'\npassword_file = 'password'\n\
         previous_nt_hash_file = 'secrets/old-hash'\nworkstation = 'X'\n"
    );
    let config = directory.load(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let previous: Vec<_> = config.identities.iter().map(|identity| identity.previous.as_ref()).collect();
    assert!(previous[1].is_none());
    for (previous, workstation) in [(previous[0], None), (previous[2], Some("X"))] {
        let PreviousSecret { identity, basic_password } = previous.unwrap();
        assert!(*identity.nt_hash() == old && basic_password.is_none());
        assert!(workstation.is_none_or(|name| identity.workstation() == name));
    }
    let files: Vec<&Path> = config.files.iter().filter_map(|file| file.strip_prefix(&directory.0).ok()).collect();
    for file in ["secrets/old", "secrets/none", "secrets/old-hash"].map(Path::new) {
        assert!(files.contains(&file), "{} is not watched: {files:?}", file.display());
    }
}

#[test]
fn a_missing_empty_or_equal_previous_secret_means_that_there_is_none() {
    let directory = Directory::new("no-previous");
    let text = format!("{PLAIN}previous_password_file = 'secrets/previous'\n");
    assert_eq!(has_previous(&directory, &text), [false], "missing");
    for (content, expected) in [("", false), ("\n", false), (PASSWORD, false), ("0ld", true)] {
        std::fs::write(directory.0.join("secrets/previous"), content).unwrap();
        assert_eq!(has_previous(&directory, &text), [expected], "{content:?}");
    }
}

#[test]
fn an_invalid_previous_secret_is_rejected_without_repeating_it() {
    let directory = Directory::new("wrong-previous");
    std::fs::write(directory.0.join("secrets/lines"), "0ld-one\n0ld-two\n").unwrap();
    let with = |further: &str| directory.errors(&format!("{PLAIN}{further}"));
    for (further, expected) in [
        ("previous_password_file = 'nowhere/previous'", "4:26: previous_password_file: cannot read nowhere/previous"),
        ("previous_password_file = 'secrets/lines'", "4:26: previous_password_file: the secret in secrets/lines has"),
        ("previous_nt_hash_file = 'password'", "4:25: previous_nt_hash_file: the secret in password is not an NT hash"),
        (
            "previous_password_file = 'password'\nprevious_nt_hash_file = 'secrets/none'",
            "5:25: previous_password_file: the previous password is given in several places, but only one is allowed: \
             previous_password_file (gateway.toml:4:26), previous_nt_hash_file (gateway.toml:5:25)",
        ),
        ("allow_basic = true\nprevious_nt_hash_file = 'hash'", "4:15: allow_basic: requires the password itself"),
    ] {
        std::fs::write(directory.0.join("hash"), NtHash::from_password("0ld").to_hex().as_str()).unwrap();
        let errors = with(further);
        expect(&errors, &[expected]);
        assert!(!errors.concat().contains("0ld"), "{errors:?}");
    }
    let without_present = "upstream = 'a:1'\nuser = 'CORP\\svc'\nprevious_password_file = 'password'\n";
    assert!(directory.errors(without_present).concat().contains("no password given"));
}

#[test]
fn basic_has_the_previous_password_as_well() {
    let directory = Directory::new("previous-basic");
    std::fs::write(directory.0.join("secrets/old"), "0ld\n").unwrap();
    let text = format!("{PLAIN}allow_basic = true\nprevious_password_file = 'secrets/old'\n");
    let config = directory.load(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let previous = config.identities[0].previous.as_ref().unwrap();
    assert_eq!(previous.basic_password.as_ref().map(Password::reveal), Some("0ld"));
    assert!(!format!("{config:?}").contains("0ld"));
}

#[test]
fn the_error_about_a_missing_file_has_its_absolute_path() {
    let directory = Directory::new("missing");
    let text = "upstream = 'a:1'\nuser = 'CORP\\svc'\npassword_file = 'nowhere'\n";
    let error = directory.load(text).unwrap_err().to_string();
    let path = directory.0.join("nowhere");
    assert!(error.contains(&format!("cannot read {}: No such file", path.display())), "{error}");
    assert!(error.contains("a relative path in a file is relative to that file's directory"), "{error}");
}

#[test]
fn a_relative_path_of_a_flag_or_variable_is_relative_to_the_working_directory() {
    let here = std::env::current_dir().unwrap();
    for source in [Source::Flag("--password-file".into()), Source::Env("NTLM_GATEWAY_PASSWORD_FILE".into())] {
        assert_eq!(Setting::new("x/password", source).path(), here.join("x/password"));
    }
    let source = Source::File { path: "sub/gateway.toml".into(), line: 1, column: 1 };
    assert_eq!(Setting::new("password", source.clone()).path(), here.join("sub/password"));
    assert_eq!(Setting::new("/run/password", source).path(), Path::new("/run/password"));
}
