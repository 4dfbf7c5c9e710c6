//! SOCKS4 and SOCKS4a, and SOCKS5 (RFC 1928, RFC 1929): CONNECT only, to a name or an address.

mod reply;
mod v4;
mod v5;

pub use reply::{answer4, answer5, reply};
pub use v4::RequestReader4;
pub use v5::{Phase, RequestReader5};

use super::{Demand, DestinationSource, ReadOptions, Reading, Rejected, ShownLogin};
use crate::fault::{At, Cause, Fault};
use crate::http::{Authority, Host, RequestSummary};

/// The version with which every message of a SOCKS4 client begins.
pub const VERSION_4: u8 = 4;
/// The version with which a SOCKS5 client begins.
pub const VERSION_5: u8 = 5;

/// The only command that is served, in both versions.
const CONNECT: u8 = 1;

/// A whole request.
struct Asked<'b> {
    command: u8,
    host: Host<'b>,
    port: u16,
}

/// What a protocol calls itself in texts and in Via (RFC 9110 §7.6.3).
struct Name {
    shown: &'static str,
    via: &'static str,
}

/// Makes a demand of a request, or rejects it.
fn understand(
    asked: &Asked<'_>,
    login: ShownLogin,
    name: &Name,
    options: &ReadOptions<'_>,
) -> Result<Reading, Box<Rejected>> {
    if asked.command != CONNECT {
        let command = match asked.command {
            2 => "BIND".into(),
            3 => "UDP ASSOCIATE".into(),
            number => format!("the command {number}"),
        };
        let detail = format!("{} with {command}: only CONNECT is supported", name.shown);
        return Err(rejected(Cause::MethodNotSupported, detail));
    }
    if asked.port == 0 {
        return Err(rejected(Cause::RequestMalformed, format!("{}: port 0 is not a destination", name.shown)));
    }
    let authority = Authority { host: asked.host, port: asked.port };
    let demand = Demand::tunnel(&authority, name.via, DestinationSource::Request, options);
    Ok(Reading::Demand(Demand { login, ..demand }))
}

/// A name of the request, which may be an address in text form.
fn host<'b>(bytes: &'b [u8], name: &Name) -> Result<Host<'b>, Box<Rejected>> {
    let malformed = |error: String| rejected(Cause::RequestMalformed, format!("{}: {error}", name.shown));
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("the host name is not ASCII".into()))?;
    Host::parse(text).map_err(|error| malformed(error.to_string()))
}

/// A request of which nothing can be shown but what is wrong with it.
fn rejected(cause: Cause, detail: impl Into<std::borrow::Cow<'static, str>>) -> Box<Rejected> {
    by_fault(At::ReadHead.fault(cause, detail))
}

fn by_fault(fault: Fault) -> Box<Rejected> {
    Box::new(Rejected { fault, asked: RequestSummary::default() })
}

#[cfg(test)]
mod tests;
