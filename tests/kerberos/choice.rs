//! Which mechanism is used at which upstream, and how a fallback is reported.

use crate::support;

use std::time::Duration;

use support::PASSWORD;
use support::command::run;
use support::gateway::{GATEWAY, Gateway, GatewayOptions};
use support::kdc::KdcOptions;
use support::listener::Listener;
use support::origin::echo_origin;
use support::scratch::{Scratch, wait_for};
use support::squid::{LoggedCredentials, Squid, SquidKerberos, SquidOptions};

use crate::proxy::{BOUND, Line, REALM, SERVICE, tunnel};

/// A gateway as `CORP\alice` with two upstreams of which each has a list of mechanisms. Requests for `port` use the
/// second one.
fn gateway_with_lists(scratch: &Scratch, line: &Line, other: &Squid, lists: [&str; 2], port: u16) -> Gateway {
    scratch.write("password", PASSWORD);
    let config = format!(
        "user = '{user}'\npassword_file = '{password}'\nauth = ['kerberos', 'ntlm']\nspn = '{SERVICE}'\n\
         [kerberos]\nrealm = '{REALM}'\nkdc = '{kdc}'\n\
         [[upstreams]]\nname = 'first'\naddress = '{first}'\nauth = {list_of_first}\n\
         [[upstreams]]\nname = 'second'\naddress = '{second}'\ngroup = 'others'\nauth = {list_of_second}\n\
         [[routes]]\nport = '{port}'\nto = 'others'\n",
        user = support::USER,
        password = scratch.join("password").display(),
        kdc = line.kdc.address(),
        first = line.squid.address(),
        second = other.address(),
        list_of_first = lists[0],
        list_of_second = lists[1],
    );
    let file = scratch.write("gateway.toml", config);
    Gateway::start(&GatewayOptions {
        only_args: true,
        args: ["--config", &file.display().to_string(), "--log-level", "debug"].map(str::to_owned).into(),
        ..GatewayOptions::through(line.squid.address())
    })
}

/// Opens a tunnel and closes the gateway's side of it. Returns the credentials that the Squid has logged with it.
fn credentials_of_tunnel(gateway: &Gateway, origin: &Listener, squid: &Squid) -> LoggedCredentials {
    let tunnels = || squid.log().into_iter().filter(|line| line.status == "TCP_TUNNEL/200").collect::<Vec<_>>();
    let before = tunnels().len();
    assert_eq!(tunnel(gateway, origin), 200);
    let logged = wait_for(BOUND, || tunnels().get(before).map(|line| line.credentials));
    logged.expect("the tunnel in Squid's log")
}

#[test]
fn an_upstream_uses_only_the_mechanisms_that_its_own_list_has() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let line = Line::start(&KdcOptions::default(), true);
    // It would accept both as well, with the same keys.
    let keytab = line.kdc.krb5_conf().with_file_name("http.keytab");
    let kerberos = SquidKerberos {
        keytab,
        principal: format!("{SERVICE}@{REALM}"),
        krb5_conf: line.kdc.krb5_conf(),
        with_ntlm: true,
    };
    let other = Squid::start(&SquidOptions { kerberos: Some(kerberos), ..SquidOptions::default() });
    let (scratch, origin, far_origin) = (Scratch::new("lists"), echo_origin(), echo_origin());
    let port = far_origin.address().port();
    let gateway = gateway_with_lists(&scratch, &line, &other, ["'ntlm'", "'kerberos'"], port);
    assert_eq!(credentials_of_tunnel(&gateway, &origin, &line.squid), LoggedCredentials::Authenticate);
    assert_eq!(credentials_of_tunnel(&gateway, &far_origin, &other), LoggedCredentials::Kerberos);
    assert_eq!(line.squid.count(LoggedCredentials::Kerberos), 0);
    assert_eq!(other.count(LoggedCredentials::Negotiate), 0);
    drop(gateway);

    // Without Kerberos in any list no KDC is asked.
    let asked = line.kdc.count(&["AS_REQ"]);
    let gateway = gateway_with_lists(&scratch, &line, &other, ["'ntlm'", "['ntlm']"], port);
    assert_eq!(credentials_of_tunnel(&gateway, &far_origin, &other), LoggedCredentials::Authenticate);
    assert_eq!((line.kdc.count(&["AS_REQ"]), other.count(LoggedCredentials::Kerberos)), (asked, 1));
}

/// A probe of the Squid as `CORP\alice`.
fn probe(scratch: &Scratch, line: &Line, squid: &Squid, arguments: &[&str]) -> String {
    scratch.write("password", PASSWORD);
    let origin = echo_origin();
    let finished = run(GATEWAY, Duration::from_secs(60), |command| {
        command.args(["probe", "--upstream", &squid.address().to_string(), "--user", support::USER]);
        command.args(["--kerberos-realm", REALM, "--kdc", &line.kdc.address().to_string(), "--spn", SERVICE]);
        command.args(["--auth", "kerberos,ntlm", "--target", &origin.address().to_string()]).args(arguments);
        command.arg("--password-file").arg(scratch.join("password"));
    });
    finished.expect_success("probe").text()
}

/// Opens three tunnels. Returns the lines that report the mechanism, once there are so many.
fn reports(options: &GatewayOptions, count: usize) -> Vec<String> {
    let gateway = Gateway::start(options);
    let origin = echo_origin();
    (0..3).for_each(|_| assert_eq!(tunnel(&gateway, &origin), 200));
    let lines = || gateway.log().into_iter().filter(|line| line.contains(" is authenticated by "));
    wait_for(BOUND, || Some(lines().collect::<Vec<_>>()).filter(|lines| lines.len() >= count))
        .unwrap_or_else(|| panic!("not {count} reports: {:?}", gateway.log()))
}

#[test]
fn a_fallback_is_reported_with_the_offers_and_the_reason() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let mut line = Line::start(&KdcOptions::default(), true);
    let ntlm_only = Squid::start(&SquidOptions::default());
    let scratch = Scratch::new("reported");
    let through = |squid: &Squid| GatewayOptions {
        upstreams: vec![squid.address().to_string()],
        user: support::USER.into(),
        ..line.options("kerberos,ntlm")
    };
    let by = |squid: &Squid, choice: &str| {
        format!("upstream {}: the identity default is authenticated by {choice}", squid.address())
    };

    let chosen = reports(&through(&line.squid), 1);
    assert!(chosen.len() == 1 && chosen[0].contains("INFO"), "{chosen:?}");
    assert!(chosen[0].ends_with(&by(&line.squid, "Kerberos")), "{chosen:?}");

    let why = "the upstream does not offer Negotiate; it offers: NTLM";
    let fallbacks = reports(&through(&ntlm_only), 3);
    let expected = by(&ntlm_only, &format!("NTLM instead of Kerberos: {why}"));
    assert!(fallbacks.len() == 3 && fallbacks.iter().all(|line| line.ends_with(&expected)), "{fallbacks:?}");
    let warnings = fallbacks.iter().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, 1, "once, and then for debugging: {fallbacks:?}");
    let shown = probe(&scratch, &line, &ntlm_only, &[]);
    for text in ["listed   kerberos, ntlm", "offered  NTLM", &format!("used     NTLM, because {why}"), "works, but"] {
        assert!(shown.contains(text), "{text}:\n{shown}");
    }

    let strict = Gateway::start(&GatewayOptions {
        upstreams: vec![ntlm_only.address().to_string()],
        ..line.options("kerberos")
    });
    assert_eq!(tunnel(&strict, &echo_origin()), 502);
    let fault = strict.wait_for_line("end=scheme_not_offered");
    assert!(fault.contains("no scheme for a listed mechanism (Kerberos); it offers: NTLM"), "{fault}");

    line.squid.set_keytab(&line.kdc.add_with_keytab("HTTP/other.test", "", "other.keytab"));
    line.squid.restart();
    let through = GatewayOptions { user: support::USER.into(), ..line.options("kerberos,ntlm") };
    let refused = reports(&through, 3);
    let why = "the upstream refused the Kerberos token: 407 Proxy Authentication Required";
    assert!(refused[0].contains(&format!("NTLM instead of Kerberos: {why}")), "{refused:?}");
    assert!(refused[0].ends_with("; it offers: Negotiate, NTLM"), "{refused:?}");
    let shown: serde_json::Value =
        serde_json::from_str(&probe(&scratch, &line, &line.squid, &["--json"])).expect("JSON");
    let mechanism = &shown["mechanism"];
    assert_eq!((&mechanism["used"], &mechanism["offered"][0]), (&"ntlm".into(), &"Negotiate".into()), "{shown}");
    assert!(mechanism["text"].as_str().is_some_and(|text| text.starts_with(why)), "{shown}");
}
