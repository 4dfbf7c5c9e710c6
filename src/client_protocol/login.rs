//! The login to the gateway that a client shows.

use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::http::{self, FieldName, Fields};

/// What a protocol asks about logins before its client says where it wants to go.
pub trait Logins {
    /// Whether clients may log on to the gateway.
    fn are_taken(&self) -> bool;

    /// Checks the login that a client shows.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn check(&self, login: &ShownLogin) -> Result<(), Fault>;
}

/// The login that a client shows, in its Proxy-Authorization fields or in its protocol's own way.
pub enum ShownLogin {
    /// Nothing for the gateway: no such field, or another scheme.
    Nothing,
    /// A user and a password.
    Login {
        /// The user.
        user: Zeroizing<String>,
        /// The user's password.
        password: Zeroizing<String>,
    },
    /// Basic credentials that cannot be decoded, or more than one Basic field.
    Unreadable,
}

impl std::fmt::Debug for ShownLogin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ShownLogin")
    }
}

impl ShownLogin {
    /// Reads the fields of a request.
    pub fn read(fields: &Fields<'_>) -> ShownLogin {
        if !fields.has(FieldName::ProxyAuthorization) {
            return ShownLogin::Nothing;
        }
        let mut basic = fields.get_all(FieldName::ProxyAuthorization).filter_map(basic_credentials);
        match (basic.next(), basic.next()) {
            (None, _) => ShownLogin::Nothing,
            (Some(token), None) => ShownLogin::decode(token).unwrap_or(ShownLogin::Unreadable),
            (Some(_), Some(_)) => ShownLogin::Unreadable,
        }
    }

    fn decode(token: &[u8]) -> Option<ShownLogin> {
        let token = std::str::from_utf8(token).ok()?;
        let decoded = Zeroizing::new(http::decode_token(token).ok()?);
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let own = |text: &str| Zeroizing::new(text.to_owned());
        Some(ShownLogin::Login { user: own(user), password: own(password) })
    }
}

/// The token after the scheme Basic; `None` for another scheme.
fn basic_credentials(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    scheme.eq_ignore_ascii_case(b"basic").then(|| token.trim_ascii())
}
