//! TLS to upstreams: the files, the settings of all upstreams and of one, and what is wrong with them.

use super::*;

const PASSWORD: &str = "Qu33n-of-Spades";

/// A directory with certificates, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("ntlm-gateway-tls-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let directory = Directory(path);
        directory.write("password", PASSWORD);
        for name in ["ca", "own", "other"] {
            let made = rcgen::generate_simple_self_signed([format!("{name}.corp.example")]).unwrap();
            directory.write(&format!("{name}.crt"), &made.cert.pem());
            directory.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
        }
        directory.write("empty.crt", "");
        directory
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    /// The configuration with an account, and its warnings.
    fn read(&self, text: &str) -> Result<(Config, Vec<String>), Vec<String>> {
        let text = format!("user = 'CORP\\svc'\npassword_file = 'password'\n{text}");
        let (settings, mut errors) = file::parse(&self.0.join("gateway.toml"), &text);
        let (config, more, warnings) = parse::read(&settings, &SecretStore::default());
        errors.extend(more);
        let directory = format!("{}/", self.0.display());
        let bare = |text: String| text.replace(&directory, "");
        match errors.is_empty() {
            true => Ok((config.unwrap(), warnings.iter().map(|warning| bare(warning.to_string())).collect())),
            false => Err(errors.iter().map(|error| bare(error.to_string())).collect()),
        }
    }

    fn config(&self, text: &str) -> Config {
        self.read(text).unwrap().0
    }

    /// The only error.
    fn error(&self, text: &str) -> String {
        let errors = self.read(text).expect_err("no error");
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.concat()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn settings(config: &Config, upstream: usize) -> &TlsSettings {
    config.upstreams[upstream].tls.as_deref().expect("it is reached with TLS")
}

#[test]
fn an_upstream_with_https_is_reached_with_tls_and_keeps_its_name() {
    let directory = Directory::new("https");
    let config = directory.config(
        "upstream = ['https://proxy.corp.example', 'https://192.0.2.1:8443', 'plain.corp.example:8080']\n\
         tls.ca_file = 'ca.crt'\n",
    );
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["proxy.corp.example:443", "192.0.2.1:8443", "plain.corp.example:8080"]);
    assert_eq!(settings(&config, 0).server_name.to_str(), "proxy.corp.example");
    assert_eq!(settings(&config, 1).server_name.to_str(), "192.0.2.1");
    assert_eq!(config.upstreams[2].transport(), Transport::Tcp);
    assert!(config.files.contains(&directory.0.join("ca.crt")), "it is watched: {:?}", config.files);
}

#[test]
fn an_upstreams_own_settings_of_tls_take_precedence_over_the_common_ones() {
    let directory = Directory::new("own");
    let entry = |name: &str, own: &str| {
        format!("[[upstreams]]\nname = '{name}'\naddress = 'https://{name}.corp.example:1'\n{own}\n")
    };
    let common = "[tls]\nca_file = 'ca.crt'\nclient_cert_file = 'own.crt'\nclient_key_file = 'own.key'\n\
                  server_name = 'proxy.corp.example'\nkernel = true\n";
    let config = directory.config(&format!(
        "{common}{}{}{}",
        entry("a", ""),
        entry("b", "tls_ca_file = 'other.crt'"),
        entry("c", "tls_server_name = 'c.corp.example'\ntls_kernel = false"),
    ));
    assert_eq!(settings(&config, 0).server_name.to_str(), "proxy.corp.example");
    assert_eq!(settings(&config, 2).server_name.to_str(), "c.corp.example");
    assert!(settings(&config, 0) != settings(&config, 1), "another CA");
    assert_eq!([0, 1, 2].map(|upstream| settings(&config, upstream).wants_kernel()), [true, true, false]);
    for upstream in 0..3 {
        assert!(settings(&config, upstream).client_not_after().is_some());
    }
    for name in ["ca.crt", "own.crt", "own.key", "other.crt"] {
        assert!(config.files.contains(&directory.0.join(name)), "{name} is watched: {:?}", config.files);
    }
}

#[test]
fn the_same_files_give_equal_settings_and_a_changed_file_gives_others() {
    let directory = Directory::new("equal");
    let text = "upstream = 'https://proxy.corp.example'\ntls.ca_file = 'ca.crt'\n";
    let before = directory.config(text);
    assert!(settings(&before, 0) == settings(&directory.config(text), 0));
    let other = std::fs::read_to_string(directory.0.join("other.crt")).unwrap();
    directory.write("ca.crt", &other);
    assert!(settings(&before, 0) != settings(&directory.config(text), 0));
}

#[test]
fn the_systems_store_is_used_and_watched_where_no_ca_is_given() {
    let directory = Directory::new("system");
    let read = directory.read("upstream = 'https://proxy.corp.example'\n");
    match tls::system_store() {
        Some((path, _)) => assert!(read.unwrap().0.files.contains(&path)),
        None => assert!(read.expect_err("no CA").concat().contains("set tls.ca_file")),
    }
}

#[test]
fn files_that_cannot_be_used_are_rejected_with_their_place_and_the_reason() {
    let directory = Directory::new("errors");
    let with = |settings: &str| directory.error(&format!("upstream = 'https://proxy.corp.example'\n{settings}\n"));
    for (settings, expected) in [
        ("tls.ca_file = 'none.crt'", "4:15: tls.ca_file: cannot read none.crt: No such file"),
        ("tls.ca_file = 'empty.crt'", "tls.ca_file: empty.crt contains no certificate in PEM"),
        ("tls.ca_file = 'ca.key'", "tls.ca_file: ca.key contains no certificate in PEM"),
        ("tls.ca_file = 'ca.crt'\ntls.pin_sha256 = 'AAAA'", "5:18: tls.pin_sha256: \"AAAA\" is not the SHA-256 hash"),
        ("tls.ca_file = 'ca.crt'\ntls.server_name = 'a b'", "tls.server_name: \"a b\" is not the name"),
        (
            "tls.ca_file = 'ca.crt'\ntls.client_cert_file = 'own.crt'",
            "tls.client_cert_file: requires tls.client_key_file",
        ),
        (
            "tls.ca_file = 'ca.crt'\ntls.client_key_file = 'own.key'",
            "tls.client_key_file: requires tls.client_cert_file",
        ),
        (
            "tls.ca_file = 'ca.crt'\ntls.client_cert_file = 'own.crt'\ntls.client_key_file = 'other.key'",
            "tls.client_key_file: other.key is not the key of the client certificate",
        ),
        (
            "tls.ca_file = 'ca.crt'\ntls.client_cert_file = 'own.crt'\ntls.client_key_file = 'own.crt'",
            "tls.client_key_file: own.crt contains no private key in PEM",
        ),
    ] {
        let error = with(settings);
        assert!(error.starts_with("gateway.toml:") && error.contains(expected), "{error}");
    }
}

#[test]
fn addresses_with_and_without_tls_make_no_single_upstream() {
    let error = Directory::new("mixed").error("[[upstreams]]\naddress = ['https://a.example:1', 'b.example:2']\n");
    assert!(error.contains("upstreams.address: all addresses of an upstream must have https://, or none"), "{error}");
}

#[test]
fn settings_of_tls_without_tls_are_warned_about_and_their_files_are_not_read() {
    let directory = Directory::new("unused");
    let (config, warnings) = directory.read("upstream = 'proxy.corp.example:1'\ntls.ca_file = 'none.crt'\n").unwrap();
    assert_eq!(config.upstreams[0].transport(), Transport::Tcp);
    assert!(warnings.concat().contains("4:15: tls.ca_file: has no effect"), "{warnings:?}");
}

#[test]
fn a_key_that_everybody_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("exposed");
    let text = "upstream = 'https://proxy.corp.example'\ntls.ca_file = 'ca.crt'\n\
                tls.client_cert_file = 'own.crt'\ntls.client_key_file = 'own.key'\n";
    let key = directory.0.join("own.key");
    let exposed = |mode| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        directory.read(text).unwrap().1.concat().contains("own.key can be read by every user")
    };
    assert!(exposed(0o644) && !exposed(0o600));
}
