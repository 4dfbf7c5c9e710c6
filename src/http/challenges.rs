//! Authentication challenges (RFC 9110 §11.6.1) and their tokens.
//!
//! Challenges may share a field line, as in `Negotiate, Basic realm="a, b", NTLM TlRM…==`, or have one each. Commas
//! separate both challenges and the parameters of a challenge, so the text after a comma is a parameter only if it
//! begins with `name=`.

use super::base64_engine;
use super::field_name::{FieldName, LookupName};
use super::fields::{Fields, Values};
use super::start_line::{is_blank, is_token_char, trim_blanks, trim_blanks_start};
use std::fmt;

/// The longest token that is decoded, in bytes of base64. A CHALLENGE_MESSAGE with the largest TargetInfo that its
/// 16-bit length allows fits.
pub const TOKEN_LIMIT_BYTES: usize = 96 * 1024;

/// How many schemes [`offered_schemes`] lists, and how many bytes of each name.
const OFFERED_MAX: usize = 8;
const OFFERED_NAME_LIMIT_BYTES: usize = 32;

/// One challenge, borrowed from its field value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge<'b> {
    /// The auth-scheme as sent, a token.
    pub scheme: &'b str,
    /// The token68 after the scheme, not decoded. For NTLM and Negotiate it is a message in base64.
    pub token68: Option<&'b str>,
    /// The parameters as sent, from the first name to the last value, or empty.
    pub params: &'b [u8],
}

impl Challenge<'_> {
    /// Whether the challenge has this scheme. Case is ignored.
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// Whether the challenge is only a scheme name: an offer, or, in reply to an AUTHENTICATE_MESSAGE, a rejection.
    pub fn is_bare(&self) -> bool {
        self.token68.is_none() && self.params.is_empty()
    }
}

/// Omits the token and the parameters.
impl fmt::Debug for Challenge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge")
            .field("scheme", &self.scheme)
            .field("token68_bytes", &self.token68.map(str::len))
            .field("params_bytes", &self.params.len())
            .finish()
    }
}

/// Why a token cannot be decoded. The error contains no bytes from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`TOKEN_LIMIT_BYTES`].
    #[error("the token has {bytes} bytes, more than {TOKEN_LIMIT_BYTES}")]
    TooLong {
        /// Its length in bytes of base64.
        bytes: usize,
    },
    /// A character outside the base64 alphabet, or an impossible length.
    #[error("the token is not base64")]
    NotBase64,
}

/// The challenges of all Proxy-Authenticate fields, in order. Anything that is not a challenge is skipped.
pub fn challenges<'b>(fields: &Fields<'b>) -> Challenges<'b> {
    challenges_in(fields, FieldName::ProxyAuthenticate)
}

/// Like [`challenges`], for fields with another name, such as WWW-Authenticate.
pub fn challenges_in<'b>(fields: &Fields<'b>, field_name: impl Into<LookupName<'static>>) -> Challenges<'b> {
    Challenges { lines: fields.get_all(field_name), line: b"" }
}

/// The first challenge of this scheme that has a token or, if none has, the first of this scheme. Case is ignored.
pub fn find_challenge<'b>(fields: &Fields<'b>, scheme: &str) -> Option<Challenge<'b>> {
    let mut of_scheme = challenges(fields).filter(|challenge| challenge.is(scheme));
    let first = of_scheme.next()?;
    if first.token68.is_some() {
        return Some(first);
    }
    of_scheme.find(|challenge| challenge.token68.is_some()).or(Some(first))
}

/// The offered schemes as text for logs and error messages, such as `Negotiate, Basic`, or `none`.
///
/// At most 8 schemes of 32 bytes each are listed. The text consists of token characters, commas and spaces only.
pub fn offered_schemes(fields: &Fields<'_>) -> String {
    let mut text = String::new();
    for (index, challenge) in challenges(fields).enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        if index == OFFERED_MAX {
            text.push_str("...");
            break;
        }
        let name = challenge.scheme;
        text.push_str(name.get(..OFFERED_NAME_LIMIT_BYTES).unwrap_or(name));
    }
    if text.is_empty() {
        text.push_str("none");
    }
    text
}

/// A message in base64, as in a token68.
pub fn encode_token(message: &[u8]) -> String {
    let mut text = Vec::new();
    base64_engine::append(&mut text, message);
    String::from_utf8(text).unwrap_or_default()
}

/// Decodes a token68 from base64. Padding may be missing, and blanks around it are ignored.
///
/// # Errors
/// [`TokenError::TooLong`] for more than [`TOKEN_LIMIT_BYTES`], otherwise [`TokenError::NotBase64`].
pub fn decode_token(token68: &str) -> Result<Vec<u8>, TokenError> {
    let text = trim_blanks(token68.as_bytes());
    if text.len() > TOKEN_LIMIT_BYTES {
        return Err(TokenError::TooLong { bytes: text.len() });
    }
    base64_engine::decode(text).ok_or(TokenError::NotBase64)
}

/// An iterator over challenges; see [`challenges`].
#[derive(Clone)]
pub struct Challenges<'b> {
    lines: Values<'b>,
    line: &'b [u8],
}

impl<'b> Iterator for Challenges<'b> {
    type Item = Challenge<'b>;

    fn next(&mut self) -> Option<Challenge<'b>> {
        loop {
            self.line = skip_separators(self.line);
            if self.line.is_empty() {
                self.line = self.lines.next()?;
                continue;
            }
            let (challenge, rest) = split_challenge(self.line);
            self.line = rest;
            if challenge.is_some() {
                return challenge;
            }
        }
    }
}

/// Splits the first challenge, or the first element that is not a challenge, off a non-empty `line`. The rest is always
/// shorter than `line`.
fn split_challenge(line: &[u8]) -> (Option<Challenge<'_>>, &[u8]) {
    let (scheme, rest) = line.split_at(token_len(line));
    let after = trim_blanks_start(rest);
    let scheme = str::from_utf8(scheme).unwrap_or_default();
    let ends = matches!(after.first(), None | Some(b','));
    let separated = ends || after.len() < rest.len();
    if scheme.is_empty() || !separated || after.first() == Some(&b'=') {
        return (None, line.split_at(element_len(line)).1);
    }
    let mut challenge = Challenge { scheme, token68: None, params: b"" };
    if ends {
        return (Some(challenge), after);
    }
    let (token68, rest) = after.split_at(token68_len(after));
    if !token68.is_empty() && matches!(trim_blanks_start(rest).first(), None | Some(b',')) {
        challenge.token68 = str::from_utf8(token68).ok();
        return (Some(challenge), rest);
    }
    let (params, rest) = after.split_at(params_len(after));
    challenge.params = trim_blanks(params);
    (Some(challenge), rest)
}

/// The length of the first element and all parameters that follow it.
fn params_len(text: &[u8]) -> usize {
    let mut len = element_len(text);
    loop {
        let next = skip_separators(text.get(len..).unwrap_or_default());
        let (name, rest) = next.split_at(token_len(next));
        if name.is_empty() || trim_blanks_start(rest).first() != Some(&b'=') {
            return len;
        }
        len = text.len() - next.len() + element_len(next);
    }
}

/// The length up to the next comma that is not inside a quoted-string (RFC 9110 §5.6.4).
fn element_len(text: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (index, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return index,
            _ => {}
        }
    }
    text.len()
}

fn token_len(text: &[u8]) -> usize {
    let end = text.iter().position(|&byte| !is_token_char(byte));
    end.unwrap_or(text.len())
}

/// The length of the token68 at the start of `text` (RFC 9110 §11.2): letters, digits and `-._~+/`, then any number of
/// `=`.
fn token68_len(text: &[u8]) -> usize {
    /// Tokens are long, and the compiler makes vector instructions of a loop of fixed length without an early exit.
    const PIECE_BYTES: usize = 32;
    fn is_token68_char(byte: u8) -> bool {
        let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        let is_digit = byte.wrapping_sub(b'0') < 10;
        // `-`, `.` and `/` have successive codes.
        let is_mark = (byte.wrapping_sub(b'-') < 3) | (byte == b'+') | (byte == b'_') | (byte == b'~');
        is_letter | is_digit | is_mark
    }
    let is_whole = |piece: &&[u8; PIECE_BYTES]| piece.iter().fold(true, |all, byte| all & is_token68_char(*byte));
    let (pieces, _) = text.as_chunks();
    let whole = pieces.iter().take_while(is_whole).count() * PIECE_BYTES;
    let end = text[whole..].iter().take_while(|&&byte| is_token68_char(byte)).count();
    let body = whole + end;
    let padding = text.iter().skip(body).take_while(|&&byte| byte == b'=').count();
    if body == 0 { 0 } else { body + padding }
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|&byte| !is_blank(byte) && byte != b',');
    text.get(start.unwrap_or(text.len())..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::FieldStorage;

    fn with<T>(lines: &[&str], check: impl FnOnce(&Fields<'_>) -> T) -> T {
        let mut section = String::new();
        for line in lines {
            section.push_str("proxy-Authenticate: ");
            section.push_str(line);
            section.push_str("\r\n");
        }
        section.push_str("\r\n");
        check(&Fields::parse(section.as_bytes(), &mut FieldStorage::new()).unwrap())
    }

    fn parse(lines: &[&str]) -> Vec<(String, Option<String>, String)> {
        with(lines, |fields| {
            challenges(fields)
                .map(|challenge| {
                    (
                        challenge.scheme.to_owned(),
                        challenge.token68.map(str::to_owned),
                        String::from_utf8_lossy(challenge.params).into_owned(),
                    )
                })
                .collect()
        })
    }

    fn bare(scheme: &str) -> (String, Option<String>, String) {
        (scheme.to_owned(), None, String::new())
    }

    fn token(scheme: &str, token68: &str) -> (String, Option<String>, String) {
        (scheme.to_owned(), Some(token68.to_owned()), String::new())
    }

    fn params(scheme: &str, params: &str) -> (String, Option<String>, String) {
        (scheme.to_owned(), None, params.to_owned())
    }

    #[test]
    fn challenges_may_share_a_line_or_have_one_each() {
        let expected = [bare("Negotiate"), bare("Kerberos"), bare("NTLM")];
        assert_eq!(parse(&["Negotiate ", "Kerberos ", "NTLM "]), expected);
        assert_eq!(parse(&["Negotiate, Kerberos, NTLM"]), expected);
        assert_eq!(parse(&["Negotiate,Kerberos ,\tNTLM"]), expected);
        assert_eq!(parse(&[",, Negotiate ,,Kerberos", "", ", NTLM,"]), expected);
    }

    #[test]
    fn quoted_strings_hide_commas_and_escaped_quotes() {
        assert_eq!(
            parse(&[
                r#"Basic realm="a, NTLM x", Digest qop="auth,auth-int", nonce="\"q\", r", stale=FALSE, NTLM TlRM+/==, Negotiate"#
            ]),
            [
                params("Basic", r#"realm="a, NTLM x""#),
                params("Digest", r#"qop="auth,auth-int", nonce="\"q\", r", stale=FALSE"#),
                token("NTLM", "TlRM+/=="),
                bare("Negotiate"),
            ]
        );
    }

    #[test]
    fn unusual_spacing_is_accepted() {
        assert_eq!(
            parse(&["nTlM   TlRM==  ,  Basic  realm = \"x\" ,charset=\"UTF-8\"  ,,NEGOTIATE\t"]),
            [token("nTlM", "TlRM=="), params("Basic", "realm = \"x\" ,charset=\"UTF-8\""), bare("NEGOTIATE"),]
        );
    }

    #[test]
    fn elements_that_are_not_challenges_are_skipped() {
        for line in ["\"NTLM\"", "=", "NTLM: x", "(a)", "realm=\"a, b\"", "\u{e4}"] {
            assert_eq!(parse(&[line, "NTLM"]), [bare("NTLM")], "{line}");
            assert_eq!(parse(&[&format!("{line}, NTLM")]), [bare("NTLM")], "{line}");
        }
        assert_eq!(parse(&["Basic realm=\"open, NTLM"]).len(), 1);
        assert_eq!(parse(&[]), []);
    }

    #[test]
    fn a_challenge_with_an_invalid_token_is_not_a_bare_offer() {
        with(&["NTLM TlRM TVNT"], |fields| {
            let challenge = find_challenge(fields, "NTLM").unwrap();
            assert_eq!(challenge.token68, None);
            assert!(!challenge.is_bare());
        });
        with(&["NTLM"], |fields| {
            assert!(find_challenge(fields, "NTLM").unwrap().is_bare());
        });
    }

    #[test]
    fn a_token68_ends_at_the_first_byte_that_is_none_of_its_characters() {
        let allowed: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9').chain(*b"-._~+/").collect();
        for byte in 0..=u8::MAX {
            for at in [0, 1, 31, 32, 33, 70] {
                let text: Vec<u8> = (0..96).map(|place| if place == at { byte } else { b'A' }).collect();
                let padding = usize::from(byte == b'=' && at > 0);
                let expected = if allowed.contains(&byte) { 96 } else { at + padding };
                assert_eq!(token68_len(&text), expected, "{byte} at {at}");
            }
        }
        assert_eq!((token68_len(b""), token68_len(b"=="), token68_len(b"a==b")), (0, 0, 3));
    }

    #[test]
    fn the_ntlm_challenge_with_a_token_is_found_anywhere() {
        for lines in [
            &["Negotiate", "NTLM TlRM"][..],
            &["Basic realm=\"x\", ntlm TlRM"],
            &["NTLM", "Ntlm TlRM", "NTLM other"],
            &["NTLM TlRM, NTLM"],
        ] {
            with(lines, |fields| {
                assert_eq!(find_challenge(fields, "NTLM").unwrap().token68, Some("TlRM"));
            });
        }
        with(&["NTLMv2", "Negotiate NTLM"], |fields| {
            assert_eq!(find_challenge(fields, "NTLM"), None);
            let negotiate = find_challenge(fields, "negotiate").unwrap();
            assert_eq!(negotiate.token68, Some("NTLM"));
        });
    }

    #[test]
    fn challenges_are_read_from_other_fields_too() {
        let section = b"WWW-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
        let mut storage = FieldStorage::new();
        let fields = Fields::parse(section, &mut storage).unwrap();
        let schemes: Vec<_> = challenges_in(&fields, "www-authenticate").map(|challenge| challenge.scheme).collect();
        assert_eq!(schemes, ["NTLM"]);
    }

    #[test]
    fn the_list_of_offered_schemes_is_bounded() {
        with(&["Basic realm=\"secret\"", "Negotiate, Bearer"], |fields| {
            assert_eq!(offered_schemes(fields), "Basic, Negotiate, Bearer");
        });
        with(&[], |fields| assert_eq!(offered_schemes(fields), "none"));
        let long = ["x".repeat(1000), vec!["y"; 1000].join(",")];
        with(&[&long[0], &long[1]], |fields| {
            let text = offered_schemes(fields);
            assert!(text.ends_with(", y, ..."), "{text}");
            assert!(text.len() < 100, "{text}");
        });
    }

    #[test]
    fn tokens_are_decoded_up_to_the_limit() {
        assert_eq!(decode_token("TlRMTVNTUAA=").unwrap(), b"NTLMSSP\0");
        assert_eq!(decode_token(" TlRMTVNTUAA \t").unwrap(), b"NTLMSSP\0");
        assert_eq!(decode_token("TlRMTVNTUAB=").unwrap(), b"NTLMSSP\0");
        assert_eq!(decode_token("").unwrap(), b"");
        for bad in ["TlRMTVNTUAA=x", "A", "TlRM TVNT", "TlRM-_==", "\u{e4}aaa"] {
            assert_eq!(decode_token(bad), Err(TokenError::NotBase64), "{bad}");
        }
        assert!(decode_token(&"A".repeat(TOKEN_LIMIT_BYTES)).is_ok());
        assert_eq!(
            decode_token(&"A".repeat(TOKEN_LIMIT_BYTES + 1)),
            Err(TokenError::TooLong { bytes: TOKEN_LIMIT_BYTES + 1 })
        );
    }

    #[test]
    fn debug_output_contains_no_token() {
        with(&["NTLM TlRM"], |fields| {
            assert!(!format!("{:?}", find_challenge(fields, "NTLM")).contains("TlRM"));
        });
    }
}
