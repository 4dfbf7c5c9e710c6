//! The side that checks a proof (MS-NLMP 3.2.5.1.2), as a domain controller would: everything is recomputed.

use thiserror::Error;

use super::authenticate::{AuthenticateMessage, MIC_AT, MIC_SIZE, NtResponseKind, V2Response};
use super::av_pair::{self, AvError, AvId};
use super::challenge::ChallengeMessage;
use super::client::AV_FLAG_MIC;
use super::credential::{Method, NtHash};
use super::crypto::{self, Key};
use super::flags::NegotiateFlags;
use super::wire::MessageError;

/// What a verifier accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyOptions {
    /// Accept NTLMv1 with extended session security; plain NTLMv1 never is.
    pub allow_v1_ess: bool,
    /// Refuse an NTLMv2 response that does not announce a MIC. An announced MIC is checked in any case.
    pub require_mic: bool,
}

/// Who proved what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// UserName.
    pub user: String,
    /// DomainName; empty for a UPN.
    pub domain: String,
    /// Workstation.
    pub workstation: String,
    /// How it was proved.
    pub method: Method,
    /// Whether there was a MIC (a right one, then).
    pub mic: bool,
}

/// Why a proof is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A message is malformed.
    #[error("malformed: {0}")]
    Malformed(#[from] MessageError),
    /// An AV_PAIR list is malformed.
    #[error("malformed AV_PAIR list: {0}")]
    MalformedAvPairs(#[from] AvError),
    /// KEY_EXCH was selected and EncryptedRandomSessionKey is no key.
    #[error("EncryptedRandomSessionKey has {got} bytes, expected 16")]
    SessionKeyLength {
        /// Its length in bytes.
        got: usize,
    },
    /// The account is unknown, or the client is anonymous.
    #[error("unknown user")]
    UnknownUser,
    /// The NT response does not come from the account's password.
    #[error("wrong password")]
    WrongPassword,
    /// The NT response is right and the LM response is not: neither LMv2, nor zeros where the server told its time.
    #[error("bad LM response")]
    BadLmResponse,
    /// The MIC is wrong, or missing where it was announced or is required.
    #[error("bad or missing MIC")]
    BadMic,
    /// The kind of response is not accepted.
    #[error("method not allowed: {0}")]
    MethodNotAllowed(NtResponseKind),
}

/// Checks `authenticate` against the two messages before it and the account that `lookup` finds by user and domain.
///
/// # Errors
/// [`VerifyError`]. The method is judged before the account, and the account before the password.
pub fn verify<'h>(
    authenticate: &[u8],
    negotiate: &[u8],
    challenge: &[u8],
    lookup: impl FnOnce(&str, &str) -> Option<&'h NtHash>,
    options: &VerifyOptions,
) -> Result<Verified, VerifyError> {
    let message = AuthenticateMessage::decode(authenticate)?;
    let asked = ChallengeMessage::decode(challenge)?;
    let user = message.text(message.user, "UserName")?;
    let domain = message.text(message.domain, "DomainName")?;
    let workstation = message.text(message.workstation, "Workstation")?;
    let kind = message.response_kind();
    let find = || lookup(&user, &domain).map(NtHash::key).ok_or(VerifyError::UnknownUser);
    let (method, mic) = match (kind, message.v2_response()) {
        (NtResponseKind::NtlmV2, Some(response)) => {
            let ntowf_v2 = crypto::ntowf_v2(find()?, &user, &domain);
            let key_exchange_key = check_v2(&message, &asked, &response, &ntowf_v2)?;
            let mic = mic_announced(&response)?;
            if mic {
                check_mic(&message, [negotiate, challenge, authenticate], &key_exchange_key)?;
            } else if options.require_mic {
                return Err(VerifyError::BadMic);
            }
            (Method::NtlmV2, mic)
        }
        (NtResponseKind::NtlmV1Ess, _) if options.allow_v1_ess => {
            check_v1_ess(&message, &asked, find()?)?;
            (Method::NtlmV1Ess, false)
        }
        (NtResponseKind::Anonymous, _) => return Err(VerifyError::UnknownUser),
        _ => return Err(VerifyError::MethodNotAllowed(kind)),
    };
    Ok(Verified { user, domain, workstation, method, mic })
}

/// Recomputes NTProofStr and the LM response; returns the KeyExchangeKey.
fn check_v2(
    message: &AuthenticateMessage<'_>,
    asked: &ChallengeMessage<'_>,
    response: &V2Response<'_>,
    ntowf_v2: &Key,
) -> Result<Key, VerifyError> {
    let (proof, key_exchange_key) = crypto::v2_proof(ntowf_v2, asked.server_challenge, response.temp);
    if proof != response.proof {
        return Err(VerifyError::WrongPassword);
    }
    let told_time = match asked.target_info {
        Some(list) => av_pair::find(list, AvId::Timestamp)?.is_some(),
        None => false,
    };
    let lm_v2 = crypto::lm_v2(ntowf_v2, asked.server_challenge, response.client_challenge);
    if message.lm_response != lm_v2 && !(told_time && message.lm_response == [0; 24]) {
        return Err(VerifyError::BadLmResponse);
    }
    Ok(key_exchange_key)
}

fn check_v1_ess(
    message: &AuthenticateMessage<'_>,
    asked: &ChallengeMessage<'_>,
    nt_hash: &Key,
) -> Result<(), VerifyError> {
    let client_challenge = *message.lm_response.first_chunk().ok_or(VerifyError::BadLmResponse)?;
    let (response, _) = crypto::v1_ess(nt_hash, asked.server_challenge, client_challenge);
    if message.nt_response == response { Ok(()) } else { Err(VerifyError::WrongPassword) }
}

fn mic_announced(response: &V2Response<'_>) -> Result<bool, AvError> {
    Ok(match av_pair::find(response.av_pairs, AvId::Flags)? {
        Some(pair) => pair.word()? & AV_FLAG_MIC != 0,
        None => false,
    })
}

/// Recomputes the MIC over all three messages, the third with its MIC zeroed.
fn check_mic(
    message: &AuthenticateMessage<'_>,
    [negotiate, challenge, authenticate]: [&[u8]; 3],
    key_exchange_key: &Key,
) -> Result<(), VerifyError> {
    let exported_session_key = if message.flags.contains(NegotiateFlags::KEY_EXCH) {
        let got = message.encrypted_session_key.len();
        let encrypted = message.encrypted_session_key.try_into().map_err(|_| VerifyError::SessionKeyLength { got })?;
        crypto::rc4k(key_exchange_key, encrypted)
    } else {
        *key_exchange_key
    };
    let (Some(sent), Some((before, rest))) = (message.mic, authenticate.split_at_checked(MIC_AT)) else {
        return Err(VerifyError::BadMic);
    };
    let behind = rest.get(MIC_SIZE..).unwrap_or_default();
    let parts = [negotiate, challenge, before, &[0; MIC_SIZE], behind];
    if crypto::hmac_md5(&exported_session_key, &parts) == sent { Ok(()) } else { Err(VerifyError::BadMic) }
}
