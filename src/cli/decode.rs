//! `ntlm-gateway decode`: shows the fields of an NTLM message, from base64 or from a header line of a trace.

use std::io::{self, Read};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use thiserror::Error;

use super::terminal::aligned;
use super::{fail, print};
use crate::auth;
use crate::http::{self, TokenError};
use crate::kerberos;
use crate::ntlm::{self, MessageError};

/// The longest input. Messages of real domains are shorter than 16 KiB in base64.
const INPUT_LIMIT_BYTES: usize = 256 * 1024;

/// The beginning of every NTLM message ([MS-NLMP] section 2.2).
const SIGNATURE: &[u8] = b"NTLMSSP\0";

const AFTER: &str = "Examples:
  ntlm-gateway decode TlRMTVNTUAABAAAAt4II4gAAAAAAAAAAAAAAAAAAAAAFASgKAAAADw==
  ntlm-gateway decode 'Proxy-Authenticate: NTLM TlRMTVNTUAAC...'
  curl -v --proxy-ntlm -U ... 2>&1 |
    grep -m1 -i 'proxy-authenticate: NTLM T' | ntlm-gateway decode

A message contains account, domain and host names. A weak password can be cracked from an AUTHENTICATE_MESSAGE: do not share it.";

/// Why a text is not an NTLM message. The error never contains the text, which may be another kind of credential.
#[derive(Debug, PartialEq, Eq, Error)]
enum DecodeError {
    #[error("nothing to decode; give a base64 message or a header line as an argument or on standard input")]
    Empty,
    #[error("the input is longer than {INPUT_LIMIT_BYTES} bytes and cannot be an NTLM message")]
    TooLong,
    #[error(
        "there is only the scheme {0}, without a message: the proxy offers it, or the client has not started a handshake"
    )]
    OfferOnly(&'static str),
    #[error("the header's scheme is not NTLM or Negotiate; its credentials are not shown")]
    OtherScheme,
    #[error(
        "the header does not carry NTLM; these do: Proxy-Authorization, Proxy-Authenticate, Authorization, WWW-Authenticate"
    )]
    OtherHeader,
    #[error("there is more than one word; give one base64 message or one header line")]
    SeveralWords,
    #[error("the message cannot be read: {0}")]
    Token(#[from] TokenError),
    #[error("the token is SPNEGO or of GSS-API, but holds neither NTLM nor a readable message of Kerberos")]
    Spnego,
    #[error("not an NTLM message: the bytes do not begin with NTLMSSP")]
    NotNtlm,
    #[error(transparent)]
    Message(#[from] MessageError),
}

pub(super) fn command() -> Command {
    Command::new("decode")
        .about("Show the fields of an NTLM message or of a Kerberos token")
        .arg(
            Arg::new("message")
                .value_name("MESSAGE")
                .num_args(1..)
                .help("The message in base64, or a whole header line; read from standard input if not given"),
        )
        .after_help(AFTER)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let text = match matches.get_many::<String>("message") {
        // A header line without quotes arrives as several arguments.
        Some(words) => words.map(String::as_str).collect::<Vec<_>>().join(" "),
        None => match from_stdin() {
            Ok(text) => text,
            Err(error) => return fail(format_args!("cannot read standard input: {error}")),
        },
    };
    match decode(&text) {
        Ok(fields) => print(&fields),
        Err(error) => fail(error),
    }
}

fn from_stdin() -> io::Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(INPUT_LIMIT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn decode(text: &str) -> Result<String, DecodeError> {
    if text.len() > INPUT_LIMIT_BYTES {
        return Err(DecodeError::TooLong);
    }
    let message = http::decode_token(&token(text)?)?;
    match message.first() {
        _ if message.starts_with(SIGNATURE) => Ok(aligned(&ntlm::describe(&message)?)),
        // The ASN.1 tags at the beginning of a token (RFC 2743 section 3.1, RFC 4178 section 4.2).
        Some(0x60 | 0xa0 | 0xa1) => unwrapped(&message),
        _ => Err(DecodeError::NotNtlm),
    }
}

/// The fields of a token of SPNEGO or Kerberos.
fn unwrapped(token: &[u8]) -> Result<String, DecodeError> {
    let mut rows = Vec::new();
    if let Some(response) = auth::read_response(token) {
        rows.push(("SPNEGO".to_owned(), format!("NegTokenResp, {:?}", response.state)));
    } else if auth::initial_token(token).is_some() {
        rows.push(("SPNEGO".to_owned(), "NegTokenInit".to_owned()));
    }
    let inner = match rows.is_empty() {
        true => Some(token),
        false => auth::read_response(token).map_or_else(|| auth::initial_token(token), |response| response.token),
    };
    match inner {
        Some(message) if message.starts_with(SIGNATURE) => rows.extend(ntlm::describe(message)?),
        Some(message) => rows.extend(kerberos::describe(message).map_err(|_| DecodeError::Spnego)?),
        None => {}
    }
    Ok(aligned(&rows))
}

/// The base64 of a bare message, of credentials with their scheme, or of a header line.
fn token(text: &str) -> Result<String, DecodeError> {
    // `curl -v` marks headers with these characters.
    let text = text.trim().trim_start_matches(['<', '>', '*']).trim();
    let value = match text.split_once(':') {
        Some((name, value)) if is_authentication_header(name) => value.trim(),
        Some(_) => return Err(DecodeError::OtherHeader),
        None => text,
    };
    let mut words = value.split_ascii_whitespace();
    let first = words.next().ok_or(DecodeError::Empty)?;
    let rest: Vec<&str> = words.collect();
    let scheme = ["NTLM", "Negotiate"].into_iter().find(|scheme| scheme.eq_ignore_ascii_case(first));
    match (scheme, rest.as_slice()) {
        (Some(scheme), []) => Err(DecodeError::OfferOnly(scheme)),
        // A message that a terminal or an editor has wrapped consists of several pieces of base64.
        (Some(_), pieces) if pieces.iter().all(|piece| is_base64(piece)) => Ok(pieces.concat()),
        (None, pieces)
            if is_base64(first) && first.starts_with("TlRM") && pieces.iter().all(|piece| is_base64(piece)) =>
        {
            Ok([first].into_iter().chain(pieces.iter().copied()).collect())
        }
        (None, []) if value.len() == text.len() => Ok(first.to_owned()),
        (None, _) if value.len() != text.len() || is_known_scheme(first) => Err(DecodeError::OtherScheme),
        _ => Err(DecodeError::SeveralWords),
    }
}

fn is_authentication_header(name: &str) -> bool {
    let names = ["proxy-authorization", "proxy-authenticate", "authorization", "www-authenticate"];
    names.contains(&name.trim().to_ascii_lowercase().as_str())
}

fn is_known_scheme(word: &str) -> bool {
    ["basic", "bearer", "digest", "kerberos"].contains(&word.to_ascii_lowercase().as_str())
}

fn is_base64(piece: &str) -> bool {
    piece.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A NEGOTIATE_MESSAGE without names.
    const NEGOTIATE: &str = "TlRMTVNTUAABAAAAt4II4gAAAAAAAAAAAAAAAAAAAAAFASgKAAAADw==";

    #[test]
    fn a_message_is_decoded_from_every_form_found_in_traces() {
        let expected = decode(NEGOTIATE).unwrap();
        assert!(expected.to_uppercase().contains("NEGOTIATE"), "{expected}");
        let wrapped = format!("{}\n{}\n", &NEGOTIATE[..20], &NEGOTIATE[20..]);
        for text in [
            format!("  {NEGOTIATE}\r\n"),
            wrapped,
            format!("NTLM {NEGOTIATE}"),
            format!("ntlm  {NEGOTIATE}  "),
            format!("Negotiate {NEGOTIATE}"),
            format!("Proxy-Authorization: NTLM {NEGOTIATE}"),
            format!("proxy-Authenticate:NTLM {NEGOTIATE}"),
            format!("< Proxy-Authenticate: Negotiate {NEGOTIATE}\r\n"),
            NEGOTIATE.trim_end_matches('=').to_owned(),
        ] {
            assert_eq!(decode(&text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn the_errors_say_why_a_text_is_not_a_message() {
        let kerberos = "Negotiate YIIFtgYGKwYBBQUCoIIFqjCCBaag";
        for (text, expected) in [
            ("", DecodeError::Empty),
            ("Proxy-Authenticate:", DecodeError::Empty),
            ("NTLM", DecodeError::OfferOnly("NTLM")),
            ("Proxy-Authenticate: negotiate", DecodeError::OfferOnly("Negotiate")),
            ("Basic aHVudGVyMg==", DecodeError::OtherScheme),
            ("Proxy-Authorization: Basic aHVudGVyMg==", DecodeError::OtherScheme),
            ("Cookie: NTLM", DecodeError::OtherHeader),
            ("two words", DecodeError::SeveralWords),
            ("hunter2!", DecodeError::Token(TokenError::NotBase64)),
            (kerberos, DecodeError::Spnego),
            ("aHVudGVyMg==", DecodeError::NotNtlm),
        ] {
            let error = decode(text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("aHVu"), "{error}");
        }
        assert!(matches!(decode("TlRMTVNTUAABAAAA"), Err(DecodeError::Message(_))));
    }
}
