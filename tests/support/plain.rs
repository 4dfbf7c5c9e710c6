//! The gateway in the test's own process before a proxy that plays the origin, too: for plain HTTP, message by message.

use std::io;

use ntlm_gateway::gateway::Gateway;

use super::in_process;
use super::metrics;
use super::web::{Asked, Web};
use super::wire::Wire;

/// Gateway and proxy.
pub struct Rig {
    /// What the gateway takes for its upstream.
    pub proxy: Web,
    gateway: Gateway,
}

impl Rig {
    /// Before a proxy that answers as [`super::web`] does, with further settings of the gateway.
    pub fn new(settings: &[(&str, &str)]) -> Rig {
        Rig::before(Web::proxy(), settings)
    }

    /// Before a proxy with a part written in the test.
    pub fn playing(
        settings: &[(&str, &str)],
        part: impl Fn(&mut Wire, &Asked<'_>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Rig {
        Rig::before(Web::proxy_with(part), settings)
    }

    fn before(proxy: Web, settings: &[(&str, &str)]) -> Rig {
        let gateway = in_process::gateway(&proxy.address().to_string(), settings);
        Rig { proxy, gateway }
    }

    /// A new client's connection.
    pub fn client(&self) -> Wire {
        Wire::connect(in_process::address(&self.gateway))
    }

    /// The head of a request in HTTP/1.1.
    pub fn head(&self, method: &str, path: &str, fields: &str) -> String {
        self.proxy.request(method, path, fields)
    }

    /// A GET in HTTP/1.1.
    pub fn get(&self, path: &str) -> String {
        self.head("GET", path, "")
    }

    /// The sum of a metric's samples with these labels; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&in_process::metrics(&self.gateway), name, labels).unwrap_or(0.0)
    }

    /// Ends it and checks that nothing is left.
    pub fn stop(self) {
        in_process::stop(self.gateway);
    }
}
