//! Warnings of whole configurations, and passwords in the wrong place.

use std::os::unix::fs::PermissionsExt;

use super::*;

const PASSWORD: &str = "Qu33n-of-Spades";

/// A directory with a configuration and its secrets, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("ntlm-gateway-warnings-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let directory = Directory(path);
        directory.write("password", PASSWORD, 0o600);
        directory
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn load(&self, text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        self.write("gateway.toml", text, 0o644);
        let mut flags = Settings::default();
        let file = self.0.join("gateway.toml").display().to_string();
        flags.give(keys::find("config").unwrap(), Setting::new(file, Source::Flag("--config".into())));
        let lookup = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, text)| text.into());
        load(&Inputs::new(flags, lookup)?)
    }

    /// The warnings, without the directory.
    fn warnings_with(&self, text: &str, environment: &[(&str, &str)]) -> Vec<String> {
        let config = self.load(text, environment).unwrap_or_else(|errors| panic!("{errors}"));
        let directory = format!("{}/", self.0.display());
        config.warnings.iter().map(|warning| warning.to_string().replace(&directory, "")).collect()
    }

    #[track_caller]
    fn expect(&self, text: &str, expected: &[&str]) {
        let warnings = self.warnings_with(text, &[]);
        let fits = warnings.len() == expected.len()
            && warnings.iter().zip(expected).all(|(warning, expected)| warning.starts_with(expected));
        assert!(fits, "{warnings:#?}\ninstead of {expected:#?}");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const PLAIN: &str = "upstream = 'a:1'\nuser = 'CORP\\svc'\npassword_file = 'password'\n";

#[test]
fn a_mistyped_account_is_warned_about_with_its_place() {
    let directory = Directory::new("account");
    directory.expect(PLAIN, &[]);
    let with = |user: &str| PLAIN.replace(r"'CORP\svc'", user);
    directory.expect(&with("'CORPsvc-egress'"), &["gateway.toml:2:8: user: \"CORPsvc-egress\" has no domain"]);
    directory.expect(&with("'CORPsvc-egress'\ndomain = ''"), &[]);
    directory.expect(&with("'svc'\ndomain = 'CORP'"), &[]);
    directory.expect(&with("'svc'\ntarget_domain = true"), &[]);
    directory.expect(&with("'svc'\ndomain = ' CORP'"), &["gateway.toml:3:10: domain: has leading or trailing blanks"]);
    directory.expect(&with(r"'CORP\svc '"), &["gateway.toml:2:8: user: has leading or trailing blanks"]);
    directory.expect(&with(r"'CORP\svc:S3cret'"), &["gateway.toml:2:8: user: \"CORP\\\\svc\" is followed by a colon"]);
    let error = directory.load(&with("'CORP/svc'"), &[]).unwrap_err().to_string();
    assert!(error.contains(r"2:8: user: the account has a slash") && error.contains(r"write 'DOMAIN\name'"), "{error}");
}

#[test]
fn a_mistyped_account_of_an_identity_is_warned_about_too() {
    let identity = "[[identities]]\nname = 'ci'\nuser = 'svc-ci'\npassword_file = 'password'\n";
    let directory = Directory::new("identity");
    directory.expect(&format!("{PLAIN}{identity}"), &["gateway.toml:6:8: identities.user: \"svc-ci\" has no domain"]);
    directory.expect(&format!("{PLAIN}{identity}target_domain = true\n"), &[]);
    directory.expect(&format!("{PLAIN}target_domain = true\n{identity}"), &[]);
}

#[test]
fn a_password_that_looks_like_a_hash_or_has_outer_blanks_is_warned_about() {
    let directory = Directory::new("password");
    let hash = "AA8CEA2A92B3CE52E8362A64302EA129";
    for (text, expected) in [
        (format!("{hash}\n"), "the password looks like an NT hash"),
        (format!("aad3b435b51404eeaad3b435b51404ee:{hash}"), "the password looks like an NT hash"),
        (format!("{PASSWORD} \n"), "the password has a leading or trailing blank"),
        (format!("\t{PASSWORD}"), "the password has a leading or trailing blank"),
    ] {
        directory.write("password", &text, 0o600);
        directory.expect(PLAIN, &[&format!("gateway.toml:3:17: password_file: {expected}")]);
        let plain = "upstream = 'a:1'\nuser = 'CORP\\svc'\n";
        let warnings = directory.warnings_with(plain, &[("NTLM_GATEWAY_PASSWORD", text.trim_end_matches('\n'))]);
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(&format!("NTLM_GATEWAY_PASSWORD: {expected}")),
            "{warnings:?}"
        );
        assert!(!warnings.concat().contains(text.trim()), "{warnings:?}");
    }
    directory.write("password", hash, 0o600);
    directory.expect(&PLAIN.replace("password_file", "nt_hash_file"), &[]);
}

#[test]
fn a_secret_that_others_can_read_is_warned_about() {
    let directory = Directory::new("exposed");
    directory.write("login", PASSWORD, 0o604);
    directory.write("password", PASSWORD, 0o644);
    let identity = "[[identities]]\nname = 'ci'\nuser = 'CORP\\ci'\npassword_file = 'password'\nproxy_user = 'joe'\nproxy_password_file = 'login'\n";
    directory.expect(
        &format!("{PLAIN}{identity}"),
        &[
            "gateway.toml:3:17: password_file: password can be read by every user of this machine (mode 0644)",
            "gateway.toml:7:17: identities.password_file: password can be read by every user",
            "gateway.toml:9:23: identities.proxy_password_file: login can be read by every user of this machine (mode 0604)",
        ],
    );
    directory.write("password", PASSWORD, 0o602);
    directory.expect(PLAIN, &["gateway.toml:3:17: password_file: password can be read or replaced by every user"]);
    directory.write("password", PASSWORD, 0o440);
    directory.expect(PLAIN, &[]);
}

#[test]
fn clients_from_everywhere_and_unusable_listeners_are_warned_about() {
    let directory = Directory::new("clients");
    directory.expect(
        &format!("{PLAIN}listen = '0.0.0.0:3128'\nallow_clients = ['10.0.0.0/8', '0.0.0.0/0', '::/0']\n"),
        &[
            "gateway.toml:5:32: allow_clients: 0.0.0.0/0 is larger than any",
            "gateway.toml:5:45: allow_clients: ::/0 is larger than any",
        ],
    );
    directory.expect(
        &format!(
            "{PLAIN}listen = ['0.0.0.0:3128', '127.0.0.1:3129', '[::1]:3128']\nallow_clients = ['10.0.0.0/8', '::1']\n"
        ),
        &["gateway.toml:4:27: listen: only this machine can reach 127.0.0.1:3129"],
    );
    directory.expect(
        &format!("{PLAIN}allow_clients = '10.0.0.0/8'\n"),
        &["listen: only this machine can reach 127.0.0.1:3128"],
    );
    directory.expect(
        &format!("{PLAIN}listen = '0.0.0.0:1'\nallow_clients = '10.0.0.0/8'\n[[identities]]\nname = 'ci'\nuser = 'a@b'\npassword_file = 'password'\nlisten = '127.0.0.1:2'\n"),
        &["gateway.toml:10:10: identities.listen: only this machine can reach 127.0.0.1:2"],
    );
}

#[test]
fn the_placeholder_of_the_example_overlay_is_rejected() {
    let directory = Directory::new("placeholder");
    let placeholder = include_str!("../../deploy/kustomize/overlays/example/password");
    directory.write("password", placeholder, 0o600);
    let error = directory.load(PLAIN, &[]).unwrap_err().to_string();
    assert!(
        error.contains("3:17: password_file: the secret in") && error.contains("is the placeholder from the example"),
        "{error}"
    );
    let error = directory.load("upstream = 'a:1'\nuser = 'a@b'\n", &[("NTLM_GATEWAY_PASSWORD", placeholder.trim())]);
    assert!(error.unwrap_err().to_string().starts_with("NTLM_GATEWAY_PASSWORD: "));
}

/// Sets every setting in turn to a proxy's URL with a password.
#[test]
fn a_password_in_a_url_is_not_repeated_whatever_the_setting() {
    const SECRET: &str = "S3cret,w0rd";
    let url = format!(r"http://CORP\svc:{SECRET}@proxy:8080");
    let directory = Directory::new("url");
    let leaks = |shown: &str| ["S3cret", "w0rd"].iter().any(|part| shown.contains(part));
    // Errors repeat paths, and nobody would use a URL as one.
    let settings = keys::KEYS.iter().filter(|key| key.in_file() && !key.name.ends_with("_file"));
    for name in settings.map(|key| key.name).chain(["upsteam", "config"]) {
        for value in [format!("'{url}'"), format!("['a:1', '{url}', 'b']")] {
            let others: Vec<&str> = PLAIN.lines().filter(|line| !line.starts_with(&format!("{name} "))).collect();
            let text = format!("{name} = {value}\n{}\n", others.join("\n"));
            let shown = match directory.load(&text, &[]) {
                Ok(config) => format!("{config:?} {:?}", config.warnings),
                Err(errors) => format!("{errors} {errors:?} {:?}", errors.warnings()),
            };
            assert!(!leaks(&shown), "{name}: {shown}");
        }
    }
    for table in ["upstreams", "identities", "routes"] {
        for key in
            table_keys::TABLE_KEYS.iter().filter(|key| key.name.starts_with(table) && !key.name.ends_with("_file"))
        {
            let name = key.name.rsplit('.').next().unwrap();
            let text = format!("{PLAIN}[[{table}]]\n{name} = '{url}'\n");
            let errors = directory.load(&text, &[]).expect_err(name);
            assert!(!leaks(&format!("{errors} {errors:?}")), "{name}: {errors}");
        }
    }
}

#[test]
fn a_proxy_url_with_an_account_is_rejected_with_a_hint() {
    let directory = Directory::new("help");
    for url in [r"http://CORP\svc:S3cret@proxy:8080", "S3cret@proxy:8080", "https://svc:S3c,r et@proxy:8080"] {
        let error = directory.load(&PLAIN.replace("'a:1'", &format!("'{url}'")), &[]).unwrap_err().to_string();
        assert!(error.contains("gateway.toml:1:12: upstream: ") && error.contains("password_file"), "{error}");
        assert!(error.lines().count() == 1 && !error.contains("S3c"), "{error}");
    }
}

#[test]
fn debug_output_of_settings_omits_their_texts() {
    let setting = Setting::new(r"CORP\svc:S3cret", Source::Flag("--user".into()));
    assert_eq!(format!("{setting:?}"), r#"Setting { source: Flag("--user"), .. }"#);
}

#[test]
fn an_upstream_without_tls_in_a_group_with_tls_is_a_warning() {
    let directory = Directory::new("mixed-group");
    let ca = rcgen::generate_simple_self_signed(["proxy".to_owned()]).unwrap();
    directory.write("ca.pem", &ca.cert.pem(), 0o644);
    let account = "user = 'CORP\\svc'\npassword_file = 'password'\n";
    let expect_one = |text: &str, place: &str| {
        let warnings = directory.warnings_with(text, &[]);
        let is_fit = |warning: &String| warning.starts_with(place) && warning.contains(": b:1 has no https://");
        assert!(warnings.len() == 1 && warnings.iter().all(is_fit), "{warnings:#?}");
    };
    expect_one(&format!("{account}upstream = ['https://a:1', 'b:1']\n[tls]\nca_file = 'ca.pem'\n"), "gateway.toml:3:");
    let table = |group: &str| {
        format!(
            "{account}[tls]\nca_file = 'ca.pem'\n[[upstreams]]\naddress = 'https://a:1'\n\
             [[upstreams]]\naddress = 'b:1'\n{group}"
        )
    };
    expect_one(&table(""), "gateway.toml:");
    directory.expect(&table("group = 'other'\n"), &[]);
}
