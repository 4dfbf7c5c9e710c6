//! Files of TLS that change while the gateway runs.

use std::path::Path;
use std::time::Duration;

use crate::proxy::Proxy;
use crate::support::certificates::{self, ECDSA_SHA384, Issued};
use crate::support::client::{connect_name, echo_through};
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::scratch::{Scratch, wait_for};
use crate::support::toolbox::toolbox;

const BOUND: Duration = Duration::from_secs(20);

/// Waits until so many reloads have had this outcome.
#[track_caller]
fn wait_for_reloads(gateway: &Gateway, outcome: &str, count: f64) {
    let reloads = || gateway.metric("ntlm_gateway_config_reloads_total", &[("outcome", outcome)]);
    let reached = wait_for(BOUND, || (reloads() == Some(count)).then_some(()));
    assert!(reached.is_some(), "{:?} reloads are {outcome}", reloads());
}

fn copy(from: &Path, to: &Path) {
    // By another name first, so that the gateway never sees a part of it.
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).expect("a copy");
    std::fs::rename(beside, to).expect("the new file");
}

#[test]
fn a_renewed_client_certificate_is_used_and_a_bad_file_changes_nothing() {
    require_tools!("openssl");
    let Some(toolbox) = toolbox() else { return };
    let scratch = Scratch::new("tls-reload");
    let ca = certificates::ca(&scratch, "ca");
    let issue = |name: &str, extensions: &[String], days| {
        certificates::issued_by(&scratch, &ca, name, ECDSA_SHA384, extensions, days)
    };
    let server = issue("server", &certificates::server("IP:127.0.0.1"), 30);
    let client = ["extendedKeyUsage=clientAuth".to_owned()];
    let (first, second) = (issue("first", &client, 10), issue("second", &client, 20));
    let used = Issued { certificate: scratch.join("used.crt"), key: scratch.join("used.key") };
    copy(&first.certificate, &used.certificate);
    copy(&first.key, &used.key);
    let text = |path: &Path| path.display().to_string();
    let client_ca = text(&ca.certificate);
    let mut proxy =
        Proxy::start(&toolbox.join("bin/python"), &scratch, Some(&server), &["--client-ca", client_ca.as_str()]);

    let mut options = GatewayOptions::through(([127, 0, 0, 1], proxy.port).into());
    options.upstreams = vec![format!("https://127.0.0.1:{}", proxy.port)];
    let settings = [("ca", &ca.certificate), ("client-cert", &used.certificate), ("client-key", &used.key)];
    options.args = settings.map(|(name, path)| format!("--tls-{name}-file={}", text(path))).into();
    options.args.extend(["--warm=0", "--keep=0"].map(str::to_owned));
    let gateway = Gateway::start(&options);
    let open = || connect_name(gateway.address(), "echo.test:7").expect("an answer");
    let ends = |owner| {
        gateway.metric("ntlm_gateway_tls_certificate_end_timestamp_seconds", &[("owner", owner)]).unwrap_or_default()
    };
    let (kept, first_end) = (open(), ends("client"));
    assert_eq!((kept.status(), proxy.line().as_str()), (200, r"accepted CORP\alice first"));
    assert!(ends("server") > first_end, "{} and {first_end}", ends("server"));

    scratch.write("used.crt", "no certificate");
    wait_for_reloads(&gateway, "refused", 1.0);
    assert!(gateway.wait_for_line("used.crt contains no certificate in PEM").contains("the old one stays in force"));
    assert_eq!((open().status(), proxy.line().as_str()), (200, r"accepted CORP\alice first"));

    copy(&second.certificate, &used.certificate);
    wait_for_reloads(&gateway, "refused", 2.0);
    assert!(gateway.wait_for_line("used.key is not the key").contains("--tls-client-key-file"));
    copy(&second.key, &used.key);
    wait_for_reloads(&gateway, "applied", 1.0);
    assert_eq!((open().status(), proxy.line().as_str()), (200, r"accepted CORP\alice second"));
    assert!((ends("client") - first_end - 10.0 * 86_400.0).abs() < 600.0, "{} after {first_end}", ends("client"));
    assert_eq!(echo_through(&kept.stream, b"still here").expect("an echo"), b"still here");
}
