//! What the packages are made of agrees with the rest of the project. `tests/packages` installs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::scratch::Scratch;

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
    let checked =
        crate::support::command::run(crate::support::gateway::GATEWAY, std::time::Duration::from_secs(30), |command| {
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
