//! Describes a message field by field, for people who debug a proxy.
//!
//! Only the kind and the size of the responses are shown, because passwords can be guessed offline from the responses
//! themselves.

use super::authenticate::{AuthenticateMessage, FIELDS};
use super::av_pair::{AvId, AvPair, AvPairs};
use super::challenge::{self, ChallengeMessage};
use super::flags::NegotiateFlags;
use super::negotiate::{self, NegotiateMessage};
use super::wire::{Charset, MessageError, MessageType, PayloadField, Version};

type Lines = Vec<(String, String)>;

/// Returns the names and values of a message's fields, in the order of the fixed part.
///
/// # Errors
/// [`MessageError`] if the message is malformed. A malformed AV_PAIR list is reported in a line, not as an error.
pub fn describe(message: &[u8]) -> Result<Vec<(String, String)>, MessageError> {
    match MessageType::of(message)? {
        MessageType::Negotiate => describe_negotiate(message),
        MessageType::Challenge => describe_challenge(message),
        MessageType::Authenticate => describe_authenticate(message),
    }
}

fn describe_negotiate(message: &[u8]) -> Result<Lines, MessageError> {
    let decoded = NegotiateMessage::decode(message)?;
    let mut lines = head("NEGOTIATE_MESSAGE (1)", message, decoded.flags);
    let names = [
        (decoded.domain, negotiate::DOMAIN_AT, "DomainName"),
        (decoded.workstation, negotiate::WORKSTATION_AT, "Workstation"),
    ];
    for (value, at, name) in names {
        match value {
            Some(value) => push_text(&mut lines, message, at, name, value, Charset::Oem)?,
            None => push(&mut lines, name, "not supplied"),
        }
    }
    push_version(&mut lines, decoded.version);
    Ok(lines)
}

fn describe_challenge(message: &[u8]) -> Result<Lines, MessageError> {
    let decoded = ChallengeMessage::decode(message)?;
    let mut lines = head("CHALLENGE_MESSAGE (2)", message, decoded.flags);
    let charset = decoded.flags.charset();
    push_text(&mut lines, message, challenge::TARGET_NAME_AT, "TargetName", decoded.target_name, charset)?;
    push(&mut lines, "ServerChallenge", hex(&decoded.server_challenge));
    match decoded.target_info {
        Some(list) => {
            let field = PayloadField::read(message, challenge::TARGET_INFO_AT, "TargetInfo")?;
            push(&mut lines, "TargetInfo", place(&field));
            push_av_pairs(&mut lines, list);
        }
        None => push(&mut lines, "TargetInfo", "none"),
    }
    push_version(&mut lines, decoded.version);
    Ok(lines)
}

fn describe_authenticate(message: &[u8]) -> Result<Lines, MessageError> {
    let decoded = AuthenticateMessage::decode(message)?;
    let mut lines = head("AUTHENTICATE_MESSAGE (3)", message, decoded.flags);
    for (at, name) in FIELDS {
        let text = match name {
            "DomainName" => decoded.domain,
            "UserName" => decoded.user,
            "Workstation" => decoded.workstation,
            _ => {
                push(&mut lines, name, place(&PayloadField::read(message, at, name)?));
                continue;
            }
        };
        push_text(&mut lines, message, at, name, text, decoded.flags.charset())?;
    }
    push(&mut lines, "response", decoded.response_kind().to_string());
    if let Some(response) = decoded.v2_response() {
        push(&mut lines, "response time", format!("FILETIME {} = {}", response.time.0, response.time));
        push(&mut lines, "ClientChallenge", hex(&response.client_challenge));
        push_av_pairs(&mut lines, response.av_pairs);
    }
    push_version(&mut lines, decoded.version);
    push(&mut lines, "MIC", decoded.mic.map_or_else(|| "none".to_owned(), |mic| hex(&mic)));
    Ok(lines)
}

fn head(kind: &str, message: &[u8], flags: NegotiateFlags) -> Lines {
    vec![
        ("message".to_owned(), kind.to_owned()),
        ("length".to_owned(), format!("{} bytes", message.len())),
        ("NegotiateFlags".to_owned(), flags.to_string()),
    ]
}

fn push(lines: &mut Lines, name: &str, value: impl Into<String>) {
    lines.push((name.to_owned(), value.into()));
}

/// `16 bytes at offset 56`, with the maximum length if it differs.
fn place(field: &PayloadField) -> String {
    if field.max_length == field.length {
        format!("{} bytes at offset {}", field.length, field.offset)
    } else {
        format!("{} bytes (max {}) at offset {}", field.length, field.max_length, field.offset)
    }
}

fn push_text(
    lines: &mut Lines,
    message: &[u8],
    at: usize,
    name: &'static str,
    value: &[u8],
    charset: Charset,
) -> Result<(), MessageError> {
    let field = PayloadField::read(message, at, name)?;
    push(lines, name, format!("{:?}, {}", charset.decode(value, name)?, place(&field)));
    Ok(())
}

fn push_version(lines: &mut Lines, version: Option<Version>) {
    push(lines, "Version", version.map_or_else(|| "none".to_owned(), |version| version.to_string()));
}

fn push_av_pairs(lines: &mut Lines, list: &[u8]) {
    for pair in AvPairs::new(list) {
        match pair {
            Ok(pair) => push(lines, &format!("AV_PAIR {}", pair.id), av_value(&pair)),
            Err(error) => push(lines, "AV_PAIR error", error.to_string()),
        }
    }
}

fn av_value(pair: &AvPair<'_>) -> String {
    match pair.id {
        AvId::Timestamp => pair.file_time().map(|time| format!("FILETIME {} = {time}", time.0)).ok(),
        AvId::Flags => pair.word().map(|word| format!("{word:#010x}")).ok(),
        _ => pair.text().map(|text| format!("{text:?}")),
    }
    .unwrap_or_else(|| format!("{} bytes: {}", pair.value.len(), hex(pair.value)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
