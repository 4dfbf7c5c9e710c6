//! Reload and shutdown of a gateway that uses a real Squid.

use crate::support;

use std::time::Duration;

use rustix::process::Signal;
use support::bytes::assert_same;
use support::client::{connect, echo_through};
use support::gateway::{Gateway, GatewayOptions};
use support::origin::echo_origin;
use support::scratch::wait_for;
use support::squid::{Squid, SquidOptions};

#[test]
fn a_corrected_password_is_used_after_sighup_without_a_restart() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let mut options = GatewayOptions::through(squid.address());
    options.password = "N0t-the-secret".to_owned();
    let gateway = Gateway::start(&options);
    let origin = echo_origin();
    let status = || connect(gateway.address(), origin.address(), b"").expect("an answer").status();

    assert_eq!(status(), 502);
    gateway.write_password(support::PASSWORD);
    gateway.signal(Signal::HUP);
    assert!(
        wait_for(Duration::from_secs(15), || (status() == 200).then_some(())).is_some(),
        "the password is still rejected"
    );
}

#[test]
fn sigterm_keeps_an_open_tunnel_until_it_closes_and_exits_cleanly() {
    require_tools!("squid", "ntlm_auth");
    let squid = Squid::start(&SquidOptions::default());
    let mut gateway = Gateway::start(&GatewayOptions::through(squid.address()));
    let origin = echo_origin();
    let tunnel = connect(gateway.address(), origin.address(), b"").expect("an answer");
    assert_eq!(tunnel.status(), 200, "{}", tunnel.head);

    gateway.signal(Signal::TERM);
    assert!(gateway.wait(Duration::from_secs(1)).is_none(), "it exited with an open tunnel");
    assert_same(&echo_through(&tunnel.stream, b"still here").expect("echo"), b"still here", "the tunnel");
    drop(tunnel);
    let ended = gateway.wait(Duration::from_secs(60)).expect("an exit within the drain time-out");
    assert_eq!(ended.code(), Some(0));
}
