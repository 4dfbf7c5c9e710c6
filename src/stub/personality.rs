//! The names under which the stub's behaviours are asked for.

use std::fmt;
use std::str::FromStr;

/// Makes the enum, `ALL`, `name` and `description` from one list, so that none of them can miss a personality.
macro_rules! personalities {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// How the stub upstream behaves.
        ///
        /// A closed set. Each stands for something that real proxies were seen to do; what it is made of is data, see
        /// `catalogue`. Unless it says otherwise a personality asks for NTLMv2, keeps connections alive and verifies
        /// every proof.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Personality {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Personality {
            /// Every personality, in the order of the list.
            pub const ALL: &'static [Personality] = &[$(Personality::$variant,)*];

            /// The name it is asked for by, as in `--personality NAME`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Personality::$variant => $name,)*
                }
            }

            /// What it does, in a sentence or two for a list of them.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self {
                    $(Personality::$variant => concat!($($doc),+).trim(),)*
                }
            }
        }
    };
}

personalities! {
    /// A well-behaved proxy.
    Plain = "plain",

    // Connections and framing.
    /// The first 407 offers Negotiate, Kerberos and NTLM, bears a body of 701 bytes, and ends the connection (ISA
    /// Server, IronPort).
    IsaFirst407Closes = "isa-first-407-closes",
    /// The CHALLENGE_MESSAGE comes with a close: no handshake can succeed.
    ChallengeThenClose = "challenge-then-close",
    /// Says `Proxy-Connection: close`, and only that, with the CHALLENGE_MESSAGE, and closes.
    ProxyConnectionCloseOnly = "proxy-connection-close-only",
    /// Answers in HTTP/1.0 with `Connection: Keep-Alive`.
    Http10KeepAlive = "http10-keep-alive",
    /// Answers in HTTP/1.0 and keeps a connection only for a request that says `Proxy-Connection: Keep-Alive`.
    Http10 = "http10",
    /// Every 407 has a body of 3 KB with its Content-Length (Squid).
    BodyLength3k = "body-length-3k",
    /// Every 407 has a chunked body with extensions and trailers.
    BodyChunkedTrailers = "body-chunked-trailers",
    /// A 407 without a challenge has a body that lasts to the close.
    BodyToClose = "body-to-close",
    /// Every 407 has a chunked body that never ends.
    BodyEndless = "body-endless",
    /// Every 407 has a body of 1 GiB.
    BodyHuge = "body-huge",
    /// Behind the body of every 407 come bytes that look like a 200.
    BytesAfterBody = "bytes-after-body",
    /// Two 1xx answers come before each final one.
    InformationalFirst = "informational-first",
    /// Status lines without a reason phrase, not even the blank before it.
    NoReason = "no-reason",
    /// A reason phrase with parentheses, colons and bytes beyond ASCII.
    OddReason = "odd-reason",
    /// The token of the challenge stands on a folded line of its own.
    FoldedLines = "folded-lines",
    /// The 200 to a CONNECT has a Content-Length.
    OkWithContentLength = "ok-with-content-length",
    /// The 200 to a CONNECT has `Transfer-Encoding: chunked`.
    OkWithTransferEncoding = "ok-with-transfer-encoding",
    /// The origin's first bytes come in the same segment as the 200.
    OkWithTunnelBytes = "ok-with-tunnel-bytes",
    /// Every answer comes one byte at a time, a millisecond apart.
    ByteAtATime = "byte-at-a-time",
    /// Closes a connection, challenged or authenticated, on which nothing came for half a second (Blue Coat: 10–15 s).
    ClosesIdle = "closes-idle",
    /// Resets a connection that brings an AUTHENTICATE_MESSAGE for a challenge it never had (McAfee).
    OneConnection = "one-connection",
    /// Looks at no NEGOTIATE_MESSAGE before it has asked for one on that connection.
    AsksFirst = "asks-first",

    // Authentication.
    /// Answers 200 to any CONNECT, with credentials or without (Cisco, which remembers the address).
    Open = "open",
    /// Answers a request without credentials and never one with them (exempt destinations of some filters).
    HangsOnCredentials = "hangs-on-credentials",
    /// Exempts destinations named `….exempt.…`: it lets them in without credentials and never answers with them.
    ExemptHangs = "exempt-hangs",
    /// All challenges stand on one line, with commas in quoted strings between them.
    ChallengesJoined = "challenges-joined-on-one-line",
    /// Field name and scheme are in odd letter case.
    ChallengesAnyCase = "challenges-any-case",
    /// NTLM is the last of the schemes on separate lines.
    ChallengesNotFirst = "challenges-not-first",
    /// Other schemes stand beside the CHALLENGE_MESSAGE, before and behind it.
    OtherSchemesBeside = "other-schemes-beside",
    /// Refuses every proof with a bare 407, the right one too.
    Refuses = "refuses",
    /// Answers a right proof with 407 if the destination's name begins with `blocked.`.
    Policy407 = "policy-407",
    /// Forgets after two requests that the connection was authenticated.
    Forgets = "forgets",
    /// Authenticates one request and not the connection.
    PerRequestAuth = "per-request-auth",
    /// Denies a request in which a client's own fields were passed on: a second Proxy-Authorization, a scheme that is
    /// not NTLM's, a `close` (ISA).
    DeniesClientFields = "denies-client-fields",
    /// Offers Negotiate only and takes NTLMSSP in it, raw or in SPNEGO.
    NegotiateOnly = "negotiate-only",
    /// Answers under NTLM with a SPNEGO token.
    SpnegoUnderNtlm = "spnego-under-ntlm",
    /// Asks with 401, WWW-Authenticate and a BCSI cookie (Blue Coat, transparent).
    Transparent401 = "transparent-401",
    /// Offers Basic and nothing else.
    BasicOnly = "basic-only",
    /// Answers a NEGOTIATE_MESSAGE with Squid's page that NTLM requires a persistent connection.
    SquidNoKeepAlive = "squid-no-keep-alive",

    // NTLM messages.
    /// Refuses a NEGOTIATE_MESSAGE without NEGOTIATE_NTLM and ALWAYS_SIGN (WinGate).
    Wingate = "wingate",
    /// Demands extended session security and 128-bit keys (NtlmMinServerSec 0x20080000).
    Strict128Ess = "strict-128-ess",
    /// Tells its time and demands a MIC.
    TimestampMic = "timestamp-mic",
    /// Selects KEY_EXCH, tells its time and checks the MIC under the exchanged key.
    KeyExchange = "key-exchange",
    /// A CHALLENGE_MESSAGE without TargetInfo.
    NoTargetInfo = "no-target-info",
    /// A CHALLENGE_MESSAGE that selects OEM strings.
    OemOnly = "oem-only",
    /// A CHALLENGE_MESSAGE whose TargetInfo claims to lie beyond its end.
    LyingLengths = "lying-lengths",
    /// A TargetInfo without MsvAvEOL.
    NoEol = "no-eol",
    /// A TargetInfo of 16 KiB, well-formed.
    BigTargetInfo = "big-target-info",
    /// A TargetInfo of 64 KiB, well-formed.
    HugeTargetInfo = "huge-target-info",
    /// Takes NTLMv1 with extended session security and nothing else.
    V1Ess = "v1-ess",

    // Failures.
    /// Answers 403 with a page once the proof is right.
    Forbidden = "forbidden",
    /// Answers everything with 503 and a page.
    Unavailable = "unavailable",
    /// Answers after two seconds.
    Slow = "slow",
    /// Accepts connections and never answers.
    Silent = "silent",
    /// Closes every connection at once.
    ClosesOnAccept = "closes-on-accept",
    /// Resets the connection instead of answering an AUTHENTICATE_MESSAGE.
    ResetsMidHandshake = "resets-mid-handshake",
    /// Answers every AUTHENTICATE_MESSAGE with a new CHALLENGE_MESSAGE.
    Rechallenges = "rechallenge-after-authenticate",
    /// Answers an AUTHENTICATE_MESSAGE with a new CHALLENGE_MESSAGE where the first one is older than half a second.
    StaleChallenges = "stale-challenges",
}

impl fmt::Display for Personality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no personality has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no personality is called {got:?}; there are: {}", Personality::names())]
pub struct UnknownPersonality {
    /// The name that was asked for.
    pub got: String,
}

impl Personality {
    fn names() -> String {
        Self::ALL.iter().map(|personality| personality.name()).collect::<Vec<_>>().join(", ")
    }
}

impl FromStr for Personality {
    type Err = UnknownPersonality;

    fn from_str(name: &str) -> Result<Self, UnknownPersonality> {
        let found = Self::ALL.iter().find(|personality| personality.name() == name);
        found.copied().ok_or_else(|| UnknownPersonality { got: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_personality_has_a_name_of_its_own_and_is_found_by_it() {
        let names: HashSet<_> = Personality::ALL.iter().map(|personality| personality.name()).collect();
        assert_eq!(names.len(), Personality::ALL.len());
        for personality in Personality::ALL {
            assert_eq!(personality.name().parse(), Ok(*personality));
        }
    }

    #[test]
    fn every_personality_says_what_it_does() {
        for personality in Personality::ALL {
            let text = personality.description();
            assert!(text.ends_with(['.', ')']) && !text.contains("  "), "{personality}: {text}");
        }
        assert_eq!(Personality::Slow.description(), "Answers after two seconds.");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "plane".parse::<Personality>().unwrap_err().to_string();
        assert!(error.contains("\"plane\"") && error.contains("plain, isa-first-407-closes"), "{error}");
    }
}
