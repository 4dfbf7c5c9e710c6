//! The event loop's primitives: deadlines of ten thousand tunnels, tokens, and the mailbox.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mio::{Events, Poll, Token};
use ntlm_gateway::event::{Deadline, EventToken, Key, Lane, TICK_MS, Timers, mailbox};
use support::{CpuTime, on_cpu_time};

const TUNNELS: u32 = 10_000;
const IDLE_MS: u64 = 3_600_000;

/// The deadlines of ten thousand tunnels, spread evenly over `spread_ms` in shuffled order.
struct Wheel {
    timers: Timers,
    deadlines: Vec<Deadline>,
}

impl Wheel {
    fn empty() -> Wheel {
        Wheel { timers: Timers::new(0), deadlines: vec![Deadline::UNARMED; TUNNELS as usize] }
    }

    fn full(spread_ms: u64) -> Wheel {
        let mut wheel = Wheel::empty();
        for index in 0..TUNNELS {
            wheel.set(index, at_ms(index, spread_ms));
        }
        wheel
    }

    fn set(&mut self, index: u32, at_ms: u64) {
        self.timers.set(key(index), &mut self.deadlines[index as usize], at_ms);
    }

    /// Advances tick by tick to `until_ms`; returns how many deadlines expired.
    fn run(&mut self, until_ms: u64) -> usize {
        let mut passed = 0;
        for now_ms in (0..=until_ms).step_by(usize::try_from(TICK_MS).expect("a tick is short")) {
            while let Some(due) = self.timers.pop(now_ms) {
                for key in &due {
                    let deadline = &mut self.deadlines[key.index as usize];
                    passed += usize::from(self.timers.expired(*key, deadline, now_ms));
                }
                self.timers.done(due);
            }
        }
        passed
    }
}

fn key(index: u32) -> Key {
    Key { index, generation: 1 }
}

/// A prime step scatters neighbours over the whole range.
fn at_ms(index: u32, spread_ms: u64) -> u64 {
    1 + u64::from(index) * 7_919_317 % spread_ms
}

fn timers(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("timers/10k_tunnels");
    group.throughput(Throughput::Elements(u64::from(TUNNELS)));
    group.bench_function("first_set_of_each", |bench| {
        bench.iter_batched_ref(
            Wheel::empty,
            |wheel| (0..TUNNELS).for_each(|index| wheel.set(index, at_ms(index, IDLE_MS))),
            BatchSize::LargeInput,
        );
    });
    // Activity only stores a number; nothing is inserted into the wheel.
    group.bench_function("put_off_each", |bench| {
        let mut wheel = Wheel::full(IDLE_MS);
        let mut now_ms = IDLE_MS;
        bench.iter(|| {
            now_ms += 1;
            (0..TUNNELS).for_each(|index| wheel.set(black_box(index), now_ms));
        });
    });
    group.bench_function("expire_each_within_10_s", |bench| {
        bench.iter_batched_ref(
            || Wheel::full(10_000),
            |wheel| assert_eq!(wheel.run(10_000 + 2 * TICK_MS), TUNNELS as usize),
            BatchSize::LargeInput,
        );
    });
    // Deadlines an hour away come up at every turn of the wheel (262 s) and are inserted again.
    group.bench_function("one_turn_of_the_wheel_with_none_due", |bench| {
        bench.iter_batched_ref(
            || {
                let mut wheel = Wheel::empty();
                (0..TUNNELS).for_each(|index| {
                    wheel.set(index, at_ms(index, 250_000));
                    wheel.set(index, IDLE_MS);
                });
                wheel
            },
            |wheel| assert_eq!(wheel.run(260_000), 0),
            BatchSize::LargeInput,
        );
    });
    group.finish();

    let mut group = criterion.benchmark_group("timers/next_ms");
    group.bench_function("10k_tunnels", |bench| {
        let wheel = Wheel::full(IDLE_MS);
        bench.iter(|| black_box(&wheel.timers).next_due_ms());
    });
    group.bench_function("one_in_the_last_slot", |bench| {
        let mut wheel = Wheel::empty();
        wheel.set(0, 4095 * TICK_MS);
        bench.iter(|| black_box(&wheel.timers).next_due_ms());
    });
    group.bench_function("none", |bench| {
        let wheel = Wheel::empty();
        bench.iter(|| black_box(&wheel.timers).next_due_ms());
    });
    group.finish();
}

fn tokens(criterion: &mut Criterion<CpuTime>) {
    let token = EventToken { key: Key { index: 9_999, generation: 77_777 }, lane: Lane::Upstream(1) };
    criterion.bench_function("token/round_trip", |bench| {
        bench.iter(|| EventToken::read(black_box(Token::from(black_box(token)))));
    });
}

fn mail(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("mailbox");
    let mut poll = Poll::new().unwrap();
    let (sender, mailbox) = mailbox::<u64>(poll.registry(), Token(0)).unwrap();
    // Only the first message wakes the poll, so the others cost no system call.
    group.throughput(Throughput::Elements(100));
    group.bench_function("send_100_take_100", |bench| {
        bench.iter(|| {
            (0..100).for_each(|message| sender.send(black_box(message)));
            mailbox.take().sum::<u64>()
        });
    });
    let mut events = Events::with_capacity(8);
    group.throughput(Throughput::Elements(1));
    group.bench_function("send_wake_poll_take", |bench| {
        bench.iter(|| {
            sender.send(black_box(1));
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            mailbox.take().sum::<u64>()
        });
    });
    group.bench_function("take_nothing", |bench| bench.iter(|| mailbox.take().count()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = on_cpu_time();
    targets = timers, tokens, mail
}
criterion_main!(benches);
