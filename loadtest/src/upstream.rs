//! `upstream`: the stub in a process of its own.

use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ntlm_gateway::stub::{Counts, Personality, StubOptions, StubServer};
use serde_json::{Map, Value};
use tiny_http::{Header, Response, Server};

use crate::arguments::UpstreamOptions;

/// Serves until it is killed or, if asked to, until standard input ends.
pub fn serve(options: &UpstreamOptions) -> Result<ExitCode, Box<dyn Error>> {
    let Some(personality) = options.personality()? else {
        for personality in Personality::ALL {
            println!("{:30} {}", personality.name(), personality.description());
        }
        return Ok(ExitCode::SUCCESS);
    };
    let (domain, user) = options.user.split_once('\\').ok_or("--user must be DOMAIN\\USER")?;
    let lifetime = options.lifetime.map(Duration::try_from_secs_f64).transpose()?;
    let stub = StubServer::start(
        StubOptions {
            listen: options.listen,
            personality,
            threads: options.threads,
            delay: Duration::from_millis(options.delay_ms),
            lifetime,
            ..StubOptions::default()
        }
        .account(domain, user, &options.password),
    )?;
    let stub = Arc::new(stub);
    let mut out = std::io::stdout().lock();
    // The parent process reads these lines, so they must not stay in a buffer.
    writeln!(out, "listening on {}", stub.address())?;
    if let Some(address) = options.control {
        writeln!(out, "control on {}", control(address, Arc::clone(&stub))?)?;
    }
    out.flush()?;
    if options.until_eof {
        std::io::stdin().lock().read_to_end(&mut Vec::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::park();
    }
}

/// Serves the counters on its own thread; returns the address.
fn control(address: SocketAddr, stub: Arc<StubServer>) -> Result<SocketAddr, Box<dyn Error>> {
    let server = Server::http(address).map_err(|error| format!("--control {address}: {error}"))?;
    let taken = server.server_addr().to_ip().ok_or("the control address is not an IP address")?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        for request in server.incoming_requests() {
            let (status, body) = match request.url() {
                "/counters" => (200, as_json(&stub.counters()).to_string()),
                "/healthz" => (200, "{\"ok\":true}".to_owned()),
                _ => (404, "{}".to_owned()),
            };
            let response = Response::from_string(body).with_status_code(status);
            let response = match Header::from_bytes("Content-Type", "application/json") {
                Ok(header) => response.with_header(header),
                Err(()) => response,
            };
            // The client may be gone already.
            let _ = request.respond(response);
        }
    })?;
    Ok(taken)
}

/// The counters by name, as in their text form.
fn as_json(counts: &Counts) -> Value {
    let text = counts.to_string();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let object: Map<String, Value> =
        pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse::<u64>().ok()?.into()))).collect();
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_contains_every_counter() {
        let json = as_json(&Counts { challenges: 7, ..Counts::default() });
        assert_eq!(json["challenges"], 7);
        assert_eq!(json.as_object().unwrap().len(), Counts::default().to_string().lines().count());
    }
}
