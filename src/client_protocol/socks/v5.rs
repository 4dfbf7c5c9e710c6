//! SOCKS5 (RFC 1928), with a user and a password if the gateway takes logins (RFC 1929).

use std::net::{Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use super::{Asked, Name, VERSION_5, by_fault, host, rejected, understand};
use crate::client_protocol::{ReadOptions, Reading, Rejected, ShownLogin};
use crate::fault::Cause;
use crate::http::Host;

/// The methods of authentication (RFC 1928 §3).
const NO_AUTHENTICATION: u8 = 0;
const USER_PASSWORD: u8 = 2;
pub(super) const NO_ACCEPTABLE_METHOD: u8 = 0xff;

/// The version of the sub-negotiation, and its failure (RFC 1929 §2).
pub(super) const LOGIN_VERSION: u8 = 1;
pub(super) const LOGIN_FAILED: u8 = 1;

/// The address types (RFC 1928 §5).
pub(super) const IPV4: u8 = 1;
const DOMAIN_NAME: u8 = 3;
const IPV6: u8 = 4;

const NAME: Name = Name { shown: "SOCKS5", via: "SOCKS/5" };

/// What a client is in the middle of: each has its own answer to a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Choosing the method of authentication.
    #[default]
    Greeting,
    /// Showing its login.
    Login,
    /// Asking for a destination.
    Request,
}

/// An unfinished SOCKS5 request.
#[derive(Debug, Default)]
pub struct RequestReader5 {
    phase: Phase,
    login: Option<Box<ShownLogin>>,
}

/// What has been read of a message; `None` while it is not whole.
type Part<T> = Result<Option<(usize, T)>, Box<Rejected>>;

impl RequestReader5 {
    /// What the client is in the middle of.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// See [`crate::client_protocol::RequestReader::read`].
    pub fn read(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> (usize, Result<Reading, Box<Rejected>>) {
        let part = match self.phase {
            Phase::Greeting => self.greeting(bytes, options),
            Phase::Login => self.login(bytes, options),
            Phase::Request => self.request(bytes, options),
        };
        match part {
            Ok(None) => (0, Ok(Reading::More)),
            Ok(Some((used, reading))) => (used, Ok(reading)),
            Err(rejected) => (0, Err(rejected)),
        }
    }

    fn greeting(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> Part<Reading> {
        expect_version(bytes, VERSION_5, "greeting")?;
        let Some((methods, _)) = bytes.get(1..).and_then(counted) else { return Ok(None) };
        let offers = |method: u8| methods.contains(&method);
        let asks_for_login = offers(USER_PASSWORD) && (options.logins.are_taken() || !offers(NO_AUTHENTICATION));
        let answer: &'static [u8] = if asks_for_login {
            self.phase = Phase::Login;
            &[VERSION_5, USER_PASSWORD]
        } else if offers(NO_AUTHENTICATION) {
            self.phase = Phase::Request;
            &[VERSION_5, NO_AUTHENTICATION]
        } else {
            let detail = "SOCKS5: the client offers neither access without authentication nor user and password";
            return Err(rejected(Cause::MethodNotSupported, detail));
        };
        Ok(Some((2 + methods.len(), Reading::Answer(answer))))
    }

    fn login(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> Part<Reading> {
        expect_version(bytes, LOGIN_VERSION, "login")?;
        let Some((user, rest)) = bytes.get(1..).and_then(counted) else { return Ok(None) };
        let Some((password, _)) = counted(rest) else { return Ok(None) };
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(|text| Zeroizing::new(text.to_owned()));
        let login = match (text(user), text(password)) {
            (Some(user), Some(password)) => ShownLogin::Login { user, password },
            _ => ShownLogin::Unreadable,
        };
        let used = 3 + user.len() + password.len();
        options.logins.check(&login).map_err(by_fault)?;
        self.login = Some(Box::new(login));
        self.phase = Phase::Request;
        Ok(Some((used, Reading::Answer(&[LOGIN_VERSION, 0]))))
    }

    fn request(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> Part<Reading> {
        let Some((used, asked)) = request(bytes)? else { return Ok(None) };
        let login = self.login.take().map_or(ShownLogin::Nothing, |login| *login);
        Ok(Some((used, understand(&asked, login, &NAME, options)?)))
    }
}

/// Rejects a message that begins with a version other than the expected one.
fn expect_version(bytes: &[u8], expected: u8, message: &str) -> Result<(), Box<Rejected>> {
    match bytes.first() {
        Some(version) if *version != expected => {
            let detail = format!("SOCKS5: the {message} has version {version} instead of {expected}");
            Err(rejected(Cause::RequestMalformed, detail))
        }
        _ => Ok(()),
    }
}

/// A field preceded by its length in one byte, and what follows it.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (count, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*count))
}

/// The request at the start of `bytes`, with its length.
fn request(bytes: &[u8]) -> Part<Asked<'_>> {
    expect_version(bytes, VERSION_5, "request")?;
    // The third byte is reserved; clients that set it are not worth a failure.
    let &[_, command, _, kind, ref rest @ ..] = bytes else { return Ok(None) };
    let (address, after) = match kind {
        IPV4 => (rest.split_at_checked(4), 4),
        IPV6 => (rest.split_at_checked(16), 4),
        DOMAIN_NAME => (counted(rest), 5),
        _ => {
            let detail = format!("SOCKS5: there is no address type {kind}");
            return Err(rejected(Cause::AddressTypeNotSupported, detail));
        }
    };
    let Some((address, &[high, low, ..])) = address else { return Ok(None) };
    let used = after + address.len() + 2;
    let host = match kind {
        DOMAIN_NAME => host(address, &NAME)?,
        _ => match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
            (Ok(octets), _) => Host::V4(Ipv4Addr::from(octets)),
            (_, Ok(octets)) => Host::V6(Ipv6Addr::from(octets)),
            _ => return Ok(None),
        },
    };
    Ok(Some((used, Asked { command, host, port: u16::from_be_bytes([high, low]) })))
}
