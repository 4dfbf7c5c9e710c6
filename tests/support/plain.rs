//! A gateway in the test's own process and a proxy that also plays the origin, for tests of plain HTTP messages.

use std::io;

use ntlm_gateway::gateway::Gateway;

use super::in_process;
use super::metrics;
use super::web::{Web, WebRequest};
use super::wire::Wire;

/// A gateway and its proxy.
pub struct PlainHttpGateway {
    /// The gateway's upstream.
    pub proxy: Web,
    gateway: Gateway,
}

impl PlainHttpGateway {
    /// With a proxy that answers as described in [`super::web`], and further settings of the gateway.
    pub fn new(settings: &[(&str, &str)]) -> PlainHttpGateway {
        PlainHttpGateway::before(Web::proxy(), settings)
    }

    /// With a proxy whose answers the test provides.
    pub fn playing(
        settings: &[(&str, &str)],
        handler: impl Fn(&mut Wire, &WebRequest<'_>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> PlainHttpGateway {
        PlainHttpGateway::before(Web::proxy_with(handler), settings)
    }

    fn before(proxy: Web, settings: &[(&str, &str)]) -> PlainHttpGateway {
        let gateway = in_process::gateway(&proxy.address().to_string(), settings);
        PlainHttpGateway { proxy, gateway }
    }

    /// The connection of a new client.
    pub fn client(&self) -> Wire {
        Wire::connect(in_process::address(&self.gateway))
    }

    /// The head of an HTTP/1.1 request.
    pub fn head(&self, method: &str, path: &str, fields: &str) -> String {
        self.proxy.request(method, path, fields)
    }

    /// The head of an HTTP/1.1 GET.
    pub fn get(&self, path: &str) -> String {
        self.head("GET", path, "")
    }

    /// The sum of a metric's samples with these labels; 0 if there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&in_process::metrics(&self.gateway), name, labels).unwrap_or(0.0)
    }

    /// Stops the gateway and checks that no tunnel is left.
    pub fn stop(self) {
        in_process::stop(self.gateway);
    }
}
