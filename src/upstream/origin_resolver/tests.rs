use super::*;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

const BOUND: Duration = Duration::from_secs(20);

/// Asks as the client with this number.
fn ask_as(client: u8, names: &OriginResolver, host: &str) -> (LookupReply, Receiver<Resolution>) {
    let asker = LookupClient { client: [127, 0, 0, client].into(), patience: BOUND };
    ask_by(asker, names, host)
}

fn ask_by(asker: LookupClient, names: &OriginResolver, host: &str) -> (LookupReply, Receiver<Resolution>) {
    let (answer, answers) = mpsc::channel();
    (names.ask(host.parse().unwrap(), asker, move |resolution| drop(answer.send(resolution))), answers)
}

fn try_ask(names: &OriginResolver, host: &str) -> Option<Receiver<Resolution>> {
    let (asked, answers) = ask_as(1, names, host);
    (asked == LookupReply::Accepted).then_some(answers)
}

/// How many names of a single client are looked up at once.
const SHARE: usize = limits::LOOKUP_THREADS * limits::LOOKUP_SHARE / (limits::LOOKUP_SHARE + 1);

#[track_caller]
fn ask(names: &OriginResolver, host: &str) -> Receiver<Resolution> {
    try_ask(names, host).unwrap_or_else(|| panic!("{host} was declined"))
}

#[track_caller]
fn addresses(answers: &Receiver<Resolution>) -> Arc<[SocketAddr]> {
    match answers.recv_timeout(BOUND) {
        Ok(Resolution::Addresses(addresses)) => addresses,
        other => panic!("no addresses: {other:?}"),
    }
}

fn spawn(task: Task) -> bool {
    thread::Builder::new().spawn(task).is_ok()
}

/// A resolver with a name server of its own. Names that begin with `hangs` are not answered while the gate is locked;
/// `begun` receives the name of every lookup as it begins.
struct Bench {
    names: OriginResolver,
    gate: Arc<Mutex<()>>,
    begun: Receiver<String>,
}

impl Bench {
    fn new() -> Bench {
        Bench::starting_by(spawn)
    }

    fn starting_by(start: impl Fn(Task) -> bool + Send + Sync + 'static) -> Bench {
        let (sender, begun) = mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let shut = Arc::clone(&gate);
        let look_up = move |host: &HostPort| {
            sender.send(host.to_string()).unwrap();
            if host.host().starts_with("hangs") {
                drop(shut.lock());
            }
            let scoped = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), host.port(), 7, 3);
            Resolution::Addresses([SocketAddr::from(([127, 0, 0, 1], host.port())), scoped.into()].into())
        };
        let names = OriginResolver::of(System { look_up: Box::new(look_up), start: Box::new(start) });
        Bench { names, gate, begun }
    }

    #[track_caller]
    fn await_look_ups(&self, count: usize) {
        for number in 0..count {
            assert!(self.begun.recv_timeout(BOUND).is_ok(), "only {number} of {count} lookups have begun");
        }
    }

    #[track_caller]
    fn assert_at_rest(&self) {
        let state = self.names.shared.lock();
        assert_eq!((state.pending.len(), state.queue.len(), state.under_way.len(), state.starting), (0, 0, 0, 0));
    }
}

#[test]
fn a_name_is_resolved_once_and_cached() {
    let names = OriginResolver::default();
    let ask = |host| ask(&names, host);
    let (first, second) = (addresses(&ask("localhost:80")), addresses(&ask("localhost:80")));
    assert!(Arc::ptr_eq(&first, &second), "the second answer must come from the cache");
    assert!(matches!(ask("no-such-name.invalid:80").recv_timeout(BOUND), Ok(Resolution::Failed(_))));
}

#[test]
fn a_hanging_name_occupies_one_thread_and_does_not_delay_other_names() {
    let bench = Bench::new();
    let names = &bench.names;
    let gate = bench.gate.lock();
    addresses(&ask(names, "remembered.test:1"));
    let hanging = 200;
    let mut slow: Vec<_> =
        (0..4 * hanging).map(|number| ask(names, &format!("hangs{}.test:1", number % hanging))).collect();
    addresses(&ask(names, "other.test:1"));
    slow.extend((hanging..SHARE).map(|number| ask(names, &format!("hangs{number}.test:1"))));
    // The client's share is used up; the cache still answers.
    addresses(&ask(names, "remembered.test:1"));
    bench.await_look_ups(2 + SHARE);
    slow.push(ask(names, "hangs-last.test:1"));
    assert!(slow.iter().all(|answers| answers.try_recv().is_err()));
    drop(gate);
    slow.iter().for_each(|answers| drop(addresses(answers)));
    bench.await_look_ups(1);
    assert!(bench.begun.try_recv().is_err(), "each was looked up once");
    assert!(names.shared.lock().threads <= limits::LOOKUP_THREADS);
    bench.assert_at_rest();
}

#[test]
fn clients_with_hanging_names_leave_threads_for_other_clients() {
    let bench = Bench::new();
    let names = &bench.names;
    let gate = bench.gate.lock();
    for client in 1..=3 {
        for number in 0..limits::LOOKUP_THREADS {
            let (asked, _) = ask_as(client, names, &format!("hangs{number}.of{client}.test:1"));
            assert_ne!(asked, LookupReply::Hangs);
        }
        let (asked, answers) = ask_as(100 + client, names, &format!("other{client}.test:1"));
        assert_eq!(asked, LookupReply::Accepted);
        addresses(&answers);
    }
    drop(gate);
}

#[test]
fn a_queued_name_is_dropped_once_its_askers_have_given_up() {
    let bench = Bench::new();
    let names = &bench.names;
    let gate = bench.gate.lock();
    let slow: Vec<_> = (0..SHARE).map(|number| ask(names, &format!("hangs{number}.test:1"))).collect();
    bench.await_look_ups(SHARE);
    let hasty = LookupClient { client: [127, 0, 0, 1].into(), patience: Duration::from_millis(1) };
    let (asked, answers) = ask_by(hasty, names, "queued.test:1");
    assert_eq!(asked, LookupReply::Accepted);
    thread::sleep(Duration::from_millis(10));
    drop(gate);
    slow.iter().for_each(|answers| drop(addresses(answers)));
    assert!(answers.recv_timeout(BOUND).is_err(), "no answer must come");
    assert!(bench.begun.try_recv().is_err(), "it was looked up although no request waits for it");
    bench.assert_at_rest();
}

#[test]
fn a_request_for_a_hanging_name_fails_at_once() {
    let bench = Bench::new();
    let names = &bench.names;
    let gate = bench.gate.lock();
    let slow = ask(names, "hangs.test:1");
    bench.await_look_ups(1);
    let hasty = LookupClient { client: [127, 0, 0, 2].into(), patience: Duration::from_millis(20) };
    thread::sleep(2 * hasty.patience);
    assert_eq!(ask_by(hasty, names, "HANGS.test:2").0, LookupReply::Hangs);
    assert_eq!(ask_as(2, names, "hangs.test:2").0, LookupReply::Accepted, "an asker with more patience may wait");
    drop(gate);
    addresses(&slow);
    assert_eq!(ask_by(hasty, names, "hangs.test:1").0, LookupReply::Accepted, "it is cached now");
}

#[test]
fn only_slow_failures_are_remembered_as_hanging() {
    let failed = Resolution::Failed("no answer".into());
    let client = [127, 0, 0, 1].into();
    let mut state = State::default();
    state.looked_up("slow.test".into(), client, &failed, limits::LOOKUP_HUNG_AFTER);
    state.looked_up("quick.test".into(), client, &failed, limits::LOOKUP_HUNG_AFTER / 2);
    let hangs = |state: &State, name: &str| state.hangs(&name.to_owned(), Instant::now(), BOUND);
    assert!(hangs(&state, "slow.test") && !hangs(&state, "quick.test"));
    let found = Resolution::Addresses(["127.0.0.1:1".parse().unwrap()].into());
    state.looked_up("slow.test".into(), client, &found, limits::LOOKUP_HUNG_AFTER);
    assert!(!hangs(&state, "slow.test"));
}

#[test]
fn requests_for_a_hanging_name_are_bounded_and_do_not_affect_other_names() {
    let bench = Bench::new();
    let gate = bench.gate.lock();
    let slow: Vec<_> = (0..limits::LOOKUP_WAITERS).map(|_| ask(&bench.names, "hangs.test:1")).collect();
    assert!(try_ask(&bench.names, "hangs.test:1").is_none());
    addresses(&ask(&bench.names, "other.test:1"));
    drop(gate);
    slow.iter().for_each(|answers| drop(addresses(answers)));
    addresses(&ask(&bench.names, "hangs.test:1"));
    bench.assert_at_rest();
}

#[test]
fn beyond_its_share_of_the_queue_a_client_is_declined_and_others_are_not() {
    let bench = Bench::new();
    let gate = bench.gate.lock();
    let ask_for = |number: usize| ask(&bench.names, &format!("hangs{number}.test:1"));
    let mut slow: Vec<_> = (0..SHARE).map(ask_for).collect();
    bench.await_look_ups(SHARE);
    let queued = (limits::LOOKUP_QUEUE * limits::LOOKUP_SHARE).div_ceil(limits::LOOKUP_SHARE + 1);
    slow.extend((SHARE..SHARE + queued).map(ask_for));
    assert!(try_ask(&bench.names, "one-more.test:1").is_none());
    // Requests for names that are waited for already are accepted.
    slow.extend([ask_for(0), ask_for(SHARE)]);
    assert!(bench.begun.try_recv().is_err(), "the client has more than its share");
    addresses(&ask_as(2, &bench.names, "other.test:1").1);
    drop(gate);
    slow.iter().for_each(|answers| drop(addresses(answers)));
    addresses(&ask(&bench.names, "one-more.test:1"));
    bench.assert_at_rest();
}

#[test]
fn all_spellings_and_ports_of_a_name_share_one_look_up() {
    let bench = Bench::new();
    let gate = bench.gate.lock();
    let asked = [("hangs.test:80", 80), ("hangs.test:443", 443), ("HANGS.Test:8443", 8443)];
    let answers = asked.map(|(host, port)| (ask(&bench.names, host), port));
    bench.await_look_ups(1);
    drop(gate);
    let remembered = (ask(&bench.names, "Hangs.TEST:8080"), 8080);
    for (answers, port) in answers.iter().chain([&remembered]) {
        let scoped = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), *port, 7, 3);
        assert_eq!(*addresses(answers), [SocketAddr::from(([127, 0, 0, 1], *port)), scoped.into()]);
    }
    assert!(bench.begun.try_recv().is_err(), "it was looked up more than once");
    bench.assert_at_rest();
}

#[test]
fn a_name_with_a_final_dot_is_another_name() {
    let bench = Bench::new();
    for host in ["intranet:80", "intranet.:80"] {
        addresses(&ask(&bench.names, host));
        assert_eq!(bench.begun.try_recv().as_deref(), Ok(host));
    }
}

#[test]
fn other_requests_do_not_wait_while_a_thread_is_started() {
    static NAMES: OnceLock<OriginResolver> = OnceLock::new();
    static FREE: AtomicUsize = AtomicUsize::new(0);
    let bench = Bench::starting_by(|task| {
        let free = NAMES.get().is_some_and(|names| names.shared.state.try_lock().is_ok());
        FREE.fetch_add(usize::from(free), Ordering::SeqCst);
        spawn(task)
    });
    NAMES.get_or_init(|| bench.names.clone());
    addresses(&ask(&bench.names, "some.test:1"));
    assert_eq!(FREE.load(Ordering::SeqCst), 1);
}

#[test]
fn a_thread_started_for_one_name_is_not_counted_on_for_another() {
    static NAMES: OnceLock<OriginResolver> = OnceLock::new();
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let bench = Bench::starting_by(|task| {
        let started = spawn(task);
        if STARTED.fetch_add(1, Ordering::SeqCst) == 0 {
            // Gives the new thread time to become idle, which must not happen before its name is in the queue.
            thread::sleep(Duration::from_millis(20));
            ask(NAMES.get().unwrap(), "hangs-other.test:1");
        }
        started
    });
    NAMES.get_or_init(|| bench.names.clone());
    let gate = bench.gate.lock();
    ask(&bench.names, "hangs.test:1");
    bench.await_look_ups(2);
    drop(gate);
}

#[test]
fn without_a_thread_a_name_is_declined_and_leaves_no_trace() {
    static NAMES: OnceLock<OriginResolver> = OnceLock::new();
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    let bench = Bench::starting_by(|task| match ATTEMPTS.fetch_add(1, Ordering::SeqCst) {
        0 => {
            // A thread that is being started does not count yet, neither for another name nor for this one.
            let names = NAMES.get().unwrap();
            assert!(["other.test:1", "some.test:1"].iter().all(|host| try_ask(names, host).is_none()));
            false
        }
        1 | 2 => false,
        _ => spawn(task),
    });
    NAMES.get_or_init(|| bench.names.clone());
    assert!(try_ask(&bench.names, "some.test:1").is_none());
    assert_eq!(ATTEMPTS.load(Ordering::SeqCst), 3);
    bench.assert_at_rest();
    addresses(&ask(&bench.names, "some.test:1"));
    bench.assert_at_rest();
}

#[test]
fn if_no_further_thread_can_be_started_a_name_waits_for_a_running_one() {
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    let bench = Bench::starting_by(|task| ATTEMPTS.fetch_add(1, Ordering::SeqCst) == 0 && spawn(task));
    let gate = bench.gate.lock();
    let slow = ask(&bench.names, "hangs.test:1");
    bench.await_look_ups(1);
    let after = ask(&bench.names, "other.test:1");
    assert_eq!(ATTEMPTS.load(Ordering::SeqCst), 2);
    drop(gate);
    addresses(&slow);
    addresses(&after);
    bench.assert_at_rest();
}
