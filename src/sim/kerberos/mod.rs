//! Kerberos: a KDC with the agents that get tickets from it, and upstreams that verify tokens. All of them are models
//! on virtual time; what the gateway does with tickets is its own code.
//!
//! | file | subject |
//! |---|---|
//! | `plan` | what a seed decides about tickets and who accepts them |
//! | `realm` | which tickets there are, and which tokens were seen: verifies them |
//! | `agent` | gets the tickets of one identity, as `tickets::Agent` does |
//! | `proxy` | an upstream's side of a connection |
//! | `cases` | hand-written scenarios |

mod agent;
mod cases;
mod plan;
mod proxy;
mod realm;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

pub use agent::{Agent, AgentContext};
pub use plan::KerberosPlan;
pub use proxy::{Proxy, ProxySurroundings, has_ticket};
pub use realm::{Realm, RealmCounts};

use super::network::with;
use super::scenario::USERS;
use crate::auth::{Nonces, TicketSlot, TokenTimes};
use crate::ntlm::FileTime;

/// When a run begins, in seconds since 1970, by the gateway's clock.
const EPOCH_SECONDS: u64 = 1_800_000_000;

/// The gateway's clock.
pub fn wall_clock(now_us: u64) -> crate::kerberos::Timestamp {
    crate::kerberos::Timestamp::from_micros(EPOCH_SECONDS * 1_000_000 + now_us)
}

/// What Kerberos adds to a world.
pub struct Tickets {
    pub realm: Rc<RefCell<Realm>>,
    /// One for each identity.
    pub agents: Vec<Agent>,
    /// Where the tickets are published, by the places of the upstream and of the identity.
    pub slots: BTreeMap<(usize, usize), Arc<TicketSlot>>,
}

impl Tickets {
    /// `alarm` is the kind of the alarms that tell agents that a slot wants another ticket.
    pub fn new(plan: &KerberosPlan, upstreams: usize, identities: usize, alarm: u64) -> Tickets {
        let times = Arc::new(TokenTimes::new(0));
        let slot = |upstream: usize, identity: usize| {
            let number = alarm + (upstream * identities + identity) as u64;
            Arc::new(TicketSlot::new(Arc::clone(&times), move || with(|network| network.alarm(0, number))))
        };
        let places = (0..upstreams).flat_map(|upstream| (0..identities).map(move |identity| (upstream, identity)));
        let slots: BTreeMap<_, _> = places.map(|place| (place, slot(place.0, place.1))).collect();
        let realm = Rc::new(RefCell::new(Realm::new(plan)));
        let slots_of = |identity: usize| (0..upstreams).map(|place| Arc::clone(&slots[&(place, identity)])).collect();
        let agents = (0..identities).map(|identity| Agent::new(identity, slots_of(identity))).collect();
        Tickets { realm, agents, slots }
    }
}

impl Tickets {
    /// Where the tickets for an upstream and an identity of these names are published.
    pub fn slot(&self, upstream: &str, user: &str) -> Arc<TicketSlot> {
        let upstream = upstream.strip_prefix('u').and_then(|place| place.parse().ok());
        let identity = USERS.iter().position(|known| *known == user);
        let place = upstream.zip(identity).expect("names of the scenario");
        Arc::clone(&self.slots[&place])
    }
}

/// What a token of the gateway needs that is new each time, from a sequence of its own and by the virtual clock.
pub fn nonces(number: u64) -> Nonces {
    let mut rng = super::rng::Rng::new(number);
    let mut subkey = [0; 32];
    for part in subkey.chunks_mut(8) {
        part.copy_from_slice(&rng.next().to_be_bytes());
    }
    let now = wall_clock(with(|network| network.now_us));
    Nonces {
        client_challenge: rng.next().to_be_bytes(),
        exported_session_key: std::array::from_fn(|place| subkey[place] ^ 0x5a),
        subkey,
        now: FileTime::from_unix(now.seconds(), now.subsec_micros() * 1000),
    }
}
