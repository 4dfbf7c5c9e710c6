//! What the packages are made of agrees with the rest of the project. `tests/packages` installs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::command::run;
use crate::support::gateway::GATEWAY;
use crate::support::scratch::Scratch;
use crate::support::tools::path_of;

const BOUND: Duration = Duration::from_secs(30);

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn settings(unit: &str) -> BTreeSet<String> {
    text(unit).lines().filter(|line| !line.starts_with('#') && line.contains('=')).map(str::to_owned).collect()
}

#[test]
fn the_unit_of_the_packages_is_as_hardened_as_the_other_one() {
    let (packaged, other) =
        (settings("deploy/package/ntlm-gateway.service"), settings("deploy/systemd/ntlm-gateway.service"));
    let missing: Vec<&String> = other
        .difference(&packaged)
        // A user of its own instead of a dynamic one, which needs credentials of systemd.
        .filter(|line| !line.starts_with("DynamicUser=") && !line.contains("Credential="))
        .filter(|line| !line.contains("PASSWORD_FILE=") && !line.starts_with("ExecStart="))
        .collect();
    assert!(missing.is_empty(), "deploy/package/ntlm-gateway.service lacks {missing:#?}");
    let own: Vec<&str> = packaged.difference(&other).map(|line| line.split('=').next().unwrap_or_default()).collect();
    assert_eq!(own, ["Documentation", "ExecStart", "Group", "User"]);
}

#[test]
fn the_configuration_of_the_packages_is_valid_once_there_is_a_password() {
    let scratch = Scratch::new("packaged");
    scratch.write("password", "secret\n");
    let config = scratch.write("gateway.toml", text("deploy/package/gateway.toml"));
    let checked = run(GATEWAY, BOUND, |command| {
        command.args(["check", "--strict"]).arg(&config);
    });
    let shown = checked.expect_success("check").text();
    assert!(shown.contains("guard.store") && shown.contains("file"), "{shown}");
}

#[test]
fn the_changelog_of_the_package_begins_with_the_version() {
    let first = text("deploy/package/changelog").lines().next().unwrap_or_default().to_owned();
    assert!(first.starts_with(&format!("ntlm-gateway ({}-", env!("CARGO_PKG_VERSION"))), "{first}");
}

#[test]
fn a_signed_release_verifies_as_documented_and_a_changed_one_does_not() {
    require_tools!("bash", "ssh-keygen", "sha256sum");
    let (scratch, keys) = (Scratch::new("release"), Scratch::new("keys"));
    let key = keys.join("key");
    run(path_of("ssh-keygen"), BOUND, |command| {
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    })
    .expect_success("ssh-keygen");
    scratch.write("it.deb", "a package");
    let shell = |script: &str| {
        run(path_of("bash"), BOUND, |command| {
            command.args(["-euc", script]).current_dir(scratch.path()).env("NTLM_GATEWAY_SIGN_SSH", &key);
        })
    };
    shell("sha256sum -- *.deb >SHA256SUMS").expect_success("the checksums");
    shell(&format!("{}/deploy/sign .", env!("CARGO_MANIFEST_DIR"))).expect_success("deploy/sign");
    let public = fs::read_to_string(keys.join("key.pub")).expect("the public key");
    scratch.write("allowed_signers", format!("release@ntlm-gateway {public}"));
    let document = text("docs/releasing.md");
    let (_, verify) = document.split_once("## Verify a release").expect("how to verify");
    let verify = verify.split("```").nth(1).and_then(|block| block.strip_prefix("sh\n")).expect("its commands");
    shell(verify).expect_success(verify);

    scratch.write("it.deb", "another package");
    assert_ne!(shell(verify).code, Some(0), "a changed package");
    shell("sha256sum -- *.deb >SHA256SUMS").expect_success("the checksums");
    assert_ne!(shell(verify).code, Some(0), "changed checksums");
}
