//! From what a client says to its origin to what it wants.

use std::net::SocketAddr;

use super::sniff::{Spoken, spoken};
use super::{HelloReader, ServerName};
use crate::client_protocol::{
    ClientProtocol, Demand, DestinationSource, ReadOptions, Reading, Redirected, Rejected, VIA_TCP, http,
};
use crate::fault::{At, Cause, Fault};
use crate::http::{Authority, Host, RequestSummary};

/// Ports on which every client speaks first. Browsers open connections there that they may need later, and a tunnel by
/// address would be in the way of the name.
const CLIENT_SPEAKS_FIRST: [u16; 2] = [80, 443];

/// What Via calls the protocols that are not read (RFC 9110 §7.6.3).
const VIA_TLS: &str = "TLS/1";

/// What is remembered of a redirected client that has not said yet where it wants to go.
#[derive(Debug)]
pub struct RequestReader {
    redirected: Redirected,
    said: Said,
}

/// What it has said.
#[derive(Debug)]
enum Said {
    /// Nothing that shows the protocol.
    Nothing,
    /// The beginning of a ClientHello.
    Hello(HelloReader),
    /// The beginning of a request.
    Request(http::RequestReader),
    /// Something else.
    Other,
}

impl RequestReader {
    /// Reads what the client of a redirected connection says.
    pub fn first(redirected: Redirected) -> RequestReader {
        RequestReader { redirected, said: Said::Nothing }
    }

    /// Reads the next request of a client that has sent one.
    pub fn next(redirected: Redirected) -> RequestReader {
        RequestReader { redirected, said: Said::Request(http::RequestReader::default()) }
    }

    /// The protocol of what has come so far.
    pub fn protocol(&self) -> ClientProtocol {
        match &self.said {
            Said::Nothing | Said::Other => ClientProtocol::Tcp,
            Said::Hello(_) => ClientProtocol::Tls,
            Said::Request(_) => ClientProtocol::Http,
        }
    }

    /// Whether the client may be one that waits for the server to speak first.
    pub fn is_sniffing(&self) -> bool {
        matches!(self.said, Said::Nothing) && !CLIENT_SPEAKS_FIRST.contains(&self.redirected.original.port())
    }

    /// See [`crate::client_protocol::RequestReader::read`].
    pub fn read(&mut self, bytes: &[u8], options: &ReadOptions<'_>) -> (usize, Result<Reading, Box<Rejected>>) {
        if matches!(self.said, Said::Nothing) {
            self.said = match spoken(bytes) {
                Spoken::Unclear => return (0, Ok(Reading::More)),
                Spoken::Tls => Said::Hello(HelloReader::default()),
                Spoken::Http => Said::Request(http::RequestReader::default()),
                Spoken::Other => Said::Other,
            };
        }
        if self.redirected.is_gateway {
            return (0, Err(self.rejected(own_address(self.redirected.original))));
        }
        match &mut self.said {
            Said::Nothing => (0, Ok(Reading::More)),
            Said::Request(reader) => reader.read_redirected(bytes, options, self.redirected.original),
            Said::Other => (0, self.by_address(VIA_TCP, options).map(Reading::Demand)),
            Said::Hello(reader) => match reader.read(bytes) {
                Ok(None) => (0, Ok(Reading::More)),
                // The hello is left where it is: the origin is to read it.
                Ok(Some(name)) => (0, self.by_server_name(&name, options).map(Reading::Demand)),
                Err(error) => {
                    let fault = At::ReadHead.fault(Cause::RequestMalformed, error.to_string());
                    (0, Err(self.rejected(fault)))
                }
            },
        }
    }

    /// The demand of a client that has waited for the server to speak.
    pub fn after_silence(&mut self, options: &ReadOptions<'_>) -> Result<Demand, Box<Rejected>> {
        self.said = Said::Other;
        match self.redirected.is_gateway {
            true => Err(self.rejected(own_address(self.redirected.original))),
            false => self.by_address(VIA_TCP, options),
        }
    }

    fn by_server_name(&self, name: &ServerName, options: &ReadOptions<'_>) -> Result<Demand, Box<Rejected>> {
        match name {
            ServerName::Name(name) => {
                let authority = Authority { host: Host::Name(name), port: self.redirected.original.port() };
                self.demand(&authority, DestinationSource::Sni, VIA_TLS, options)
            }
            // What a client calls by an address is what it connects to.
            ServerName::Address(_) | ServerName::Absent => self.by_address(VIA_TLS, options),
        }
    }

    fn by_address(&self, via: &str, options: &ReadOptions<'_>) -> Result<Demand, Box<Rejected>> {
        self.demand(&Authority::of(self.redirected.original), DestinationSource::Address, via, options)
    }

    fn demand(
        &self,
        authority: &Authority<'_>,
        source: DestinationSource,
        via: &str,
        options: &ReadOptions<'_>,
    ) -> Result<Demand, Box<Rejected>> {
        if authority.port == 0 {
            let fault = At::ReadHead.fault(Cause::RequestMalformed, "port 0 is not a destination");
            return Err(self.rejected(fault));
        }
        let original = Some(self.redirected.original);
        Ok(Demand { original, ..Demand::tunnel(authority, via, source, options) })
    }

    fn rejected(&self, fault: Fault) -> Box<Rejected> {
        let target = Authority::of(self.redirected.original).to_string().into();
        Box::new(Rejected { fault, asked: RequestSummary { method: "CONNECT".into(), target } })
    }
}

/// The fault of a connection that would come back.
fn own_address(original: SocketAddr) -> Fault {
    At::ReadHead.fault(
        Cause::ForwardLoop,
        format!(
            "the connection was made to {original}, where the gateway itself listens, and not redirected from elsewhere"
        ),
    )
}
