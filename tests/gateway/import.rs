//! `import`: configurations of cntlm and px become one of the gateway, and a proxy that served cntlm serves it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::command::{Finished, curl, run};
use crate::support::gateway::GATEWAY;
use crate::support::origin::HttpOrigin;
use crate::support::process::Process;
use crate::support::scratch::{Scratch, accepts, free_port, wait_for};
use crate::support::squid::{Squid, SquidOptions};
use crate::support::tools::path_of;
use crate::support::{PASSWORD, USER};

const BOUND: Duration = Duration::from_secs(30);

fn program(args: &[&Path]) -> Finished {
    run(GATEWAY, BOUND, |command| {
        command.args(args);
    })
}

fn import(file: &Path, out: &Path) -> Finished {
    program(&["import".as_ref(), file, "--out".as_ref(), out])
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/import").join(name)
}

/// The result for an example is the one in the file of the same name, and `check` accepts it.
fn assert_example(name: &str, stem: &str) -> Scratch {
    let scratch = Scratch::new("import");
    let out = scratch.join("gateway.toml");
    let done = import(&example(name), &out).expect_success("import");
    assert_eq!(done.text(), "", "the configuration is in the file");
    let report: String =
        done.stderr.lines().filter(|line| !line.starts_with("wrote ")).map(|line| format!("{line}\n")).collect();
    let made = fs::read_to_string(&out).expect("the configuration");
    for (ending, text) in [("toml", &made), ("txt", &report)] {
        let path = example(&format!("{stem}.{ending}"));
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(*text, expected, "{} should be:\n{text}", path.display());
    }
    scratch
}

fn assert_checked(scratch: &Scratch) {
    program(&["check".as_ref(), &scratch.join("gateway.toml")]).expect_success("check");
}

#[test]
fn every_setting_of_cntlm_is_imported_or_accounted_for() {
    let scratch = assert_example("cntlm.conf", "cntlm");
    assert_checked(&scratch);
    let password = scratch.join("password");
    assert_eq!(fs::read_to_string(&password).expect("the password"), "corr#ct h0rse\n");
    assert_eq!(fs::metadata(&password).expect("the password").permissions().mode() & 0o777, 0o600);
    let lines = fs::read_to_string(example("cntlm.conf")).expect("the example");
    let report = fs::read_to_string(example("cntlm.txt")).expect("the report");
    for (number, line) in (1..).zip(lines.lines()).filter(|(_, line)| line.starts_with(|c: char| c.is_alphanumeric())) {
        assert!(report.contains(&format!("cntlm.conf:{number}: ")), "{line}");
    }
}

#[test]
fn every_setting_of_px_is_imported_or_accounted_for() {
    let scratch = assert_example("px.ini", "px");
    scratch.write("password", "secret\n");
    assert_checked(&scratch);
    let lines = fs::read_to_string(example("px.ini")).expect("the example");
    let report = fs::read_to_string(example("px.txt")).expect("the report");
    for (number, line) in (1..).zip(lines.lines()).filter(|(_, line)| line.contains(" = ")) {
        assert!(report.contains(&format!("px.ini:{number}: ")), "{line}");
    }
}

#[test]
fn no_secret_is_printed_and_no_file_is_overwritten() {
    let scratch = Scratch::new("import");
    let config = scratch.join("gateway.toml");
    let printed = program(&["import".as_ref(), &example("cntlm.conf")]).expect_success("import");
    assert_eq!(printed.text(), fs::read_to_string(example("cntlm.toml")).expect("the example"));
    for secret in ["corr#ct", "h0rse", "d4ves-secret", "n0t-a-setting", "77B90815", "8846f7ea", "D5826E9C"] {
        assert!(!printed.text().contains(secret) && !printed.stderr.contains(secret), "{secret}");
    }
    for name in ["password", "gateway.toml"] {
        scratch.write(name, "mine\n");
        let done = import(&example("cntlm.conf"), &config);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains("nothing was written"), "{}", done.stderr);
        assert_eq!(fs::read_to_string(scratch.join(name)).expect("the file"), "mine\n");
        fs::remove_file(scratch.join(name)).expect("rm");
    }
    assert_eq!(fs::read_dir(scratch.path()).expect("the directory").count(), 0);
}

#[test]
fn in_the_directory_of_a_service_its_group_reads_the_secret_and_the_count_is_kept() {
    let scratch = Scratch::new("import");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o2750)).expect("the mode");
    let config = scratch.join("gateway.toml");
    import(&example("cntlm.conf"), &config).expect_success("import");
    let mode = fs::metadata(scratch.join("password")).expect("the password").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let shown = program(&["check".as_ref(), &config]).expect_success("check").text();
    let store = shown.lines().find(|line| line.starts_with("guard.store ")).expect("the store");
    assert!(store.contains("= file "), "{store}");
}

/// A configuration of cntlm for a Squid, with one line for the secret.
fn cntlm_conf(scratch: &Scratch, name: &str, squid: &Squid, port: u16, secret: &str) -> PathBuf {
    let text = format!(
        "Username {}\nDomain CORP\n{secret}\nProxy {}\nNoProxy nothing.example\nListen 127.0.0.1:{port}\n",
        USER.rsplit('\\').next().unwrap_or(USER),
        squid.address()
    );
    scratch.write(name, text)
}

/// What cntlm prints for `cntlm -H`: a line such as `PassNT 77B9…`.
fn hash_line(conf: &Path, key: &str) -> String {
    let printed = run(path_of("cntlm"), BOUND, |command| {
        command.arg("-c").arg(conf).arg("-H");
    });
    let text = printed.text();
    text.lines().find(|line| line.starts_with(&format!("{key} "))).expect("the hash").to_owned()
}

/// Fetches through the proxy at a port; the body of the answer.
fn fetched(port: u16, origin: &HttpOrigin) -> String {
    let proxy = format!("http://127.0.0.1:{port}");
    let (certificate, url) = (origin.certificate(), origin.url("/bytes/1000?seed=7"));
    let body = curl(BOUND, ["--fail", "--cacert", &certificate, "--proxy", &proxy, &url]).expect_success("curl").stdout;
    assert_eq!(body.len(), 1000);
    format!("{body:?}")
}

#[test]
fn where_cntlm_gets_through_squid_the_imported_configuration_does_too() {
    require_tools!("cntlm", "squid", "ntlm_auth", "curl", "openssl", "python3");
    let squid = Squid::start(&SquidOptions::default());
    let origin = HttpOrigin::https();
    let scratch = Scratch::new("replaced");
    let port = free_port();
    let plain = cntlm_conf(&scratch, "plain.conf", &squid, port, &format!("Password \"{PASSWORD}\""));
    let hashed = hash_line(&plain, "PassNT");
    // cntlm needs PassNT only with this method.
    let hashed = cntlm_conf(&scratch, "hashed.conf", &squid, port, &format!("{hashed}\nAuth NTLM2SR"));
    for (conf, secret) in [(plain, "password"), (hashed, "nt-hash")] {
        let address = ([127, 0, 0, 1], port).into();
        let ready = |process: &str| {
            assert!(wait_for(BOUND, || accepts(address).then_some(())).is_some(), "{process} does not listen");
        };
        let mut command = Process::command(path_of("cntlm"));
        let cntlm = Process::spawn("cntlm", command.arg("-f").arg("-c").arg(&conf));
        ready("cntlm");
        let expected = fetched(port, &origin);
        drop(cntlm);
        assert!(wait_for(BOUND, || (!accepts(address)).then_some(())).is_some(), "cntlm still listens");

        let folder = scratch.join(secret);
        fs::create_dir(&folder).expect("mkdir");
        let out = folder.join("gateway.toml");
        let report = import(&conf, &out).expect_success("import").stderr;
        assert!(folder.join(secret).is_file(), "{report}");
        program(&["check".as_ref(), &out]).expect_success("check");
        let mut command = Process::command(GATEWAY);
        let gateway = Process::spawn("gateway", command.arg("run").arg(&out).args(["--admin", "127.0.0.1:0"]));
        ready("the gateway");
        assert_eq!(fetched(port, &origin), expected);
        drop(gateway);
        assert!(wait_for(BOUND, || (!accepts(address)).then_some(())).is_some(), "the gateway still listens");
    }
    let log = squid.log_with_tunnels(4).into_iter();
    let users: Vec<String> = log.filter(|line| line.status == "TCP_TUNNEL/200").map(|line| line.user).collect();
    assert_eq!(users, [USER; 4]);
}

#[test]
fn an_imported_nt_hash_is_that_of_the_password() {
    require_tools!("cntlm");
    let scratch = Scratch::new("hashes");
    let conf = scratch.write("plain.conf", "Username alice\nDomain CORP\nPassword Password\nProxy 127.0.0.1:1\n");
    let hash = hash_line(&conf, "PassNT");
    let ntlmv2 = hash_line(&conf, "PassNTLMv2");
    let conf =
        scratch.write("hashed.conf", format!("Username alice\nDomain CORP\n{ntlmv2}\n{hash}\nProxy 127.0.0.1:1\n"));
    import(&conf, &scratch.join("gateway.toml")).expect_success("import");
    // NTOWFv1("Password"), MS-NLMP 4.2.2.1.1.
    assert_eq!(fs::read_to_string(scratch.join("nt-hash")).expect("the hash"), "a4f49c406510bdcab6824ee7c30fd852\n");
}
