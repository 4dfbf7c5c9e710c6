//! The names of the stub's behaviours.

use std::fmt;
use std::str::FromStr;

/// Generates the enum, `ALL`, `name` and `description` from one list, so that none of them can miss a personality.
macro_rules! personalities {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)*) => {
        /// How the stub upstream behaves.
        ///
        /// Each personality imitates something that real proxies have been seen to do. Unless it says otherwise, it
        /// requires NTLMv2, keeps connections alive and verifies every AUTHENTICATE_MESSAGE.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Personality {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl Personality {
            /// All personalities, in the order of the list.
            pub const ALL: &'static [Personality] = &[$(Personality::$variant,)*];

            /// Its name, as in `--personality NAME`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Personality::$variant => $name,)*
                }
            }

            /// What it does, in one or two sentences.
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
    /// The first 407 offers Negotiate, Kerberos and NTLM, has a body of 701 bytes, and ends the connection (ISA Server,
    /// IronPort).
    IsaFirst407Closes = "isa-first-407-closes",
    /// Closes the connection after the CHALLENGE_MESSAGE, so no handshake can succeed.
    ChallengeThenClose = "challenge-then-close",
    /// Sends only `Proxy-Connection: close` with the CHALLENGE_MESSAGE, and closes the connection.
    ProxyConnectionCloseOnly = "proxy-connection-close-only",
    /// Answers in HTTP/1.0 with `Connection: Keep-Alive`.
    Http10KeepAlive = "http10-keep-alive",
    /// Answers in HTTP/1.0, and keeps a connection only if the request has `Proxy-Connection: Keep-Alive`.
    Http10 = "http10",
    /// Every 407 has a body of 3 KB with its Content-Length (Squid).
    BodyLength3k = "body-length-3k",
    /// Every 407 has a chunked body with extensions and trailers.
    BodyChunkedTrailers = "body-chunked-trailers",
    /// A 407 without a challenge has a body that ends with the connection.
    BodyToClose = "body-to-close",
    /// Every 407 has an endless chunked body.
    BodyEndless = "body-endless",
    /// Every 407 has a body of 1 GiB.
    BodyHuge = "body-huge",
    /// The body of every 407 is followed by bytes that look like a 200.
    BytesAfterBody = "bytes-after-body",
    /// Two 1xx responses precede each final one.
    InformationalFirst = "informational-first",
    /// Status lines have no reason phrase, and no space before it.
    NoReason = "no-reason",
    /// The reason phrase has parentheses, colons and non-ASCII bytes.
    OddReason = "odd-reason",
    /// The token of the challenge is on a folded line of its own.
    FoldedLines = "folded-lines",
    /// The 200 to a CONNECT has a Content-Length.
    OkWithContentLength = "ok-with-content-length",
    /// The 200 to a CONNECT has `Transfer-Encoding: chunked`.
    OkWithTransferEncoding = "ok-with-transfer-encoding",
    /// The origin's first bytes arrive in the same segment as the 200.
    OkWithTunnelBytes = "ok-with-tunnel-bytes",
    /// Sends every response one byte at a time, a millisecond apart.
    ByteAtATime = "byte-at-a-time",
    /// Closes a connection, challenged or authenticated, after half a second without data (Blue Coat: 10–15 s).
    ClosesIdle = "closes-idle",
    /// Resets a connection on which an AUTHENTICATE_MESSAGE arrives without a challenge before it (McAfee).
    OneConnection = "one-connection",
    /// Ignores a NEGOTIATE_MESSAGE on a connection on which it has not sent a 407 before.
    AsksFirst = "asks-first",

    // Authentication.
    /// Answers 200 to any CONNECT, with or without credentials (Cisco, which remembers the address).
    Open = "open",
    /// Answers requests without credentials, and never those with credentials (exempt destinations of some filters).
    HangsOnCredentials = "hangs-on-credentials",
    /// Exempts destinations named `….exempt.…`: admits requests without credentials, and never answers those with
    /// credentials.
    ExemptHangs = "exempt-hangs",
    /// All challenges are on one line, with commas in quoted strings among them.
    ChallengesJoined = "challenges-joined-on-one-line",
    /// Field name and scheme are in unusual letter case.
    ChallengesAnyCase = "challenges-any-case",
    /// NTLM is the last of the schemes on separate lines.
    ChallengesNotFirst = "challenges-not-first",
    /// Other schemes are listed before and after the CHALLENGE_MESSAGE.
    OtherSchemesBeside = "other-schemes-beside",
    /// Refuses every AUTHENTICATE_MESSAGE with a 407, valid or not.
    Refuses = "refuses",
    /// Answers a valid AUTHENTICATE_MESSAGE with 407 if the destination's name begins with `blocked.`.
    Policy407 = "policy-407",
    /// Asks for authentication again after two requests on a connection.
    Forgets = "forgets",
    /// Authenticates single requests, not connections.
    PerRequestAuth = "per-request-auth",
    /// Denies a request with forwarded hop-by-hop fields of the client: a second Proxy-Authorization, a scheme other
    /// than NTLM's, a `close` (ISA).
    DeniesClientFields = "denies-client-fields",
    /// Offers Negotiate only, and accepts NTLMSSP in it, raw or in SPNEGO.
    NegotiateOnly = "negotiate-only",
    /// Sends a SPNEGO token in the scheme NTLM.
    SpnegoUnderNtlm = "spnego-under-ntlm",
    /// Asks with 401, WWW-Authenticate and a BCSI cookie (Blue Coat, transparent).
    Transparent401 = "transparent-401",
    /// Offers Basic and nothing else.
    BasicOnly = "basic-only",
    /// Answers a NEGOTIATE_MESSAGE with Squid's page that says NTLM requires a persistent connection.
    SquidNoKeepAlive = "squid-no-keep-alive",

    // NTLM messages.
    /// Refuses a NEGOTIATE_MESSAGE without NEGOTIATE_NTLM and ALWAYS_SIGN (WinGate).
    Wingate = "wingate",
    /// Requires extended session security and 128-bit keys (NtlmMinServerSec 0x20080000).
    Strict128Ess = "strict-128-ess",
    /// Sends a timestamp and requires a MIC.
    TimestampMic = "timestamp-mic",
    /// Selects KEY_EXCH, sends a timestamp and verifies the MIC with the exchanged key.
    KeyExchange = "key-exchange",
    /// Sends a CHALLENGE_MESSAGE without TargetInfo.
    NoTargetInfo = "no-target-info",
    /// Sends a CHALLENGE_MESSAGE that selects OEM strings.
    OemOnly = "oem-only",
    /// Sends a CHALLENGE_MESSAGE whose TargetInfo has an offset beyond its end.
    LyingLengths = "lying-lengths",
    /// Sends a TargetInfo without MsvAvEOL.
    NoEol = "no-eol",
    /// Sends a well-formed TargetInfo of 16 KiB.
    BigTargetInfo = "big-target-info",
    /// Sends a well-formed TargetInfo of 64 KiB.
    HugeTargetInfo = "huge-target-info",
    /// Accepts only NTLMv1 with extended session security.
    V1Ess = "v1-ess",

    // Failures.
    /// Answers a valid AUTHENTICATE_MESSAGE with 403 and a page.
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
    /// Answers an AUTHENTICATE_MESSAGE with a new CHALLENGE_MESSAGE if the first one is older than half a second.
    StaleChallenges = "stale-challenges",
}

impl fmt::Display for Personality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No personality has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no personality {got:?}; known are: {}", Personality::names())]
pub struct UnknownPersonality {
    /// The name.
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
    fn every_personality_is_found_by_its_unique_name() {
        let names: HashSet<_> = Personality::ALL.iter().map(|personality| personality.name()).collect();
        assert_eq!(names.len(), Personality::ALL.len());
        for personality in Personality::ALL {
            assert_eq!(personality.name().parse(), Ok(*personality));
        }
    }

    #[test]
    fn every_personality_has_a_description() {
        for personality in Personality::ALL {
            let text = personality.description();
            assert!(text.ends_with(['.', ')']) && !text.contains("  "), "{personality}: {text}");
        }
        assert_eq!(Personality::Slow.description(), "Answers after two seconds.");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_names() {
        let error = "plane".parse::<Personality>().unwrap_err().to_string();
        assert!(error.contains("\"plane\"") && error.contains("plain, isa-first-407-closes"), "{error}");
    }
}
