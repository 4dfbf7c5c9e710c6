//! The stage in which tunnels spend their lives: bytes both ways until both ways have ended.

use super::context::Context;
use super::cx::Cx;
use super::record::End;
use super::stage::{Relayed, StageOps, Step};
use super::transition::{Halves, Transition};
use crate::fault::{At, Cause, Fault};
use crate::relay::{Half, Moved, RelayError, Turn};
use crate::transport::Endpoint;

/// An established tunnel. Small: ten thousand of them are idle.
#[derive(Debug)]
pub(super) struct Relay {
    upstream: Endpoint,
    up: Half,
    down: Half,
    /// When bytes moved last, in ms of the shard's clock.
    active_ms: u64,
}

/// How far a turn has come.
pub(super) enum Progress {
    Wait,
    Yield,
    Over(End),
}

impl Relay {
    pub(super) fn new(halves: Halves, cx: &mut Cx<'_>) -> Relay {
        cx.tunnel_opened();
        cx.set_deadline_in(cx.timeouts().idle);
        cx.notice_if_it_lasts();
        let Halves { upstream, up, down } = halves;
        Relay { upstream, up, down, active_ms: cx.now_ms() }
    }

    /// Steps in place. This and what it calls are always inlined, because the calls would add a twentieth to the
    /// instructions of a message.
    #[inline(always)]
    pub(super) fn turn(&mut self, has_expired: bool, cx: &mut Cx<'_>) -> Progress {
        if has_expired {
            return Progress::Over(cx.end_by(self.timed_out()));
        }
        let (turn, active) = match self.pump(cx) {
            Ok(done) => done,
            Err(fault) => return Progress::Over(self.fail(fault, cx)),
        };
        if self.up.is_finished() && self.down.is_finished() {
            return Progress::Over(End::Finished);
        }
        if active {
            self.active_ms = cx.now_ms();
        }
        if active || self.up.is_finished() || self.down.is_finished() {
            self.restart_deadline(active, cx);
        }
        match turn {
            Turn::Yielded => Progress::Yield,
            _ => Progress::Wait,
        }
    }

    /// As [`Relay::turn`], for a stage that was moved out of its session.
    fn turn_moved(mut self, has_expired: bool, cx: &mut Cx<'_>) -> Step<Relay> {
        match self.turn(has_expired, cx) {
            Progress::Wait => Step::Wait(self),
            Progress::Yield => Step::Yield(self),
            Progress::Over(end) => {
                let [up, down] = self.dismantle(cx);
                cx.client.record.bytes_up += up;
                cx.client.record.bytes_down += down;
                Step::Go(Transition::End(end))
            }
        }
    }

    /// The data of one side ended in a failure, and the other must not take what it got for the whole. If it was the
    /// whole, what is still on its way must not be destroyed.
    fn fail(&self, fault: Fault, cx: &Cx<'_>) -> End {
        let (left, has_all) = match fault.cause {
            Cause::ClientGone => (&self.upstream, self.up.is_finished()),
            // The upstream's connection: it was reset, or TLS has failed.
            _ => (&cx.client.endpoint, self.down.is_finished()),
        };
        if !has_all {
            left.stream.reset_on_close();
        }
        cx.end_by(fault)
    }

    fn timed_out(&self) -> Fault {
        match self.up.is_finished() || self.down.is_finished() {
            true => {
                Fault::new(At::Relay, Cause::HalfClosedTimeout, "one direction ended long ago and the other does not")
            }
            false => Fault::new(At::Relay, Cause::IdleTimeout, "nothing moved for too long"),
        }
    }

    /// Pumps both halves, each within its budget, so that neither starves the other. Also says whether bytes moved.
    #[inline(always)]
    fn pump(&mut self, cx: &mut Cx<'_>) -> Result<(Turn, bool), Fault> {
        let Relay { upstream, up, down, .. } = self;
        let Cx { client, shard, .. } = cx;
        let client = &mut client.endpoint;
        let (mut turn, mut active) = (Turn::Waiting, false);
        // An event is about one direction most of the time.
        if !up.is_at_rest(client, upstream) {
            let (pumped, moved) = pump_half(up, client, upstream, down, shard);
            shard.counts.bytes_up(moved);
            active |= moved != Moved::default();
            turn = pumped.map_err(|error| match error {
                RelayError::Source(error) => Fault::downstream_io(At::Relay, &error),
                RelayError::Destination(error) => Fault::upstream_io(At::Relay, &error),
            })?;
        }
        if !down.is_at_rest(upstream, client) {
            let (pumped, moved) = pump_half(down, upstream, client, up, shard);
            shard.counts.bytes_down(moved);
            active |= moved != Moved::default();
            let pumped = pumped.map_err(|error| match error {
                RelayError::Source(error) => Fault::upstream_io(At::Relay, &error),
                RelayError::Destination(error) => Fault::downstream_io(At::Relay, &error),
            })?;
            if pumped == Turn::Yielded {
                turn = Turn::Yielded;
            }
        }
        Ok((turn, active))
    }

    /// Activity puts the deadline off. A half that has just ended brings it forward; one that ended before does not.
    #[inline]
    fn restart_deadline(&self, active: bool, cx: &mut Cx<'_>) {
        let timeouts = cx.timeouts();
        let half_closed = self.up.is_finished() || self.down.is_finished();
        let at_ms = cx.now_ms() + if half_closed { timeouts.half_closed } else { timeouts.idle };
        if active || at_ms < cx.client.deadline.at_ms {
            cx.set_deadline(at_ms);
        }
    }
}

impl StageOps for Relay {
    fn label(&self) -> &'static str {
        "relay"
    }

    fn at(&self) -> At {
        At::Relay
    }

    #[inline]
    fn held_bytes(&self) -> usize {
        self.upstream.held_bytes() + self.up.held_bytes() + self.down.held_bytes()
    }

    fn upstream(&mut self, _number: u8) -> Option<&mut Endpoint> {
        Some(&mut self.upstream)
    }

    fn moves_bulk(&self) -> bool {
        self.up.is_bulk() || self.down.is_bulk()
    }

    fn relayed(&self) -> Option<Relayed> {
        let sum = |half: &Half| half.moved().copied + half.moved().spliced;
        Some(Relayed { bytes_up: sum(&self.up), bytes_down: sum(&self.down), active_ms: self.active_ms })
    }

    fn step(self, cx: &mut Cx<'_>) -> Step<Self> {
        self.turn_moved(false, cx)
    }

    fn expired(self, cx: &mut Cx<'_>) -> Step<Self> {
        self.turn_moved(true, cx)
    }

    fn dismantle(self, cx: &mut Cx<'_>) -> [u64; 2] {
        cx.tunnel_closed();
        [self.up, self.down].map(|half| {
            let moved = half.dismantle(&mut cx.shard.pipes);
            moved.copied + moved.spliced
        })
    }
}

/// Pumps one half within its budget; also returns what it has moved.
#[inline(always)]
fn pump_half(
    half: &mut Half,
    from: &mut Endpoint,
    to: &mut Endpoint,
    other: &mut Half,
    shard: &mut Context,
) -> (Result<Turn, RelayError>, Moved) {
    let (before, was_bulk) = (half.moved(), half.is_bulk());
    let mut budget_bytes = shard.bulk_pace.budget_bytes(was_bulk, shard.now_us());
    let pumped = half.pump(from, to, other.is_finished(), &mut shard.relay_resources(), &mut budget_bytes);
    let moved = half.moved().since(before);
    if was_bulk || half.is_bulk() {
        shard.bulk_pace.moved_bulk(moved);
        half.follows_bulk();
        other.follows_bulk();
    } else if moved.copied > 0 && !half.was_part_of_bulk() {
        shard.bulk_pace.did_small_work(shard.now_us());
    }
    (pumped, moved)
}
