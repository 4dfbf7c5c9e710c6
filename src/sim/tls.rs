//! Upstreams with TLS: what a seed decides about them, and hand-written scenarios.

use std::sync::Arc;

use rustls::ServerConfig;

use super::network::{End, TlsOddity, TlsTraits};
use super::rng::Rng;
use super::scenario::Scenario;
use crate::transport::Transport;
use crate::transport::testing::{ServerTraits, steady_pair};

/// How an upstream serves TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsPlan {
    pub server: ServerTraits,
    /// Its part of a handshake begins after at most this many µs.
    pub delay_us: u64,
    pub changes_keys: Option<u64>,
    /// One in this many of its connections misbehaves.
    pub odd_once_in: Option<u64>,
    /// How its first connections misbehave, in their order; for scenarios written by hand.
    pub first_oddities: Vec<Option<TlsOddity>>,
}

/// Both ends' settings for an upstream. Made for each run, because they remember sessions.
pub struct TlsEnds {
    pub gateway: Transport,
    pub server: Arc<ServerConfig>,
}

impl TlsPlan {
    pub fn ends(&self) -> TlsEnds {
        let (settings, server) = steady_pair(&self.server);
        TlsEnds { gateway: Transport::Tls(settings), server }
    }

    /// What a connection is like, by how many the upstream has accepted before.
    pub fn traits(&self, accepted_before: usize, now_us: u64, rng: &mut Rng) -> TlsTraits {
        let odd = self.odd_once_in.is_some_and(|times| rng.once_in(times));
        let oddity = odd.then(|| {
            // Not `Corrupts`: a debug assertion of rustls does not expect its own alert after close_notify.
            let cut = TlsOddity::CutsHandshake(rng.size(0..=700), rng.pick(&[End::Fin, End::Reset]));
            rng.pick(&[TlsOddity::Silent, cut, cut, TlsOddity::SpeaksPlain, TlsOddity::Truncates, TlsOddity::Truncates])
        });
        TlsTraits {
            begins_at_us: now_us + rng.within(0..=self.delay_us),
            changes_keys: self.changes_keys,
            oddity: self.first_oddities.get(accepted_before).copied().unwrap_or(oddity),
        }
    }
}

impl Scenario {
    /// The scenario of a seed with TLS to most upstreams: what it is without, and what another sequence decides in
    /// addition.
    pub fn with_tls(seed: u64) -> Scenario {
        let mut scenario = Scenario::of(seed);
        let mut rng = Rng::new(seed ^ 0x746c_7331);
        let strict = scenario.strict;
        for upstream in &mut scenario.upstreams {
            upstream.tls = (!rng.once_in(5)).then(|| plan(&mut rng, strict));
        }
        if strict {
            // A connection that carries a byte at a time takes minutes for a handshake and the answer after it, for
            // which an upstream has the time to connect while there is another one.
            (scenario.timeouts.tls, scenario.timeouts.connect) = (400_000, 400_000);
        } else {
            scenario.timeouts.tls = rng.within(50..=2_000);
        }
        scenario
    }
}

fn plan(rng: &mut Rng, strict: bool) -> TlsPlan {
    TlsPlan {
        server: ServerTraits {
            is_1_2: rng.once_in(3),
            fragment_bytes: rng.pick(&[None, None, Some(32), Some(300), Some(4_000)]),
            tickets: rng.size(0..=4),
        },
        delay_us: if rng.once_in(2) { 0 } else { rng.within(0..=if strict { 200_000 } else { 2_500_000 }) },
        changes_keys: rng.once_in(2).then(|| rng.within(1..=30)),
        odd_once_in: (!strict && rng.once_in(2)).then(|| rng.within(1..=4)),
        first_oddities: Vec::new(),
    }
}

#[cfg(test)]
mod cases {
    use super::*;
    use crate::sim::cases::{play, scenario_with_tunnels};
    use crate::sim::scenario::FlowPlan;

    const FLOW: FlowPlan = FlowPlan { bytes: 100_000, piece: 9_000, pause_us: 0, ends_last: false, oddity: None };

    /// Tunnels through one upstream with TLS whose first connections misbehave like this.
    fn tunnels(times_us: &[u64], first_oddities: &[Option<TlsOddity>]) -> Scenario {
        let mut scenario = scenario_with_tunnels(1, times_us);
        scenario.upstreams[0].tls = Some(TlsPlan { first_oddities: first_oddities.into(), ..TlsPlan::default() });
        for client in &mut scenario.clients {
            (client.up, client.down) = (FLOW, FlowPlan { ends_last: true, ..FLOW });
        }
        scenario
    }

    #[test]
    fn tunnels_over_tls_resume_the_first_ones_session_across_changes_of_keys() {
        let mut scenario = Scenario { strict: true, ..tunnels(&[0, 2_000_000, 4_000_000], &[]) };
        scenario.upstreams[0].tls.iter_mut().for_each(|tls| {
            (tls.changes_keys, tls.server.tickets) = (Some(2), 2);
        });
        let summary = play(scenario, 0);
        assert_eq!(summary.ends, ["finished"; 3]);
        assert_eq!((summary.tls.new, summary.tls.resumed), (1, 2));
        assert!(summary.tls.new_keys > 5, "{:?}", summary.tls);
    }

    #[test]
    fn an_end_without_tlss_notice_is_never_a_clean_end_for_the_client() {
        for seed in 0..20 {
            let summary = play(tunnels(&[0], &[Some(TlsOddity::Truncates)]), seed);
            assert_eq!((summary.ends.as_slice(), summary.tls.truncated), (&["upstream_reset"][..], 1));
        }
    }

    #[test]
    fn a_changed_record_is_never_followed_by_a_clean_end_for_the_client() {
        let mut failed = 0;
        for seed in 0..40 {
            let summary = play(tunnels(&[0], &[Some(TlsOddity::Corrupts); 9]), seed);
            failed += summary.ends.iter().filter(|end| **end == "tls_failed").count();
        }
        assert!(failed > 20, "{failed}");
    }

    /// The upstream's direction ends first, and its socket takes a byte at a time.
    #[test]
    fn the_notice_of_an_end_is_sent_before_the_connection_is_closed() {
        let mut scenario = Scenario { strict: true, ..tunnels(&[0], &[]) };
        (scenario.traits[0].tx_capacity, scenario.scratch_bytes) = (1, 64);
        for client in &mut scenario.clients {
            let short = FlowPlan { bytes: 100, ..FLOW };
            (client.up, client.down) = (FlowPlan { ends_last: true, ..short }, short);
        }
        assert_eq!(play(scenario, 0).ends, ["finished"]);
    }

    #[test]
    fn a_handshake_that_is_cut_short_or_never_answered_ends_in_time() {
        let cut = |bytes, end| Some(TlsOddity::CutsHandshake(bytes, end));
        for (oddity, label) in [
            (Some(TlsOddity::Silent), "connect_timeout"),
            (Some(TlsOddity::SpeaksPlain), "tls_not_spoken"),
            (cut(0, End::Fin), "tls_failed"),
            (cut(100, End::Fin), "tls_failed"),
            (cut(100, End::Reset), "connect_refused"),
        ] {
            let mut scenario = tunnels(&[0], &[oddity; 9]);
            scenario.timeouts.tls = 500;
            let summary = play(scenario, 0);
            assert_eq!(summary.ends, [label], "{oddity:?}");
        }
    }
}
