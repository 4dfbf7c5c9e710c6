//! One turn of a relay half over loopback connections, copying and splicing, to find the size from which splicing is
//! cheaper.
//!
//! ```text
//!   sender ──▶ from ┐ Half::pump ┌ to ──▶ receiver        four non-blocking sockets in one thread
//!                   └────────────┘
//! ```
//!
//! Only the pump is measured: the sender has already written and the receiver has not read yet, so every turn is the
//! same. The figure includes what the loopback device does with the relay's own segments, as a profile of the gateway
//! does, but not its work for the sender and the receiver.
//!
//! The second part streams between threads, with pieces as the kernel cuts them; the relay waits in `poll` as a shard
//! does, and only the CPU time of its thread counts.
#![allow(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to measure")]

mod support;

use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use mio::{Events, Interest, Poll, Token};
use ntlm_gateway::limits;
use ntlm_gateway::relay::{Half, Moved, PipePool, Resources, Turn};
use ntlm_gateway::transport::{Endpoint, Readiness};
use rustix::fd::OwnedFd;
use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use support::{CpuTime, on_cpu_time};

const KIB: usize = 1024;

/// Message sizes per turn, in bytes.
const SIZES: [usize; 13] = [
    64,
    256,
    KIB,
    2 * KIB,
    4 * KIB,
    8 * KIB,
    16 * KIB,
    32 * KIB,
    64 * KIB,
    128 * KIB,
    256 * KIB,
    512 * KIB,
    1024 * KIB,
];

/// Socket buffers of each connection, in bytes; the kernel counts its own overhead against them.
const BUFFER_BYTES: usize = 4096 * KIB;

/// How a turn moves its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Transfer {
    /// Copies through a scratch buffer of this many bytes.
    Copy(usize),
    /// Splices through a pipe from the first byte on.
    Splice,
    /// Decides by size, as in the gateway.
    Automatic,
}

impl Transfer {
    fn pool(self) -> PipePool {
        PipePool::new(if matches!(self, Transfer::Copy(_)) { 0 } else { limits::PIPES_PER_SHARD })
    }

    fn scratch(self) -> Vec<u8> {
        vec![0; if let Transfer::Copy(bytes) = self { bytes } else { limits::SCRATCH_BYTES }]
    }
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (inner, _) = listener.accept().unwrap();
    for stream in [&outer, &inner] {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
    }
    (outer, inner)
}

fn endpoint(stream: TcpStream) -> Endpoint {
    Endpoint { stream: mio::net::TcpStream::from_std(stream).into(), ready: Readiness::HOPEFUL }
}

/// One direction of a tunnel, with its outer ends.
struct Lane {
    sender: TcpStream,
    from: Endpoint,
    half: Half,
    to: Endpoint,
    receiver: TcpStream,
    unsent_bytes: usize,
    undelivered_bytes: usize,
}

/// Makes room for the largest message in each socket's buffer, so that it passes in one turn and the kernel's
/// autotuning, which depends on earlier traffic, does not affect the figures.
fn widen(streams: [&TcpStream; 4]) {
    for stream in streams {
        // Exceeding `rmem_max` and `wmem_max` needs CAP_NET_ADMIN; without it the largest messages take more turns.
        if set_socket_recv_buffer_size_force(stream, BUFFER_BYTES).is_err() {
            set_socket_recv_buffer_size(stream, BUFFER_BYTES).unwrap();
        }
        set_socket_send_buffer_size(stream, BUFFER_BYTES).unwrap();
    }
}

impl Lane {
    fn new() -> Lane {
        let ((sender, from), (receiver, to)) = (connected(), connected());
        widen([&sender, &from, &receiver, &to]);
        Lane {
            sender,
            from: endpoint(from),
            half: Half::new(Vec::new()),
            to: endpoint(to),
            receiver,
            unsent_bytes: 0,
            undelivered_bytes: 0,
        }
    }

    fn begin(&mut self, bytes: usize) {
        self.unsent_bytes = bytes;
        self.undelivered_bytes = bytes;
    }

    /// Sends as much as the relay's receive buffer accepts, in one write.
    fn send(&mut self, source: &[u8]) {
        if self.unsent_bytes > 0 {
            self.unsent_bytes -= written(self.sender.write(&source[..self.unsent_bytes]));
        }
        // What an event would have reported.
        self.from.ready.learn(Readiness::HOPEFUL);
        self.to.ready.learn(Readiness::HOPEFUL);
    }

    fn pump(&mut self, resources: &mut Resources<'_>) {
        let mut budget_bytes = usize::MAX;
        let turn = self.half.pump(&mut self.from, &mut self.to, false, resources, &mut budget_bytes).unwrap();
        debug_assert_eq!(turn, Turn::Waiting);
    }

    /// Reads what has arrived.
    fn receive(&mut self, sink: &mut [u8]) {
        while self.undelivered_bytes > 0 {
            match written(self.receiver.read(sink)) {
                0 => break,
                count => self.undelivered_bytes -= count,
            }
        }
    }

    /// Makes the half treat its data as bulk, so that the next piece is spliced: two bytes through a scratch buffer of
    /// one, without a pipe to take them as a small piece, which would end the bulk mode.
    fn prime(&mut self, sink: &mut [u8]) {
        self.begin(2);
        while self.undelivered_bytes > 0 {
            self.send(&[0; 2]);
            self.pump(&mut Resources { scratch: &mut [0], pipes: &mut PipePool::new(0) });
            self.receive(sink);
        }
    }
}

/// Bytes moved by a non-blocking call, which may be none.
fn written(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Lanes that take turns, as in a shard; the clock is read once for all of them.
struct Rig {
    lanes: Vec<Lane>,
    transfer: Transfer,
    pipes: PipePool,
    scratch: Vec<u8>,
    source: Vec<u8>,
    sink: Vec<u8>,
    messages: u64,
    turns: u64,
}

impl Rig {
    fn new(transfer: Transfer, message_bytes: usize) -> Rig {
        // Enough lanes to hide the cost of reading the clock, few enough to keep their messages in the CPU's cache.
        let lanes = (256 * KIB / message_bytes).clamp(1, 32);
        Rig {
            lanes: (0..lanes).map(|_| Lane::new()).collect(),
            transfer,
            pipes: transfer.pool(),
            scratch: transfer.scratch(),
            source: vec![0x5a; message_bytes],
            sink: vec![0; 1024 * KIB],
            messages: 0,
            turns: 0,
        }
    }

    /// Sends one message through every lane; returns the CPU time of the pumps.
    fn round(&mut self) -> Duration {
        for lane in &mut self.lanes {
            if self.transfer == Transfer::Splice {
                lane.prime(&mut self.sink);
            }
            lane.begin(self.source.len());
        }
        self.messages += self.lanes.len() as u64;
        let mut spent = Duration::ZERO;
        while self.lanes.iter().any(|lane| lane.undelivered_bytes > 0) {
            self.lanes.iter_mut().for_each(|lane| lane.send(&self.source));
            let mut resources = Resources { scratch: &mut self.scratch, pipes: &mut self.pipes };
            let began = CpuTime::now();
            self.lanes.iter_mut().for_each(|lane| lane.pump(&mut resources));
            spent += CpuTime::now() - began;
            self.lanes.iter_mut().for_each(|lane| lane.receive(&mut self.sink));
            self.turns += self.lanes.len() as u64;
        }
        spent
    }

    /// The cost of `messages` messages, measured in whole rounds and scaled to their number.
    fn run(&mut self, messages: u64) -> Duration {
        let lanes = self.lanes.len() as u64;
        let rounds = messages.div_ceil(lanes);
        let spent: Duration = (0..rounds).map(|_| self.round()).sum();
        spent.mul_f64(ratio(messages, rounds * lanes))
    }

    /// Reports whether the bytes were moved as intended, and in how many turns.
    fn report(&self, name: &str) {
        if self.messages > 0 {
            let turns = ratio(self.turns, self.messages);
            eprintln!("{name}: {:.0} % spliced, {turns:.2} turns a message", spliced_percent(self.moved()));
        }
    }

    fn moved(&self) -> Moved {
        self.lanes.iter().map(|lane| lane.half.moved()).fold(Moved::default(), |sum, one| Moved {
            copied: sum.copied + one.copied,
            spliced: sum.spliced + one.spliced,
        })
    }
}

fn spliced_percent(moved: Moved) -> f64 {
    100.0 * ratio(moved.spliced, (moved.copied + moved.spliced).max(1))
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// One message per turn, for each size.
fn turns(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("turn");
    for bytes in SIZES {
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, transfer) in [
            ("copy", Transfer::Copy(limits::SCRATCH_BYTES)),
            ("splice", Transfer::Splice),
            ("free", Transfer::Automatic),
        ] {
            let mut rig = Rig::new(transfer, bytes);
            group.bench_function(BenchmarkId::new(name, bytes), |bench| bench.iter_custom(|count| rig.run(count)));
            rig.report(&format!("turn/{name}/{bytes}"));
        }
    }
    group.finish();
}

/// Copies a megabyte, for each size of the scratch buffer.
fn scratch_sizes(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("scratch");
    for message_bytes in [64 * KIB, 1024 * KIB] {
        group.throughput(Throughput::Bytes(message_bytes as u64));
        for scratch_bytes in [8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB] {
            let mut rig = Rig::new(Transfer::Copy(scratch_bytes), message_bytes);
            let name = format!("{}_KiB_message", message_bytes / KIB);
            group.bench_function(BenchmarkId::new(name, scratch_bytes), |bench| {
                bench.iter_custom(|count| rig.run(count));
            });
        }
    }
    group.finish();
}

/// Streams this many bytes between threads, with `poll` between the turns.
const STREAM_BYTES: usize = 128 * 1024 * KIB;

/// How a stream's relay moves its bytes.
enum Mover {
    /// A half, with its shard's resources.
    Half(Half, PipePool, Vec<u8>),
    /// Only splicing, through a pipe of a given size.
    Pipe { reader: OwnedFd, writer: OwnedFd, held_bytes: usize, size_bytes: usize },
}

impl Mover {
    fn half(transfer: Transfer) -> Mover {
        Mover::Half(Half::new(Vec::new()), transfer.pool(), transfer.scratch())
    }

    fn pipe(size_bytes: usize) -> Mover {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        fcntl_setpipe_size(&writer, size_bytes).unwrap();
        Mover::Pipe { reader, writer, held_bytes: 0, size_bytes }
    }

    /// One turn; `true` once the source has ended and everything is delivered.
    fn turn(&mut self, from: &mut Endpoint, to: &mut Endpoint) -> bool {
        match self {
            Mover::Half(half, pipes, scratch) => {
                let mut resources = Resources { scratch, pipes };
                let mut budget_bytes = usize::MAX;
                half.pump(from, to, false, &mut resources, &mut budget_bytes).unwrap() == Turn::Finished
            }
            Mover::Pipe { reader, writer, held_bytes, size_bytes } => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                loop {
                    while *held_bytes > 0 {
                        match splice(&*reader, None, &to.stream, None, *held_bytes, flags) {
                            Ok(count) => *held_bytes -= count,
                            Err(rustix::io::Errno::AGAIN) => return false,
                            Err(errno) => panic!("{errno}"),
                        }
                    }
                    match splice(&from.stream, None, &*writer, None, *size_bytes, flags) {
                        Ok(0) => return true,
                        Ok(count) => *held_bytes = count,
                        Err(rustix::io::Errno::AGAIN) => return false,
                        Err(errno) => panic!("{errno}"),
                    }
                }
            }
        }
    }
}

/// Streams through `mover`; returns the CPU time of the relaying thread alone, and what was copied and spliced.
fn stream(mut mover: Mover, write_bytes: usize) -> (Duration, Moved) {
    let ((sender, from), (receiver, to)) = (connected(), connected());
    let writing = thread::spawn(move || write_all(sender, write_bytes));
    let reading = thread::spawn(move || read_all(receiver));
    let mut poll = Poll::new().unwrap();
    let (mut from, mut to) = (endpoint(from), endpoint(to));
    poll.registry().register(&mut from.stream, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    poll.registry().register(&mut to.stream, Token(1), Interest::READABLE | Interest::WRITABLE).unwrap();
    let mut events = Events::with_capacity(8);
    let began = CpuTime::now();
    while !mover.turn(&mut from, &mut to) {
        poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
        assert!(!events.is_empty(), "the stream has stalled");
        for event in &events {
            let end = if event.token() == Token(0) { &mut from } else { &mut to };
            end.ready.learn(Readiness::of_event(event));
        }
    }
    let spent = CpuTime::now() - began;
    let moved = if let Mover::Half(half, ..) = &mover { half.moved() } else { Moved::default() };
    drop((from, to));
    writing.join().unwrap();
    assert_eq!(reading.join().unwrap(), STREAM_BYTES);
    (spent, moved)
}

fn write_all(mut sender: TcpStream, write_bytes: usize) {
    sender.set_nonblocking(false).unwrap();
    let bytes = vec![0x5a; write_bytes];
    for _ in 0..STREAM_BYTES / write_bytes {
        sender.write_all(&bytes).unwrap();
    }
}

fn read_all(mut receiver: TcpStream) -> usize {
    receiver.set_nonblocking(false).unwrap();
    let mut sink = vec![0; 1024 * KIB];
    let mut total_bytes = 0;
    loop {
        match black_box(receiver.read(&mut sink).unwrap()) {
            0 => return total_bytes,
            count => total_bytes += count,
        }
    }
}

fn streams(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("stream");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(STREAM_BYTES as u64));
    let mut bench = |name: String, mover: &dyn Fn() -> Mover, write_bytes: usize| {
        let mut sum = Moved::default();
        group.bench_function(&name, |bench| {
            bench.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let (once, moved) = stream(mover(), write_bytes);
                    spent += once;
                    sum.copied += moved.copied;
                    sum.spliced += moved.spliced;
                }
                spent
            });
        });
        if sum != Moved::default() {
            eprintln!("stream/{name}: {:.0} % spliced", spliced_percent(sum));
        }
    };
    for write_bytes in [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB] {
        bench(format!("writes_of_{write_bytes}/half"), &|| Mover::half(Transfer::Automatic), write_bytes);
        bench(format!("writes_of_{write_bytes}/splice"), &|| Mover::pipe(limits::PIPE_BYTES), write_bytes);
        for scratch_bytes in [16 * KIB, 64 * KIB, 256 * KIB] {
            let name = format!("writes_of_{write_bytes}/copy_by_{scratch_bytes}");
            bench(name, &|| Mover::half(Transfer::Copy(scratch_bytes)), write_bytes);
        }
    }
    for pipe_bytes in [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, 1024 * KIB] {
        bench(format!("pipe_of_{pipe_bytes}"), &|| Mover::pipe(pipe_bytes), 64 * KIB);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = on_cpu_time();
    targets = turns, scratch_sizes, streams
}
criterion_main!(benches);
