//! Resolves an upstream's name on a thread of its own, because `getaddrinfo` blocks and an event loop must not.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::HostPort;
use crate::limits;

/// What a name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The addresses, in the system's order of preference; never empty.
    Addresses(Arc<[SocketAddr]>),
    /// The name does not resolve, and why.
    Failed(Arc<str>),
}

/// Keeps one name resolved. Dropping it ends its thread after the lookup under way.
pub struct Resolver {
    _stop: mpsc::Sender<()>,
}

impl Resolver {
    /// Starts to resolve `host`: at once, then every [`limits::RESOLVE_REFRESH`], and sooner after a failure
    /// ([`limits::RESOLVE_RETRY`], doubled each time). `on_result` is called from the thread with the first result and
    /// with every change. A failure after a success is not reported: the addresses stay valid. `known` is a result from
    /// before, which is treated as reported. A name that does not resolve yet is no error, because DNS may be down when
    /// the gateway starts.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        host: HostPort,
        known: Option<Resolution>,
        on_result: impl FnMut(Resolution) + Send + 'static,
    ) -> std::io::Result<Resolver> {
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new().name("resolver".into()).spawn(move || run(&host, known, &stopped, on_result))?;
        Ok(Resolver { _stop: stop })
    }
}

fn run(
    host: &HostPort,
    mut known: Option<Resolution>,
    stopped: &mpsc::Receiver<()>,
    mut on_result: impl FnMut(Resolution),
) {
    let mut retry = limits::RESOLVE_RETRY;
    loop {
        let found = look_up(host);
        let rest = match &found {
            Resolution::Addresses(_) => {
                retry = limits::RESOLVE_RETRY;
                limits::RESOLVE_REFRESH
            }
            Resolution::Failed(why) => {
                log::warn!("cannot resolve the upstream {host}: {why}; retrying in {} s", retry.as_secs());
                let rest = retry;
                retry = (retry * 2).min(limits::RESOLVE_REFRESH);
                rest
            }
        };
        if is_news(known.as_ref(), &found) {
            if let Resolution::Addresses(addresses) = &found {
                log::info!("upstream {host} resolves to {}", list(addresses));
            }
            on_result(found.clone());
            known = Some(found);
        }
        if !waits(stopped, rest) {
            return;
        }
    }
}

/// Whether a result is to be reported: known addresses survive a failure, and an unchanged result is not repeated.
fn is_news(known: Option<&Resolution>, found: &Resolution) -> bool {
    match (known, found) {
        (Some(Resolution::Addresses(_)), Resolution::Failed(_)) => false,
        (Some(known), found) => known != found,
        (None, _) => true,
    }
}

/// Looks a name up as the system does: hosts file, resolv.conf, both address families. Blocks for as long as that
/// takes.
pub(super) fn look_up(host: &HostPort) -> Resolution {
    match (host.host(), host.port()).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            match addresses.is_empty() {
                true => Resolution::Failed("the name has no address".into()),
                false => Resolution::Addresses(addresses.into()),
            }
        }
        Err(error) => Resolution::Failed(error.to_string().into()),
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Waits; `false` if the resolver was dropped meanwhile.
fn waits(stopped: &mpsc::Receiver<()>, rest: Duration) -> bool {
    matches!(stopped.recv_timeout(rest), Err(mpsc::RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_look_up_is_reported_and_does_not_end_the_thread() {
        let (sender, results) = mpsc::channel();
        let host: HostPort = "no-such-name.invalid:3128".parse().unwrap();
        let resolver = Resolver::start(host, None, move |resolution| sender.send(resolution).unwrap()).unwrap();
        assert!(matches!(results.recv_timeout(Duration::from_secs(20)), Ok(Resolution::Failed(_))));
        drop(resolver);
    }

    #[test]
    fn known_addresses_stay_while_the_name_does_not_resolve() {
        let (sender, results) = mpsc::channel();
        let host: HostPort = "no-such-name.invalid:3128".parse().unwrap();
        let known = Resolution::Addresses(vec!["127.0.0.1:3128".parse().unwrap()].into());
        let (stop, stopped) = mpsc::channel();
        // So that it ends after the first lookup.
        drop(stop);
        run(&host, Some(known), &stopped, |resolution| sender.send(resolution).unwrap());
        assert_eq!(results.try_recv().ok(), None);
    }

    #[test]
    fn localhost_resolves_to_loopback_addresses() {
        let host: HostPort = "localhost:3128".parse().unwrap();
        let Resolution::Addresses(addresses) = look_up(&host) else { panic!("localhost has no address") };
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 3128));
    }

    #[test]
    fn only_changes_are_reported_and_a_failure_after_success_is_none() {
        let here = Resolution::Addresses(vec!["127.0.0.1:1".parse().unwrap()].into());
        let there = Resolution::Addresses(vec!["127.0.0.2:1".parse().unwrap()].into());
        let failed = Resolution::Failed("down".into());
        assert!(is_news(None, &failed));
        assert!(is_news(Some(&failed), &here));
        assert!(is_news(Some(&here), &there));
        assert!(!is_news(Some(&here), &here));
        assert!(!is_news(Some(&here), &failed));
    }
}
