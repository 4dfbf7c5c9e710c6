//! Asks the name servers of resolv.conf for what the system's resolver cannot look up: the KDCs of a realm, and the
//! canonical name of a host. Blocking and bounded in time.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::deadline::{read_exact, time_until};
use super::realms::read_bounded;
use crate::kerberos::{
    DnsError, KdcAddress, KdcTransport, SrvRecord, canonical_query, kdc_query, order, read_answer, read_canonical,
};
use crate::limits;

const RESOLV_CONF: &str = "/etc/resolv.conf";

const DNS_PORT: u16 = 53;

/// What resolv.conf says.
#[derive(Debug, Default)]
struct ResolvConf {
    servers: Vec<IpAddr>,
    /// The domains that are tried behind a name.
    search: Vec<String>,
}

impl ResolvConf {
    fn read() -> Result<ResolvConf, String> {
        let text = read_bounded(Path::new(RESOLV_CONF)).map_err(|error| format!("resolv.conf: {error}"))?;
        Ok(ResolvConf::parse(&text))
    }

    /// The last `search` or `domain` counts (resolv.conf(5)).
    fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < limits::DNS_SERVERS => {
                    conf.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search") => {
                    conf.search = words.take(limits::DNS_SEARCH_DOMAINS).map(str::to_owned).collect();
                }
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                _ => {}
            }
        }
        conf
    }

    /// The names that a host may have, in the order in which they are tried.
    fn candidates(&self, host: &str) -> Vec<String> {
        let own = host.trim_end_matches('.').to_owned();
        if host.ends_with('.') {
            return vec![own];
        }
        let mut all: Vec<String> =
            self.search.iter().map(|domain| format!("{own}.{}", domain.trim_matches('.'))).collect();
        let place = if own.contains('.') { 0 } else { all.len() };
        all.insert(place, own);
        all
    }
}

/// The KDCs that DNS has for a realm: those for TCP, which also serve UDP, and otherwise those for UDP only.
pub(super) fn kdcs(realm: &str) -> Result<Vec<KdcAddress>, String> {
    let conf = ResolvConf::read()?;
    let until = Instant::now() + limits::DNS_TOTAL_TIMEOUT;
    for (protocol, only) in [(KdcTransport::Tcp, None), (KdcTransport::Udp, Some(KdcTransport::Udp))] {
        let query = kdc_query(realm, protocol, random_id()).map_err(|error| error.to_string())?;
        let mut records = ask_servers(&conf, &query, until, |answer| read_answer(answer, &query))?;
        if !records.is_empty() {
            order(&mut records, random);
            let address = |record: SrvRecord| KdcAddress { host: record.target, port: record.port, only };
            return Ok(records.into_iter().map(address).collect());
        }
    }
    Err(format!("there is no SRV record for {realm}"))
}

/// The canonical name of a host. A host that DNS does not have keeps its name.
pub(super) fn canonical_name(host: &str) -> Result<String, String> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(host.to_owned());
    }
    let conf = ResolvConf::read()?;
    let until = Instant::now() + limits::DNS_TOTAL_TIMEOUT;
    for name in conf.candidates(host) {
        let query = canonical_query(&name, random_id()).map_err(|error| error.to_string())?;
        if let Some(found) = ask_servers(&conf, &query, until, |answer| read_canonical(answer, &query, &name))? {
            return Ok(found);
        }
    }
    log::debug!("DNS does not have {host}: it keeps its name");
    Ok(host.to_owned())
}

/// Asks one server after the other until one answers.
fn ask_servers<T>(
    conf: &ResolvConf,
    query: &[u8],
    until: Instant,
    read: impl Fn(&[u8]) -> Result<T, DnsError>,
) -> Result<T, String> {
    let mut why = "no name server is configured".to_owned();
    for server in &conf.servers {
        match ask((*server, DNS_PORT).into(), query, until, &read) {
            Ok(found) => return Ok(found),
            Err(error) => why = format!("{server}: {error}"),
        }
    }
    Err(why)
}

fn ask<T>(
    server: SocketAddr,
    query: &[u8],
    until: Instant,
    read: impl Fn(&[u8]) -> Result<T, DnsError>,
) -> Result<T, Box<dyn std::error::Error>> {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience(until)?))?;
    socket.send(query)?;
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer)?;
    match read(&answer[..length]) {
        Err(DnsError::Truncated) => {}
        found => return Ok(found?),
    }
    let mut stream = TcpStream::connect_timeout(&server, patience(until)?)?;
    stream.set_write_timeout(Some(patience(until)?))?;
    let length = u16::try_from(query.len())?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, || patience(until))?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exact(&mut stream, &mut answer, || patience(until))?;
    Ok(read(&answer)?)
}

/// How long to wait for one server.
fn patience(until: Instant) -> io::Result<Duration> {
    time_until(until).map(|rest| rest.min(limits::DNS_TIMEOUT))
}

fn random_id() -> u16 {
    let [.., high, low] = random().to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn random() -> u32 {
    // Without random numbers the order of the records and the number of the query are predictable, no more.
    getrandom::u32().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_tried_in_the_search_domains_first() {
        let conf = ResolvConf::parse(
            "# nameserver 192.0.2.9\ndomain old.example\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\n\
             nameserver nonsense\nsearch corp.example example.\noptions ndots:1\n",
        );
        assert_eq!(conf.servers, ["192.0.2.1".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        assert_eq!(conf.candidates("proxy"), ["proxy.corp.example", "proxy.example", "proxy"]);
        assert_eq!(conf.candidates("proxy.corp"), ["proxy.corp", "proxy.corp.corp.example", "proxy.corp.example"]);
        assert_eq!(conf.candidates("proxy."), ["proxy"]);
        assert_eq!(ResolvConf::parse("domain a.example b.example").search, ["a.example"]);
    }

    #[test]
    fn an_address_is_its_own_canonical_name() {
        assert_eq!(canonical_name("192.0.2.1").as_deref(), Ok("192.0.2.1"));
    }
}
