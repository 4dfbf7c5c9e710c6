//! Looks up the addresses of KDCs with the system's resolver, which blocks for as long as the name servers are silent:
//! each name on a thread of its own, and no longer than is useful.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::limits;

/// The names of the process: a look-up that is under way serves all that wait for it, and an address that was found
/// once is still used while the name servers fail.
static NAMES: LazyLock<Arc<Names>> = LazyLock::new(|| Arc::new(Names::new(resolve)));

type Resolve = fn(&str) -> Result<Vec<IpAddr>, String>;

/// What is known of names.
pub(super) struct Names {
    known: Mutex<HashMap<String, Entry>>,
    ended: Condvar,
    resolve: Resolve,
}

/// What is known of one name.
#[derive(Default)]
struct Entry {
    is_running: bool,
    /// How the last look-up failed, if it did.
    error: Option<String>,
    /// What the last look-up that succeeded has found.
    addresses: Vec<IpAddr>,
}

/// The addresses of hosts, which may be addresses themselves, in their order.
pub(super) fn addresses(hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, String>> {
    NAMES.look_up(hosts)
}

fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    Ok(found.map(|address| address.ip()).collect())
}

impl Names {
    fn new(resolve: Resolve) -> Names {
        Names { known: Mutex::default(), ended: Condvar::new(), resolve }
    }

    /// Waits for all names for a moment. If there is an address by then, the KDCs that have one are asked; otherwise it
    /// waits for the first one.
    fn look_up(self: &Arc<Names>, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, String>> {
        let literal = |host: &&str| host.parse::<IpAddr>().ok();
        let names: Vec<&str> = hosts.iter().filter(|host| literal(host).is_none()).copied().collect();
        names.iter().for_each(|name| self.start(name));
        let began = Instant::now();
        let is_running = |known: &HashMap<String, Entry>, name: &str| known.get(name).is_some_and(|one| one.is_running);
        let has_address =
            |known: &HashMap<String, Entry>, name: &str| known.get(name).is_some_and(|one| !one.addresses.is_empty());
        let mut known = self.lock();
        while names.iter().any(|name| is_running(&known, name)) {
            let is_enough = names.len() < hosts.len() || names.iter().any(|name| has_address(&known, name));
            let limit = if is_enough { limits::KDC_NEXT_AFTER } else { limits::KDC_LOOKUP_TIMEOUT };
            let rest = limit.saturating_sub(began.elapsed());
            if rest.is_zero() {
                break;
            }
            known = self.ended.wait_timeout(known, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        let outcome = |host: &&str| match (literal(host), known.get(*host)) {
            (Some(address), _) => Ok(vec![address]),
            (None, Some(entry)) if !entry.addresses.is_empty() => Ok(entry.addresses.clone()),
            (None, Some(Entry { is_running: false, error: Some(error), .. })) => Err(error.clone()),
            (None, Some(Entry { is_running: true, .. })) => Err("the name servers do not answer".to_owned()),
            (None, _) => Err("there was no room to look it up".to_owned()),
        };
        hosts.iter().map(outcome).collect()
    }

    /// Looks a name up on a thread, unless that is being done.
    fn start(self: &Arc<Names>, name: &str) {
        let mut known = self.lock();
        if known.len() >= limits::KDC_NAMES && !known.contains_key(name) {
            known.retain(|_, entry| entry.is_running);
            if known.len() >= limits::KDC_NAMES {
                return;
            }
        }
        let entry = known.entry(name.to_owned()).or_default();
        if entry.is_running {
            return;
        }
        let (names, owned) = (Arc::clone(self), name.to_owned());
        let run = move || {
            let found = (names.resolve)(&owned);
            names.ended(&owned, found);
        };
        match thread::Builder::new().name("kdc-name".into()).spawn(run) {
            Ok(_) => (entry.is_running, entry.error) = (true, None),
            Err(error) => entry.error = Some(error.to_string()),
        }
    }

    fn ended(&self, name: &str, found: Result<Vec<IpAddr>, String>) {
        let mut known = self.lock();
        let entry = known.entry(name.to_owned()).or_default();
        entry.is_running = false;
        match found {
            Ok(addresses) if addresses.is_empty() => entry.error = Some("it has no address".into()),
            Ok(addresses) => entry.addresses = addresses,
            Err(error) => entry.error = Some(error),
        }
        drop(known);
        self.ended.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    const LITERAL: &str = "192.0.2.88";

    /// `silent` stays unanswered for longer than anybody waits, `once` answers the first time only.
    fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
        static ONCE: std::sync::Once = std::sync::Once::new();
        let mut is_first = false;
        match name {
            "silent" => {
                thread::sleep(limits::KDC_LOOKUP_TIMEOUT * 2);
                Err("late".into())
            }
            "once" => {
                ONCE.call_once(|| is_first = true);
                let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
                is_first.then(|| vec![address]).ok_or_else(|| "failed".into())
            }
            _ => Err("no such name".into()),
        }
    }

    fn timed(names: &Arc<Names>, hosts: &[&str]) -> (Vec<Result<Vec<IpAddr>, String>>, Duration) {
        let began = Instant::now();
        (names.look_up(hosts), began.elapsed())
    }

    #[test]
    fn a_silent_name_server_delays_a_kdc_with_an_address_by_a_second() {
        let names = Arc::new(Names::new(resolve));
        let (found, took) = timed(&names, &["silent", LITERAL, "unknown"]);
        assert_eq!(found[1], Ok(vec![LITERAL.parse().unwrap()]));
        assert_eq!(found[0], Err("the name servers do not answer".into()));
        assert_eq!(found[2], Err("no such name".into()));
        assert!(took >= limits::KDC_NEXT_AFTER && took < limits::KDC_LOOKUP_TIMEOUT, "{took:?}");
        // The look-up is still under way and is not begun twice.
        let (found, took) = timed(&names, &["silent"]);
        assert!(found[0].is_err() && took < limits::KDC_LOOKUP_TIMEOUT + Duration::from_secs(2), "{took:?}");
        assert_eq!(Arc::strong_count(&names), 2, "one thread");
    }

    #[test]
    fn an_address_is_kept_while_the_name_servers_fail() {
        let names = Arc::new(Names::new(resolve));
        let (first, again) = (names.look_up(&["once"]), names.look_up(&["once"]));
        assert!(first[0].is_ok());
        assert_eq!(first, again);
        let (found, took) = timed(&names, &[LITERAL]);
        assert!(found[0].is_ok() && took < limits::KDC_NEXT_AFTER, "nothing is looked up");
    }

    #[test]
    fn the_number_of_known_names_is_bounded() {
        let names = Arc::new(Names::new(resolve));
        for number in 0..limits::KDC_NAMES + 10 {
            assert!(names.look_up(&[&format!("host{number}")])[0].is_err());
        }
        assert!(names.lock().len() <= limits::KDC_NAMES);
    }
}
