//! Metrics and health, on an address of their own and a thread of its own.
//!
//! A library serves it: nothing here is what the gateway exists for.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tiny_http::{Header, Method, Request, Response, Server};

/// What is asked of the gateway.
pub trait Status: Send + Sync {
    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Why they cannot be written.
    fn metrics(&self) -> Result<Vec<u8>, String>;

    /// Whether the event loops turn.
    ///
    /// # Errors
    /// Which do not.
    fn alive(&self) -> Result<(), String>;

    /// Whether new tunnels can be expected to succeed.
    ///
    /// # Errors
    /// Why not.
    fn ready(&self) -> Result<(), String>;
}

/// The administration server; ends when dropped.
pub struct Admin {
    server: Arc<Server>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `/metrics`, `/healthz` and `/readyz` on a listener.
    ///
    /// # Errors
    /// When the listener has no address or the thread cannot be started.
    pub fn start(listener: TcpListener, status: Arc<dyn Status>) -> io::Result<Admin> {
        let address = listener.local_addr()?;
        let server = Server::from_listener(listener, None).map_err(|error| io::Error::other(error.to_string()))?;
        let server = Arc::new(server);
        let for_thread = Arc::clone(&server);
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            for request in for_thread.incoming_requests() {
                answer(request, &*status);
            }
        })?;
        Ok(Admin { server, address, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(request: Request, status: &dyn Status) {
    const TEXT: &str = "text/plain; charset=utf-8";
    const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
    let path = request.url().split('?').next().unwrap_or_default();
    let (code, content_type, body) = match (request.method(), path) {
        (Method::Get | Method::Head, "/metrics") => match status.metrics() {
            Ok(text) => (200, PROMETHEUS, text),
            Err(error) => (500, TEXT, format!("{error}\n").into_bytes()),
        },
        (Method::Get | Method::Head, "/healthz") => health(status.alive()),
        (Method::Get | Method::Head, "/readyz") => health(status.ready()),
        (Method::Get | Method::Head, _) => (404, TEXT, b"there are /metrics, /healthz and /readyz\n".to_vec()),
        _ => (405, TEXT, b"only GET is served\n".to_vec()),
    };
    let mut response = Response::from_data(body).with_status_code(code);
    if let Ok(header) = Header::from_bytes("Content-Type", content_type) {
        response = response.with_header(header);
    }
    // A client that went away has nothing more to hear.
    let _ = request.respond(response);
}

fn health(state: Result<(), String>) -> (u16, &'static str, Vec<u8>) {
    match state {
        Ok(()) => (200, "text/plain; charset=utf-8", b"ok\n".to_vec()),
        Err(why) => (503, "text/plain; charset=utf-8", format!("{why}\n").into_bytes()),
    }
}
