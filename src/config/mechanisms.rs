//! The mechanisms that are listed: for an identity, for an upstream, and for both together.

use std::fmt;

use super::error::ConfigError;
use super::kerberos::KerberosProblem;
use super::parse::Reader;
use super::{IdentityConfig, UpstreamConfig};

const SOME_MECHANISM: Option<&str> = Some("leave the setting out, or list kerberos, ntlm, or both in this order");

/// The mechanisms that may be used, besides Basic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    /// Kerberos, before everything else.
    pub kerberos: bool,
    /// NTLM.
    pub ntlm: bool,
}

impl Mechanisms {
    /// Those that an upstream lists as well. An upstream without a list allows all.
    #[must_use]
    pub fn restricted_to(self, listed: Option<Mechanisms>) -> Mechanisms {
        listed.map_or(self, |listed| Mechanisms {
            kerberos: self.kerberos && listed.kerberos,
            ntlm: self.ntlm && listed.ntlm,
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        !self.kerberos && !self.ntlm
    }
}

/// As in the configuration.
impl fmt::Display for Mechanisms {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match (self.kerberos, self.ntlm) {
            (true, true) => "kerberos, ntlm",
            (true, false) => "kerberos",
            (false, true) => "ntlm",
            (false, false) => "nothing",
        })
    }
}

/// Whether some client uses an identity, by its index, at an upstream: clients of its own may be routed to any
/// upstream, and the others use the upstream's identity or the first one that is for everybody.
pub(super) fn is_used_at(identities: &[IdentityConfig], identity: usize, upstream: &UpstreamConfig) -> bool {
    let has_own_clients = identities.get(identity).is_some_and(|identity| !identity.has_no_own_clients());
    let for_all = || identities.iter().position(IdentityConfig::has_no_own_clients);
    has_own_clients || upstream.identity.or_else(for_all) == Some(identity)
}

impl Reader<'_> {
    /// The mechanisms that a setting lists.
    pub(super) fn mechanisms(&mut self, name: &str) -> Option<Mechanisms> {
        let list = self.list(name, SOME_MECHANISM, |text| match text {
            "kerberos" | "ntlm" => Ok(text.to_owned()),
            _ => Err(KerberosProblem::Mechanism { text: text.into() }.into()),
        });
        let all = list.values()?;
        let is_listed = |mechanism: &str| all.iter().any(|listed| listed == mechanism);
        if all.first().is_some_and(|first| first == "ntlm") && is_listed("kerberos") {
            return self.required(name, |_| Err(KerberosProblem::Order.into()));
        }
        Some(Mechanisms { kerberos: is_listed("kerberos"), ntlm: is_listed("ntlm") })
    }

    /// The same for a setting that has no default; the inner `None` if it is not given.
    pub(super) fn optional_mechanisms(&mut self, name: &str) -> Option<Option<Mechanisms>> {
        match self.settings.given(name) {
            Some(_) => self.mechanisms(name).map(Some),
            None => (!self.settings.is_broken(name)).then_some(None),
        }
    }

    /// Adds an error for each identity that some client uses at an upstream where nothing of its list is allowed.
    pub(super) fn reject_upstreams_without_mechanism(
        &mut self,
        identities: &[IdentityConfig],
        upstreams: &[UpstreamConfig],
    ) -> Option<()> {
        let noted = self.errors.len();
        // Only entries of the table have a list, and each of them is one upstream.
        let entries = self.settings.entries("upstreams").iter().map(|entry| entry.settings.given("upstreams.auth"));
        for (upstream, setting) in upstreams.iter().zip(entries) {
            let (Some(listed), Some(setting)) = (upstream.auth, setting) else { continue };
            let nothing_left = identities.iter().enumerate().filter(|(place, identity)| {
                upstream.mechanisms_of(identity).is_empty() && is_used_at(identities, *place, upstream)
            });
            let errors: Vec<ConfigError> = nothing_left
                .map(|(_, identity)| ConfigError {
                    source: setting.source.clone(),
                    key: "upstreams.auth".into(),
                    problem: KerberosProblem::NothingLeft {
                        identity: identity.name.clone(),
                        of_identity: identity.mechanisms,
                        of_upstream: listed,
                    }
                    .into(),
                })
                .collect();
            errors.into_iter().for_each(|error| self.note(error));
        }
        (self.errors.len() == noted).then_some(())
    }
}
