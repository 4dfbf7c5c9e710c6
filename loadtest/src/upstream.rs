//! `upstream`: the stub in a process of its own.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ntlm_gateway::kerberos::{Etype, Keytab};
use ntlm_gateway::stub::{
    Counts, KdcCounts, KdcOptions, Personality, StubCertificate, StubKdc, StubKerberos, StubOptions, StubServer,
};
use serde_json::{Map, Value};
use tiny_http::{Header, Response, Server};

use crate::arguments::{UpstreamKerberos, UpstreamOptions};

/// Prints all personalities. It is no error if the reader, such as `head`, does not want all of them.
fn list_personalities() -> Result<ExitCode, Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    for personality in Personality::ALL {
        match writeln!(out, "{:30} {}", personality.name(), personality.description()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            other => other?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves until it is killed or, if asked to, until standard input ends.
pub fn serve(options: &UpstreamOptions) -> Result<ExitCode, Box<dyn Error>> {
    let Some(personality) = options.personality()? else {
        return list_personalities();
    };
    let (domain, user) = options.user.split_once('\\').ok_or("--user must be DOMAIN\\USER")?;
    let lifetime = options.lifetime.map(Duration::try_from_secs_f64).transpose()?;
    let kdc = kdc(&options.kerberos, user, &options.password)?;
    let kerberos = match (&kdc, &options.kerberos.keytab) {
        (Some(kdc), _) => Some(kdc.keytab()),
        (None, Some(file)) => Some(Keytab::parse(&std::fs::read(file)?)?),
        (None, None) => None,
    };
    let kerberos = kerberos.map(|keytab| StubKerberos { keytab, with_ntlm: options.kerberos.with_ntlm });
    let tls = options.tls.as_ref().map(|file| certificate(options.listen, file)).transpose()?;
    let stub = StubServer::start(
        StubOptions {
            listen: options.listen,
            personality,
            threads: options.threads,
            delay: Duration::from_millis(options.delay_ms),
            lifetime,
            kerberos,
            tls: tls.map(|certificate| match options.no_resumption {
                true => certificate.server_config_without_resumption(),
                false => certificate.server_config(),
            }),
            ..StubOptions::default()
        }
        .account(domain, user, &options.password),
    )?;
    let (stub, kdc) = (Arc::new(stub), kdc.map(Arc::new));
    let mut out = std::io::stdout().lock();
    // The parent process reads these lines, so they must not stay in a buffer.
    writeln!(out, "listening on {}", stub.address())?;
    if let Some(address) = options.control {
        writeln!(out, "control on {}", control(address, Arc::clone(&stub), kdc.clone())?)?;
    }
    if let Some(kdc) = &kdc {
        writeln!(out, "kdc on {}", kdc.address())?;
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

/// Makes a certificate for the address that clients connect to, and writes it to the file.
fn certificate(listen: SocketAddr, file: &Path) -> std::io::Result<StubCertificate> {
    let certificate = StubCertificate::new(&["localhost", &listen.ip().to_string()])?;
    std::fs::write(file, certificate.pem())?;
    Ok(certificate)
}

/// Starts the KDC, if there is to be one.
fn kdc(options: &UpstreamKerberos, user: &str, password: &str) -> Result<Option<StubKdc>, Box<dyn Error>> {
    let Some(realm) = &options.realm else { return Ok(None) };
    let mut kdc = KdcOptions::new(realm).account(user, password).service(&options.service);
    kdc.listen = options.kdc;
    // Those of a domain controller of Active Directory.
    kdc.policy.etypes = vec![Etype::Aes256Sha1, Etype::Aes128Sha1];
    kdc.policy.ticket_padding_bytes = options.ticket_bytes;
    Ok(Some(StubKdc::start(kdc)?))
}

/// Serves the counters on its own thread; returns the address.
fn control(
    address: SocketAddr,
    stub: Arc<StubServer>,
    kdc: Option<Arc<StubKdc>>,
) -> Result<SocketAddr, Box<dyn Error>> {
    let server = Server::http(address).map_err(|error| format!("--control {address}: {error}"))?;
    let taken = server.server_addr().to_ip().ok_or("the control address is not an IP address")?;
    std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        for request in server.incoming_requests() {
            let (status, body) = match request.url() {
                "/counters" => (200, as_json(&stub.counters(), kdc.as_ref().map(|kdc| kdc.counts())).to_string()),
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

/// The counters by name, as in their text form, and those of the KDC.
fn as_json(counts: &Counts, kdc: Option<KdcCounts>) -> Value {
    let text = counts.to_string();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let mut object: Map<String, Value> =
        pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse::<u64>().ok()?.into()))).collect();
    if let Some(KdcCounts { logged_on, granted, renewed, unauthenticated, failed_logons, denied }) = kdc {
        for (name, value) in [
            ("kdc_logged_on", logged_on),
            ("kdc_granted", granted),
            ("kdc_renewed", renewed),
            ("kdc_unauthenticated", unauthenticated),
            ("kdc_failed_logons", failed_logons),
            ("kdc_denied", denied),
        ] {
            object.insert(name.to_owned(), value.into());
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_contains_every_counter() {
        let counts = Counts { challenges: 7, ..Counts::default() };
        let json = as_json(&counts, None);
        assert_eq!(json["challenges"], 7);
        let own = Counts::default().to_string().lines().count();
        assert_eq!(json.as_object().unwrap().len(), own);
        let json = as_json(&counts, Some(KdcCounts { granted: 3, ..KdcCounts::default() }));
        assert_eq!((&json["kdc_granted"], json.as_object().unwrap().len()), (&3.into(), own + 6));
    }
}
