//! Gateways as processes that count in one Lease.

use std::time::Duration;

use ntlm_gateway::stub::{StubOptions, StubServer};

use super::LEASE;
use crate::support::client::connect_name;
use crate::support::gateway::{Gateway, GatewayOptions};
use crate::support::in_process::ACCOUNT;
use crate::support::kubernetes::KubernetesApi;
use crate::support::scratch::wait_for;

const BOUND: Duration = Duration::from_secs(60);

fn stub() -> StubServer {
    let (domain, user, password) = ACCOUNT;
    StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub")
}

fn gateway(stub: &StubServer, api: &KubernetesApi, password: &str) -> Gateway {
    let (domain, user, _) = ACCOUNT;
    let mut options = GatewayOptions::through(stub.address());
    options.user = format!(r"{domain}\{user}");
    options.password = password.to_owned();
    options.args = vec!["--guard-store".to_owned(), "kubernetes".to_owned()];
    options.env = api.environment().to_vec();
    let directory = api.directory().display().to_string();
    options.env.push(("KUBERNETES_SERVICE_ACCOUNT_DIRECTORY".to_owned(), directory));
    // It must not use itself, or any other proxy, for the API.
    options.env.push(("HTTPS_PROXY".to_owned(), "http://127.0.0.1:1".to_owned()));
    Gateway::start(&options)
}

fn status(gateway: &Gateway) -> u16 {
    connect_name(gateway.address(), "echo.test:7").expect("an answer").status()
}

#[test]
fn a_gateway_serves_and_keeps_its_count_in_the_lease() {
    let (stub, api) = (stub(), KubernetesApi::start());
    let gateway = gateway(&stub, &api, ACCOUNT.2);
    assert_eq!(status(&gateway), 200);
    assert_eq!(gateway.metric("ntlm_gateway_guard_store_up", &[]), Some(1.0));
    let text = wait_for(BOUND, || api.lease_text()).expect("a text in the Lease");
    let (domain, user, password) = ACCOUNT;
    for name in [domain, user, password, "echo.test", &stub.address().to_string()] {
        assert!(!text.contains(name), "{name} is in the Lease: {text}");
    }
    assert_eq!(api.lease().expect("a Lease")["metadata"]["name"], LEASE);
}

#[test]
fn two_gateways_and_their_restarts_share_one_budget_in_the_lease() {
    let (stub, api) = (stub(), KubernetesApi::start());
    for _ in 0..3 {
        let (first, second) = (gateway(&stub, &api, "N0t-the-secret"), gateway(&stub, &api, "N0t-the-secret"));
        for _ in 0..4 {
            assert_eq!((status(&first), status(&second)), (502, 502));
        }
    }
    let sent = stub.counters().refused;
    assert!((1..=3).contains(&sent), "{sent} wrong passwords were sent");
}
