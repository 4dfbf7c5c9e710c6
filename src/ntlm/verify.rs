//! Verifies an AUTHENTICATE_MESSAGE (MS-NLMP 3.2.5.1.2) as a domain controller does, by recomputing the responses.

use thiserror::Error;

use super::authenticate::{AuthenticateMessage, MIC_AT, MIC_SIZE, NtResponseKind, V2Response};
use super::av_pair::{self, AvError, AvId};
use super::challenge::ChallengeMessage;
use super::client::AV_FLAG_MIC;
use super::credential::{Method, NtHash};
use super::crypto::{self, Key, ResponseKey};
use super::flags::NegotiateFlags;
use super::wire::MessageError;

/// What a verifier accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyOptions {
    /// Accept NTLMv1 with extended session security. Plain NTLMv1 is never accepted.
    pub allow_v1_ess: bool,
    /// Reject NTLMv2 responses that do not announce a MIC. An announced MIC is always checked.
    pub require_mic: bool,
}

/// A client that has been authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// UserName.
    pub user: String,
    /// DomainName; empty for a UPN.
    pub domain: String,
    /// Workstation.
    pub workstation: String,
    /// The method that the client used.
    pub method: Method,
    /// Whether the message had a MIC, which then is correct.
    pub mic: bool,
}

/// Why an AUTHENTICATE_MESSAGE is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A message is malformed.
    #[error("malformed: {0}")]
    Malformed(#[from] MessageError),
    /// An AV_PAIR list is malformed.
    #[error("malformed AV_PAIR list: {0}")]
    MalformedAvPairs(#[from] AvError),
    /// KEY_EXCH is set, but EncryptedRandomSessionKey does not have the length of a key.
    #[error("EncryptedRandomSessionKey has {got} bytes, expected 16")]
    SessionKeyLength {
        /// Its length in bytes.
        got: usize,
    },
    /// The account is unknown, or the client is anonymous.
    #[error("unknown user")]
    UnknownUser,
    /// The NT response was not computed from the password of the account.
    #[error("wrong password")]
    WrongPassword,
    /// The NT response is correct, but the LM response is neither LMv2 nor, if the server sent its time, zeros.
    #[error("bad LM response")]
    BadLmResponse,
    /// The MIC is wrong, or missing although announced or required.
    #[error("bad or missing MIC")]
    BadMic,
    /// The kind of response is not allowed.
    #[error("method not allowed: {0}")]
    MethodNotAllowed(NtResponseKind),
}

/// Verifies `authenticate` with the two messages before it and the hash that `lookup` returns for user and domain.
///
/// # Errors
/// [`VerifyError`]. The method is checked before the account, and the account before the password.
pub fn verify<'h>(
    authenticate: &[u8],
    negotiate: &[u8],
    challenge: &[u8],
    lookup: impl FnOnce(&str, &str) -> Option<&'h NtHash>,
    options: &VerifyOptions,
) -> Result<Verified, VerifyError> {
    let message = AuthenticateMessage::decode(authenticate)?;
    let sent = ChallengeMessage::decode(challenge)?;
    let user = message.text(message.user, "UserName")?;
    let domain = message.text(message.domain, "DomainName")?;
    let workstation = message.text(message.workstation, "Workstation")?;
    let kind = message.response_kind();
    let find = || lookup(&user, &domain).map(NtHash::key).ok_or(VerifyError::UnknownUser);
    let (method, mic) = match (kind, message.v2_response()) {
        (NtResponseKind::NtlmV2, Some(response)) => {
            let response_key = ResponseKey::new(&crypto::ntowf_v2(find()?, &user, &domain));
            let key_exchange_key = check_v2(&message, &sent, &response, &response_key)?;
            let mic = mic_announced(&response)?;
            if mic {
                check_mic(&message, [negotiate, challenge, authenticate], &key_exchange_key)?;
            } else if options.require_mic {
                return Err(VerifyError::BadMic);
            }
            (Method::NtlmV2, mic)
        }
        (NtResponseKind::NtlmV1Ess, _) if options.allow_v1_ess => {
            check_v1_ess(&message, &sent, find()?)?;
            (Method::NtlmV1Ess, false)
        }
        (NtResponseKind::Anonymous, _) => return Err(VerifyError::UnknownUser),
        _ => return Err(VerifyError::MethodNotAllowed(kind)),
    };
    Ok(Verified { user, domain, workstation, method, mic })
}

/// Checks NTProofStr and the LM response. Returns the KeyExchangeKey.
fn check_v2(
    message: &AuthenticateMessage<'_>,
    challenge: &ChallengeMessage<'_>,
    response: &V2Response<'_>,
    response_key: &ResponseKey,
) -> Result<Key, VerifyError> {
    let (nt_proof_str, key_exchange_key) = response_key.v2_proof(challenge.server_challenge, response.temp);
    if nt_proof_str != response.nt_proof_str {
        return Err(VerifyError::WrongPassword);
    }
    let has_timestamp = match challenge.target_info {
        Some(list) => av_pair::find(list, AvId::Timestamp)?.is_some(),
        None => false,
    };
    let lm_v2 = response_key.lm_v2(challenge.server_challenge, response.client_challenge);
    if message.lm_response != lm_v2 && !(has_timestamp && message.lm_response == [0; 24]) {
        return Err(VerifyError::BadLmResponse);
    }
    Ok(key_exchange_key)
}

fn check_v1_ess(
    message: &AuthenticateMessage<'_>,
    challenge: &ChallengeMessage<'_>,
    nt_hash: &Key,
) -> Result<(), VerifyError> {
    let client_challenge = *message.lm_response.first_chunk().ok_or(VerifyError::BadLmResponse)?;
    let (response, _) = crypto::v1_ess(nt_hash, challenge.server_challenge, client_challenge);
    if message.nt_response == response { Ok(()) } else { Err(VerifyError::WrongPassword) }
}

fn mic_announced(response: &V2Response<'_>) -> Result<bool, AvError> {
    Ok(match av_pair::find(response.av_pairs, AvId::Flags)? {
        Some(pair) => pair.word()? & AV_FLAG_MIC != 0,
        None => false,
    })
}

/// Checks the MIC, which covers all three messages, with zeros in place of the MIC itself.
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
    let after = rest.get(MIC_SIZE..).unwrap_or_default();
    let parts = [negotiate, challenge, before, &[0; MIC_SIZE], after];
    if crypto::hmac_md5(&exported_session_key, &parts) == sent { Ok(()) } else { Err(VerifyError::BadMic) }
}
