//! What a personality is made of: one struct of knobs, so that a new behaviour is a line of data and no code path. The
//! lines are in `catalogue`.

use std::time::Duration;

use crate::http::Version;
use crate::ntlm::NegotiateFlags;

/// The knobs. [`PLAIN`] is a well-behaved proxy; every other personality says where it differs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    /// What a connection meets before it has said anything.
    pub door: Door,
    /// What a request must bring to be let in.
    pub gate: Gate,
    /// How long each answer takes, beside the delay that all answers share.
    pub answer_wait: Duration,
    /// A connection is closed when nothing came on it for that long.
    pub idle_close: Option<Duration>,
    /// How bytes are handed to the network.
    pub delivery: Delivery,
    /// Start line and fields that all answers share.
    pub head: HeadStyle,
    /// A 407 without a challenge.
    pub bare: Demand,
    /// A 407 with a challenge.
    pub challenge: Demand,
    /// The challenges and how they are listed.
    pub offers: Offers,
    /// The CHALLENGE_MESSAGE.
    pub message: MessageStyle,
    /// What a NEGOTIATE_MESSAGE must offer.
    pub needed: NegotiateFlags,
    /// What counts as a proof.
    pub proof: Proof,
    /// What is done about a proof.
    pub verdict: Verdict,
    /// How many requests one proof lets in; `None`: all of the connection.
    pub lasts_requests: Option<u32>,
    /// How a tunnel is granted.
    pub established: Established,
    /// The rules about connections and fields.
    pub rules: Rules,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Opens,
    Closes,
    /// Reads and never answers.
    Mute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Proof,
    Open,
    /// Lets in what has no credentials, never answers what has.
    NoCredentials,
    /// 503 for all.
    Shut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    ByteAtATime,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HeadStyle {
    pub version: Version,
    /// 407, or 401 of a proxy that poses as the origin.
    pub demand_status: u16,
    /// All that follows the status: the blank and the reason phrase, if any.
    pub demand_reason: &'static str,
    /// Interim answers sent before, complete.
    pub interim: &'static str,
    /// The name of the field that bears the challenges.
    pub challenge_field: &'static str,
    /// What stands between a field's value and its line end.
    pub line_tail: &'static str,
    /// Further field lines of a demand, each with its line end.
    pub more_fields: &'static str,
    /// What stands between scheme and token.
    pub token_blank: &'static str,
}

/// A 407.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    pub body: Body,
    pub ending: Ending,
    /// Bytes that follow the body and belong to nothing.
    pub stray: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// `Content-Length: 0`.
    Empty,
    /// That many bytes, with their Content-Length.
    Length(u64),
    /// The page of that text, with its Content-Length.
    Text(&'static str),
    /// Chunked, with an extension and trailers.
    Chunked,
    /// Without a length; the close ends it.
    ToClose,
    /// Chunked, without an end.
    Endless,
}

/// What becomes of the connection behind a 407, and what the 407 says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Stays; says keep-alive in both fields.
    KeepAlive,
    /// Stays; says so only in HTTP/1.1's silence.
    Unsaid,
    /// Closes; says so in both fields.
    Close,
    /// Closes; says so in Proxy-Connection only.
    ProxyConnectionClose,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Offers {
    /// The challenges in their order. The one whose scheme is `scheme` gets the token.
    pub list: &'static [&'static str],
    /// The scheme that is spoken; `None`: none that a proof could be given in.
    pub scheme: Option<&'static str>,
    /// All on one line.
    pub joined: bool,
    /// The others stand beside the one with the token, too.
    pub beside_token: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct MessageStyle {
    pub target_info: TargetInfo,
    /// Flags that are not agreed to although they are offered.
    pub unsupported: NegotiateFlags,
    /// Flags that are selected unasked.
    pub insisted: NegotiateFlags,
    /// In a SPNEGO token, whatever the client's was.
    pub wrapped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetInfo {
    Absent,
    /// The four names.
    OriginResolver,
    /// The four names and the time.
    NamesAndTime,
    /// The four names, and no MsvAvEOL.
    NoEol,
    /// The four names and a pair of that many bytes.
    Padded(u16),
    /// The four names, at an offset beyond the end of the message.
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Proof {
    /// NTLMv1 with extended session security instead of NTLMv2.
    pub v1_ess: bool,
    pub require_mic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As the proof is.
    Just,
    /// Refused in any case.
    Refuse,
    /// A new challenge in any case.
    Rechallenge,
    /// As the proof is, if the challenge is not older than this; a new challenge otherwise.
    JustWithin(Duration),
    /// As the proof is; then 403.
    Forbid,
    /// A reset before the proof is looked at.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Established {
    /// A Via field and nothing else.
    Plain,
    /// With fields that would frame a body, and have no meaning here (RFC 9110 §9.3.6).
    WithFields(&'static str),
    /// With the origin's first bytes in the same segment.
    WithFirstBytes,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// A connection stays only for a request that asks for it by Proxy-Connection.
    pub keep_alive_on_demand: bool,
    /// An AUTHENTICATE_MESSAGE that answers nothing is answered with a reset.
    pub resets_unchallenged: bool,
    /// A NEGOTIATE_MESSAGE that was not asked for on this connection is not looked at.
    pub asks_first: bool,
    /// A NEGOTIATE_MESSAGE is never answered with a challenge.
    pub never_challenges: bool,
    /// A right proof does not help with destinations under `blocked.`.
    pub blocks_by_name: bool,
    /// Destinations whose second label is `exempt` are let in without credentials, and not answered with them.
    pub exempts_by_name: bool,
    /// A request with a client's own hop fields is denied.
    pub denies_client_fields: bool,
}

const NO_FLAGS: NegotiateFlags = NegotiateFlags::from_bits(0);

/// A well-behaved proxy.
pub(super) const PLAIN: Behaviour = Behaviour {
    door: Door::Opens,
    gate: Gate::Proof,
    answer_wait: Duration::ZERO,
    idle_close: None,
    delivery: Delivery::Whole,
    head: HeadStyle {
        version: Version::Http11,
        demand_status: 407,
        demand_reason: " Proxy Authentication Required",
        interim: "",
        challenge_field: "Proxy-Authenticate",
        line_tail: "",
        more_fields: "",
        token_blank: " ",
    },
    bare: Demand { body: Body::Text(ASKING_PAGE), ending: Ending::KeepAlive, stray: b"" },
    challenge: Demand { body: Body::Empty, ending: Ending::KeepAlive, stray: b"" },
    offers: Offers { list: &["NTLM"], scheme: Some("NTLM"), joined: false, beside_token: false },
    message: MessageStyle {
        target_info: TargetInfo::NamesAndTime,
        unsupported: NO_FLAGS,
        insisted: NO_FLAGS,
        wrapped: false,
    },
    needed: NO_FLAGS,
    proof: Proof { v1_ess: false, require_mic: false },
    verdict: Verdict::Just,
    lasts_requests: None,
    established: Established::Plain,
    rules: Rules {
        keep_alive_on_demand: false,
        resets_unchallenged: false,
        asks_first: false,
        never_challenges: false,
        blocks_by_name: false,
        exempts_by_name: false,
        denies_client_fields: false,
    },
};

const ASKING_PAGE: &str = "<html><body><h1>Proxy Authentication Required</h1></body></html>\n";
