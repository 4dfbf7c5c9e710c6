//! A GSS-API token of Kerberos as readable text. What is encrypted stays so.

use super::crypto::Etype;
use super::error::DecodeError;
use super::gss::{TokenKind, read_token};
use super::message::KrbError;
use super::message::authenticator::{ApRequest, read_ap_rep};

/// The fields of a token: names and values.
///
/// # Errors
/// [`DecodeError`] if it is no token of Kerberos.
pub fn describe(token: &[u8]) -> Result<Vec<(String, String)>, DecodeError> {
    let (kind, message) = read_token(token)?;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    match kind {
        TokenKind::ApReq => {
            let request = ApRequest::read(message)?;
            let ticket = request.ticket.summary()?;
            row("message", "AP-REQ".into());
            row("length", format!("{} bytes", token.len()));
            row("service", ticket.service.to_string());
            row("ticket", format!("{} bytes, encrypted with {}", ticket.length, shown(ticket.etype)));
            row("kvno", ticket.kvno.map_or_else(|| "none".into(), |kvno| kvno.to_string()));
            row("authenticator", format!("encrypted with {}", shown(request.authenticator.etype)));
            row("mutual", if request.options.mutual { "requested" } else { "not requested" }.into());
        }
        TokenKind::ApRep => {
            let encrypted = read_ap_rep(message)?;
            row("message", "AP-REP".into());
            row("length", format!("{} bytes", token.len()));
            row("encrypted", format!("with {}", shown(encrypted.etype)));
        }
        TokenKind::Error => {
            let error = KrbError::decode(message)?;
            row("message", "KRB-ERROR".into());
            row("code", error.code.to_string());
            row("server time", error.server_time.to_string());
            row("text", error.text);
        }
    }
    Ok(rows)
}

fn shown(etype: i64) -> String {
    match Etype::of_number(etype) {
        Some(known) => format!("{known} ({etype})"),
        None => format!("etype {etype}"),
    }
}
