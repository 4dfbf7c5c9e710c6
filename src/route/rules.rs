//! The ordered rules, and the decision that they make.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::metadata::{embedded_addresses, metadata_network, names};
use super::pattern::{HostPattern, NoProxyEntry, PortRange};
use super::plan::{Candidate, Plan};
use super::source::{RouteQuestion, RouteReply, RouteSource, RouteTicket};
use crate::http::{Authority, Host};

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes through one of the upstreams of this group, by the group's number.
    Group(usize),
    /// It goes straight to its origin.
    Direct,
    /// It is refused.
    Deny,
}

/// A rule: conditions and a decision.
///
/// It matches if the host matches one of `hosts` or is an address in one of `networks`, or both lists are empty, and if
/// the port is in `ports`, or that list is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Patterns for host names.
    pub hosts: Vec<HostPattern>,
    /// Networks, for destinations that are IP addresses.
    pub networks: Vec<IpNet>,
    /// Ranges of ports.
    pub ports: Vec<PortRange>,
    /// The decision if the rule matches.
    pub decision: Decision,
}

impl Rule {
    fn matches(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let any_host = self.hosts.is_empty() && self.networks.is_empty();
        let host_matches = any_host
            || self.hosts.iter().any(|pattern| pattern.matches(host))
            || address.is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)));
        host_matches && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port)))
    }

    /// Whether the rule names this address or a network that contains it. A rule without hosts and networks does not
    /// count.
    fn is_about(&self, host: &str, address: IpAddr, port: u16) -> bool {
        let by_name = self.hosts.iter().any(|pattern| matches!(pattern, HostPattern::Exact(name) if **name == *host));
        let by_network = self.networks.iter().any(|network| network.contains(&address));
        (by_name || by_network) && (self.ports.is_empty() || self.ports.iter().any(|range| range.contains(port)))
    }

    /// Whether the rule explicitly names this address, and does not just match all addresses or a wide network.
    fn names(&self, host: &str, address: IpAddr) -> bool {
        self.hosts.iter().any(|pattern| matches!(pattern, HostPattern::Exact(name) if **name == *host))
            || self.networks.iter().any(|network| names(network, address))
    }
}

/// All rules: the configured ones in order, then the denial of metadata services, then `NO_PROXY`, then the first
/// group. A rule allows access to a metadata service only if it names the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The configured rules. The first one that matches decides.
    pub rules: Vec<Rule>,
    /// Destinations that are reached directly if no rule matches.
    pub no_proxy: Vec<NoProxyEntry>,
    /// Hosts for which requests to the upstream contain no credentials.
    pub without_credentials: Vec<HostPattern>,
}

impl Rules {
    /// Where a request may go: the rules have one candidate for each destination.
    #[must_use]
    fn plan(&self, destination: &Authority<'_>) -> Plan {
        Plan::only(match self.decide(destination) {
            Decision::Deny => Candidate::Deny,
            Decision::Direct => Candidate::Direct,
            Decision::Group(group) => {
                Candidate::Group { group, without_credentials: self.goes_without_credentials(destination.host) }
            }
        })
    }

    /// Decides where a request for this destination goes.
    #[must_use]
    pub fn decide(&self, destination: &Authority<'_>) -> Decision {
        let address = address_of(destination.host);
        if self.rules.is_empty() && self.no_proxy.is_empty() && address.is_none() {
            return Decision::Group(0);
        }
        let host = plain(destination.host);
        let metadata = address.filter(|address| metadata_network(*address).is_some());
        let reached = address.map(Reached::by).unwrap_or_default();
        let decides = |rule: &&Rule| {
            let matches = |host: &str, address| rule.matches(host, address, destination.port);
            (matches(&host, address)
                || reached.iter().any(|it| it.counts_for(rule) && matches(&it.host, Some(it.address))))
                && metadata.is_none_or(|address| rule.decision == Decision::Deny || rule.names(&host, address))
        };
        if let Some(rule) = self.rules.iter().find(decides) {
            return rule.decision;
        }
        if metadata.is_some() {
            return Decision::Deny;
        }
        match self.no_proxy.iter().any(|entry| entry.matches(&host, address, destination.port)) {
            true => Decision::Direct,
            false => Decision::Group(0),
        }
    }

    /// Whether a candidate may be used for this destination, whichever source named it. An address of a metadata
    /// service is reached only where the rules name it, and only as they say.
    #[must_use]
    pub fn permit(&self, candidate: Candidate, destination: &Authority<'_>) -> bool {
        let is_metadata = || address_of(destination.host).is_some_and(|address| metadata_network(address).is_some());
        let decision = match candidate {
            Candidate::Group { group, .. } => Decision::Group(group),
            Candidate::Direct => Decision::Direct,
            Candidate::Deny => return true,
        };
        !is_metadata() || self.decide(destination) == decision
    }

    /// Whether the rules let a connection go to this address for a destination that a client named: its name leads
    /// there, or the client was connecting to it when it named another destination. The first rule that is about the
    /// address decides, with its networks or by the address itself; a rule for names or for everything says nothing
    /// about it.
    #[must_use]
    pub fn permit_address(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        if self.rules.is_empty() {
            return metadata_network(address).is_none();
        }
        let host = address.to_string();
        let reached = Reached::by(address);
        let is_about = |rule: &&Rule| {
            rule.is_about(&host, address, port)
                || reached.iter().any(|it| it.counts_for(rule) && rule.is_about(&it.host, it.address, port))
        };
        match metadata_network(address) {
            Some(_) => {
                let named = |rule: &&Rule| rule.decision == Decision::Deny || rule.names(&host, address);
                self.rules.iter().filter(is_about).find(named).is_some_and(|rule| rule.decision != Decision::Deny)
            }
            None => self.rules.iter().find(is_about).is_none_or(|rule| rule.decision != Decision::Deny),
        }
    }

    /// Whether requests for this host are sent to the upstream without credentials.
    #[must_use]
    pub fn goes_without_credentials(&self, host: Host<'_>) -> bool {
        !self.without_credentials.is_empty() && {
            let host = plain(host);
            self.without_credentials.iter().any(|pattern| pattern.matches(&host))
        }
    }
}

impl RouteSource for Rules {
    fn route(&self, question: &RouteQuestion<'_>, _ticket: &dyn Fn() -> RouteTicket) -> RouteReply {
        RouteReply::Now(Ok(self.plan(&question.destination)))
    }
}

fn address_of(host: Host<'_>) -> Option<IpAddr> {
    match host {
        Host::Name(_) => None,
        Host::V4(address) => Some(IpAddr::V4(address)),
        // An IPv4-mapped address counts as the IPv4 address.
        Host::V6(address) => Some(IpAddr::V6(address).to_canonical()),
    }
}

/// Another address that a connection to an address may reach.
struct Reached {
    host: String,
    address: IpAddr,
    /// It is certain, and not up to a translator or a tunnel on the way.
    is_certain: bool,
}

impl Reached {
    fn by(address: IpAddr) -> Vec<Reached> {
        let other = |is_certain| move |address: IpAddr| Reached { host: address.to_string(), address, is_certain };
        let embedded = embedded_addresses(address).map(other(false));
        loopback_for(address).map(other(true)).into_iter().chain(embedded).collect()
    }

    /// What is not certain must not get round a denial, and allows nothing.
    fn counts_for(&self, rule: &Rule) -> bool {
        self.is_certain || rule.decision == Decision::Deny
    }
}

/// The loopback address that a connection to `address` reaches, if that is the unspecified address.
fn loopback_for(address: IpAddr) -> Option<IpAddr> {
    let loopback: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    address.is_unspecified().then_some(loopback)
}

/// The host in lower case, without brackets and without a final dot.
fn plain(host: Host<'_>) -> String {
    match host {
        Host::Name(name) => name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
        Host::V4(_) | Host::V6(_) => address_of(host).map(|address| address.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(hosts: &[&str], networks: &[&str], ports: &[&str], decision: Decision) -> Rule {
        Rule {
            hosts: hosts.iter().map(|text| text.parse().unwrap()).collect(),
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
            decision,
        }
    }

    fn rules() -> Rules {
        Rules {
            rules: vec![
                rule(&["login.corp.example"], &[], &[], Decision::Group(1)),
                rule(&[".corp.example"], &["10.0.0.0/8"], &[], Decision::Direct),
                rule(&[], &[], &["25", "465-587"], Decision::Deny),
            ],
            no_proxy: vec![".svc".parse().unwrap(), "*".parse().unwrap()],
            without_credentials: vec![".exempt.example".parse().unwrap()],
        }
    }

    fn decide(rules: &Rules, host: &str, port: u16) -> Decision {
        let text = format!("{host}:{port}");
        rules.decide(&Authority::parse(&text).unwrap())
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = Rules { no_proxy: vec![], ..rules() };
        assert_eq!(decide(&rules, "LOGIN.corp.example.", 443), Decision::Group(1));
        assert_eq!(decide(&rules, "git.corp.example", 443), Decision::Direct);
        assert_eq!(decide(&rules, "10.1.2.3", 443), Decision::Direct);
        assert_eq!(decide(&rules, "[::ffff:10.1.2.3]", 443), Decision::Direct);
        assert_eq!(decide(&rules, "mail.example", 465), Decision::Deny);
        assert_eq!(decide(&rules, "www.example", 443), Decision::Group(0));
    }

    #[test]
    fn rules_match_an_address_in_every_spelling_of_the_rule_and_of_the_request() {
        let denied = |hosts: &[&str], networks: &[&str], host: &str| {
            let rules = Rules { rules: vec![rule(hosts, networks, &[], Decision::Deny)], ..Rules::default() };
            decide(&rules, host, 80) == Decision::Deny
        };
        for spelling in ["2001:db8:0::7", "[2001:DB8::7]", "2001:0db8:0:0:0:0:0:7"] {
            assert!(denied(&[spelling], &[], "[2001:db8::7]"), "{spelling}");
        }
        assert!(denied(&["::ffff:10.0.0.1"], &[], "10.0.0.1"));
        // A connection to the unspecified address reaches loopback.
        for (networks, host) in [("127.0.0.0/8", "0.0.0.0"), ("0.0.0.0/32", "0.0.0.0"), ("::1/128", "[::]")] {
            assert!(denied(&[], &[networks], host), "{networks} {host}");
        }
        assert!(denied(&["127.0.0.1"], &[], "[::ffff:0.0.0.0]"));
        assert!(!denied(&["127.0.0.2"], &["10.0.0.0/8"], "0.0.0.0"));
    }

    #[test]
    fn a_denied_address_is_denied_to_translators_and_tunnels_as_well() {
        let spellings =
            ["[64:ff9b::cb00:7105]", "[::203.0.113.5]", "[2002:cb00:7105::1]", "[2001:db8::5efe:cb00:7105]"];
        for deny in
            [rule(&[], &["203.0.113.0/24"], &[], Decision::Deny), rule(&["203.0.113.5"], &[], &[], Decision::Deny)]
        {
            let rules = Rules { rules: vec![deny], ..Rules::default() };
            for host in spellings {
                assert_eq!(decide(&rules, host, 80), Decision::Deny, "{host}");
                let address = host.trim_matches(['[', ']']).parse().unwrap();
                assert!(!rules.permit_address(address, 80), "{host}");
            }
            assert_eq!(decide(&rules, "[64:ff9b::cb00:7205]", 80), Decision::Group(0));
        }
        // A route that allows an address says nothing about what is embedded elsewhere.
        let allowed = Rules {
            rules: vec![
                rule(&[], &["203.0.113.0/24"], &[], Decision::Direct),
                rule(&[], &["::/0"], &[], Decision::Deny),
            ],
            ..Rules::default()
        };
        for host in spellings {
            assert_eq!(decide(&allowed, host, 80), Decision::Deny, "{host}");
        }
        let no_ipv4 = Rules { rules: vec![rule(&[], &["0.0.0.0/0"], &[], Decision::Deny)], ..Rules::default() };
        assert_eq!(decide(&no_ipv4, "[::1]", 80), Decision::Group(0));
    }

    #[test]
    fn no_proxy_applies_after_the_rules() {
        assert_eq!(decide(&rules(), "mail.svc", 25), Decision::Deny);
        assert_eq!(decide(&rules(), "redis.svc", 6379), Decision::Direct);
    }

    #[test]
    fn metadata_services_are_denied_unless_a_rule_names_them() {
        for host in ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"] {
            assert_eq!(decide(&Rules::default(), host, 80), Decision::Deny, "{host}");
            assert_eq!(decide(&rules(), host, 80), Decision::Deny, "{host}: `*` in NO_PROXY does not name it");
        }
        let named = Rules { rules: vec![rule(&[], &["169.254.0.0/16"], &[], Decision::Direct)], ..Rules::default() };
        assert_eq!(decide(&named, "169.254.169.254", 80), Decision::Direct);
        let by_host =
            Rules { rules: vec![rule(&["169.254.169.254"], &[], &[], Decision::Group(1))], ..Rules::default() };
        assert_eq!(decide(&by_host, "169.254.169.254", 80), Decision::Group(1));
    }

    #[test]
    fn a_general_rule_does_not_allow_access_to_a_metadata_service() {
        for (hosts, networks, ports) in [
            (&["*"][..], &[][..], &[][..]),
            (&[], &["0.0.0.0/0", "::/0"], &[]),
            (&[], &["100.64.0.0/10", "fd00::/8", "64:ff9b::/96"], &[]),
            (&[], &[], &["80"]),
        ] {
            for decision in [Decision::Direct, Decision::Group(1)] {
                let rules = Rules { rules: vec![rule(hosts, networks, ports, decision)], ..Rules::default() };
                for host in ["169.254.169.254", "100.100.100.200", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]"] {
                    assert_eq!(decide(&rules, host, 80), Decision::Deny, "{host} by {hosts:?} {networks:?} {ports:?}");
                }
            }
        }
        let rules =
            [&["100.64.0.0/10"], &["100.100.100.200/32"]].map(|network| rule(&[], network, &[], Decision::Direct));
        let rules = Rules { rules: rules.into(), ..Rules::default() };
        assert_eq!(decide(&rules, "100.100.100.200", 80), Decision::Direct, "a later rule that names it decides");
        assert_eq!(decide(&rules, "100.100.100.201", 80), Decision::Direct);
    }

    #[test]
    fn no_candidate_of_any_source_leads_to_a_metadata_service_unless_a_rule_does() {
        let group = |group| Candidate::Group { group, without_credentials: false };
        let permit = |rules: &Rules, candidate, host: &str| {
            let text = format!("{host}:80");
            rules.permit(candidate, &Authority::parse(&text).unwrap())
        };
        let named = Rules { rules: vec![rule(&[], &["169.254.0.0/16"], &[], Decision::Group(1))], ..Rules::default() };
        for host in ["169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"] {
            for candidate in [group(0), Candidate::Direct] {
                assert!(!permit(&rules(), candidate, host), "{host} {candidate:?}");
                assert!(!permit(&named, candidate, host), "{host} {candidate:?}: the rule leads elsewhere");
            }
            assert!(permit(&rules(), Candidate::Deny, host), "{host}");
        }
        assert!(permit(&named, group(1), "169.254.169.254"));
        for host in ["10.1.2.3", "www.example"] {
            assert!(permit(&rules(), Candidate::Direct, host) && permit(&rules(), group(7), host), "{host}");
        }
    }

    #[test]
    fn an_address_behind_a_name_is_denied_only_by_rules_about_addresses() {
        let rules = Rules {
            rules: vec![
                rule(&[".corp.example"], &[], &[], Decision::Direct),
                rule(&[], &["10.1.0.0/16"], &[], Decision::Direct),
                rule(&["198.51.100.7"], &["10.0.0.0/8", "2001:db8:1::/48"], &[], Decision::Deny),
                rule(&[], &["192.0.2.0/24"], &["25"], Decision::Deny),
                rule(&["127.0.0.1"], &["::1/128"], &[], Decision::Deny),
                rule(&["*"], &[], &[], Decision::Deny),
            ],
            ..Rules::default()
        };
        for (address, port, permitted) in [
            ("127.0.0.1", 443, false),
            ("0.0.0.0", 443, false),
            ("::ffff:0.0.0.0", 443, false),
            ("::ffff:127.0.0.1", 443, false),
            ("::1", 443, false),
            ("::", 443, false),
            ("127.0.0.2", 443, true),
            ("10.1.2.3", 443, true),
            ("10.2.0.1", 443, false),
            ("::ffff:10.2.0.1", 443, false),
            ("2001:db8:1::5", 443, false),
            ("198.51.100.7", 443, false),
            ("198.51.100.8", 443, true),
            ("192.0.2.1", 25, false),
            ("192.0.2.1", 443, true),
            ("169.254.169.254", 80, false),
        ] {
            assert_eq!(rules.permit_address(address.parse().unwrap(), port), permitted, "{address}:{port}");
        }
        let named = Rules { rules: vec![rule(&[], &["169.254.0.0/16"], &[], Decision::Direct)], ..Rules::default() };
        assert!(named.permit_address("169.254.169.254".parse().unwrap(), 80));
        let wide = Rules { rules: vec![rule(&[], &["0.0.0.0/0"], &[], Decision::Direct)], ..Rules::default() };
        assert!(!wide.permit_address("169.254.169.254".parse().unwrap(), 80));
    }

    #[test]
    fn hosts_without_credentials_are_found_by_pattern() {
        assert!(rules().goes_without_credentials(Host::Name("Pki.Exempt.Example")));
        assert!(!rules().goes_without_credentials(Host::Name("exempt.example")));
        assert!(!Rules::default().goes_without_credentials(Host::Name("exempt.example")));
    }
}
