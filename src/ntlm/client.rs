//! The client side of the handshake (MS-NLMP 3.1.5): sends NEGOTIATE_MESSAGE, receives CHALLENGE_MESSAGE, sends
//! AUTHENTICATE_MESSAGE.
//!
//! There is no state between the two calls except the messages, which the caller keeps. The MIC covers all of them.

use std::borrow::Cow;

use thiserror::Error;

use super::authenticate::{self, Encoder, MIC_AT, MIC_SIZE, PayloadOrder, SHORT_RESPONSE_SIZE};
use super::av_pair::{self, AvError, AvId, AvPairs};
use super::challenge::ChallengeMessage;
use super::credential::{Identity, Method};
use super::crypto::{self, Key, ResponseKey};
use super::file_time::FileTime;
use super::flags::NegotiateFlags;
use super::negotiate::NegotiateMessage;
use super::wire::{Charset, MessageError, Version, utf16le};

/// The bit in MsvAvFlags that indicates that the AUTHENTICATE_MESSAGE has a MIC.
pub(super) const AV_FLAG_MIC: u32 = 0x0000_0002;

/// The longest OEM name in a NEGOTIATE_MESSAGE, in bytes. NetBIOS names have at most 15.
const OEM_NAME_LIMIT_BYTES: usize = 255;

/// The contents of a NEGOTIATE_MESSAGE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateOptions {
    /// The offered flags. VERSION and the OEM_…_SUPPLIED flags are set according to the fields below, not by this
    /// field.
    pub flags: NegotiateFlags,
    /// The Version. With `None` it is omitted.
    pub version: Option<Version>,
    /// The DomainName, a hint for the server. Characters beyond ASCII become `?`, and it is truncated to 255 bytes.
    pub domain: Option<String>,
    /// The Workstation, with the same limits.
    pub workstation: Option<String>,
}

impl NegotiateOptions {
    /// 0xa2088207, exactly what browsers on Windows send, so that every proxy is used to it.
    ///
    /// - NTLM and ALWAYS_SIGN: some proxies (WinGate) reject an offer without them.
    /// - EXTENDED_SESSIONSECURITY and 128: a server with NtlmMinServerSec 0x20080000 requires them. 56 is for servers
    ///   that do not support 128.
    /// - UNICODE and OEM: the server chooses, and only very old ones choose OEM.
    /// - No SIGN and no SEAL, hence no KEY_EXCH: HTTP needs no session key, and for KEY_EXCH without SIGN or SEAL,
    ///   MS-NLMP 3.1.5.1.2 and Samba disagree on the key for the MIC. Without KEY_EXCH, the ExportedSessionKey is
    ///   always the KeyExchangeKey. If a server selects KEY_EXCH although it was not offered, the client uses it.
    pub const DEFAULT_FLAGS: NegotiateFlags = NegotiateFlags::UNICODE
        .union(NegotiateFlags::OEM)
        .union(NegotiateFlags::REQUEST_TARGET)
        .union(NegotiateFlags::NTLM)
        .union(NegotiateFlags::ALWAYS_SIGN)
        .union(NegotiateFlags::EXTENDED_SESSIONSECURITY)
        .union(NegotiateFlags::VERSION)
        .union(NegotiateFlags::KEY_128)
        .union(NegotiateFlags::KEY_56);
}

impl Default for NegotiateOptions {
    fn default() -> Self {
        Self {
            flags: Self::DEFAULT_FLAGS,
            version: Some(Version::WINDOWS_10),
            // Omitted, as Windows does, because they would reveal names before the proxy asks for any.
            domain: None,
            workstation: None,
        }
    }
}

/// The external inputs of an AUTHENTICATE_MESSAGE. It has no `Debug`, because it contains a key.
#[derive(Clone, Copy)]
pub struct AuthenticateInputs<'a> {
    /// ClientChallenge: eight random bytes, new for every message.
    pub client_challenge: [u8; 8],
    /// ExportedSessionKey: sixteen random bytes, new for every message. Used only if the server selects KEY_EXCH.
    pub exported_session_key: [u8; 16],
    /// The current time, used if the server does not send its own.
    pub now: FileTime,
    /// The SPN for MsvAvTargetName, such as `HTTP/proxy.corp`.
    pub target_name: Option<&'a str>,
    /// The hash for MsvAvChannelBindings (RFC 5929 tls-server-end-point), if the connection uses TLS.
    pub channel_bindings: Option<[u8; 16]>,
}

/// Why a CHALLENGE_MESSAGE cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticateError {
    /// The caller passed a malformed NEGOTIATE_MESSAGE.
    #[error("own NEGOTIATE_MESSAGE: {0}")]
    Negotiate(#[source] MessageError),
    /// The peer's CHALLENGE_MESSAGE is malformed.
    #[error("CHALLENGE_MESSAGE: {0}")]
    Challenge(#[source] MessageError),
    /// The peer's TargetInfo is malformed.
    #[error("TargetInfo of the CHALLENGE_MESSAGE: {0}")]
    TargetInfo(#[from] AvError),
    /// NTLMv1-ESS is configured and the server did not select extended session security.
    ///
    /// The client does not fall back to plain NTLMv1, whose response depends only on a challenge that the server chose.
    #[error("NTLMv1-ESS is configured, but the server's flags {flags} lack extended session security")]
    NoExtendedSessionSecurity {
        /// The flags that the server sent.
        flags: NegotiateFlags,
    },
    /// The server accepts only OEM strings, and a name has characters beyond ASCII.
    ///
    /// The code page is unknown, and with a wrong guess the server would count a wrong password.
    #[error("the server accepts only OEM strings, and {field} has characters beyond ASCII")]
    NotOem {
        /// The field of the name.
        field: &'static str,
    },
    /// A value of the AUTHENTICATE_MESSAGE is too long for its field.
    #[error("AUTHENTICATE_MESSAGE: {0}")]
    Encode(#[source] MessageError),
}

/// The NEGOTIATE_MESSAGE for `identity` (MS-NLMP 3.1.5.1.1). If the identity uses NTLMv1-ESS, EXTENDED_SESSIONSECURITY
/// is always offered.
#[must_use]
pub fn negotiate(identity: &Identity, options: &NegotiateOptions) -> Vec<u8> {
    let supplied = NegotiateFlags::OEM_DOMAIN_SUPPLIED | NegotiateFlags::OEM_WORKSTATION_SUPPLIED;
    let mut flags = options.flags - supplied - NegotiateFlags::VERSION;
    if options.version.is_some() {
        flags |= NegotiateFlags::VERSION;
    }
    if identity.method() == Method::NtlmV1Ess {
        flags |= NegotiateFlags::EXTENDED_SESSIONSECURITY;
    }
    let domain = options.domain.as_deref().map(oem_hint);
    let workstation = options.workstation.as_deref().map(oem_hint);
    NegotiateMessage { flags, domain: domain.as_deref(), workstation: workstation.as_deref(), version: options.version }
        .encode()
        .expect("names of at most 255 bytes fit their fields")
}

fn oem_hint(name: &str) -> Vec<u8> {
    let ascii = |character| u8::try_from(character).ok().filter(u8::is_ascii).unwrap_or(b'?');
    name.chars().take(OEM_NAME_LIMIT_BYTES).map(ascii).collect()
}

/// The AUTHENTICATE_MESSAGE that answers `challenge` (MS-NLMP 3.1.5.1.2).
///
/// `negotiate` and `challenge` must be the two messages exactly as sent and received on this connection. If the server
/// sends its time (MsvAvTimestamp), NTLMv2 uses that time, and the message has a MIC and 24 zero bytes instead of an
/// LMv2 response. Otherwise it uses `inputs.now` and has an LMv2 response but no MIC.
///
/// # Errors
/// [`AuthenticateError`]. All variants except `Negotiate` and `Encode` are caused by the peer.
pub fn authenticate(
    identity: &Identity,
    negotiate: &[u8],
    challenge: &[u8],
    inputs: &AuthenticateInputs<'_>,
) -> Result<Vec<u8>, AuthenticateError> {
    authenticate_in_form(identity, negotiate, challenge, inputs, Form::default())
}

/// How the message is written. The forms are equivalent, and only test vectors need one other than the default.
#[derive(Clone, Copy, Default)]
pub(super) struct Form {
    pub order: PayloadOrder,
    /// Whether to echo the server's TARGET_TYPE flags, which Windows does not.
    pub keep_target_type: bool,
}

pub(super) fn authenticate_in_form(
    identity: &Identity,
    negotiate: &[u8],
    challenge: &[u8],
    inputs: &AuthenticateInputs<'_>,
    form: Form,
) -> Result<Vec<u8>, AuthenticateError> {
    let offer = NegotiateMessage::decode(negotiate).map_err(AuthenticateError::Negotiate)?;
    let received = ChallengeMessage::decode(challenge).map_err(AuthenticateError::Challenge)?;
    let flags = agreed(offer.flags, received.flags, form);
    let domain = domain_of(identity, &received)?;
    let responses = match identity.method() {
        Method::NtlmV2 => Responses::V2(V2Responses::new(identity, &domain, &received, inputs)?),
        Method::NtlmV1Ess => Responses::V1Ess(ntlm_v1_ess_responses(identity, &received, inputs)?),
    };
    let (names, has_mic) = (names(identity, &domain, flags.charset())?, responses.has_mic());
    let size = names.iter().map(|name| name.len()).sum::<usize>() + responses.size_estimate();
    let mut message = Encoder::new(if has_mic { MIC_AT + MIC_SIZE } else { MIC_AT }, size);
    // No order puts the session key before the response from which it is computed.
    let (mut exported_session_key, mut encrypted_session_key) = (Key::default(), None);
    for index in form.order.indices() {
        message.value(index, |payload| {
            match index {
                authenticate::LM_RESPONSE => payload.extend_from_slice(&responses.lm_response()),
                authenticate::NT_RESPONSE => {
                    let key_exchange_key = responses.write_nt_response(payload)?;
                    let (exported, encrypted) = session_key(flags, &key_exchange_key, inputs);
                    (exported_session_key, encrypted_session_key) = (exported, encrypted);
                }
                authenticate::SESSION_KEY => payload.extend(encrypted_session_key.iter().flatten()),
                _ => payload.extend_from_slice(&names[index - authenticate::DOMAIN]),
            }
            Ok::<(), AuthenticateError>(())
        })?;
    }
    // The field is always present (2.2.1.3), but zero unless both sides set VERSION.
    let version = offer.version.filter(|_| flags.contains(NegotiateFlags::VERSION)).unwrap_or_default();
    let mut message = message.finish(flags, Some(version)).map_err(AuthenticateError::Encode)?;
    if has_mic {
        let mic = crypto::hmac_md5(&exported_session_key, &[negotiate, challenge, &message]);
        message[MIC_AT..MIC_AT + MIC_SIZE].copy_from_slice(&mic);
    }
    Ok(message)
}

/// The flags that both sides agree on: those that were offered and that the server selected.
///
/// Three selections by the server count even if they were not offered: the charset that it reads, the TargetInfo that
/// it sent, and KEY_EXCH, because a server that selects it expects a session key.
fn agreed(offered: NegotiateFlags, selected: NegotiateFlags, form: Form) -> NegotiateFlags {
    let charsets = NegotiateFlags::UNICODE | NegotiateFlags::OEM;
    let target_types = NegotiateFlags::TARGET_TYPE_DOMAIN | NegotiateFlags::TARGET_TYPE_SERVER;
    let always_allowed = charsets | NegotiateFlags::TARGET_INFO | NegotiateFlags::KEY_EXCH;
    let supplied = NegotiateFlags::OEM_DOMAIN_SUPPLIED | NegotiateFlags::OEM_WORKSTATION_SUPPLIED;
    let mut flags = selected & ((offered | always_allowed) - supplied - target_types);
    let charset = match flags.charset() {
        Charset::Unicode => NegotiateFlags::UNICODE,
        Charset::Oem => NegotiateFlags::OEM,
    };
    flags = (flags - charsets) | charset;
    if flags.contains(NegotiateFlags::EXTENDED_SESSIONSECURITY) {
        flags = flags - NegotiateFlags::LM_KEY;
    }
    if form.keep_target_type {
        flags |= selected & target_types;
    }
    flags | (offered & NegotiateFlags::REQUEST_TARGET)
}

/// The domain to authenticate in: the configured one, or the server's if the identity is set up so and the server sends
/// one. MsvAvNbDomainName takes precedence, because TargetName may be the name of a server.
fn domain_of<'a>(identity: &'a Identity, challenge: &ChallengeMessage<'_>) -> Result<Cow<'a, str>, AuthenticateError> {
    if !identity.target_domain() {
        return Ok(Cow::Borrowed(identity.domain()));
    }
    let pair = challenge.target_info.map(|list| av_pair::find(list, AvId::NbDomainName)).transpose()?.flatten();
    let name = match pair.and_then(|pair| pair.text()) {
        Some(name) => name,
        None => challenge.target_name_text().map_err(AuthenticateError::Challenge)?,
    };
    Ok(if name.is_empty() { Cow::Borrowed(identity.domain()) } else { Cow::Owned(name) })
}

/// DomainName, UserName and Workstation in the charset of the message.
fn names<'a>(
    identity: &'a Identity,
    domain: &'a str,
    charset: Charset,
) -> Result<[Cow<'a, [u8]>; 3], AuthenticateError> {
    let encoded = identity.unicode();
    let oem = |name: &'a str, field| {
        if name.is_ascii() { Ok(Cow::Borrowed(name.as_bytes())) } else { Err(AuthenticateError::NotOem { field }) }
    };
    Ok(match charset {
        Charset::Unicode => [
            if domain == identity.domain() { Cow::Borrowed(&*encoded.domain) } else { Cow::Owned(utf16le(domain)) },
            Cow::Borrowed(&*encoded.user),
            Cow::Borrowed(&*encoded.workstation),
        ],
        Charset::Oem => {
            [oem(domain, "DomainName")?, oem(identity.user(), "UserName")?, oem(identity.workstation(), "Workstation")?]
        }
    })
}

/// The two responses to a challenge.
enum Responses<'a> {
    V1Ess(V1EssResponses),
    V2(V2Responses<'a>),
}

impl Responses<'_> {
    fn has_mic(&self) -> bool {
        matches!(self, Responses::V2(V2Responses { server: ServerPairs { time: Some(_), .. }, .. }))
    }

    /// The size of both, or more, in bytes.
    fn size_estimate(&self) -> usize {
        match self {
            Responses::V1Ess(_) => 2 * SHORT_RESPONSE_SIZE,
            Responses::V2(responses) => 256 + responses.challenge.target_info.map_or(0, <[u8]>::len),
        }
    }

    fn lm_response(&self) -> [u8; SHORT_RESPONSE_SIZE] {
        match self {
            Responses::V1Ess(responses) => responses.lm_response,
            Responses::V2(_) if self.has_mic() => [0; SHORT_RESPONSE_SIZE],
            Responses::V2(V2Responses { response_key, challenge, inputs, .. }) => {
                response_key.lm_v2(challenge.server_challenge, inputs.client_challenge)
            }
        }
    }

    /// Appends the NtChallengeResponse; returns the KeyExchangeKey.
    fn write_nt_response(&self, out: &mut Vec<u8>) -> Result<Key, AuthenticateError> {
        match self {
            Responses::V1Ess(responses) => {
                out.extend_from_slice(&responses.nt_response);
                Ok(responses.key_exchange_key)
            }
            Responses::V2(responses) => responses.write_nt_response(out),
        }
    }
}

struct V1EssResponses {
    lm_response: [u8; SHORT_RESPONSE_SIZE],
    nt_response: [u8; SHORT_RESPONSE_SIZE],
    key_exchange_key: Key,
}

/// NTLMv1 with extended session security (MS-NLMP 3.3.1).
fn ntlm_v1_ess_responses(
    identity: &Identity,
    challenge: &ChallengeMessage<'_>,
    inputs: &AuthenticateInputs<'_>,
) -> Result<V1EssResponses, AuthenticateError> {
    if !challenge.flags.contains(NegotiateFlags::EXTENDED_SESSIONSECURITY) {
        return Err(AuthenticateError::NoExtendedSessionSecurity { flags: challenge.flags });
    }
    let (nt_response, key_exchange_key) =
        crypto::v1_ess(identity.nt_hash().key(), challenge.server_challenge, inputs.client_challenge);
    let mut lm_response = [0; SHORT_RESPONSE_SIZE];
    lm_response[..8].copy_from_slice(&inputs.client_challenge);
    Ok(V1EssResponses { lm_response, nt_response, key_exchange_key })
}

/// NTLMv2 (MS-NLMP 3.3.2).
struct V2Responses<'a> {
    response_key: Cow<'a, ResponseKey>,
    server: ServerPairs,
    challenge: &'a ChallengeMessage<'a>,
    inputs: &'a AuthenticateInputs<'a>,
}

impl<'a> V2Responses<'a> {
    fn new(
        identity: &'a Identity,
        domain: &str,
        challenge: &'a ChallengeMessage<'a>,
        inputs: &'a AuthenticateInputs<'a>,
    ) -> Result<Self, AuthenticateError> {
        let response_key = if domain == identity.domain() {
            Cow::Borrowed(identity.response_key())
        } else {
            Cow::Owned(ResponseKey::new(&crypto::ntowf_v2(identity.nt_hash().key(), identity.user(), domain)))
        };
        let server = challenge.target_info.map(ServerPairs::read).transpose()?.unwrap_or_default();
        Ok(Self { response_key, server, challenge, inputs })
    }

    /// Appends the NtChallengeResponse; returns the KeyExchangeKey.
    fn write_nt_response(&self, out: &mut Vec<u8>) -> Result<Key, AuthenticateError> {
        let Self { response_key, server, challenge, inputs } = self;
        let start = out.len();
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&server.time.unwrap_or(inputs.now).0.to_le_bytes());
        out.extend_from_slice(&inputs.client_challenge);
        out.extend_from_slice(&[0; 4]);
        if let Some(list) = challenge.target_info {
            write_av_pairs(out, list, server.flags, server.time.is_some(), inputs)?;
        }
        av_pair::push_eol(out);
        // The Z(4) after the list: no decoder reads it, but NTProofStr covers it.
        out.extend_from_slice(&[0; 4]);
        let (nt_proof_str, temp) = out[start..].split_at_mut(16);
        let (proof, key_exchange_key) = response_key.v2_proof(challenge.server_challenge, temp);
        nt_proof_str.copy_from_slice(&proof);
        Ok(key_exchange_key)
    }
}

/// The values of the server's AV_PAIRs on which the response depends.
#[derive(Default)]
struct ServerPairs {
    time: Option<FileTime>,
    flags: u32,
}

impl ServerPairs {
    /// Reads the whole list, so that any malformed pair is an error.
    fn read(list: &[u8]) -> Result<Self, AvError> {
        let mut pairs = Self::default();
        for pair in AvPairs::new(list) {
            let pair = pair?;
            match pair.id {
                AvId::Timestamp if pairs.time.is_none() => pairs.time = Some(pair.file_time()?),
                AvId::Flags => pairs.flags |= pair.word()?,
                _ => {}
            }
        }
        Ok(pairs)
    }
}

/// Writes the server's pairs, then the client's own, without MsvAvEOL.
///
/// Pairs that the client sets are not copied from the server's list, because the server could otherwise determine their
/// values.
fn write_av_pairs(
    out: &mut Vec<u8>,
    list: &[u8],
    server_flags: u32,
    mic: bool,
    inputs: &AuthenticateInputs<'_>,
) -> Result<(), AuthenticateError> {
    for pair in AvPairs::new(list) {
        let pair = pair?;
        let is_set_by_client = match pair.id {
            AvId::Flags => true,
            AvId::TargetName => inputs.target_name.is_some(),
            AvId::ChannelBindings => inputs.channel_bindings.is_some(),
            _ => false,
        };
        if !is_set_by_client {
            av_pair::push(out, pair.id, pair.value).map_err(AuthenticateError::Encode)?;
        }
    }
    let flags = (server_flags & !AV_FLAG_MIC) | if mic { AV_FLAG_MIC } else { 0 };
    if flags != 0 {
        av_pair::push(out, AvId::Flags, &flags.to_le_bytes()).map_err(AuthenticateError::Encode)?;
    }
    if let Some(hash) = inputs.channel_bindings {
        av_pair::push(out, AvId::ChannelBindings, &hash).map_err(AuthenticateError::Encode)?;
    }
    if let Some(name) = inputs.target_name {
        av_pair::push_text(out, AvId::TargetName, name).map_err(AuthenticateError::Encode)?;
    }
    Ok(())
}

/// ExportedSessionKey, and EncryptedRandomSessionKey if the server selected KEY_EXCH (MS-NLMP 3.1.5.1.2).
///
/// With KEY_EXCH but neither SIGN nor SEAL, a server that follows the specification uses the KeyExchangeKey, and Samba
/// the decrypted EncryptedRandomSessionKey. Sending the KeyExchangeKey itself, encrypted, makes the two equal.
fn session_key(flags: NegotiateFlags, key_exchange_key: &Key, inputs: &AuthenticateInputs<'_>) -> (Key, Option<Key>) {
    if !flags.contains(NegotiateFlags::KEY_EXCH) {
        return (*key_exchange_key, None);
    }
    let used = flags & (NegotiateFlags::SIGN | NegotiateFlags::SEAL) != NegotiateFlags::default();
    let exported = if used { inputs.exported_session_key } else { *key_exchange_key };
    (exported, Some(crypto::rc4k(key_exchange_key, &exported)))
}
