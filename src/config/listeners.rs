//! The file's `[[listeners]]`: addresses with what is served there.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::IdentityConfig;
use super::error::Problem;
use super::parse::{Placed, Reader, SOME_NETWORK, network};
use super::settings::Source;
use super::warning::{self, Advice};
use crate::client_protocol::{Protocols, Redirection, Service};
use crate::upstream::HostPort;

const SOME_PROTOCOL: Option<&str> = Some("leave the setting out, or give at least one of http, socks");

/// A protocol in a listener's list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Socks,
}

/// An entry of `[[listeners]]`.
pub(super) struct TableListener {
    pub address: SocketAddr,
    pub service: Service,
    /// The identity of its clients, by index.
    pub identity: Option<usize>,
    /// The networks from which it takes PROXY headers.
    pub trusted_proxies: Vec<IpNet>,
    /// Where its target is given, if it has one.
    pub target: Option<Placed<HostPort>>,
}

/// The target of a listener.
struct Target {
    service: Service,
    place: Placed<HostPort>,
}

impl Reader<'_> {
    /// The addresses of `listen`: by default none if the file has `[[listeners]]`.
    pub(super) fn short_listeners(&mut self, account: &str) -> Option<Vec<SocketAddr>> {
        let is_left_out = self.settings.given("listen").is_none() && !self.settings.is_broken("listen");
        match is_left_out && !self.settings.entries("listeners").is_empty() {
            true => Some(Vec::new()),
            false => self.listeners("listen", account),
        }
    }

    /// The entries of `[[listeners]]`. `identities` is `None` if they could not be read.
    pub(super) fn table_listeners(
        &mut self,
        identities: Option<&[IdentityConfig]>,
        account: &str,
    ) -> Option<Vec<TableListener>> {
        let names: Option<Vec<&str>> =
            identities.map(|all| all.iter().map(|identity| identity.name.as_str()).collect());
        let entries = self.settings.entries("listeners");
        let read = |reader: &mut Reader<'_>| {
            let identity = reader.identity_named("listeners.identity", names.as_deref());
            let name = |identity: usize| names.as_ref()?.get(identity).map(|name| (*name).to_owned());
            let account = identity.flatten().and_then(name).unwrap_or_else(|| account.to_owned());
            let address = reader.listener_address("listeners.address", &account);
            let target = reader.target();
            let service = reader.service(target.as_ref());
            let trusted_proxies = reader.trusted_proxies();
            Some(TableListener {
                address: address?,
                service: service?,
                identity: identity?,
                trusted_proxies: trusted_proxies?,
                target: target?.map(|target| target.place),
            })
        };
        let all: Vec<Option<TableListener>> = entries.iter().map(|entry| self.entry(entry, read)).collect();
        all.into_iter().collect()
    }

    fn trusted_proxies(&mut self) -> Option<Vec<IpNet>> {
        const KEY: &str = "listeners.proxy_protocol_from";
        if self.settings.given(KEY).is_some() && self.settings.given("listeners.transparent").is_some() {
            const WHY: &str = "transparent, whose connections come from the clients themselves";
            return self.required(KEY, |_| Err(Problem::Conflict(WHY)));
        }
        let networks = self.list(KEY, SOME_NETWORK, network);
        for Placed { value, source } in networks.entries.iter().filter(|entry| warning::is_too_large(&entry.value)) {
            self.warn(source.clone(), KEY, Advice::TrustsTooMany(*value));
        }
        networks.values()
    }

    fn target(&mut self) -> Option<Option<Target>> {
        let target = self.optional("listeners.target", |text| {
            let service = Service::forward(text);
            let service = service.map_err(|error| Problem::Target { text: text.into(), error: error.to_string() })?;
            Ok((service, text.parse::<HostPort>()?))
        })?;
        let source = self.settings.given("listeners.target").map_or(Source::Default, |setting| setting.source.clone());
        Some(target.map(|(service, value)| Target { service, place: Placed { value, source } }))
    }

    fn service(&mut self, target: Option<&Option<Target>>) -> Option<Service> {
        let forward = target?.as_ref().map(|target| target.service.clone());
        let transparent = self.optional("listeners.transparent", redirection)?;
        let is_exclusive = match (&forward, transparent) {
            (Some(_), _) => Some("target, which takes any bytes"),
            (None, Some(_)) => Some("transparent, which takes any protocol"),
            (None, None) => None,
        };
        if let Some(other) = is_exclusive
            && self.settings.given("listeners.protocols").is_some()
        {
            return self.required("listeners.protocols", |_| Err(Problem::Conflict(other)));
        }
        match (forward, transparent) {
            (Some(_), Some(_)) => {
                self.required("listeners.transparent", |_| Err(Problem::Conflict("target, which takes any bytes")))
            }
            (Some(service), None) => Some(service),
            (None, Some(redirection)) => Some(Service::Transparent(redirection)),
            (None, None) => {
                let protocols = self.list("listeners.protocols", SOME_PROTOCOL, protocol).values()?;
                let serves = |protocol| protocols.contains(&protocol);
                let protocols = Protocols { http: serves(Protocol::Http), socks: serves(Protocol::Socks) };
                Some(Service::Protocols(protocols))
            }
        }
    }
}

fn redirection(text: &str) -> Result<Redirection, Problem> {
    match text {
        "redirect" => Ok(Redirection::Redirect),
        "tproxy" => Ok(Redirection::Tproxy),
        _ => Err(Problem::Choice { text: text.into(), choices: "redirect, tproxy".into() }),
    }
}

fn protocol(text: &str) -> Result<Protocol, Problem> {
    match text {
        "http" => Ok(Protocol::Http),
        "socks" => Ok(Protocol::Socks),
        _ => Err(Problem::Choice { text: text.into(), choices: "http, socks".into() }),
    }
}
