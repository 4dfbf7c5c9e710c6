//! A fleet of guards with one store, in virtual time: gateways under load that start, end and are cut off, and a domain
//! that counts wrong passwords.

use std::sync::{Arc, Mutex};

use super::super::cell::{Kept, Version};
use super::super::desk::{Clocks, Desk, document_of};
use super::super::record::Shares;
use super::policy;
use crate::upstream::{
    Accounts, Answer, AttemptRequest, DialPermission, Guard, Order, Scout, SecretDigest, SendPermission, Store, Ticket,
};

const MINUTE_MS: u64 = 60_000;
/// The time of the store's clock when the process's clock is 0.
const EPOCH_MS: u64 = 1_800_000_000_000;
/// How long an answer of the upstream takes, in ms.
const ANSWER_MS: u64 = 40;
/// How long one round of the store takes, in ms.
const STORE_MS: u64 = 10;

#[derive(Debug, Default)]
struct Queue(Mutex<Vec<Order>>);

impl Store for Queue {
    fn order(&self, order: Order) {
        self.0.lock().unwrap().push(order);
    }
}

/// The text that all share.
#[derive(Default)]
struct Shared {
    text: Option<String>,
    version: u64,
    writes: usize,
    reads: usize,
}

impl Shared {
    fn kept(&self, now_ms: u64) -> Kept {
        let version = Version(self.version.to_string());
        Kept { text: self.text.clone(), version, at_ms: EPOCH_MS + now_ms, damaged: 0 }
    }
}

/// A gateway: its guard, and the orders that it has not carried out.
struct Gateway {
    queue: Arc<Queue>,
    desk: Desk,
    accounts: Accounts,
    guard: Arc<Guard>,
    password: &'static str,
    scout: Option<Scout>,
    /// Attempts under way, with when the answer comes.
    sent: Vec<(Ticket, u64)>,
    served: usize,
    is_cut_off: bool,
    next_store_ms: u64,
}

/// What the domain thinks of passwords.
struct Domain {
    password: &'static str,
    failed_ms: Vec<u64>,
}

struct Fleet {
    shared: Shared,
    gateways: Vec<Gateway>,
    domain: Domain,
    upstream: Arc<str>,
    now_ms: u64,
    max_replicas: usize,
}

fn guard(accounts: &Accounts, password: &str, upstream: &Arc<str>) -> Arc<Guard> {
    let account = accounts.of("CORP", "svc");
    let secret = account.fingerprint(password);
    account.introduce(secret, SecretDigest::of(&[password.as_bytes()]));
    let guard = Guard::of(account, secret, |_| {});
    guard.expect(upstream);
    guard
}

impl Gateway {
    fn start(password: &'static str, upstream: &Arc<str>, max_replicas: usize) -> Gateway {
        let queue = Arc::new(Queue::default());
        let accounts = Accounts::with_store(policy(3), Arc::clone(&queue) as Arc<dyn Store>);
        let guard = guard(&accounts, password, upstream);
        let desk = Desk::new(policy(3), Shares::of(3, max_replicas), getrandom::u64().unwrap(), 0);
        Gateway {
            queue,
            desk,
            accounts,
            guard,
            password,
            scout: None,
            sent: Vec::new(),
            served: 0,
            is_cut_off: false,
            next_store_ms: 0,
        }
    }

    fn reload(&mut self, password: &'static str, upstream: &Arc<str>) {
        self.password = password;
        self.guard = guard(&self.accounts, password, upstream);
        self.scout = None;
    }

    /// What the store's thread does, in one go.
    fn work(&mut self, shared: &mut Shared, now_ms: u64) {
        let orders: Vec<Order> = self.queue.0.lock().unwrap().drain(..).collect();
        orders.into_iter().for_each(|order| self.desk.take(order));
        if self.is_cut_off {
            self.desk.grant_from_shares(now_ms);
            return;
        }
        if now_ms < self.next_store_ms {
            return;
        }
        self.next_store_ms = now_ms + STORE_MS;
        let clocks = Clocks { store_ms: EPOCH_MS + now_ms, own_ms: now_ms };
        shared.reads += 1;
        let mut document = document_of(&shared.kept(now_ms)).unwrap();
        if shared.text.is_some() {
            self.desk.tell(&document, clocks);
        }
        if let Some(since_ms) = now_ms.checked_sub(10_000) {
            self.desk.release(since_ms, now_ms);
        }
        if self.desk.is_due(now_ms) {
            let outcome = self.desk.apply(&mut document, 0, clocks);
            let text = document.write(self.desk.policy(), clocks.store_ms);
            if shared.text.as_ref() != Some(&text) {
                shared.text = Some(text);
                shared.version += 1;
                shared.writes += 1;
            }
            self.desk.stored(outcome, &document, clocks);
            self.desk.tell(&document, clocks);
        }
    }

    /// One of many clients asks.
    fn press(&mut self, domain: &mut Domain, upstream: &Arc<str>, now_ms: u64) {
        let destination = "example.com:443";
        match self.guard.enter(now_ms, upstream, "CONNECT", destination) {
            DialPermission::Go => {}
            DialPermission::Scout(scout) => self.scout = Some(scout),
            DialPermission::Wait | DialPermission::No(_) => return,
        }
        let request = AttemptRequest { upstream, method: "CONNECT", destination, challenged: true, confirms: false };
        if let SendPermission::Go(ticket) = self.guard.ask(now_ms, &request) {
            if self.password != domain.password {
                domain.failed_ms.push(now_ms);
            }
            self.sent.push((ticket, now_ms + ANSWER_MS));
        }
        self.scout = None;
    }

    fn confirm(&mut self, domain: &mut Domain, upstream: &Arc<str>, now_ms: u64) {
        let Some(confirmation) = self.guard.take_confirmation(now_ms, upstream) else { return };
        let destination = confirmation.good().destination.to_string();
        let request =
            AttemptRequest { upstream, method: "CONNECT", destination: &destination, challenged: true, confirms: true };
        if let SendPermission::Go(ticket) = self.guard.ask(now_ms, &request) {
            let is_right = self.password == domain.password;
            if !is_right {
                domain.failed_ms.push(now_ms);
            }
            ticket.settle(now_ms + ANSWER_MS, if is_right { Answer::Status(200) } else { Answer::Refused });
        }
    }

    fn answers(&mut self, domain: &Domain, now_ms: u64) {
        let is_right = self.password == domain.password;
        let (due, later) = std::mem::take(&mut self.sent).into_iter().partition(|(_, at_ms)| *at_ms <= now_ms);
        self.sent = later;
        for (ticket, _) in due {
            self.served += usize::from(is_right);
            ticket.settle(now_ms, if is_right { Answer::Status(200) } else { Answer::Refused });
        }
    }
}

impl Fleet {
    fn new(gateways: usize, password: &'static str) -> Fleet {
        Fleet::with_shares(gateways, 0, password)
    }

    fn with_shares(gateways: usize, max_replicas: usize, password: &'static str) -> Fleet {
        let upstream: Arc<str> = "proxy:8080".into();
        Fleet {
            shared: Shared::default(),
            gateways: (0..gateways).map(|_| Gateway::start(password, &upstream, max_replicas)).collect(),
            domain: Domain { password: "right", failed_ms: Vec::new() },
            upstream,
            now_ms: 1_000,
            max_replicas,
        }
    }

    /// Lets all clients press for so long.
    fn run(&mut self, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        while self.now_ms < until_ms {
            for gateway in &mut self.gateways {
                gateway.work(&mut self.shared, self.now_ms);
                gateway.answers(&self.domain, self.now_ms);
                (0..3).for_each(|_| gateway.press(&mut self.domain, &self.upstream, self.now_ms));
                gateway.confirm(&mut self.domain, &self.upstream, self.now_ms);
                gateway.work(&mut self.shared, self.now_ms);
            }
            self.now_ms += if for_ms > MINUTE_MS { 500 } else { 5 };
        }
    }

    /// Ends a gateway where it is, as SIGKILL does, and starts it again.
    fn kill(&mut self, gateway: usize, password: &'static str) {
        let upstream = Arc::clone(&self.upstream);
        let old =
            std::mem::replace(&mut self.gateways[gateway], Gateway::start(password, &upstream, self.max_replicas));
        // Its tickets must not settle anything.
        std::mem::forget(old.sent);
        std::mem::forget(old.scout);
    }

    fn reload(&mut self, password: &'static str) {
        let upstream = Arc::clone(&self.upstream);
        self.gateways.iter_mut().for_each(|gateway| gateway.reload(password, &upstream));
    }

    fn failures(&self) -> usize {
        self.domain.failed_ms.len()
    }

    fn all_serve(&self, before: &[usize]) -> bool {
        self.gateways.iter().zip(before).all(|(gateway, before)| gateway.served > *before)
    }

    fn served(&self) -> Vec<usize> {
        self.gateways.iter().map(|gateway| gateway.served).collect()
    }
}

#[test]
fn four_gateways_with_a_wrong_password_share_one_budget() {
    let mut fleet = Fleet::new(4, "wrong");
    fleet.run(2_000);
    assert_eq!(fleet.failures(), 1, "the others learn of it");
    fleet.run(29 * MINUTE_MS);
    assert_eq!(fleet.failures(), 3);
}

#[test]
fn restarts_and_reloads_do_not_reset_the_budget() {
    let mut fleet = Fleet::new(4, "wrong");
    for round in 0..20 {
        fleet.run(500);
        fleet.kill(round % 4, if round % 2 == 0 { "wrong" } else { "wrong as well" });
        fleet.run(1_000);
        fleet.reload(if round % 3 == 0 { "wrong" } else { "another" });
    }
    fleet.run(20 * MINUTE_MS);
    assert!(fleet.failures() <= 3, "{:?}", fleet.domain.failed_ms);
    assert!(fleet.failures() >= 2, "the password is tried: {:?}", fleet.domain.failed_ms);
}

#[test]
fn all_gateways_serve_within_two_seconds_of_the_right_password() {
    let mut fleet = Fleet::new(4, "wrong");
    fleet.run(5_000);
    fleet.reload("right");
    let before = fleet.served();
    fleet.run(2_000);
    assert!(fleet.all_serve(&before), "{:?}", fleet.served());
    assert_eq!(fleet.failures(), 1);
}

#[test]
fn an_accepted_secret_costs_the_store_nothing() {
    let mut fleet = Fleet::new(4, "right");
    fleet.run(2_000);
    let before = (fleet.shared.writes, fleet.served());
    assert!(fleet.all_serve(&[0; 4]));
    fleet.run(10_000);
    assert_eq!(fleet.shared.writes, before.0);
    assert!(fleet.all_serve(&before.1));
}

#[test]
fn a_gateway_that_is_cut_off_from_the_store_sends_nothing_unproven() {
    let mut fleet = Fleet::new(4, "wrong");
    fleet.gateways[3].is_cut_off = true;
    fleet.run(29 * MINUTE_MS);
    assert_eq!(fleet.failures(), 3);
    fleet.domain.failed_ms.clear();
    fleet.gateways[3].is_cut_off = false;
    fleet.run(1_000);
    assert_eq!(fleet.failures(), 0, "it learns what the others know");
}

#[test]
fn a_password_changed_in_the_domain_costs_one_batch_and_the_rest_of_the_budget() {
    let mut fleet = Fleet::new(4, "right");
    fleet.run(3_000);
    fleet.domain.password = "changed";
    fleet.run(5_000);
    let in_flight = fleet.failures();
    fleet.domain.failed_ms.clear();
    fleet.run(28 * MINUTE_MS);
    assert!(fleet.failures() <= 2, "{in_flight} and then {:?}", fleet.domain.failed_ms);
    fleet.reload("changed");
    let before = fleet.served();
    fleet.run(35 * MINUTE_MS);
    assert!(fleet.all_serve(&before));
}

#[test]
fn shares_are_used_only_by_those_cut_off_and_the_sum_stays_in_the_budget() {
    for cut_off in [1, 2] {
        let mut fleet = Fleet::with_shares(2, 2, "wrong");
        fleet.run(100);
        fleet.gateways.iter_mut().rev().take(cut_off).for_each(|gateway| gateway.is_cut_off = true);
        fleet.reload("another");
        fleet.run(25 * MINUTE_MS);
        assert!((2..=3).contains(&fleet.failures()), "{cut_off}: {:?}", fleet.domain.failed_ms);
    }
}

#[test]
fn a_right_password_is_served_from_a_share_while_the_store_is_out_of_reach() {
    let mut fleet = Fleet::with_shares(2, 2, "wrong");
    fleet.run(100);
    fleet.gateways.iter_mut().for_each(|gateway| gateway.is_cut_off = true);
    fleet.reload("right");
    let before = fleet.served();
    fleet.run(2_000);
    assert!(fleet.served().iter().zip(&before).any(|(served, before)| served > before), "{:?}", fleet.served());
}

#[test]
fn processes_that_ended_with_a_share_do_not_block_a_right_password() {
    let mut fleet = Fleet::with_shares(3, 3, "right");
    fleet.run(1_000);
    (0..3).for_each(|gateway| fleet.kill(gateway, "right"));
    let before = fleet.served();
    fleet.run(2_000);
    assert!(fleet.all_serve(&before), "{:?}", fleet.served());
}
