//! What a KDC issues, for tests that have no exchange with one.

use crate::kerberos::crypto::{Etype, Key, KeyUsage};
use crate::kerberos::message::Ticket;
use crate::kerberos::message::ticket_part::TicketPart;
use crate::kerberos::ticket::TokenKey;
use crate::kerberos::{ClockSkew, Credential, Keytab, KeytabEntry, Principal, PrincipalName, Timestamp};

/// A service with one key.
#[derive(Clone, Debug)]
pub(crate) struct IssuingService {
    pub principal: Principal,
    pub etype: Etype,
    /// The version of its key, which also decides what the key is.
    pub kvno: u8,
}

impl IssuingService {
    fn key(&self) -> Key {
        key(self.etype, self.kvno)
    }

    /// A ticket for a client. `session` decides its session key.
    pub fn issue(&self, client: &Principal, session: u8, start: Timestamp, end: Timestamp) -> Credential {
        let (session_key, client) = (key(self.etype, session), client.clone());
        let part = TicketPart {
            flags: 0,
            session_key: session_key.clone(),
            client: client.clone(),
            authenticated: start,
            start,
            end,
            renew_till: None,
        };
        let cipher = self.key().encrypt(KeyUsage::TICKET, &[3; 16], &part.encode(0));
        Credential {
            client,
            service: self.principal.clone(),
            start,
            end,
            renew_till: None,
            skew: ClockSkew::default(),
            ticket: Ticket::new(&self.principal, self.etype, self.kvno.into(), &cipher),
            session_key,
            token_key: TokenKey::default(),
        }
    }

    /// Its keytab.
    pub fn keytab(&self) -> Keytab {
        let (principal, written) = (self.principal.clone(), Timestamp::default());
        Keytab::new(vec![KeytabEntry { principal, kvno: self.kvno.into(), written, key: self.key() }])
    }
}

fn key(etype: Etype, byte: u8) -> Key {
    Key::new(etype, &vec![byte; etype.key_bytes()]).unwrap()
}

/// Whether a GSS-API token was made with this ticket.
pub(crate) fn is_with_ticket(token: &[u8], credential: &Credential) -> bool {
    let ticket = credential.ticket.as_bytes();
    token.windows(ticket.len()).any(|window| window == ticket)
}

/// `HTTP/host@REALM`.
pub(crate) fn http_service(host: &str, realm: &str) -> Principal {
    Principal { name: PrincipalName::service("HTTP", host).unwrap(), realm: realm.into() }
}
