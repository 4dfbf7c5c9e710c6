//! Names to addresses, on a thread of its own: `getaddrinfo` blocks, and a loop must not.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::HostPort;
use crate::limits;

/// What the resolver found; told at the first look-up and at every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The addresses, in the system's order of preference; never empty.
    Addresses(Arc<[SocketAddr]>),
    /// No address so far, and why. Addresses that were found once are kept when a later look-up fails.
    Failed(Arc<str>),
}

/// Ends its thread when dropped.
pub struct Resolver {
    _stop: mpsc::Sender<()>,
}

impl Resolver {
    /// Starts looking `host` up the way the system does (hosts file, resolv.conf, both address families), again every
    /// [`limits::RESOLVE_REFRESH`], sooner after a failure. A name that does not resolve yet is no error: DNS may be down
    /// when the gateway starts. What is `known` of it from before need not be told again, and stays while it does not resolve.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        host: HostPort,
        known: Option<Resolution>,
        tell: impl FnMut(Resolution) + Send + 'static,
    ) -> std::io::Result<Resolver> {
        let (stop, stopped) = mpsc::channel();
        thread::Builder::new().name("resolver".into()).spawn(move || run(&host, known, &stopped, tell))?;
        Ok(Resolver { _stop: stop })
    }
}

fn run(host: &HostPort, mut known: Option<Resolution>, stopped: &mpsc::Receiver<()>, mut tell: impl FnMut(Resolution)) {
    let mut retry = limits::RESOLVE_RETRY;
    loop {
        let found = look_up(host);
        let rest = match &found {
            Resolution::Addresses(_) => {
                retry = limits::RESOLVE_RETRY;
                limits::RESOLVE_REFRESH
            }
            Resolution::Failed(why) => {
                log::warn!("cannot resolve the upstream {host}: {why}; trying again in {} s", retry.as_secs());
                let rest = retry;
                retry = (retry * 2).min(limits::RESOLVE_REFRESH);
                rest
            }
        };
        if should_tell(known.as_ref(), &found) {
            if let Resolution::Addresses(addresses) = &found {
                log::info!("upstream {host} resolves to {}", list(addresses));
            }
            tell(found.clone());
            known = Some(found);
        }
        if !rests(stopped, rest) {
            return;
        }
    }
}

/// A failure does not take known addresses away; an unchanged answer is no news.
fn should_tell(known: Option<&Resolution>, found: &Resolution) -> bool {
    match (known, found) {
        (Some(Resolution::Addresses(_)), Resolution::Failed(_)) => false,
        (Some(known), found) => known != found,
        (None, _) => true,
    }
}

/// Looks a name up the way the system does; blocks for as long as that takes.
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

/// `false` when the resolver's owner is gone.
fn rests(stopped: &mpsc::Receiver<()>, rest: Duration) -> bool {
    matches!(stopped.recv_timeout(rest), Err(mpsc::RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_resolve_is_told_and_is_not_the_end() {
        let (tell, told) = mpsc::channel();
        let host: HostPort = "no-such-name.invalid:3128".parse().unwrap();
        let resolver = Resolver::start(host, None, move |resolution| tell.send(resolution).unwrap()).unwrap();
        assert!(matches!(told.recv_timeout(Duration::from_secs(20)), Ok(Resolution::Failed(_))));
        drop(resolver);
    }

    #[test]
    fn what_is_known_from_before_stays_while_the_name_does_not_resolve() {
        let (tell, told) = mpsc::channel();
        let host: HostPort = "no-such-name.invalid:3128".parse().unwrap();
        let known = Resolution::Addresses(vec!["127.0.0.1:3128".parse().unwrap()].into());
        let (stop, stopped) = mpsc::channel();
        // Ends after the first look-up.
        drop(stop);
        run(&host, Some(known), &stopped, |resolution| tell.send(resolution).unwrap());
        assert_eq!(told.try_recv().ok(), None);
    }

    #[test]
    fn localhost_is_found() {
        let host: HostPort = "localhost:3128".parse().unwrap();
        let Resolution::Addresses(addresses) = look_up(&host) else { panic!("localhost has no address") };
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 3128));
    }

    #[test]
    fn a_failure_keeps_known_addresses_and_the_same_answer_is_no_news() {
        let here = Resolution::Addresses(vec!["127.0.0.1:1".parse().unwrap()].into());
        let there = Resolution::Addresses(vec!["127.0.0.2:1".parse().unwrap()].into());
        let failed = Resolution::Failed("down".into());
        assert!(should_tell(None, &failed));
        assert!(should_tell(Some(&failed), &here));
        assert!(should_tell(Some(&here), &there));
        assert!(!should_tell(Some(&here), &here));
        assert!(!should_tell(Some(&here), &failed));
    }
}
