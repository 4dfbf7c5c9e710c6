//! The side that proves an identity (MS-NLMP 3.1.5): NEGOTIATE_MESSAGE out, CHALLENGE_MESSAGE in, AUTHENTICATE_MESSAGE out.
//!
//! Nothing is kept between the two calls but the bytes themselves, which the caller holds: the MIC covers them.

use std::borrow::Cow;

use thiserror::Error;

use super::authenticate::{AuthenticateMessage, MIC_AT, MIC_SIZE, PayloadOrder};
use super::av_pair::{self, AvError, AvId, AvPairs};
use super::challenge::ChallengeMessage;
use super::credential::{Identity, Method};
use super::crypto::{self, Key};
use super::file_time::FileTime;
use super::flags::NegotiateFlags;
use super::negotiate::NegotiateMessage;
use super::wire::{Charset, MessageError, Version, utf16le};

/// The bit of MsvAvFlags that says: this AUTHENTICATE_MESSAGE bears a MIC.
pub(super) const AV_FLAG_MIC: u32 = 0x0000_0002;

/// The longest OEM name a NEGOTIATE_MESSAGE gets, in bytes; NetBIOS names have 15.
const OEM_NAME_LIMIT_BYTES: usize = 255;

/// What a NEGOTIATE_MESSAGE offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateOptions {
    /// The flags. VERSION and the OEM_…_SUPPLIED flags follow from the fields below, whatever is set here.
    pub flags: NegotiateFlags,
    /// The Version; `None` leaves it out.
    pub version: Option<Version>,
    /// DomainName to supply. Characters beyond ASCII become `?`; cut at 255 bytes. It is a hint and proves nothing.
    pub domain: Option<String>,
    /// Workstation to supply, with the same limits.
    pub workstation: Option<String>,
}

impl NegotiateOptions {
    /// 0xa2088207: to the bit what browsers on Windows send to every proxy, so every proxy has seen it.
    ///
    /// - NTLM and ALWAYS_SIGN: some proxies (WinGate) refuse an offer without them.
    /// - EXTENDED_SESSIONSECURITY and 128: a server with NtlmMinServerSec 0x20080000 demands them; 56 goes along for
    ///   those that cannot do 128.
    /// - UNICODE and OEM: the server chooses; only very old ones choose OEM.
    /// - No SIGN, no SEAL, and so no KEY_EXCH: HTTP has no use for a session key, and where KEY_EXCH stands without
    ///   SIGN or SEAL, MS-NLMP 3.1.5.1.2 and Samba disagree on which key the MIC is made with. Without it the
    ///   KeyExchangeKey is the ExportedSessionKey for everyone. A server that selects it unasked is obeyed.
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
            // Left out as Windows leaves them out: they would tell names before the proxy has asked for any.
            domain: None,
            workstation: None,
        }
    }
}

/// What an AUTHENTICATE_MESSAGE takes from outside. No `Debug`, for there is a key in it.
#[derive(Clone, Copy)]
pub struct AuthenticateInputs<'a> {
    /// ClientChallenge: eight random bytes, new for every message.
    pub client_challenge: [u8; 8],
    /// ExportedSessionKey: sixteen random bytes, new for every message. Used only if the server selects KEY_EXCH.
    pub exported_session_key: [u8; 16],
    /// The current time, used if the server does not tell its own.
    pub now: FileTime,
    /// The SPN for MsvAvTargetName, such as `HTTP/proxy.corp`.
    pub target_name: Option<&'a str>,
    /// The hash for MsvAvChannelBindings (RFC 5929 tls-server-end-point), where the connection is TLS.
    pub channel_bindings: Option<[u8; 16]>,
}

/// Why a CHALLENGE_MESSAGE cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticateError {
    /// The NEGOTIATE_MESSAGE handed in is none: the caller's mistake.
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
    /// Falling back to plain NTLMv1 would be answering a challenge that the server alone chose.
    #[error("NTLMv1-ESS is configured, but the server's flags {flags} lack extended session security")]
    NoExtendedSessionSecurity {
        /// The flags the server sent.
        flags: NegotiateFlags,
    },
    /// The server takes OEM strings only and a name has characters beyond ASCII.
    ///
    /// The code page is unknown; a wrong guess would count as a wrong password at the server.
    #[error("the server takes OEM strings only, and {field} has characters beyond ASCII")]
    NotOem {
        /// The name's field.
        field: &'static str,
    },
    /// The answer would not fit its fields.
    #[error("AUTHENTICATE_MESSAGE: {0}")]
    Encode(#[source] MessageError),
}

/// The NEGOTIATE_MESSAGE for `identity` (MS-NLMP 3.1.5.1.1). An identity that proves itself by NTLMv1-ESS adds
/// EXTENDED_SESSIONSECURITY to the flags.
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
/// `negotiate` and `challenge` are the two messages as they went over the wire on this same connection. If the server
/// tells its time (MsvAvTimestamp), NTLMv2 uses it, sends 24 zero bytes for LMv2, and a MIC; otherwise `inputs.now`,
/// LMv2 and no MIC.
///
/// # Errors
/// [`AuthenticateError`]; all but `Negotiate` and `Encode` are the peer's doing.
pub fn authenticate(
    identity: &Identity,
    negotiate: &[u8],
    challenge: &[u8],
    inputs: &AuthenticateInputs<'_>,
) -> Result<Vec<u8>, AuthenticateError> {
    authenticate_in_form(identity, negotiate, challenge, inputs, Form::default())
}

/// In which of the equivalent forms the message is written. Only test vectors need another than the default.
#[derive(Clone, Copy, Default)]
pub(super) struct Form {
    pub order: PayloadOrder,
    /// Echo the server's TARGET_TYPE flags, which Windows does not.
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
    let answered = ChallengeMessage::decode(challenge).map_err(AuthenticateError::Challenge)?;
    let flags = agreed(offer.flags, answered.flags, form);
    let domain = domain_of(identity, &answered)?;
    let proof = match identity.method() {
        Method::NtlmV2 => prove_v2(identity, &domain, &answered, inputs)?,
        Method::NtlmV1Ess => prove_v1_ess(identity, &answered, inputs)?,
    };
    let (exported_session_key, encrypted) = session_key(flags, &proof.key_exchange_key, inputs);
    let [domain, user, workstation] = names(identity, &domain, flags.charset())?;
    let message = AuthenticateMessage {
        flags,
        lm_response: &proof.lm_response,
        nt_response: &proof.nt_response,
        domain: &domain,
        user: &user,
        workstation: &workstation,
        encrypted_session_key: encrypted.as_ref().map_or(&[], Key::as_slice),
        // Its room is always there (2.2.1.3): zeros unless both sides speak of versions.
        version: Some(offer.version.filter(|_| flags.contains(NegotiateFlags::VERSION)).unwrap_or_default()),
        mic: proof.mic.then_some([0; MIC_SIZE]),
    };
    let mut out = message.encode(form.order).map_err(AuthenticateError::Encode)?;
    if proof.mic {
        let mic = crypto::hmac_md5(&exported_session_key, &[negotiate, challenge, &out]);
        out[MIC_AT..MIC_AT + MIC_SIZE].copy_from_slice(&mic);
    }
    Ok(out)
}

/// The flags both sides hold to: what the server selected of what was offered.
///
/// Three kinds of selection are the server's alone and hold without an offer: the charset it reads, the TargetInfo it
/// sent, and KEY_EXCH, since a server that selected it will look for a session key.
fn agreed(offered: NegotiateFlags, selected: NegotiateFlags, form: Form) -> NegotiateFlags {
    let charsets = NegotiateFlags::UNICODE | NegotiateFlags::OEM;
    let target_types = NegotiateFlags::TARGET_TYPE_DOMAIN | NegotiateFlags::TARGET_TYPE_SERVER;
    let unasked = charsets | NegotiateFlags::TARGET_INFO | NegotiateFlags::KEY_EXCH;
    let supplied = NegotiateFlags::OEM_DOMAIN_SUPPLIED | NegotiateFlags::OEM_WORKSTATION_SUPPLIED;
    let mut flags = selected & ((offered | unasked) - supplied - target_types);
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

/// The domain to authenticate in: the configured one, or the server's where the identity says so and the server
/// names one. MsvAvNbDomainName comes first, for TargetName may be a server's name.
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

/// DomainName, UserName and Workstation in the message's charset.
fn names<'a>(
    identity: &'a Identity,
    domain: &'a str,
    charset: Charset,
) -> Result<[Cow<'a, [u8]>; 3], AuthenticateError> {
    let ready = identity.unicode();
    let oem = |name: &'a str, field| {
        if name.is_ascii() { Ok(Cow::Borrowed(name.as_bytes())) } else { Err(AuthenticateError::NotOem { field }) }
    };
    Ok(match charset {
        Charset::Unicode => [
            if domain == identity.domain() { Cow::Borrowed(&*ready.domain) } else { Cow::Owned(utf16le(domain)) },
            Cow::Borrowed(&*ready.user),
            Cow::Borrowed(&*ready.workstation),
        ],
        Charset::Oem => {
            [oem(domain, "DomainName")?, oem(identity.user(), "UserName")?, oem(identity.workstation(), "Workstation")?]
        }
    })
}

/// The two responses and what they lead to.
struct Proof {
    lm_response: [u8; 24],
    nt_response: Vec<u8>,
    key_exchange_key: Key,
    mic: bool,
}

/// NTLMv1 with extended session security (MS-NLMP 3.3.1).
fn prove_v1_ess(
    identity: &Identity,
    challenge: &ChallengeMessage<'_>,
    inputs: &AuthenticateInputs<'_>,
) -> Result<Proof, AuthenticateError> {
    if !challenge.flags.contains(NegotiateFlags::EXTENDED_SESSIONSECURITY) {
        return Err(AuthenticateError::NoExtendedSessionSecurity { flags: challenge.flags });
    }
    let (nt_response, key_exchange_key) =
        crypto::v1_ess(identity.nt_hash().key(), challenge.server_challenge, inputs.client_challenge);
    let mut lm_response = [0; 24];
    lm_response[..8].copy_from_slice(&inputs.client_challenge);
    Ok(Proof { lm_response, nt_response: nt_response.to_vec(), key_exchange_key, mic: false })
}

/// NTLMv2 (MS-NLMP 3.3.2).
fn prove_v2(
    identity: &Identity,
    domain: &str,
    challenge: &ChallengeMessage<'_>,
    inputs: &AuthenticateInputs<'_>,
) -> Result<Proof, AuthenticateError> {
    let computed;
    let ntowf_v2 = if domain == identity.domain() {
        identity.ntowf_v2()
    } else {
        computed = crypto::ntowf_v2(identity.nt_hash().key(), identity.user(), domain);
        &computed
    };
    let told = challenge.target_info.map(ServerTold::read).transpose()?.unwrap_or_default();
    let mic = told.time.is_some();
    let mut nt_response = Vec::with_capacity(256 + challenge.target_info.map_or(0, <[u8]>::len));
    nt_response.extend_from_slice(&[0; 16]);
    nt_response.extend_from_slice(&[1, 1, 0, 0, 0, 0, 0, 0]);
    nt_response.extend_from_slice(&told.time.unwrap_or(inputs.now).0.to_le_bytes());
    nt_response.extend_from_slice(&inputs.client_challenge);
    nt_response.extend_from_slice(&[0; 4]);
    if let Some(list) = challenge.target_info {
        write_av_pairs(&mut nt_response, list, told.flags, mic, inputs)?;
    }
    av_pair::push_eol(&mut nt_response);
    // The Z(4) behind the list, which no decoder reads and the proof covers.
    nt_response.extend_from_slice(&[0; 4]);
    let (proof, key_exchange_key) = crypto::v2_proof(ntowf_v2, challenge.server_challenge, &nt_response[16..]);
    nt_response[..16].copy_from_slice(&proof);
    let lm_response =
        if mic { [0; 24] } else { crypto::lm_v2(ntowf_v2, challenge.server_challenge, inputs.client_challenge) };
    Ok(Proof { lm_response, nt_response, key_exchange_key, mic })
}

/// What the server's AV_PAIRs say that the answer depends on.
#[derive(Default)]
struct ServerTold {
    time: Option<FileTime>,
    flags: u32,
}

impl ServerTold {
    /// Reads the whole list, so that a malformed one is an error wherever it breaks.
    fn read(list: &[u8]) -> Result<Self, AvError> {
        let mut told = Self::default();
        for pair in AvPairs::new(list) {
            let pair = pair?;
            match pair.id {
                AvId::Timestamp if told.time.is_none() => told.time = Some(pair.file_time()?),
                AvId::Flags => told.flags |= pair.word()?,
                _ => {}
            }
        }
        Ok(told)
    }
}

/// Writes the server's pairs and then our own, without MsvAvEOL.
///
/// Pairs that we have to say are not echoed: a server that put them there would otherwise speak for us.
fn write_av_pairs(
    out: &mut Vec<u8>,
    list: &[u8],
    server_flags: u32,
    mic: bool,
    inputs: &AuthenticateInputs<'_>,
) -> Result<(), AuthenticateError> {
    for pair in AvPairs::new(list) {
        let pair = pair?;
        let ours = match pair.id {
            AvId::Flags => true,
            AvId::TargetName => inputs.target_name.is_some(),
            AvId::ChannelBindings => inputs.channel_bindings.is_some(),
            _ => false,
        };
        if !ours {
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
        av_pair::push(out, AvId::TargetName, &utf16le(name)).map_err(AuthenticateError::Encode)?;
    }
    Ok(())
}

/// ExportedSessionKey, and EncryptedRandomSessionKey if the server selected KEY_EXCH (MS-NLMP 3.1.5.1.2).
///
/// With KEY_EXCH but neither SIGN nor SEAL, the specification's server takes the KeyExchangeKey for the exported key and
/// Samba's decrypts what was sent. Sending the KeyExchangeKey itself, encrypted, gives both the same key.
fn session_key(flags: NegotiateFlags, key_exchange_key: &Key, inputs: &AuthenticateInputs<'_>) -> (Key, Option<Key>) {
    if !flags.contains(NegotiateFlags::KEY_EXCH) {
        return (*key_exchange_key, None);
    }
    let used = flags & (NegotiateFlags::SIGN | NegotiateFlags::SEAL) != NegotiateFlags::default();
    let exported = if used { inputs.exported_session_key } else { *key_exchange_key };
    (exported, Some(crypto::rc4k(key_exchange_key, &exported)))
}
