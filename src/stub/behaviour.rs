//! What a personality does: one struct of settings, so that most new behaviours need a line of data and no code. The
//! lines are in `catalogue`.

use std::time::Duration;

use crate::http::Version;
use crate::ntlm::NegotiateFlags;

/// The settings. [`PLAIN`] is a well-behaved proxy; the other personalities say where they differ from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Behaviour {
    /// What happens to a connection when it is accepted.
    pub on_accept: OnAccept,
    /// Which requests are admitted.
    pub access: AccessRule,
    /// The pause before each response, in addition to the delay that all personalities share.
    pub answer_wait: Duration,
    /// A connection is closed when nothing was received on it for this long.
    pub idle_close: Option<Duration>,
    /// How bytes are written to the network.
    pub delivery: Delivery,
    /// The start line and the fields that all responses share.
    pub head: HeadStyle,
    /// A 407 without a challenge.
    pub unchallenged: AuthRequired,
    /// A 407 with a challenge.
    pub challenge: AuthRequired,
    /// The challenges, and how they are listed.
    pub offers: Offers,
    /// The CHALLENGE_MESSAGE.
    pub message: MessageStyle,
    /// What a NEGOTIATE_MESSAGE must offer.
    pub required_flags: NegotiateFlags,
    /// Which AUTHENTICATE_MESSAGEs are valid.
    pub authenticate: AuthenticateRules,
    /// What is done about an AUTHENTICATE_MESSAGE.
    pub authenticate_handling: AuthenticateHandling,
    /// How many requests one logon admits; `None`: all requests on the connection.
    pub requests_per_logon: Option<u32>,
    /// What the 200 to a CONNECT looks like.
    pub established: Established,
    /// Rules about connections, destinations and fields.
    pub rules: ConnectionRules,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnAccept {
    Serve,
    Close,
    /// Reads, and never responds.
    Mute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessRule {
    /// Admits authenticated requests.
    Authenticated,
    /// Admits all requests.
    Open,
    /// Admits requests without credentials, and never responds to others.
    NoCredentials,
    /// Answers all requests with 503.
    Unavailable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    ByteAtATime,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HeadStyle {
    pub version: Version,
    /// 407, or 401 for a proxy that poses as the origin.
    pub auth_status: u16,
    /// What follows the status: a space and the reason phrase, if any.
    pub auth_reason: &'static str,
    /// Interim responses that are sent before, complete.
    pub interim: &'static str,
    /// The name of the field that contains the challenges.
    pub challenge_field: &'static str,
    /// What follows a field's value on its line.
    pub line_tail: &'static str,
    /// Further field lines of a 407, each with its line end.
    pub more_fields: &'static str,
    /// What separates scheme and token.
    pub token_separator: &'static str,
}

/// What a 407 looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct AuthRequired {
    pub body: PageBody,
    pub ending: Ending,
    /// Bytes after the body that belong to no response.
    pub stray: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageBody {
    /// `Content-Length: 0`.
    Empty,
    /// This many bytes, with their Content-Length.
    Length(u64),
    /// This text, with its Content-Length.
    Text(&'static str),
    /// Chunked, with an extension and trailers.
    Chunked,
    /// Without a length; ended by the close.
    ToClose,
    /// Chunked, endless.
    Endless,
}

/// What happens to the connection after a 407, and what the 407 says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Stays open; says keep-alive in both fields.
    KeepAlive,
    /// Stays open; says nothing, which means the same in HTTP/1.1.
    Unsaid,
    /// Closes; says so in both fields.
    Close,
    /// Closes; says so only in Proxy-Connection.
    ProxyConnectionClose,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Offers {
    /// The challenges, in order. The one whose scheme is `scheme` gets the token.
    pub list: &'static [&'static str],
    /// The supported scheme; `None`: none that NTLM could be used with.
    pub scheme: Option<&'static str>,
    /// All on one line.
    pub joined: bool,
    /// The others are also listed beside the one with the token.
    pub beside_token: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct MessageStyle {
    pub target_info: TargetInfo,
    /// Flags that are not accepted although the client offers them.
    pub unsupported: NegotiateFlags,
    /// Flags that are selected although the client does not offer them.
    pub insisted: NegotiateFlags,
    /// Sent in a SPNEGO token, whether or not the client's message was.
    pub wrapped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetInfo {
    Absent,
    /// The four names.
    Names,
    /// The four names and the time.
    NamesAndTime,
    /// The four names, and no MsvAvEOL.
    NoEol,
    /// The four names and a pair with this many bytes.
    Padded(u16),
    /// The four names, at an offset beyond the end of the message.
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct AuthenticateRules {
    /// NTLMv1 with extended session security instead of NTLMv2.
    pub v1_ess: bool,
    pub require_mic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthenticateHandling {
    /// It is verified.
    Verify,
    /// It is refused, valid or not.
    Refuse,
    /// It is answered with a new challenge, valid or not.
    Rechallenge,
    /// It is verified if the challenge is not older than this, and answered with a new challenge otherwise.
    VerifyWithin(Duration),
    /// It is verified, and a valid one is answered with 403.
    Forbid,
    /// The connection is reset.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Established {
    /// With a Via field only.
    Plain,
    /// With fields that would frame a body, which have no meaning here (RFC 9110 §9.3.6).
    WithFields(&'static str),
    /// With the origin's first bytes in the same segment.
    WithFirstBytes,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionRules {
    /// A connection stays open only if the request asks for it in Proxy-Connection.
    pub keep_alive_on_demand: bool,
    /// An AUTHENTICATE_MESSAGE without a challenge before it is answered with a reset.
    pub resets_unchallenged: bool,
    /// A NEGOTIATE_MESSAGE is ignored on a connection that has not been answered with a 407 before.
    pub asks_first: bool,
    /// A NEGOTIATE_MESSAGE is never answered with a challenge.
    pub never_challenges: bool,
    /// Destinations under `blocked.` are refused with 407 even if the AUTHENTICATE_MESSAGE is valid.
    pub blocks_by_name: bool,
    /// Requests for destinations whose second label is `exempt` are admitted without credentials, and never answered
    /// with them.
    pub exempts_by_name: bool,
    /// A request with hop-by-hop fields of the client is denied.
    pub denies_client_fields: bool,
}

const NO_FLAGS: NegotiateFlags = NegotiateFlags::from_bits(0);

/// A well-behaved proxy.
pub(super) const PLAIN: Behaviour = Behaviour {
    on_accept: OnAccept::Serve,
    access: AccessRule::Authenticated,
    answer_wait: Duration::ZERO,
    idle_close: None,
    delivery: Delivery::Whole,
    head: HeadStyle {
        version: Version::Http11,
        auth_status: 407,
        auth_reason: " Proxy Authentication Required",
        interim: "",
        challenge_field: "Proxy-Authenticate",
        line_tail: "",
        more_fields: "",
        token_separator: " ",
    },
    unchallenged: AuthRequired { body: PageBody::Text(AUTH_REQUIRED_PAGE), ending: Ending::KeepAlive, stray: b"" },
    challenge: AuthRequired { body: PageBody::Empty, ending: Ending::KeepAlive, stray: b"" },
    offers: Offers { list: &["NTLM"], scheme: Some("NTLM"), joined: false, beside_token: false },
    message: MessageStyle {
        target_info: TargetInfo::NamesAndTime,
        unsupported: NO_FLAGS,
        insisted: NO_FLAGS,
        wrapped: false,
    },
    required_flags: NO_FLAGS,
    authenticate: AuthenticateRules { v1_ess: false, require_mic: false },
    authenticate_handling: AuthenticateHandling::Verify,
    requests_per_logon: None,
    established: Established::Plain,
    rules: ConnectionRules {
        keep_alive_on_demand: false,
        resets_unchallenged: false,
        asks_first: false,
        never_challenges: false,
        blocks_by_name: false,
        exempts_by_name: false,
        denies_client_fields: false,
    },
};

const AUTH_REQUIRED_PAGE: &str = "<html><body><h1>Proxy Authentication Required</h1></body></html>\n";
