//! GSS-API tokens of Kerberos and messages to and from KDCs as readable text. What is encrypted stays so.

use super::crypto::Etype;
use super::error::DecodeError;
use super::gss::{TokenKind, read_token};
use super::message::KrbError;
use super::message::authenticator::{ApRequest, read_ap_rep};
use super::message::kdc_reply::{AS_REP, KdcReply, TGS_REP};
use super::message::pa_data::PA_ENC_TIMESTAMP;
use super::message::received_request::{AS_REQ, ReceivedRequest};
use super::name::PrincipalName;

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

/// A message to or from a KDC, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMessage {
    /// In a line.
    pub text: String,
    /// It is a TGS-REP with a ticket that is not for a ticket-granting service.
    pub is_service_ticket: bool,
}

/// Describes a message to or from a KDC; `None` if it is none.
pub fn describe_message(message: &[u8]) -> Option<DescribedMessage> {
    if let Ok(request) = ReceivedRequest::read(message) {
        let name = |name: &Option<PrincipalName>| name.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = match (request.kind, request.pa_data(PA_ENC_TIMESTAMP)) {
            (AS_REQ, None) => format!("AS-REQ from {}, without pre-authentication", name(&request.body.client)),
            (AS_REQ, Some(_)) => format!("AS-REQ from {}, with an encrypted time stamp", name(&request.body.client)),
            _ => format!("TGS-REQ for {}", name(&request.body.service)),
        };
        return Some(DescribedMessage { text, is_service_ticket: false });
    }
    if let Ok(error) = KrbError::decode(message) {
        return Some(DescribedMessage { text: format!("KRB-ERROR: {}", error.code), is_service_ticket: false });
    }
    let (kind, reply) = [("AS-REP", AS_REP), ("TGS-REP", TGS_REP)]
        .into_iter()
        .find_map(|(name, kind)| KdcReply::read(message, kind).ok().map(|reply| (name, reply)))?;
    let ticket = reply.ticket.summary().ok()?;
    let (service, length) = (&ticket.service, ticket.length);
    let text = format!("{kind}: ticket for {service}, {length} bytes, encrypted with {}", shown(ticket.etype));
    Some(DescribedMessage { text, is_service_ticket: service.name.ticket_granting_realm().is_none() })
}

fn shown(etype: i64) -> String {
    match Etype::of_number(etype) {
        Some(known) => format!("{known} ({etype})"),
        None => format!("etype {etype}"),
    }
}
