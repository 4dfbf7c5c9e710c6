//! A realm: the tickets that its KDC has issued, and the services that verify tokens made with them.

use std::collections::HashSet;

use super::plan::{Accepts, KerberosPlan};
use super::wall_clock;
use crate::kerberos::tests::issue::{IssuingService, http_service, is_with_ticket};
use crate::kerberos::{AcceptError, ClockSkew, Credential, CryptoError, Principal, Timestamp, accept, refusal};
use crate::limits;
use crate::sim::scenario::USERS;

const REALM: &str = "CORP.TEST";

/// A ticket that was issued.
struct Issued {
    credential: Credential,
    upstream: usize,
    user: &'static str,
    at_us: u64,
}

/// What happened, for statistics and for scenarios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealmCounts {
    /// Logons with the right and with a wrong key.
    pub logons: u64,
    pub wrong_logons: u64,
    /// Service tickets.
    pub issued: u64,
    /// Tokens that a service has accepted and refused.
    pub accepted: u64,
    pub refused: u64,
    /// Tickets that were asked for because a service had refused one.
    pub replaced: u64,
    /// Messages of NTLM at upstreams.
    pub ntlm: u64,
}

impl RealmCounts {
    pub fn add(&mut self, other: &RealmCounts) {
        let RealmCounts { logons, wrong_logons, issued, accepted, refused, replaced, ntlm } = other;
        self.logons += logons;
        self.wrong_logons += wrong_logons;
        self.issued += issued;
        self.accepted += accepted;
        self.refused += refused;
        self.replaced += replaced;
        self.ntlm += ntlm;
    }
}

/// What a service says about a token.
pub enum TokenVerdict {
    /// The user, and the service's own token.
    Accepted(&'static str, Option<Vec<u8>>),
    /// The service's own token.
    Refused(Vec<u8>),
}

/// The realm of a run.
pub struct Realm {
    plan: KerberosPlan,
    issued: Vec<Issued>,
    /// The times of all tokens.
    times: HashSet<Timestamp>,
    /// When another ticket was asked for: the upstream, the identity, the number of the refused ticket.
    asked: Vec<(u64, usize, usize, u64)>,
    pub counts: RealmCounts,
    pub wrong: Vec<String>,
}

impl Realm {
    pub fn new(plan: &KerberosPlan) -> Realm {
        Realm {
            plan: plan.clone(),
            issued: Vec::new(),
            times: HashSet::new(),
            asked: Vec::new(),
            counts: RealmCounts::default(),
            wrong: Vec::new(),
        }
    }

    pub fn plan(&self) -> &KerberosPlan {
        &self.plan
    }

    /// The KDC's clock, which the services use too.
    fn clock(&self, now_us: u64) -> Timestamp {
        self.skew().apply(wall_clock(now_us))
    }

    fn skew(&self) -> ClockSkew {
        let ours = wall_clock(0);
        let ahead = self.plan.kdc.ahead_s;
        let seconds = ours.seconds().checked_add_signed(ahead).expect("the epoch is far from both ends");
        ClockSkew::between(Timestamp::from_seconds(seconds), ours)
    }

    fn service(&self, upstream: usize, at_us: u64) -> IssuingService {
        let has_changed = matches!(self.plan.proxies[upstream].accepts, Accepts::IssuedSince(since) if at_us >= since);
        let principal = http_service(&format!("u{upstream}.test"), REALM);
        IssuingService { principal, etype: self.plan.etype, kvno: if has_changed { 2 } else { 1 } }
    }

    /// A ticket for an upstream.
    pub fn issue(&mut self, upstream: usize, identity: usize, now_us: u64) -> Credential {
        let user = USERS[identity];
        let client = Principal::parse(&format!("{user}@{REALM}"), None).expect("a name");
        let start = self.clock(now_us);
        let end = Timestamp::from_micros(start.micros() + self.plan.kdc.lifetime_us);
        let session = u8::try_from(self.issued.len() % 251).expect("below 251").wrapping_add(3);
        let mut credential = self.service(upstream, now_us).issue(&client, session, start, end);
        credential.skew = self.skew();
        self.counts.issued += 1;
        self.issued.push(Issued { credential: credential.clone(), upstream, user, at_us: now_us });
        credential
    }

    /// A slot wants another ticket.
    pub fn asked_for_another(&mut self, upstream: usize, identity: usize, number: u64, now_us: u64) {
        self.counts.replaced += 1;
        let interval_us = u64::try_from(limits::KERBEROS_REPLACEMENT_INTERVAL.as_micros()).expect("a short time");
        let mut earlier = self.asked.iter().filter(|asked| (asked.1, asked.2) == (upstream, identity));
        if let Some(last) = earlier.find(|asked| asked.3 == number || now_us < asked.0 + interval_us) {
            self.wrong.push(format!(
                "a second ticket {number} for identity {identity} at upstream {upstream} was asked for at {now_us} µs, \
                 after {last:?}"
            ));
        }
        self.asked.push((now_us, upstream, identity, number));
    }

    /// Verifies a token of Kerberos that an upstream has received.
    pub fn verify(&mut self, upstream: usize, token: &[u8], now_us: u64) -> TokenVerdict {
        let found = self.issued.iter().find(|issued| is_with_ticket(token, &issued.credential));
        let Some(Issued { credential, upstream: owner, user, at_us }) = found else {
            self.wrong.push(format!("upstream {upstream} received a token with a ticket that nobody has issued"));
            return TokenVerdict::Refused(Vec::new());
        };
        let (end, user, at_us, owner) = (credential.end, *user, *at_us, *owner);
        let keytab = self.service(owner, at_us).keytab();
        let mut wrong = Vec::new();
        if owner != upstream {
            wrong.push(format!("upstream {upstream} received a ticket for upstream {owner}"));
        }
        let accepted = accept(token, &keytab, self.clock(now_us), &[7; 16]);
        let reply = match accepted {
            Ok(accepted) => {
                if !self.times.insert(accepted.time) {
                    wrong.push(format!("two tokens have the time {:?}", accepted.time));
                }
                if accepted.client.name.components() != [user] {
                    wrong.push(format!("a token of {} with the ticket of {user}", accepted.client));
                }
                if accepted.time >= end {
                    wrong.push(format!("a token was made at {:?}, but its ticket ended at {end:?}", accepted.time));
                }
                accepted.reply
            }
            Err(error) => {
                wrong.push(format!("upstream {upstream} received a token that cannot be verified: {error}"));
                None
            }
        };
        self.wrong.append(&mut wrong);
        let is_accepted = match self.plan.proxies[upstream].accepts {
            Accepts::All => true,
            Accepts::IssuedSince(since) => now_us < since || at_us >= since,
            Accepts::Nothing => false,
        };
        if is_accepted {
            self.counts.accepted += 1;
            return TokenVerdict::Accepted(user, reply);
        }
        self.counts.refused += 1;
        let error = AcceptError::Ticket(CryptoError::Integrity);
        TokenVerdict::Refused(refusal(token, error, self.clock(now_us)))
    }
}
