//! Distinguishes a web server from a proxy by its response to a CONNECT.

use super::behaviours::Leg;
use super::message::Answer;

/// Fields that proxies send and web servers do not.
const OF_PROXIES: &[&str] =
    &["via", "proxy-authenticate", "proxy-agent", "proxy-status", "proxy-support", "x-squid-error"];

/// The responses of servers to plain HTTP on a TLS port: nginx, Apache, Go.
const WANTS_TLS: &[&str] = &[
    "plain HTTP request was sent to HTTPS port",
    "speaking plain HTTP to an SSL-enabled",
    "HTTP request to an HTTPS server",
];

/// The response that reveals a web server; `None` if a proxy may have sent it.
///
/// A web server does not know CONNECT, or serves a page anyway. Statuses that proxies send as well (403, 407, 503 …)
/// reveal nothing.
pub(super) fn recognise<'a>(legs: &[Leg<'a>]) -> Option<&'a Answer> {
    let answers = || legs.iter().map(|leg| leg.answer);
    let of_proxy = |answer: &Answer| OF_PROXIES.iter().any(|name| answer.values(name).next().is_some());
    if answers().any(|answer| matches!(answer.status, 0 | 401 | 407) || of_proxy(answer)) {
        return None;
    }
    answers().find(|answer| match answer.status {
        400 | 404 | 405 | 501 => true,
        200..=299 => answer.has_page,
        301..=308 => answer.values("server").next().is_some(),
        _ => false,
    })
}

/// Whether a response says that its port expects TLS.
pub(super) fn wants_tls(answer: &Answer) -> bool {
    let page = String::from_utf8_lossy(&answer.body);
    WANTS_TLS.iter().any(|text| page.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::probe::message::Sent;

    fn recognised(head: &str) -> Option<u16> {
        let answer = Answer::of(head.as_bytes(), 4096).unwrap();
        let sent = Sent::of(b"CONNECT a.test:443 HTTP/1.1\r\n\r\n");
        recognise(&[Leg { sent: &sent, answer: &answer }]).map(|answer| answer.status)
    }

    #[test]
    fn web_servers_are_distinguished_from_proxies() {
        for (head, expected) in [
            ("HTTP/1.1 405 Not Allowed\r\nServer: nginx/1.22\r\n\r\n", Some(405)),
            ("HTTP/1.1 400 Bad Request\r\nServer: Apache\r\n\r\n", Some(400)),
            ("HTTP/1.0 501 Unsupported method ('CONNECT')\r\nServer: SimpleHTTP/0.6\r\n\r\n", Some(501)),
            ("HTTP/1.1 404 Not Found\r\n\r\n", Some(404)),
            ("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 12\r\n\r\n", Some(200)),
            ("HTTP/1.1 302 Found\r\nServer: x\r\nLocation: https://a.test/\r\n\r\n", Some(302)),
            ("HTTP/1.1 302 Found\r\nLocation: https://login.test/\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", None),
            ("HTTP/1.1 200 Connection established\r\n\r\n", None),
            ("HTTP/1.1 400 Bad Request\r\nVia: 1.1 squid\r\n\r\n", None),
            ("HTTP/1.1 403 Forbidden\r\nServer: x\r\n\r\n", None),
            ("HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\n\r\n", None),
        ] {
            assert_eq!(recognised(head), expected, "{head}");
        }
    }
}
