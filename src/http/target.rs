//! The four forms of a request target (RFC 9112 §3.2).

use super::authority::{Authority, AuthorityError};
use super::spans::target_length;

/// What an absolute-form target begins with.
const HTTP: &str = "http://";

/// Why a request target is rejected. The error contains no bytes from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// None of the forms that the method allows.
    #[error("the request target has none of the forms of RFC 9112 section 3.2")]
    InvalidForm,
    /// A character outside visible ASCII, or a fragment.
    #[error("the request target has a character that must be percent-encoded")]
    InvalidCharacter,
    /// An absolute-form target with a scheme other than `http`.
    #[error("the scheme of the request target is not http")]
    UnsupportedScheme,
    /// The host or port is invalid.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
}

/// A parsed request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestTarget<'b> {
    /// `host:port`, the target of a CONNECT.
    Authority(Authority<'b>),
    /// `http://host[:port]/path?query`, the form for requests to a proxy.
    Absolute {
        /// Host and port. The port defaults to 80.
        authority: Authority<'b>,
        /// The authority as received, which becomes the Host field of the forwarded request (RFC 9112 §3.2.2).
        authority_text: &'b str,
        /// Everything after the authority, as received. It may be empty or begin with `?`.
        path_and_query: &'b str,
    },
    /// `/path?query`, the form for requests to an origin.
    Origin(&'b str),
    /// `*`, for OPTIONS only.
    Asterisk,
}

impl<'b> RequestTarget<'b> {
    /// Parses the target of a request with this method.
    ///
    /// # Errors
    /// [`TargetError`] if the target has no form that the method allows, or an invalid character, scheme or authority.
    pub fn parse(method: &str, text: &'b str) -> Result<Self, TargetError> {
        if target_length(text.as_bytes()) < text.len() {
            return Err(TargetError::InvalidCharacter);
        }
        Self::parse_plain(method, text)
    }

    /// The same for a text that consists of the characters of targets.
    pub(super) fn parse_plain(method: &str, text: &'b str) -> Result<Self, TargetError> {
        match text {
            _ if method == "CONNECT" => Ok(Self::Authority(Authority::parse(text)?)),
            "*" if method == "OPTIONS" => Ok(Self::Asterisk),
            _ if text.starts_with('/') => Ok(Self::Origin(text)),
            _ => Self::parse_absolute(text),
        }
    }

    fn parse_absolute(text: &'b str) -> Result<Self, TargetError> {
        let scheme = text.get(..HTTP.len());
        if !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(HTTP)) {
            let has_scheme = text.contains("://");
            return Err(if has_scheme { TargetError::UnsupportedScheme } else { TargetError::InvalidForm });
        }
        let rest = text.get(HTTP.len()..).unwrap_or_default();
        let end = rest.bytes().position(|byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
        let (authority_text, path_and_query) = rest.split_at(end);
        Ok(Self::Absolute {
            authority: Authority::parse_with_default_port(authority_text, 80)?,
            authority_text,
            path_and_query,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Host;

    #[test]
    fn each_form_is_recognised() {
        assert_eq!(
            RequestTarget::parse("CONNECT", "h:443"),
            Ok(RequestTarget::Authority(Authority { host: Host::Name("h"), port: 443 }))
        );
        assert_eq!(RequestTarget::parse("GET", "/a?b"), Ok(RequestTarget::Origin("/a?b")));
        assert_eq!(RequestTarget::parse("OPTIONS", "*"), Ok(RequestTarget::Asterisk));
    }

    #[test]
    fn an_absolute_target_is_split_into_its_parts() {
        for (text, host, port, authority, path) in [
            ("http://h/a?b=http://c/", "h", 80, "h", "/a?b=http://c/"),
            ("HTTP://h:8080", "h", 8080, "h:8080", ""),
            ("http://h?q@r", "h", 80, "h", "?q@r"),
        ] {
            assert_eq!(
                RequestTarget::parse("GET", text),
                Ok(RequestTarget::Absolute {
                    authority: Authority { host: Host::Name(host), port },
                    authority_text: authority,
                    path_and_query: path,
                })
            );
        }
    }

    #[test]
    fn invalid_targets_are_rejected() {
        for (method, text, error) in [
            ("GET", "h:443", TargetError::InvalidForm),
            ("connect", "h:443", TargetError::InvalidForm),
            ("GET", "*", TargetError::InvalidForm),
            ("GET", "a/b", TargetError::InvalidForm),
            ("GET", "https://h/", TargetError::UnsupportedScheme),
            ("GET", "ftp://h/", TargetError::UnsupportedScheme),
            ("GET", "://h/", TargetError::UnsupportedScheme),
            ("GET", "/a#b", TargetError::InvalidCharacter),
            ("GET", "/\u{e4}", TargetError::InvalidCharacter),
            ("GET", "http:///a", AuthorityError::EmptyHost.into()),
            ("GET", "http://u:p@h/", AuthorityError::UserInfo.into()),
            ("CONNECT", "http://h/", AuthorityError::InvalidPort.into()),
            ("CONNECT", "/", AuthorityError::MissingPort.into()),
            ("CONNECT", "*", AuthorityError::MissingPort.into()),
        ] {
            assert_eq!(RequestTarget::parse(method, text), Err(error), "{method} {text}");
        }
    }
}
