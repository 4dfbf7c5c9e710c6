//! What the stub needs to know about a request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::behaviour::Behaviour;
use crate::http::{Authority, BodyFraming, FieldName, FieldStorage, RequestError, RequestHead, RequestTarget};

/// A request whose head was parsed.
#[derive(Debug)]
pub(super) struct ProxyRequest {
    pub connect: bool,
    pub wants_body: bool,
    /// The destination's host in lower case; empty if the target has none.
    pub host: String,
    /// The client wants to keep the connection.
    pub persists: bool,
    pub credentials: RequestCredentials,
    /// It has a hop-by-hop field of the gateway's client.
    pub client_fields: bool,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    pub framing: BodyFraming,
}

/// What a stub accepts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepts {
    /// The personality's scheme, with NTLM in it.
    pub ntlm: bool,
    /// Negotiate, with Kerberos in it.
    pub kerberos: bool,
}

impl Accepts {
    pub(super) const NTLM: Accepts = Accepts { ntlm: true, kerberos: false };
}

/// What the authorization field contains. Its `Debug` does not show tokens, because they are credentials.
pub(super) enum RequestCredentials {
    None,
    /// A decoded token of the supported scheme.
    Token(Vec<u8>),
    /// A decoded token of the scheme Negotiate, for a stub that accepts Kerberos.
    Ticket(Vec<u8>),
    /// A token of one of these schemes that is not base64.
    Garbled,
    /// Other schemes only.
    Foreign,
}

impl std::fmt::Debug for RequestCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RequestCredentials::None => "None",
            RequestCredentials::Token(_) => "Token",
            RequestCredentials::Ticket(_) => "Ticket",
            RequestCredentials::Garbled => "Garbled",
            RequestCredentials::Foreign => "Foreign",
        })
    }
}

impl ProxyRequest {
    /// Parses exactly one head.
    ///
    /// # Errors
    /// If the head is malformed.
    pub(super) fn read(head: &[u8], behaviour: &Behaviour, accepts: Accepts) -> Result<ProxyRequest, RequestError> {
        let mut storage = FieldStorage::new();
        let head = RequestHead::parse(head, &mut storage)?;
        let (connect, credentials) = (head.is_connect(), RequestCredentials::read(&head, behaviour, accepts));
        let connection = [FieldName::Connection, FieldName::ProxyConnection];
        let says_close = connection.iter().any(|name| head.fields.has_token(*name, "close"));
        let doubled = head.fields.get_all(FieldName::ProxyAuthorization).count() > 1;
        // A gateway that speaks NTLM never sends another scheme, whatever the stub offers.
        let not_ntlm = head.fields.get_all(FieldName::ProxyAuthorization).any(|value| {
            let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
            ![&b"NTLM"[..], b"Negotiate"].iter().any(|known| known.eq_ignore_ascii_case(scheme))
        });
        let asks_to_stay = connection.iter().any(|name| head.fields.has_token(*name, "keep-alive"));
        Ok(ProxyRequest {
            connect,
            wants_body: head.method != "HEAD",
            host: host_of(&head.target).to_ascii_lowercase(),
            persists: head.persists() && (asks_to_stay || !behaviour.rules.keep_alive_on_demand),
            client_fields: doubled || not_ntlm || connect && says_close,
            credentials,
            expects_continue: head.fields.has_token(FieldName::Expect, "100-continue"),
            framing: head.framing,
        })
    }

    /// Whether a body follows.
    pub(super) fn has_body(&self) -> bool {
        !matches!(self.framing, BodyFraming::None | BodyFraming::Length(0))
    }
}

impl RequestCredentials {
    fn read(head: &RequestHead<'_>, behaviour: &Behaviour, accepts: Accepts) -> RequestCredentials {
        // A proxy that poses as the origin uses the origin's field.
        let field = if behaviour.head.auth_status == 401 { "authorization" } else { "proxy-authorization" };
        let mut values = head.fields.get_all(field).peekable();
        if values.peek().is_none() {
            return RequestCredentials::None;
        }
        let mut tokens = values.filter_map(|value| {
            let (scheme, token) = str::from_utf8(value).ok()?.split_once(' ')?;
            let is_ticket = accepts.kerberos && scheme.eq_ignore_ascii_case("Negotiate");
            let is_spoken = || behaviour.offers.scheme.is_some_and(|spoken| spoken.eq_ignore_ascii_case(scheme));
            (is_ticket || accepts.ntlm && is_spoken()).then(|| (is_ticket, token.trim()))
        });
        match tokens.next().map(|(is_ticket, token)| (is_ticket, STANDARD.decode(token))) {
            Some((true, Ok(token))) => RequestCredentials::Ticket(token),
            Some((false, Ok(token))) => RequestCredentials::Token(token),
            Some((_, Err(_))) => RequestCredentials::Garbled,
            None => RequestCredentials::Foreign,
        }
    }
}

fn host_of(target: &RequestTarget<'_>) -> String {
    match target {
        RequestTarget::Authority(Authority { host, .. })
        | RequestTarget::Absolute { authority: Authority { host, .. }, .. } => host.to_string(),
        RequestTarget::Origin(_) | RequestTarget::Asterisk => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::Personality;

    fn read(head: &str, personality: Personality) -> ProxyRequest {
        ProxyRequest::read(head.as_bytes(), &personality.behaviour(), Accepts::NTLM).unwrap()
    }

    #[test]
    fn the_supported_schemes_token_is_found_in_any_letter_case() {
        let request =
            read("CONNECT Echo.Test:443 HTTP/1.1\r\nPROXY-authorization: ntlm  TlRMTQ== \r\n\r\n", Personality::Plain);
        assert!(matches!(&request.credentials, RequestCredentials::Token(token) if token == b"NTLM"));
        assert_eq!(request.host, "echo.test");
        assert!(request.connect && request.persists && !request.client_fields);
    }

    #[test]
    fn hop_by_hop_fields_of_the_client_are_noticed() {
        for fields in [
            "Connection: close\r\n",
            "Proxy-Connection: close\r\n",
            "Proxy-Authorization: Basic eDp5\r\n",
            "Proxy-Authorization: Basic eDp5\r\nProxy-Authorization: NTLM TlRMTQ==\r\n",
        ] {
            let head = format!("CONNECT a:1 HTTP/1.1\r\n{fields}\r\n");
            assert!(read(&head, Personality::Plain).client_fields, "{fields}");
        }
    }

    #[test]
    fn an_http_1_0_proxy_keeps_a_connection_only_on_request() {
        assert!(!read("CONNECT a:1 HTTP/1.1\r\n\r\n", Personality::Http10).persists);
        let head = "CONNECT a:1 HTTP/1.1\r\nProxy-Connection: Keep-Alive\r\n\r\n";
        assert!(read(head, Personality::Http10).persists);
    }
}
