//! Which mechanism is used at which upstream, and how a fallback is reported.

use crate::support;

use support::PASSWORD;
use support::gateway::{Gateway, GatewayOptions};
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
