//! The behaviour of every personality, as differences from the plain one.

use std::time::Duration;

use super::behaviour::{
    AccessRule, AuthRequired, AuthenticateHandling, AuthenticateRules, Behaviour, ConnectionRules, Delivery, Ending,
    Established, HeadStyle, MessageStyle, Offers, OnAccept, PLAIN, PageBody, TargetInfo,
};
use super::personality::Personality;
use crate::http::Version;
use crate::ntlm::NegotiateFlags;

const SQUID_PAGE: &str =
    "<html><body><p>Access Denied: NTLM authentication requires a persistent connection</p></body></html>\n";
const ISA_REASON: &str = " ProxyAuthentication Required ( The ISA Server requires authorization to fulfill the request. \
    Access to the Web proxy service is denied. )";
const INTERIM: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX-Progress: half\r\n\r\n";
const BCSI_COOKIE: &str = "Set-Cookie: BCSI-CS-5a3c1e02f9d4b786=2; Path=/\r\n";
/// A gateway that reuses a poisoned connection would take this for the answer to its AUTHENTICATE_MESSAGE.
const FALSE_ANSWER: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const GIB: u64 = 1 << 30;
const IDLE_CLOSE: Duration = Duration::from_millis(500);
const CHALLENGE_LIFE: Duration = Duration::from_millis(500);
const SLOW_ANSWER: Duration = Duration::from_secs(2);

/// A plain proxy, except that all its 407s have this body.
const fn with_body(body: PageBody) -> Behaviour {
    Behaviour {
        unchallenged: AuthRequired { body, ..PLAIN.unchallenged },
        challenge: AuthRequired { body, ..PLAIN.challenge },
        ..PLAIN
    }
}

const fn with_head(head: HeadStyle) -> Behaviour {
    Behaviour { head, ..PLAIN }
}

const fn with_challenge_ending(ending: Ending) -> Behaviour {
    Behaviour { challenge: AuthRequired { ending, ..PLAIN.challenge }, ..PLAIN }
}

const fn with_offers(offers: Offers) -> Behaviour {
    Behaviour { offers, ..PLAIN }
}

const fn with_message(message: MessageStyle) -> Behaviour {
    Behaviour { message, ..PLAIN }
}

const fn with_target_info(target_info: TargetInfo) -> Behaviour {
    with_message(MessageStyle { target_info, ..PLAIN.message })
}

const fn with_authenticate_handling(authenticate_handling: AuthenticateHandling) -> Behaviour {
    Behaviour { authenticate_handling, ..PLAIN }
}

const fn with_rules(rules: ConnectionRules) -> Behaviour {
    Behaviour { rules, ..PLAIN }
}

impl Personality {
    /// The settings of this personality.
    pub(super) const fn behaviour(self) -> Behaviour {
        match self {
            Self::Plain => PLAIN,
            Self::Forbidden => with_authenticate_handling(AuthenticateHandling::Forbid),
            Self::Refuses => with_authenticate_handling(AuthenticateHandling::Refuse),
            Self::Rechallenges => with_authenticate_handling(AuthenticateHandling::Rechallenge),
            Self::StaleChallenges => with_authenticate_handling(AuthenticateHandling::VerifyWithin(CHALLENGE_LIFE)),
            Self::ResetsMidHandshake => with_authenticate_handling(AuthenticateHandling::Reset),
            Self::Unavailable => Behaviour { access: AccessRule::Unavailable, ..PLAIN },
            Self::Open => Behaviour { access: AccessRule::Open, ..PLAIN },
            Self::HangsOnCredentials => Behaviour { access: AccessRule::NoCredentials, ..PLAIN },
            Self::Silent => Behaviour { on_accept: OnAccept::Mute, ..PLAIN },
            Self::ClosesOnAccept => Behaviour { on_accept: OnAccept::Close, ..PLAIN },
            Self::Slow => Behaviour { answer_wait: SLOW_ANSWER, ..PLAIN },
            Self::ClosesIdle => Behaviour { idle_close: Some(IDLE_CLOSE), ..PLAIN },
            Self::ByteAtATime => Behaviour { delivery: Delivery::ByteAtATime, ..PLAIN },
            Self::Forgets => Behaviour { requests_per_logon: Some(2), ..PLAIN },
            Self::PerRequestAuth => Behaviour { requests_per_logon: Some(1), ..PLAIN },
            Self::OkWithContentLength => {
                Behaviour { established: Established::WithFields("Content-Length: 4096\r\n"), ..PLAIN }
            }
            Self::OkWithTransferEncoding => {
                Behaviour { established: Established::WithFields("Transfer-Encoding: chunked\r\n"), ..PLAIN }
            }
            Self::OkWithTunnelBytes => Behaviour { established: Established::WithFirstBytes, ..PLAIN },
            Self::OneConnection => with_rules(ConnectionRules { resets_unchallenged: true, ..PLAIN.rules }),
            Self::AsksFirst => with_rules(ConnectionRules { asks_first: true, ..PLAIN.rules }),
            Self::Policy407 => with_rules(ConnectionRules { blocks_by_name: true, ..PLAIN.rules }),
            Self::ExemptHangs => with_rules(ConnectionRules { exempts_by_name: true, ..PLAIN.rules }),
            Self::DeniesClientFields => with_rules(ConnectionRules { denies_client_fields: true, ..PLAIN.rules }),
            _ => self.odd_framing(),
        }
    }

    /// Personalities that differ in heads, bodies and connection handling.
    const fn odd_framing(self) -> Behaviour {
        match self {
            Self::IsaFirst407Closes => Behaviour {
                unchallenged: AuthRequired { body: PageBody::Length(701), ending: Ending::Close, stray: b"" },
                offers: Offers { list: &["Negotiate", "Kerberos", "NTLM"], ..PLAIN.offers },
                message: MessageStyle { target_info: TargetInfo::Names, ..PLAIN.message },
                ..with_head(HeadStyle {
                    auth_reason: ISA_REASON,
                    challenge_field: "proxy-Authenticate",
                    line_tail: " ",
                    ..PLAIN.head
                })
            },
            Self::ChallengeThenClose => with_challenge_ending(Ending::Close),
            Self::ProxyConnectionCloseOnly => with_challenge_ending(Ending::ProxyConnectionClose),
            Self::Http10KeepAlive => with_head(HeadStyle { version: Version::Http10, ..PLAIN.head }),
            Self::Http10 => Behaviour {
                rules: ConnectionRules { keep_alive_on_demand: true, ..PLAIN.rules },
                ..with_head(HeadStyle { version: Version::Http10, ..PLAIN.head })
            },
            Self::BodyLength3k => with_body(PageBody::Length(3 * 1024)),
            Self::BodyChunkedTrailers => with_body(PageBody::Chunked),
            Self::BodyEndless => with_body(PageBody::Endless),
            Self::BodyHuge => with_body(PageBody::Length(GIB)),
            Self::BodyToClose => Behaviour {
                unchallenged: AuthRequired { body: PageBody::ToClose, ending: Ending::Unsaid, stray: b"" },
                ..PLAIN
            },
            Self::BytesAfterBody => Behaviour {
                unchallenged: AuthRequired { stray: FALSE_ANSWER, ..PLAIN.unchallenged },
                challenge: AuthRequired { stray: FALSE_ANSWER, ..PLAIN.challenge },
                ..PLAIN
            },
            Self::InformationalFirst => with_head(HeadStyle { interim: INTERIM, ..PLAIN.head }),
            Self::NoReason => with_head(HeadStyle { auth_reason: "", ..PLAIN.head }),
            Self::OddReason => {
                with_head(HeadStyle { auth_reason: " D\u{e9}ni\u{e9} : (acc\u{e8}s); \"407\", 0x197", ..PLAIN.head })
            }
            Self::FoldedLines => with_head(HeadStyle { token_separator: "\r\n\t", ..PLAIN.head }),
            Self::SquidNoKeepAlive => Behaviour {
                unchallenged: AuthRequired { body: PageBody::Text(SQUID_PAGE), ending: Ending::Close, stray: b"" },
                rules: ConnectionRules { never_challenges: true, ..PLAIN.rules },
                ..with_head(HeadStyle { more_fields: "X-Squid-Error: ERR_CACHE_ACCESS_DENIED 0\r\n", ..PLAIN.head })
            },
            _ => self.odd_schemes(),
        }
    }

    /// Personalities that differ in the challenges they offer.
    const fn odd_schemes(self) -> Behaviour {
        match self {
            Self::ChallengesJoined => with_offers(Offers {
                list: &[
                    "Negotiate",
                    "Digest realm=\"a, NTLM b\", nonce=\"c==\", qop=\"auth\"",
                    "NTLM",
                    "Basic realm=\"d\"",
                ],
                joined: true,
                beside_token: true,
                ..PLAIN.offers
            }),
            Self::ChallengesAnyCase => Behaviour {
                head: HeadStyle { challenge_field: "pROXY-aUTHENTICATE", ..PLAIN.head },
                ..with_offers(Offers { list: &["nTlM"], ..PLAIN.offers })
            },
            Self::ChallengesNotFirst => {
                with_offers(Offers { list: &["Negotiate", "Basic realm=\"NTLM\"", "NTLM"], ..PLAIN.offers })
            }
            Self::OtherSchemesBeside => with_offers(Offers {
                list: &["Negotiate", "NTLM", "Basic realm=\"proxy\""],
                beside_token: true,
                ..PLAIN.offers
            }),
            Self::NegotiateOnly => {
                with_offers(Offers { list: &["Negotiate"], scheme: Some("Negotiate"), ..PLAIN.offers })
            }
            Self::BasicOnly => with_offers(Offers { list: &["Basic realm=\"proxy\""], scheme: None, ..PLAIN.offers }),
            Self::Transparent401 => with_head(HeadStyle {
                auth_status: 401,
                auth_reason: " Unauthorized",
                challenge_field: "WWW-Authenticate",
                more_fields: BCSI_COOKIE,
                ..PLAIN.head
            }),
            _ => self.odd_messages(),
        }
    }

    /// Personalities that differ in the NTLM messages. Every variant is named once in the four functions; a test checks
    /// that only the plain one behaves like `PLAIN`.
    const fn odd_messages(self) -> Behaviour {
        match self {
            Self::SpnegoUnderNtlm => with_message(MessageStyle { wrapped: true, ..PLAIN.message }),
            Self::Wingate => {
                Behaviour { required_flags: NegotiateFlags::NTLM.union(NegotiateFlags::ALWAYS_SIGN), ..PLAIN }
            }
            Self::Strict128Ess => Behaviour {
                required_flags: NegotiateFlags::KEY_128.union(NegotiateFlags::EXTENDED_SESSIONSECURITY),
                ..PLAIN
            },
            Self::TimestampMic => {
                Behaviour { authenticate: AuthenticateRules { require_mic: true, ..PLAIN.authenticate }, ..PLAIN }
            }
            Self::KeyExchange => Behaviour {
                authenticate: AuthenticateRules { require_mic: true, ..PLAIN.authenticate },
                ..with_message(MessageStyle {
                    insisted: NegotiateFlags::KEY_EXCH.union(NegotiateFlags::SIGN),
                    ..PLAIN.message
                })
            },
            Self::NoTargetInfo => with_target_info(TargetInfo::Absent),
            Self::OemOnly => with_message(MessageStyle {
                unsupported: NegotiateFlags::UNICODE,
                insisted: NegotiateFlags::OEM,
                ..PLAIN.message
            }),
            Self::LyingLengths => with_target_info(TargetInfo::Elsewhere),
            Self::NoEol => with_target_info(TargetInfo::NoEol),
            Self::BigTargetInfo => with_target_info(TargetInfo::Padded(16 * 1024)),
            Self::HugeTargetInfo => with_target_info(TargetInfo::Padded(65_000)),
            Self::V1Ess => {
                Behaviour { authenticate: AuthenticateRules { v1_ess: true, ..PLAIN.authenticate }, ..PLAIN }
            }
            _ => PLAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_personality_but_the_plain_one_differs_from_it() {
        let plain = format!("{PLAIN:?}");
        for personality in Personality::ALL {
            let same = format!("{:?}", personality.behaviour()) == plain;
            assert_eq!(same, *personality == Personality::Plain, "{personality}");
        }
    }

    #[test]
    fn every_supported_scheme_is_offered_once() {
        for personality in Personality::ALL {
            let offers = personality.behaviour().offers;
            let Some(scheme) = offers.scheme else { continue };
            let found = offers.list.iter().filter(|offer| offer.eq_ignore_ascii_case(scheme)).count();
            assert_eq!(found, 1, "{personality}");
        }
    }
}
