//! Names in DNS: aliases of the proxy, and KDCs whose names do not resolve.

use crate::support;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use support::gateway::{Gateway, GatewayOptions};
use support::kdc::KdcOptions;
use support::name_server::{DnsAnswer, NameServer};
use support::origin::echo_origin;
use support::scratch::Scratch;
use support::tools::{skip_or_fail, skip_without_mounts, skip_without_root};

use crate::proxy::{Line, REALM, tunnel};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A name server, unless this machine cannot have one that the gateway uses.
fn name_server(names: &[(&str, DnsAnswer)]) -> Option<NameServer> {
    if skip_without_root() || skip_without_mounts() {
        return None;
    }
    let names = NameServer::start(names);
    if names.is_none() {
        skip_or_fail("a name server's port is not to be had here");
    }
    names
}

/// Options of a gateway that uses a name server of the test.
fn options(line: &Line, scratch: &Scratch, names: &NameServer, arguments: &[&str]) -> GatewayOptions {
    let servers = format!("nameserver {}\noptions timeout:10 attempts:1\n", names.address());
    let hosts = scratch.write("hosts", "127.0.0.1 localhost\n");
    GatewayOptions {
        mounts: vec![(scratch.write("resolv.conf", servers), "/etc/resolv.conf"), (hosts, "/etc/hosts")],
        user: "alice@example.test".into(),
        args: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        ..GatewayOptions::through(line.squid.address())
    }
}

#[test]
fn an_alias_of_the_proxy_is_canonicalized_only_if_that_is_asked_for() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let aliases = [("alias.test", DnsAnswer::Alias("proxy.test", HERE))];
    let Some(names) = name_server(&aliases) else { return };
    let line = Line::start(&KdcOptions::default(), false);
    let (scratch, origin) = (Scratch::new("alias"), echo_origin());
    let upstream = format!("alias.test:{}", line.squid.address().port());
    let kdc = line.kdc.address().to_string();
    let arguments = ["--auth", "kerberos", "--kerberos-realm", REALM, "--kdc", &kdc, "--kerberos-canonicalize"];
    let start = |canonicalize: &str| {
        let options = options(&line, &scratch, &names, &[&arguments[..], &[canonicalize]].concat());
        Gateway::start(&GatewayOptions { upstreams: vec![upstream.clone()], ..options })
    };
    let gateway = start("true");
    assert_eq!(tunnel(&gateway, &origin), 200);
    gateway.wait_for_line("has a ticket for HTTP/proxy.test@EXAMPLE.TEST");
    assert_eq!(line.kdc.count(&["TGS_REQ", "alias.test"]), 0);
    drop(gateway);

    let gateway = start("false");
    assert_eq!(tunnel(&gateway, &origin), 502);
    gateway.wait_for_line("no ticket for HTTP/alias.test");
    assert!(line.kdc.count(&["TGS_REQ", "HTTP/alias.test"]) > 0);
    drop(gateway);

    // Without an answer of DNS no ticket is requested under a name that may be wrong.
    names.set("alias.test", DnsAnswer::Failure);
    let before = line.kdc.count(&["TGS_REQ"]);
    let gateway = start("true");
    gateway.wait_for_line("cannot canonicalize the name of alias.test");
    assert_eq!(line.kdc.count(&["TGS_REQ"]), before);
}

#[test]
fn a_silent_name_server_does_not_keep_a_kdc_with_an_address_from_being_asked() {
    require_tools!("squid", "ntlm_auth", "krb5kdc", "kdb5_util", "kadmin.local");
    let Some(names) = name_server(&[]) else { return };
    names.set_all(Some(DnsAnswer::Silence));
    let line = Line::start(&KdcOptions::default(), false);
    let (scratch, origin) = (Scratch::new("silent"), echo_origin());
    let kdcs = format!("dc1.test,{}", line.kdc.address());
    let arguments = ["--auth", "kerberos", "--kerberos-realm", REALM, "--kdc", &kdcs, "--spn", crate::proxy::SERVICE];
    let began = Instant::now();
    let gateway = Gateway::start(&options(&line, &scratch, &names, &arguments));
    assert_eq!(tunnel(&gateway, &origin), 200, "{}", gateway.log().join("\n"));
    // A second for each of three requests to a KDC, while one look-up takes ten.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(names.queries() > 0);
}
