//! The stage in which tunnels spend their lives: bytes both ways until both ways have ended.

use super::{Client, Context, End, Stage, Step};
use crate::event::{Endpoint, Key};
use crate::fault::{At, Cause, Fault};
use crate::limits;
use crate::relay::{Half, Moved, RelayError, Turn};

/// A standing tunnel. Small: ten thousand of them are idle.
#[derive(Debug)]
pub(super) struct Relay {
    upstream: Endpoint,
    up: Half,
    down: Half,
    /// When bytes moved last, in ms of the shard's clock.
    active_ms: u64,
}

/// What came of stepping a standing tunnel.
pub(super) enum Relayed {
    Wait,
    Yield,
    Over(End),
}

impl Relay {
    pub(super) fn begin(
        upstream: Endpoint,
        up: Half,
        down: Half,
        key: Key,
        client: &mut Client,
        context: &mut Context,
    ) -> Step {
        context.metrics.established.inc();
        context.metrics.tunnels_relaying.inc();
        let at_ms = context.now_ms() + context.settings.timeouts.idle;
        client.set_deadline(key, context, at_ms);
        Step::Go(Stage::Relay(Relay { upstream, up, down, active_ms: context.now_ms() }))
    }

    /// Bytes relayed so far, up and down.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let sum = |half: &Half| half.moved().copied + half.moved().spliced;
        (sum(&self.up), sum(&self.down))
    }

    /// When bytes moved last, in ms of the shard's clock.
    pub(super) fn active_ms(&self) -> u64 {
        self.active_ms
    }

    /// What its buffers take, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.up.held_bytes() + self.down.held_bytes()
    }

    pub(super) fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.upstream
    }

    pub(super) fn step(&mut self, key: Key, client: &mut Client, context: &mut Context) -> Relayed {
        let before = (self.up.moved(), self.down.moved());
        let turn = self.pump(client, context);
        let moved = (since(self.up.moved(), before.0), since(self.down.moved(), before.1));
        context.metrics.bytes_up(moved.0);
        context.metrics.bytes_down(moved.1);
        let turn = match turn {
            Ok(turn) => turn,
            Err(fault) => {
                // The data of one side ended in a failure: the other must not take what came of it for the whole. If it was the
                // whole, what is still on its way must not be destroyed.
                let (left, has_all) = match fault.cause {
                    Cause::UpstreamReset => (&client.endpoint, self.down.is_finished()),
                    _ => (&self.upstream, self.up.is_finished()),
                };
                if !has_all {
                    left.stream.reset_on_close();
                }
                return Relayed::Over(context.fault(fault));
            }
        };
        if self.up.is_finished() && self.down.is_finished() {
            return Relayed::Over(End::Finished);
        }
        let active = moved != (Moved::default(), Moved::default());
        if active {
            self.active_ms = context.now_ms();
        }
        if active || self.up.is_finished() || self.down.is_finished() {
            self.restart_deadline(active, key, client, context);
        }
        match turn {
            Turn::Yielded => Relayed::Yield,
            _ => Relayed::Wait,
        }
    }

    /// How it ends when its deadline has passed.
    pub(super) fn timed_out(&self, context: &Context) -> End {
        let fault = match self.up.is_finished() || self.down.is_finished() {
            true => {
                Fault::new(At::Relay, Cause::HalfClosedTimeout, "one direction ended long ago and the other does not")
            }
            false => Fault::new(At::Relay, Cause::IdleTimeout, "nothing moved for too long"),
        };
        context.fault(fault)
    }

    /// Ends the stage wherever it is; returns the bytes relayed up and down.
    pub(super) fn dismantle(self, context: &mut Context) -> (u64, u64) {
        context.metrics.tunnels_relaying.dec();
        let up = self.up.dismantle(&mut context.pipes);
        let down = self.down.dismantle(&mut context.pipes);
        (up.copied + up.spliced, down.copied + down.spliced)
    }

    /// Pumps both halves, each within its budget, so that neither starves the other.
    fn pump(&mut self, client: &mut Client, context: &mut Context) -> Result<Turn, Fault> {
        let mut resources = context.relay_resources();
        let mut budget_bytes = limits::TURN_BYTES;
        let up = self
            .up
            .pump(&mut client.endpoint, &mut self.upstream, self.down.is_finished(), &mut resources, &mut budget_bytes)
            .map_err(|error| match error {
                RelayError::Source(error) => Fault::downstream_io(At::Relay, &error),
                RelayError::Destination(error) => Fault::upstream_io(At::Relay, &error),
            })?;
        let mut budget_bytes = limits::TURN_BYTES;
        let down = self
            .down
            .pump(&mut self.upstream, &mut client.endpoint, self.up.is_finished(), &mut resources, &mut budget_bytes)
            .map_err(|error| match error {
                RelayError::Source(error) => Fault::upstream_io(At::Relay, &error),
                RelayError::Destination(error) => Fault::downstream_io(At::Relay, &error),
            })?;
        Ok(if up == Turn::Yielded || down == Turn::Yielded { Turn::Yielded } else { Turn::Waiting })
    }

    /// Activity puts the deadline off. A half that has just ended brings it forward; one that ended before does not.
    fn restart_deadline(&self, active: bool, key: Key, client: &mut Client, context: &mut Context) {
        let timeouts = context.settings.timeouts;
        let half_closed = self.up.is_finished() || self.down.is_finished();
        let at_ms = context.now_ms() + if half_closed { timeouts.half_closed } else { timeouts.idle };
        if active || at_ms < client.deadline.at_ms {
            client.set_deadline(key, context, at_ms);
        }
    }
}

fn since(now: Moved, before: Moved) -> Moved {
    Moved { copied: now.copied - before.copied, spliced: now.spliced - before.spliced }
}
