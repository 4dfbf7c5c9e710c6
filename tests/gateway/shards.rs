//! How connections are spread over the shards.

use crate::support;

use std::collections::HashMap;
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use ntlm_gateway::gateway::Gateway;
use ntlm_gateway::stub::{StubOptions, StubServer};
use support::client::{Answered, ask, connect_name, echo_through};
use support::in_process::{self, ACCOUNT};
use support::scratch::wait_for;

const BOUND: Duration = Duration::from_secs(20);
const SHARDS: usize = 4;

fn open(gateway: &Gateway, count: usize) -> Vec<Answered> {
    let tunnel = |_| {
        let answer = connect_name(in_process::address(gateway), "echo.test:7").expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        answer
    };
    (0..count).map(tunnel).collect()
}

/// The shard of each open connection, by its client's address.
fn shards(gateway: &Gateway) -> HashMap<SocketAddr, usize> {
    let mut answer = ask(gateway.admin_address(), b"GET /tunnels HTTP/1.0\r\n\r\n").expect("an answer");
    let mut body = String::new();
    answer.stream.read_to_string(&mut body).expect("a body");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let of_tunnel = |tunnel: &serde_json::Value| {
        let key = tunnel["key"].as_str()?;
        let shard = key.split('.').next()?.parse().ok()?;
        Some((tunnel["client"].as_str()?.parse().ok()?, shard))
    };
    json["tunnels"].as_array().expect("tunnels").iter().map(|tunnel| of_tunnel(tunnel).expect("a tunnel")).collect()
}

fn most_and_mean(shards: &HashMap<SocketAddr, usize>) -> (usize, usize) {
    let count = |number: usize| shards.values().filter(|shard| **shard == number).count();
    ((0..SHARDS).map(count).max().unwrap_or_default(), shards.len() / SHARDS)
}

#[test]
fn shards_even_out_after_the_tunnels_of_two_of_them_have_ended() {
    let (domain, user, password) = ACCOUNT;
    let stub = StubServer::start(StubOptions::default().account(domain, user, password)).expect("a stub");
    let settings = [("shards", "4"), ("admin_tunnels", "true"), ("max_tunnels", "1000")];
    let gateway = in_process::gateway(&stub.address().to_string(), &settings);
    let mut tunnels = open(&gateway, 600);
    let before = shards(&gateway);
    tunnels.retain(|tunnel| before[&tunnel.stream.local_addr().expect("an address")] < 2);
    let left = tunnels.len();
    assert!((200..=400).contains(&left), "{left} of 600 are on two of four shards");
    assert!(wait_for(BOUND, || (shards(&gateway).len() == left).then_some(())).is_some());

    // The kernel gives each shard about a quarter of the new ones.
    tunnels.extend(open(&gateway, 400));
    let after = shards(&gateway);
    let (most, mean) = most_and_mean(&after);
    assert_eq!(after.len(), left + 400);
    assert!(10 * most <= 11 * mean, "the fullest shard has {most}, the mean is {mean}: {after:?}");
    for tunnel in &tunnels {
        assert_eq!(echo_through(&tunnel.stream, b"to and fro").expect("an echo"), b"to and fro");
    }
    drop(tunnels);
    in_process::stop(gateway);
}
