//! `ntlm-gateway guard show`: what the store knows of the configured accounts.

use std::fmt::Write;

use super::json;
use super::store::{OpenStore, StoredSecret};
use crate::cli::utc::relative;
use crate::config::{Config, IdentityConfig};
use crate::guard_store::{Actor, Counted, Document, Place, PlaceStatus, Record};
use crate::upstream::{GuardPolicy, GuardState};

/// What the store knows of the configured accounts.
#[derive(Debug)]
pub(super) struct Standing {
    pub kind: &'static str,
    pub at: String,
    /// The store's time, in ms since 1970.
    pub now_ms: u64,
    pub policy: GuardPolicy,
    pub identities: Vec<IdentityStanding>,
}

#[derive(Debug)]
pub(super) struct IdentityStanding {
    pub name: String,
    pub account: String,
    pub counted: Counted,
    /// When the record was last cleared, in ms since 1970; 0 if it never was.
    pub cleared_ms: u64,
    pub upstreams: Vec<(String, PlaceStatus)>,
}

impl IdentityStanding {
    pub(super) fn left(&self, policy: &GuardPolicy) -> usize {
        policy.attempts.saturating_sub(self.counted.all)
    }
}

pub(super) fn run(config: &Config, mut open: OpenStore, as_json: bool) -> Result<String, String> {
    let snapshot = open.store.read().map_err(|fault| fault.to_string())?;
    let actor = open.store.actor(snapshot.now_ms);
    let upstreams: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let standing = Standing {
        kind: open.kind,
        at: open.at,
        now_ms: snapshot.now_ms,
        policy: *actor.policy,
        identities: config
            .identities
            .iter()
            .map(|identity| identity_standing(identity, &upstreams, &snapshot.document, &actor))
            .collect(),
    };
    Ok(if as_json { json::render(&standing) } else { render(&standing) })
}

fn identity_standing(
    identity: &IdentityConfig,
    upstreams: &[&str],
    document: &Document,
    actor: &Actor<'_>,
) -> IdentityStanding {
    let (secret, salt) = (StoredSecret::of(identity), document.salt());
    let nothing = Record::default();
    let record = document.existing(&secret.account(salt)).unwrap_or(&nothing);
    let mut places: Vec<(String, Place)> =
        upstreams.iter().map(|upstream| ((*upstream).to_owned(), secret.place(salt, upstream))).collect();
    if let Some((kdc, key)) = StoredSecret::for_kdc(identity) {
        let place = key.place(salt, &kdc);
        places.push((kdc, place));
    }
    let fingerprints: Vec<&str> = places.iter().map(|(_, place)| place.secret.as_str()).collect();
    IdentityStanding {
        name: identity.name.clone(),
        account: identity.identity.account().to_string(),
        counted: record.counted_beside(&fingerprints, actor),
        cleared_ms: places.first().map_or(0, |(_, place)| record.known(place).reset_ms),
        upstreams: places.iter().map(|(upstream, place)| (upstream.clone(), record.status(place, actor))).collect(),
    }
}

fn render(standing: &Standing) -> String {
    let Standing { kind, at, now_ms, policy, identities } = standing;
    let minutes = policy.window.as_secs() / 60;
    let mut out = format!(
        "guard.store = {kind} ({at}), at most {} failed logons of an account in {minutes} minutes\n",
        policy.attempts
    );
    for identity in identities {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\nidentity {}: {}", identity.name, identity.account);
        let _ = writeln!(out, "  {}", attempts(identity, policy, *now_ms));
        if identity.cleared_ms > 0 {
            let _ = writeln!(out, "  cleared {}", relative(identity.cleared_ms, *now_ms));
        }
        for (name, status) in &identity.upstreams {
            let _ = writeln!(out, "  upstream {name}: {}", upstream(status, *now_ms));
        }
    }
    out
}

fn attempts(identity: &IdentityStanding, policy: &GuardPolicy, now_ms: u64) -> String {
    let Counted { all, with_other_secrets, unsettled, kept_aside, fewer_at_ms } = identity.counted;
    let mut text = format!("attempts left: {} of {}", identity.left(policy), policy.attempts);
    if all > 0 {
        let _ = write!(text, "; {all} counted");
    }
    if with_other_secrets > 0 {
        let _ = write!(text, ", {with_other_secrets} with other secrets");
    }
    if unsettled > 0 {
        let _ = write!(text, ", {unsettled} without a result");
    }
    if kept_aside > 0 {
        let _ = write!(text, "; {kept_aside} kept aside for gateways that lose the store");
    }
    if let Some(at_ms) = fewer_at_ms {
        let _ = write!(text, "; the next expires at {}", relative(at_ms, now_ms));
    }
    text
}

fn upstream(status: &PlaceStatus, now_ms: u64) -> String {
    let PlaceStatus { state, known, next_ms } = status;
    let (accepted, rejected) = (relative(known.accepted_ms, now_ms), relative(known.struck_ms, now_ms));
    match state {
        GuardState::Proven => format!("proven, accepted at {accepted}"),
        GuardState::Refused => {
            format!("refused, rejected at {rejected}, not tried before {}", relative(*next_ms, now_ms))
        }
        GuardState::Unproven => {
            let last = match (known.accepted_ms, known.struck_ms) {
                (0, 0) => String::new(),
                (_, 0) => format!(", last accepted at {accepted}"),
                _ => format!(", last rejected at {rejected}"),
            };
            let next = match *next_ms <= now_ms {
                true => "may be tried now".to_owned(),
                false => format!("not tried before {}", relative(*next_ms, now_ms)),
            };
            format!("unproven{last}, {next}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard_store::Known;

    const NOW_MS: u64 = 1_795_860_609_000;

    fn standing() -> Standing {
        let known = Known { accepted_ms: NOW_MS - 600_000, ..Known::default() };
        let proven = PlaceStatus { state: GuardState::Proven, known, next_ms: NOW_MS };
        let known = Known { struck_ms: NOW_MS - 30_000, until_ms: NOW_MS + 30_000, ..Known::default() };
        let refused = PlaceStatus { state: GuardState::Refused, known, next_ms: NOW_MS + 30_000 };
        let fresh = PlaceStatus { state: GuardState::Unproven, known: Known::default(), next_ms: NOW_MS };
        Standing {
            kind: "file",
            at: "/var/lib/ntlm-gateway".into(),
            now_ms: NOW_MS,
            policy: GuardPolicy::default(),
            identities: vec![IdentityStanding {
                name: "default".into(),
                account: r"CORP\svc".into(),
                counted: Counted {
                    all: 2,
                    with_other_secrets: 1,
                    unsettled: 1,
                    kept_aside: 0,
                    fewer_at_ms: Some(NOW_MS + 1_700_000),
                },
                cleared_ms: NOW_MS - 3_600_000,
                upstreams: vec![("a".into(), proven), ("b".into(), refused), ("c".into(), fresh)],
            }],
        }
    }

    #[test]
    fn the_text_says_what_is_left_and_when_more_is() {
        assert_eq!(
            render(&standing()),
            "guard.store = file (/var/lib/ntlm-gateway), at most 3 failed logons of an account in 30 minutes

identity default: CORP\\svc
  attempts left: 1 of 3; 2 counted, 1 with other secrets, 1 without a result; the next expires at 2026-11-28T10:38:29Z (in 29 min)
  cleared 2026-11-28T09:10:09Z (60 min ago)
  upstream a: proven, accepted at 2026-11-28T10:00:09Z (10 min ago)
  upstream b: refused, rejected at 2026-11-28T10:09:39Z (30 s ago), not tried before 2026-11-28T10:10:39Z (in 30 s)
  upstream c: unproven, may be tried now
"
        );
    }

    #[test]
    fn the_json_has_the_same_as_numbers_and_times() {
        let value: serde_json::Value = serde_json::from_str(&json::render(&standing())).unwrap();
        let identity = &value["identities"][0];
        assert_eq!((&identity["attempts_left"], &identity["counted"]), (&1.into(), &2.into()), "{value}");
        assert_eq!(identity["upstreams"][1]["not_before"], "2026-11-28T10:10:39Z", "{value}");
        assert_eq!(identity["upstreams"][2]["accepted_at"], serde_json::Value::Null, "{value}");
    }
}
