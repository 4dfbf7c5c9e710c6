//! Several upstreams, identities and routes.

use std::path::Path;

use super::table_keys::TABLE_KEYS;
use super::*;
use crate::client_protocol::{Protocols, Redirection, Service};
use crate::route::Decision;

const EXAMPLE: &str = include_str!("../../deploy/gateway.example.toml");
const PASSWORD: &str = "Qu33n-of-Spades";

/// A directory with secrets, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("ntlm-gateway-tables-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for name in ["password", "ci-password", "batch-login", "partner-password"] {
            std::fs::write(path.join(name), PASSWORD).unwrap();
        }
        std::fs::write(path.join("batch-nt-hash"), NtHash::from_password(PASSWORD).to_hex().as_str()).unwrap();
        let certificate = rcgen::generate_simple_self_signed(["gateway.corp.example".to_owned()]).unwrap();
        for name in ["partner-ca.crt", "partner.crt"] {
            std::fs::write(path.join(name), certificate.cert.pem()).unwrap();
        }
        std::fs::write(path.join("partner.key"), certificate.signing_key.serialize_pem()).unwrap();
        Directory(path)
    }

    /// Reads a text that has the example's directory of secrets.
    fn read(&self, text: &str) -> Result<Config, Vec<String>> {
        let text = text.replace("/run/secrets/ntlm-gateway", &self.0.display().to_string());
        let (settings, mut errors) = file::parse(Path::new("gateway.toml"), &text);
        let (config, more, _) = parse::read(&settings, &SecretStore::default());
        errors.extend(more);
        let directory = format!("{}/", self.0.display());
        match errors.is_empty() {
            true => Ok(config.unwrap()),
            false => Err(errors.iter().map(|error| error.to_string().replace(&directory, "")).collect()),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The example's tables, which are commented out there.
fn tables_of_the_example() -> String {
    let tables = EXAMPLE.split_once("# Several upstreams").map(|(_, tables)| tables).unwrap_or_default();
    tables.lines().filter_map(|line| line.strip_prefix("#   ")).fold(String::new(), |text, line| text + line + "\n")
}

const PLAIN: &str = "user = 'CORP\\svc'\npassword_file = '/run/secrets/ntlm-gateway/password'\n";

#[test]
fn the_tables_of_the_example_are_valid_and_show_every_setting() {
    let tables = tables_of_the_example();
    let (settings, errors) = file::parse(Path::new("gateway.toml"), &tables);
    assert!(errors.is_empty(), "{errors:?}");
    for key in TABLE_KEYS {
        let table = key.name.split('.').next().unwrap();
        let shown = settings.entries(table).iter().any(|entry| entry.settings.given(key.name).is_some());
        assert!(shown, "{} is not in the example", key.name);
    }
    let config = Directory::new("example").read(&format!("{PLAIN}{tables}")).unwrap();
    let names: Vec<&str> = config.identities.iter().map(|identity| identity.name.as_str()).collect();
    assert_eq!(names, ["default", "ci", "batch", "partner"]);
    assert_eq!(config.groups, ["default", "partners"]);
    let upstreams: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| (upstream.name.as_str(), upstream.addresses.len(), upstream.group, upstream.weight))
        .collect();
    assert_eq!(upstreams, [("east", 2, 0, 3), ("west", 1, 0, 1), ("partner", 1, 1, 1)]);
    let partner = &config.upstreams[2];
    assert_eq!((partner.identity, partner.first_leg, partner.warm), (Some(3), FirstLeg::Plain, WarmSize::Fixed(0)));
    assert_eq!((config.upstreams[0].transport(), partner.addresses[0].port()), (Transport::Tcp, 8443));
    assert!(matches!(partner.transport(), Transport::Tls(settings) if settings.client_not_after().is_some()));
    assert_eq!(config.upstreams[0].warm, WarmSize::Auto);
    let listen = ["127.0.0.1:3129", "127.0.0.1:1080", "127.0.0.1:5432", "127.0.0.1:15001"];
    assert_eq!(config.listen, listen.map(|address| address.parse().unwrap()));
    let services = [
        Service::default(),
        Service::Protocols(Protocols { http: false, socks: true }),
        Service::forward("db.partner.example:5432").unwrap(),
        Service::Transparent(Redirection::Redirect),
    ];
    assert_eq!(config.services, services);
    assert_eq!(config.identities[3].listen, [config.listen[1]]);
    assert_eq!(config.common_listen, config.listen[2..]);
    assert_eq!(config.trusted_proxies, [vec![], vec!["192.0.2.9/32".parse().unwrap()], vec![], vec![]]);
    let batch = &config.identities[2];
    assert_eq!(batch.identity.nt_hash(), &NtHash::from_password(PASSWORD));
    let login = batch.login.as_ref().unwrap();
    assert_eq!((login.user.as_str(), &login.password), ("batch", &NtHash::from_password(PASSWORD)));
    let decisions: Vec<Decision> = config.rules.rules.iter().map(|rule| rule.decision).collect();
    assert_eq!(decisions, [Decision::Group(1), Decision::Direct, Decision::Deny]);
    assert_eq!(config.files.len(), 11, "every file with a secret or a certificate is watched: {:?}", config.files);
}

#[test]
fn listeners_add_to_listen_which_has_no_default_beside_them() {
    let directory = Directory::new("listeners");
    let addresses = |top: &str| {
        let text = format!("{PLAIN}{top}upstream = 'a:1'\n[[listeners]]\naddress = '127.0.0.1:1080'\n");
        directory.read(&text).unwrap().listen.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses(""), ["127.0.0.1:1080"]);
    assert_eq!(addresses("listen = '127.0.0.1:3128'\n"), ["127.0.0.1:3128", "127.0.0.1:1080"]);
}

#[test]
fn a_listener_with_the_default_identity_leaves_it_to_everybody() {
    let text = format!("{PLAIN}upstream = 'a:1'\n[[listeners]]\naddress = '127.0.0.1:1'\nidentity = 'default'\n");
    let config = Directory::new("default").read(&text).unwrap();
    assert_eq!(config.identities[0].listen, config.listen);
    assert!(config.identities[0].has_no_own_clients());
}

#[test]
fn errors_of_listeners_are_reported_with_their_places() {
    let directory = Directory::new("wrong-listeners");
    let errors = |entry: &str| {
        let top = "listen = '127.0.0.1:3128'\nadmin = '127.0.0.1:8128'\n";
        directory.read(&format!("{PLAIN}{top}upstream = 'a:1'\n[[listeners]]\n{entry}\n")).unwrap_err()
    };
    for (entry, expected) in [
        ("protocols = 'http'", "gateway.toml:6:1: listeners.address: not given; name the address to listen on"),
        ("address = 'localhost:1'", "gateway.toml:7:11: listeners.address: \"localhost:1\" is not a listening address"),
        ("address = '127.0.0.1:3128'", "gateway.toml:7:11: listeners.address: 127.0.0.1:3128 is given twice"),
        ("address = '0.0.0.0:8128'", "listeners.address: 0.0.0.0:8128 can be reached from other machines"),
        (
            "address = '127.0.0.1:1'\nprotocols = ['socks', 'tls']",
            "8:23: listeners.protocols: \"tls\" is not one of http, socks",
        ),
        ("address = '127.0.0.1:1'\nprotocols = []", "listeners.protocols: the list is empty"),
        (
            "address = '127.0.0.1:1'\nidentity = 'ci'",
            "listeners.identity: \"ci\" is not one of the identities (default)",
        ),
        ("address = '127.0.0.1:1'\ntarget = 'db'", "listeners.target: \"db\" is not a destination"),
        ("address = '127.0.0.1:1'\ntarget = '127.1:80'", "listeners.target: \"127.1:80\" is not a destination"),
        (
            "address = '127.0.0.1:1'\ntarget = 'db:1'\nprotocols = 'http'",
            "listeners.protocols: cannot be combined with target",
        ),
        (
            "address = '127.0.0.1:1'\ntarget = '127.0.0.1:3128'",
            "127.0.0.1:3128 is 127.0.0.1:3128, where the gateway itself listens",
        ),
        (
            "address = '127.0.0.1:1'\ntransparent = 'nat'",
            "listeners.transparent: \"nat\" is not one of redirect, tproxy",
        ),
        (
            "address = '127.0.0.1:1'\ntransparent = 'tproxy'\nprotocols = 'http'",
            "listeners.protocols: cannot be combined with transparent",
        ),
        (
            "address = '127.0.0.1:1'\ntarget = 'db:1'\ntransparent = 'tproxy'",
            "listeners.transparent: cannot be combined with target",
        ),
        ("address = '127.0.0.1:1'\nproxy = 'yes'", "listeners.proxy: unknown setting"),
        (
            "address = '127.0.0.1:1'\ntransparent = 'tproxy'\nproxy_protocol_from = '192.0.2.9'",
            "listeners.proxy_protocol_from: cannot be combined with transparent",
        ),
        (
            "address = '127.0.0.1:1'\nproxy_protocol_from = 'lb'",
            "listeners.proxy_protocol_from: \"lb\" is not a network",
        ),
        ("address = '127.0.0.1:1'\nproxy_protocol_from = []", "listeners.proxy_protocol_from: the list is empty"),
    ] {
        let found = errors(entry);
        assert!(found.len() == 1 && found[0].contains(expected), "{entry}: {found:?}");
    }
}

#[test]
fn several_plain_upstreams_are_tried_in_their_order() {
    let config = Directory::new("plain").read(&format!("{PLAIN}upstream = ['a:1', 'b:2']\n")).unwrap();
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["a:1", "b:2"]);
    assert_eq!(config.order, UpstreamOrder::Failover);
}

#[test]
fn the_tables_alone_are_enough() {
    let text = "[[upstreams]]\naddress = 'a:1'\n[[identities]]\nname = 'one'\nuser = 'x@corp'\n\
                password_file = '/run/secrets/ntlm-gateway/password'\n";
    let config = Directory::new("alone").read(text).unwrap();
    assert_eq!((config.identities.len(), config.upstreams.len()), (1, 1));
}

#[test]
fn basic_keeps_the_password_and_needs_its_file() {
    let directory = Directory::new("basic");
    let text = format!("{PLAIN}upstream = 'a:1'\nallow_basic = true\n");
    let config = directory.read(&text).unwrap();
    assert_eq!(config.identities[0].basic_password.as_ref().map(|password| password.reveal()), Some(PASSWORD));
    assert!(!format!("{config:?}").contains(PASSWORD));
    let hashed = text.replace(
        "password_file = '/run/secrets/ntlm-gateway/password'",
        "nt_hash_file = '/run/secrets/ntlm-gateway/batch-nt-hash'",
    );
    let errors = directory.read(&hashed).unwrap_err();
    assert_eq!(errors, ["gateway.toml:4:15: allow_basic: requires the password itself, in a file; set password_file"]);
}

#[test]
fn errors_in_a_table_are_reported_with_their_places() {
    let directory = Directory::new("wrong");
    let with = |tables: &str| directory.read(&format!("{PLAIN}{tables}")).unwrap_err();
    for (tables, expected) in [
        ("upstreams = 'a:1'", "3:13: upstreams: must be a list of entries, each under [[name]], but is a string"),
        (
            "[[upstreams]]\nadress = 'a:1'\naddress = 'a:1'",
            "4:1: upstreams.adress: unknown setting; did you mean upstreams.address?",
        ),
        (
            "[[upstreams]]\nname = 'a'",
            "3:1: upstreams.address: not given; name the proxy with address = \"HOST:PORT\" in this entry",
        ),
        (
            "[[upstreams]]\naddress = 'a'",
            "4:11: upstreams.address: \"a\" has no port; write HOST:PORT, for example proxy.corp.example:8080",
        ),
        (
            "upstream = 'a:1'\n[[upstreams]]\naddress = 'b:1'",
            "3:12: upstream: cannot be combined with the file's table; move it into the file's [[upstreams]], or remove those",
        ),
        (
            "[[upstreams]]\naddress = 'a:1'\n[[upstreams]]\naddress = 'a:1'",
            "5:1: upstreams: the name a:1 is used twice, but names must be unique; the other one is at gateway.toml:3:1",
        ),
        (
            "[[upstreams]]\naddress = 'a:1'\nidentity = 'nobody'",
            "5:12: upstreams.identity: \"nobody\" is not one of the identities (default)",
        ),
        (
            "[[upstreams]]\naddress = 'a:1'\nweight = 0",
            "5:10: upstreams.weight: \"0\" is not a whole number from 1 to 1000",
        ),
        (
            "[[upstreams]]\naddress = 'a:1'\n[[routes]]\nhost = 'x'\nto = 'west'",
            "7:6: routes.to: \"west\" is not one of the groups (default), direct, deny",
        ),
        (
            "upstream = 'a:1'\n[[routes]]\nhost = 'a b'\nto = 'deny'\nport = 'http'",
            "7:8: routes.port: \"http\" is not a port",
        ),
        (
            "upstream = 'a:1'\n[[identities]]\nname = 'default'\nuser = 'y'\npassword_file = '/run/secrets/ntlm-gateway/password'",
            "5:8: identities: the name default is used twice, but names must be unique; the other one is at gateway.toml:1:8",
        ),
        (
            "upstream = 'a:1'\n[[identities]]\nname = 'x'\nuser = 'y'",
            "4:1: identities.password_file: no password given; put it into a file",
        ),
        (
            "upstream = 'a:1'\n[[identities]]\nname = 'x'\nuser = 'y'\nproxy_user = 'z'\npassword_file = '/run/secrets/ntlm-gateway/password'",
            "7:14: identities.proxy_user: requires proxy_password_file",
        ),
        (
            "upstream = 'a:1'\n[[identities]]\nname = 'x'\nuser = 'y'\nlisten = '0.0.0.0:1'\npassword_file = '/run/secrets/ntlm-gateway/password'",
            "7:10: identities.listen: 0.0.0.0:1 can be reached from other machines",
        ),
        ("upstream = 'a:1'\ncheck = 'handshake'", "4:9: check: requires check_target"),
    ] {
        let errors = with(tables);
        assert_eq!(errors.len(), 1, "{tables}: {errors:#?}");
        assert!(
            errors[0].trim_start_matches("gateway.toml:").starts_with(expected),
            "{tables}:\n{}\n{expected}",
            errors[0]
        );
    }
}

#[test]
fn a_route_with_an_empty_list_is_rejected() {
    let directory = Directory::new("nothing");
    for (what, column) in [("host = []", 8), ("port = ' , '", 8), ("network = ''", 11)] {
        let text = format!("{PLAIN}upstream = 'a:1'\n[[routes]]\n{what}\nto = 'direct'\n");
        let errors = directory.read(&text).unwrap_err();
        let name = what.split(' ').next().unwrap();
        let expected = format!("gateway.toml:5:{column}: routes.{name}: the list is empty; leave the setting out");
        assert!(errors.len() == 1 && errors[0].starts_with(&expected), "{errors:?}");
    }
}

const KERBEROS: &str = "auth = ['kerberos', 'ntlm']\nkerberos.realm = 'CORP.EXAMPLE'\nkerberos.kdc = '127.0.0.1'\n";

#[test]
fn an_upstream_restricts_the_mechanisms_of_each_identity() {
    let directory = Directory::new("restricts");
    let text = |auth: &str| format!("{KERBEROS}{PLAIN}[[upstreams]]\naddress = 'a.example:1'\n{auth}\n");
    let left = |auth: &str| {
        let config = directory.read(&text(auth)).unwrap();
        config.first_upstream().mechanisms_of(&config.identities[0]).to_string()
    };
    assert_eq!(left(""), "kerberos, ntlm", "all that the identity may use");
    assert_eq!(left("auth = 'ntlm'"), "ntlm");
    assert_eq!(left("auth = ['kerberos']"), "kerberos");
    // It does not add to what the identity may use.
    let ntlm_only = text("auth = ['kerberos', 'ntlm']").replace("auth = ['kerberos', 'ntlm']\nkerberos", "kerberos");
    let config = directory.read(&ntlm_only).unwrap();
    assert_eq!(config.first_upstream().mechanisms_of(&config.identities[0]).to_string(), "ntlm");
    for (auth, expected) in [("'ntlm', 'kerberos'", "must come before"), ("'basic'", "is not one of kerberos, ntlm")] {
        let errors = directory.read(&text(&format!("auth = [{auth}]"))).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
    }
}

#[test]
fn an_upstream_that_leaves_an_identity_no_mechanism_is_an_error() {
    let directory = Directory::new("nothing-left");
    let upstreams = "[[upstreams]]\naddress = 'a.example:1'\n\
                     [[upstreams]]\naddress = 'b.example:1'\ngroup = 'partners'\nidentity = 'partner'\nauth = 'kerberos'\n";
    let partner = |auth: &str, clients: &str| {
        format!(
            "{PLAIN}kerberos.realm = 'CORP.EXAMPLE'\nkerberos.kdc = '127.0.0.1'\n{upstreams}[[identities]]\n\
             name = 'partner'\nuser = 'svc@corp.example'\n\
             password_file = '/run/secrets/ntlm-gateway/partner-password'\nauth = {auth}\n{clients}"
        )
    };
    // The default identity may use only NTLM, but no client uses it at the second upstream.
    let config = directory.read(&partner("'kerberos'", "")).unwrap();
    assert!(!config.is_used_at(0, &config.upstreams[1]) && config.is_used_at(1, &config.upstreams[1]));
    let errors = directory.read(&partner("'ntlm'", "")).unwrap_err();
    let expected = "gateway.toml:11:8: upstreams.auth: clients of the identity partner could not authenticate here: it may \
                    use ntlm, and the upstream allows only kerberos; list a mechanism of the identity";
    assert_eq!(errors, [expected]);
    // An identity with clients of its own may be routed anywhere.
    let other = "[[identities]]\nname = 'ci'\nuser = 'svc@corp.example'\nclients = '10.0.0.0/8'\n\
                 password_file = '/run/secrets/ntlm-gateway/ci-password'\n";
    let errors = directory.read(&partner("'kerberos'", other)).unwrap_err();
    assert!(errors.len() == 1 && errors[0].contains("clients of the identity ci"), "{errors:?}");
}
