//! Requests of clients that take the gateway for their origin: a target in origin form, and the origin in Host.

use super::authority::Authority;
use super::field_name::FieldName;
use super::request_head::{RequestError, RequestHead};
use super::target::RequestTarget;

/// The URL of a request to an origin whose client connected to `port` (RFC 9112 §3.3). A Host without a port means that
/// port, although by the letter it means 80: the client's connection says more than a field that it may have got wrong.
///
/// # Errors
/// [`RequestError`] if Host is missing, is not a host, or names another port than that of the connection.
pub fn url_of_redirected(head: &RequestHead<'_>, port: u16) -> Result<String, RequestError> {
    let host = head.fields.get(FieldName::Host).ok_or(RequestError::NoHost)?;
    let host = str::from_utf8(host).map_err(|_| RequestError::InvalidHost)?;
    let authority = Authority::parse_with_default_port(host, port).map_err(|_| RequestError::InvalidHost)?;
    if authority.port != port {
        return Err(RequestError::OtherPort);
    }
    let path = match head.target {
        RequestTarget::Origin(path) => path,
        // RFC 9112 §3.2.4: the last proxy makes an asterisk of it again.
        _ => "",
    };
    let has_port = Authority::parse(host).is_ok();
    Ok(match has_port || port == 80 {
        true => format!("http://{host}{path}"),
        false => format!("http://{authority}{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::FieldStorage;

    fn url(request: &str, port: u16) -> Result<String, RequestError> {
        let head = format!("{request}\r\n\r\n");
        let mut storage = FieldStorage::new();
        RequestHead::parse(head.as_bytes(), &mut storage).and_then(|head| url_of_redirected(&head, port))
    }

    #[test]
    fn host_path_and_the_port_of_the_connection_make_the_url() {
        for (request, port, expected) in [
            ("GET /a?b HTTP/1.1\r\nHost: a.example", 80, "http://a.example/a?b"),
            ("GET / HTTP/1.1\r\nHost: a.example:80", 80, "http://a.example:80/"),
            ("GET / HTTP/1.1\r\nHost: a.example:8080", 8080, "http://a.example:8080/"),
            ("GET / HTTP/1.1\r\nHost: A.example", 8080, "http://A.example:8080/"),
            ("GET / HTTP/1.1\r\nHost: 192.0.2.1", 8080, "http://192.0.2.1:8080/"),
            ("GET / HTTP/1.1\r\nHost: [2001:db8::1]", 80, "http://[2001:db8::1]/"),
            ("GET / HTTP/1.1\r\nHost: [2001:db8::1]", 81, "http://[2001:db8::1]:81/"),
            ("GET //b@c.example/ HTTP/1.1\r\nHost: a.example", 80, "http://a.example//b@c.example/"),
            ("OPTIONS * HTTP/1.1\r\nHost: a.example", 80, "http://a.example"),
            ("GET / HTTP/1.0\r\nHost: a.example", 80, "http://a.example/"),
        ] {
            assert_eq!(url(request, port).as_deref(), Ok(expected), "{request}");
        }
    }

    #[test]
    fn a_missing_invalid_or_conflicting_host_is_an_error() {
        for (request, error) in [
            ("GET / HTTP/1.1\r\nA: b", RequestError::MissingHost),
            ("GET / HTTP/1.0\r\nA: b", RequestError::NoHost),
            ("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example", RequestError::DuplicateHost),
            ("GET / HTTP/1.1\r\nHost: a.example, b.example", RequestError::InvalidHost),
            ("GET / HTTP/1.1\r\nHost:", RequestError::InvalidHost),
            ("GET / HTTP/1.1\r\nHost: a..b", RequestError::InvalidHost),
            ("GET / HTTP/1.1\r\nHost: 127.1", RequestError::InvalidHost),
            ("GET / HTTP/1.1\r\nHost: u@a.example", RequestError::InvalidHost),
            ("GET / HTTP/1.1\r\nHost: a.example:81", RequestError::OtherPort),
        ] {
            let outcome = url(request, 80);
            assert_eq!(outcome, Err(error), "{request}");
            assert_eq!(error.status(), 400);
        }
    }
}
