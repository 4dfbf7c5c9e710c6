//! Why a client is rejected, whatever it asks for: its admission, its login, its listener.

use std::net::IpAddr;

use crate::client_protocol::{Logins, ShownLogin};
use crate::egress::{ClientError, CurrentEgress, LoginError};
use crate::fault::{At, Cause, Fault};

/// What was decided about a client when it was accepted. The client is told after its head has come, because an answer
/// that overtakes its question is lost when the connection closes on unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may send requests.
    Welcome,
    /// As many tunnels are open as may be.
    Full,
    /// Its address is not among those allowed.
    NotAllowed,
    /// Its address has as many connections as one may have, or opens them too fast.
    TooMany,
}

/// The fault of a client that was not admitted.
pub(super) fn admitted(admission: Admission) -> Result<(), Fault> {
    match admission {
        Admission::Welcome => Ok(()),
        Admission::Full => {
            Err(At::ReadHead.fault(Cause::TunnelLimit, "as many tunnels are open as max_tunnels allows"))
        }
        Admission::TooMany => {
            let detail = "this client's address has too many connections, or opens them too fast";
            Err(At::ReadHead.fault(Cause::ClientLimit, detail))
        }
        Admission::NotAllowed => {
            Err(At::ReadHead.fault(Cause::ClientNotAllowed, "the client's address is not among allow_clients"))
        }
    }
}

/// The logins, for a client that shows its own before it says where it wants to go.
pub(super) struct LoginCheck<'a> {
    pub egress: &'a CurrentEgress,
    pub admission: Admission,
    pub listener: usize,
    pub client: IpAddr,
    pub now_ms: u64,
}

impl Logins for LoginCheck<'_> {
    fn are_taken(&self) -> bool {
        self.egress.takes_logins()
    }

    /// A client that is not admitted must not learn whether its guess is right.
    fn check(&self, login: &ShownLogin) -> Result<(), Fault> {
        admitted(self.admission)?;
        self.egress.check_login(self.listener, self.client, login, self.now_ms).map_err(client_fault)
    }
}

/// The fault of a client that has no identity.
pub(super) fn client_fault(error: ClientError) -> Fault {
    let (cause, detail) = match error {
        ClientError::Login(LoginError::Wrong) => (Cause::LoginRequired, "the gateway knows no such user and password"),
        ClientError::Login(LoginError::Unreadable) => (
            Cause::LoginRequired,
            "the credentials for the gateway cannot be read: they must be user and password in UTF-8, and with Basic one field with the base64 of user:password",
        ),
        ClientError::Login(LoginError::Throttled) => (
            Cause::LoginThrottled,
            "too many wrong logins came from this address; for a few seconds none is checked, not even a right one",
        ),
        ClientError::ListenerWithdrawn => (
            Cause::ListenerWithdrawn,
            "a reload took this listening address away from its identity; it closes when the gateway is restarted",
        ),
    };
    At::ReadHead.fault(cause, detail)
}
