//! Both halves over real loopback connections, with peers that write and read at their own pace.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::{Half, Moved, PipePool, Resources, Run, RunTurn, Turn};
use crate::transport::{BlockingStream, Endpoint, Readiness, Transport};

const DOWNSTREAM: Token = Token(0);
const UPSTREAM: Token = Token(1);

/// Two connections with a relay between them: `client` and `origin` are the outer ends.
struct Rig {
    client: TcpStream,
    origin: TcpStream,
    relay: thread::JoinHandle<(Moved, Moved)>,
}

struct Options {
    pipes: usize,
    scratch_bytes: usize,
    budget_bytes: usize,
    leftover_up: Vec<u8>,
    leftover_down: Vec<u8>,
    /// Carries the bytes to the origin.
    transport: Transport,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            pipes: 4,
            scratch_bytes: 8192,
            budget_bytes: 100_000,
            leftover_up: vec![],
            leftover_down: vec![],
            transport: Transport::Tcp,
        }
    }
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    outer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    outer.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    (outer, listener.accept().unwrap().0)
}

fn rig(options: Options) -> Rig {
    let (client, downstream) = connected();
    let (origin, upstream) = connected();
    let relay = thread::spawn(move || relay(downstream, upstream, options));
    Rig { client, origin, relay }
}

fn endpoint(poll: &Poll, stream: TcpStream, transport: &Transport, token: Token) -> Endpoint {
    let mut endpoint = transport.complete(stream).into_endpoint();
    poll.registry().register(&mut endpoint.stream, token, Interest::READABLE | Interest::WRITABLE).unwrap();
    endpoint
}

/// Does what a shard does for one tunnel: waits only if neither half has anything to do.
fn relay(downstream: TcpStream, upstream: TcpStream, options: Options) -> (Moved, Moved) {
    let mut poll = Poll::new().unwrap();
    let mut down_end = endpoint(&poll, downstream, &Transport::Tcp, DOWNSTREAM);
    let mut up_end = endpoint(&poll, upstream, &options.transport, UPSTREAM);
    let (mut up, mut down) = (Half::new(options.leftover_up), Half::new(options.leftover_down));
    let mut pipes = PipePool::new(options.pipes);
    let mut scratch = vec![0; options.scratch_bytes];
    let mut events = Events::with_capacity(8);
    let mut yielded = false;
    while !(up.is_finished() && down.is_finished()) {
        let patience = if yielded { Duration::ZERO } else { Duration::from_secs(20) };
        poll.poll(&mut events, Some(patience)).unwrap();
        assert!(
            yielded || !events.is_empty(),
            "stalled: nothing to do and no event came\n{up:?}\n{down:?}\n{down_end:?} {up_end:?}"
        );
        for event in &events {
            let end = if event.token() == DOWNSTREAM { &mut down_end } else { &mut up_end };
            end.learn(Readiness::of_event(event));
        }
        let mut resources = Resources { scratch: &mut scratch, pipes: &mut pipes };
        let mut budget = options.budget_bytes;
        let first = up.pump(&mut down_end, &mut up_end, down.is_finished(), &mut resources, &mut budget).unwrap();
        let mut budget = options.budget_bytes;
        let second = down.pump(&mut up_end, &mut down_end, up.is_finished(), &mut resources, &mut budget).unwrap();
        yielded = first == Turn::Yielded || second == Turn::Yielded;
        assert!(pipes.lent() <= options.pipes);
    }
    let moved = (up.dismantle(&mut pipes), down.dismantle(&mut pipes));
    assert_eq!(pipes.lent(), 0, "every pipe is back in the pool");
    moved
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) ^ (index >> 8)).to_le_bytes()[0] ^ seed).collect()
}

/// Writes everything in pieces, then ends the direction.
fn send(mut stream: TcpStream, bytes: Vec<u8>, piece: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for (count, part) in bytes.chunks(piece).enumerate() {
            stream.write_all(part).unwrap();
            if piece < 2_000 && count % 64 == 0 {
                thread::yield_now();
            }
        }
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

/// Relays in both directions at once; returns what was moved.
fn exchange(options: Options, up_bytes: usize, down_bytes: usize, piece: usize) -> (Moved, Moved) {
    let (leftover_up, leftover_down) = (options.leftover_up.clone(), options.leftover_down.clone());
    let Rig { client, origin, relay } = rig(options);
    let (to_origin, to_client) = (pattern(1, up_bytes), pattern(2, down_bytes));
    let writers = [
        send(client.try_clone().unwrap(), to_origin.clone(), piece),
        send(origin.try_clone().unwrap(), to_client.clone(), piece),
    ];
    let reader = thread::spawn(move || read_all(origin));
    let at_client = read_all(client);
    let at_origin = reader.join().unwrap();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert!(at_origin == [leftover_up, to_origin].concat(), "what the client sent arrives whole and in order");
    assert!(at_client == [leftover_down, to_client].concat(), "what the origin sent arrives whole and in order");
    relay.join().unwrap()
}

fn read_all(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn small_messages_are_copied_and_borrow_no_pipe() {
    let (up, down) = exchange(Options::default(), 20_000, 30_000, 100);
    assert_eq!((up.copied + up.spliced, down.copied + down.spliced), (20_000, 30_000));
    let (mut client, mut origin, relay) = {
        let Rig { client, origin, relay } = rig(Options::default());
        (client, origin, relay)
    };
    for round in 0..50_u8 {
        client.write_all(&[round; 64]).unwrap();
        let mut buffer = [0; 64];
        origin.read_exact(&mut buffer).unwrap();
        assert_eq!(buffer, [round; 64]);
        origin.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
    }
    drop((client, origin));
    let (up, down) = relay.join().unwrap();
    assert_eq!((up, down), (Moved { copied: 3_200, spliced: 0 }, Moved { copied: 3_200, spliced: 0 }));
}

#[test]
fn bulk_both_ways_is_spliced_and_arrives_whole() {
    let (up, down) = exchange(Options::default(), 6_000_000, 9_000_000, 65_536);
    assert!(up.spliced > 0 && down.spliced > 0, "{up:?} {down:?}");
    assert_eq!((up.copied + up.spliced, down.copied + down.spliced), (6_000_000, 9_000_000));
}

#[test]
fn over_a_transport_that_cannot_be_spliced_bulk_is_copied_and_arrives_whole() {
    let options = [(65_536, 1_000_000), (16_384, 100_000), (300, 1_000)];
    let of_both = |options| [Transport::Framed, Transport::tls_for_tests()].map(|transport| (options, transport));
    for ((scratch_bytes, budget_bytes), transport) in options.into_iter().flat_map(of_both) {
        let moved = |copied| Moved { copied, spliced: 0 };
        let options = Options { scratch_bytes, budget_bytes, transport, ..Options::default() };
        assert_eq!(bulk_over(options), (moved(2_000_000), moved(3_000_000)));
    }
}

#[test]
fn bulk_that_may_be_left_to_the_kernel_arrives_whole() {
    for (scratch_bytes, budget_bytes) in [(65_536, 1_000_000), (16_384, 100_000)] {
        let transport = Transport::kernel_tls_for_tests();
        let (up, down) = bulk_over(Options { scratch_bytes, budget_bytes, transport, ..Options::default() });
        // Whether anything is spliced depends on the kernel.
        assert_eq!((up.copied + up.spliced, down.copied + down.spliced), (2_000_000, 3_000_000));
    }
}

/// Bulk data up, then down; returns how it was moved.
fn bulk_over(options: Options) -> (Moved, Moved) {
    let transport = options.transport.clone();
    let Rig { client, origin, relay } = rig(options);
    let (question, answer) = (pattern(1, 2_000_000), pattern(2, 3_000_000));
    let writer = send(client.try_clone().unwrap(), question.clone(), 65_536);
    let for_origin = answer.clone();
    let origin = thread::spawn(move || {
        let mut origin = transport.complete_far(origin);
        let at_origin = read_to_end(&mut origin);
        origin.write_all(&for_origin, soon()).unwrap();
        origin.end().unwrap();
        at_origin
    });
    assert!(read_all(client) == answer, "what the origin sent arrives whole and in order");
    assert!(origin.join().unwrap() == question, "what the client sent arrives whole and in order");
    writer.join().unwrap();
    relay.join().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn read_to_end(stream: &mut BlockingStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; 65_536]);
    loop {
        match stream.read(&mut piece, soon()).unwrap() {
            0 => return all,
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}

#[test]
fn without_pipes_bulk_is_copied_and_arrives_whole() {
    let (up, down) = exchange(Options { pipes: 0, ..Options::default() }, 3_000_000, 4_000_000, 50_000);
    assert_eq!((up.spliced, down.spliced), (0, 0));
}

#[test]
fn one_pipe_for_two_bulk_halves_is_shared_with_copying() {
    exchange(Options { pipes: 1, ..Options::default() }, 4_000_000, 4_000_000, 65_536);
}

#[test]
fn every_mix_of_piece_budget_and_buffer_arrives_whole() {
    for (piece, budget_bytes, scratch_bytes) in
        [(1_000, 1_500, 512), (7_777, 1_000, 4_096), (65_536, 70_000, 1_024), (3, 100, 64), (200_000, 1, 65_536)]
    {
        exchange(Options { budget_bytes, scratch_bytes, ..Options::default() }, 150_000, 120_001, piece);
    }
}

#[test]
fn a_half_takes_no_more_than_its_turn_allows() {
    const BUDGET: usize = 20_000;
    let ((mut client, downstream), (_origin, upstream)) = (connected(), connected());
    let sender = thread::spawn(move || client.write_all(&pattern(9, 10 * BUDGET)).map(|()| client));
    let mut poll = Poll::new().unwrap();
    let mut down_end = endpoint(&poll, downstream, &Transport::Tcp, DOWNSTREAM);
    let mut up_end = endpoint(&poll, upstream, &Transport::Tcp, UPSTREAM);
    let (mut up, mut pipes, mut scratch) = (Half::new(vec![]), PipePool::new(1), vec![0; 8192]);
    let mut events = Events::with_capacity(8);
    let mut total = 0;
    while total < 3 * BUDGET {
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            let end = if event.token() == DOWNSTREAM { &mut down_end } else { &mut up_end };
            end.learn(Readiness::of_event(event));
        }
        let mut resources = Resources { scratch: &mut scratch, pipes: &mut pipes };
        let (before, mut budget) = (up.moved(), BUDGET);
        let turn = up.pump(&mut down_end, &mut up_end, false, &mut resources, &mut budget).unwrap();
        let moved = up.moved().since(before);
        let bytes = usize::try_from(moved.copied + moved.spliced).unwrap();
        assert!(bytes <= BUDGET, "{moved:?}");
        assert_eq!(bytes == BUDGET, turn == Turn::Yielded, "{moved:?}");
        total += bytes;
    }
    assert!(up.moved().spliced > 0, "{:?}", up.moved());
    up.dismantle(&mut pipes);
    drop((down_end, up_end));
    let _ = sender.join().unwrap();
}

#[test]
fn leftovers_go_first_both_ways() {
    let options = Options { leftover_up: pattern(7, 100_000), leftover_down: b"hello".to_vec(), ..Options::default() };
    exchange(options, 1_000_000, 200_000, 10_000);
}

#[test]
fn leftovers_alone_are_delivered_when_nothing_follows() {
    let options = Options { leftover_up: b"up".to_vec(), leftover_down: b"down".to_vec(), ..Options::default() };
    exchange(options, 0, 0, 1);
}

#[test]
fn a_half_close_lets_the_other_direction_finish() {
    let Rig { mut client, mut origin, relay } = rig(Options::default());
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    origin.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    let answer = pattern(3, 3_000_000);
    let writer = send(origin.try_clone().unwrap(), answer.clone(), 40_000);
    assert!(read_all(client) == answer);
    writer.join().unwrap();
    drop(origin);
    relay.join().unwrap();
}

#[test]
fn a_late_reader_blocks_the_writer_and_loses_nothing() {
    let Rig { client, origin, relay } = rig(Options::default());
    let bytes = pattern(9, 30_000_000);
    let writer = send(client.try_clone().unwrap(), bytes.clone(), 100_000);
    // Nobody reads: the kernel's buffers and one pipe fill up, and then the writer must block.
    let mut position = None;
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(20));
        let queued = rustix::io::ioctl_fionread(&origin).unwrap();
        if position == Some(queued) {
            break;
        }
        position = Some(queued);
    }
    assert!(!writer.is_finished(), "30 MB cannot be on their way with nobody reading");
    origin.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(origin) == bytes);
    writer.join().unwrap();
    drop(client);
    relay.join().unwrap();
}

#[test]
fn a_run_takes_no_more_from_its_source_than_the_budget() {
    let poll = Poll::new().unwrap();
    let ((mut client, downstream), (mut origin, upstream)) = (connected(), connected());
    client.write_all(&[b'x'; 60_000]).unwrap();
    let mut received = vec![0; 60_000];
    while downstream.peek(&mut received).unwrap() < received.len() {}
    let mut from = endpoint(&poll, downstream, &Transport::Tcp, DOWNSTREAM);
    let mut to = endpoint(&poll, upstream, &Transport::Tcp, UPSTREAM);
    from.learn(Readiness::HOPEFUL);
    to.learn(Readiness::HOPEFUL);
    let mut pipes = PipePool::new(1);
    let mut run = Run::new(60_000, pipes.borrow().unwrap());
    for end in (10_000..=60_000).step_by(10_000) {
        let mut budget_bytes = 10_000;
        let turn = run.pump(&mut from, &mut to, &mut budget_bytes).unwrap();
        let expected = if end == 60_000 { RunTurn::Done } else { RunTurn::Yielded };
        assert_eq!((turn, run.moved(), budget_bytes), (expected, end as u64, 0));
    }
    origin.read_exact(&mut received).unwrap();
    run.dismantle(&mut pipes);
}
