//! Origins that authenticate connections (NTLM to the origin itself, RFC 4559 §6): from then on the connection belongs
//! to that client alone.

use crate::support;

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::command::curl;
use support::gateway::{Gateway, GatewayOptions};
use support::squid::{Squid, SquidOptions};
use support::web::Web;
use support::wire::{HttpMessage, Wire};

/// A NEGOTIATE_MESSAGE and an AUTHENTICATE_MESSAGE of `user` that an origin accepts if it does not verify them.
fn messages(user: &str) -> [String; 2] {
    let negotiate = [&b"NTLMSSP\0\x01\0\0\0"[..], &[0x05, 0x82, 0x08, 0], &[0; 16]].concat();
    let length = u8::try_from(user.len()).expect("a short name");
    let mut authenticate = b"NTLMSSP\0\x03\0\0\0".to_vec();
    authenticate.extend([0; 24]);
    authenticate.extend([length, 0, length, 0, 64, 0, 0, 0]);
    authenticate.resize(64, 0);
    authenticate.extend(user.as_bytes());
    [negotiate, authenticate].map(|message| format!("Authorization: NTLM {}\r\n", STANDARD.encode(message)))
}

fn ask(client: &mut Wire, origin: &Web, path: &str, fields: &str) -> HttpMessage {
    client.ask(origin.request("GET", path, fields)).expect("an answer")
}

/// Two clients that authenticate to the origin, and a third that does not.
fn assert_not_shared(gateway: SocketAddr, origin: &Web) {
    let [mut alice, mut bob, mut eve] = [(); 3].map(|()| Wire::connect(gateway));
    assert_eq!(ask(&mut eve, origin, "/ntlm", "").status(), 401);
    let mut pages = Vec::new();
    for (client, user) in [(&mut alice, "alice"), (&mut bob, "bob")] {
        let [negotiate, authenticate] = messages(user);
        let challenged = ask(client, origin, "/ntlm", &negotiate);
        assert_eq!(challenged.status(), 401);
        assert!(challenged.field("www-authenticate").is_some_and(|value| value.starts_with("NTLM TlRM")));
        let page = ask(client, origin, "/ntlm", &authenticate);
        assert_eq!(page.status(), 200, "{}", page.head);
        assert!(page.text().ends_with(&format!("user {user}\n")), "{}", page.text());
        pages.push(page.text());
    }
    for round in 0..5 {
        for client in [&mut eve, &mut Wire::connect(gateway)] {
            assert_eq!(
                ask(client, origin, "/ntlm", "").status(),
                401,
                "round {round}: another client's connection is not shared"
            );
        }
        // Authenticated once for good; long bodies in between change nothing.
        for (client, page) in [(&mut alice, &pages[0]), (&mut bob, &pages[1])] {
            assert_eq!(ask(client, origin, "/ntlm", "").text(), *page, "round {round}");
            assert_eq!(ask(client, origin, "/bytes/3000000", "").body.len(), 3_000_000);
            assert_eq!(ask(client, origin, "/chunked/100000", "").body.len(), 100_000);
        }
    }
    drop((alice, bob));
    for _ in 0..5 {
        assert_eq!(
            ask(&mut Wire::connect(gateway), origin, "/ntlm", "").status(),
            401,
            "not even after its owner has gone"
        );
    }
}

#[test]
fn a_connection_authenticated_by_an_origin_is_not_shared_through_squid() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    assert_not_shared(gateway.address(), &Web::origin());
}

#[test]
fn a_connection_authenticated_by_an_origin_is_not_shared_without_a_proxy() {
    let proxy = Web::proxy();
    let options = GatewayOptions::through(proxy.address());
    let gateway =
        Gateway::start(&GatewayOptions { args: ["--no-proxy", "127.0.0.1"].map(str::to_owned).into(), ..options });
    assert_not_shared(gateway.address(), &Web::origin());
    assert_eq!(proxy.seen.requests(), 0);
}

#[test]
fn curl_authenticates_to_an_origin_through_squid() {
    require_tools!("squid", "ntlm_auth", "curl");
    let squid = Squid::start(&SquidOptions::default());
    let gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let origin = Web::origin();
    let (proxy, url) = (gateway.url(), origin.url("/ntlm"));
    let args = ["--noproxy", "", "--proxy", &proxy, "--ntlm", "--user", "carol:secret", "--fail", &url, &url, &url];
    let pages = curl(Duration::from_secs(60), args).expect_success("curl --ntlm").text();
    let pages: Vec<&str> = pages.lines().collect();
    assert!(pages.len() == 3 && pages[0].ends_with("user carol"), "{pages:?}");
    assert!(pages.iter().all(|page| *page == pages[0]), "one connection for all: {pages:?}");
    let own = curl(Duration::from_secs(60), ["--noproxy", "", "--proxy", &proxy, "--write-out", "%{http_code}", &url]);
    assert_eq!(own.text(), "401");
}
