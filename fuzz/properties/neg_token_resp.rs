//! A NegTokenResp is read in one way only, and its parts are parts of it. The input is the token.

use ntlm_gateway::auth::read_response;

use super::{ap_rep, spnego};

/// Checks one token.
pub fn check(input: &[u8]) {
    let Some(response) = read_response(input) else { return };
    let is_part = |part: &[u8]| part.is_empty() || input.windows(part.len()).any(|window| window == part);
    assert!(response.token.is_none_or(is_part) && response.mechanism.is_none_or(is_part));
    // A second reader, which stops at the first token where there are several.
    if let Some(token) = spnego::response_token(input) {
        assert!(response.token.is_some() && is_part(token));
    }
    assert!(!format!("{response:?}").contains('['), "what may be secret is not shown");
}

/// Responses with Kerberos and with NTLM, whole and cut.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = ap_rep::seeds().iter().map(|token| spnego::wrapped(token)).collect();
    seeds.extend(spnego::seeds());
    seeds
}
