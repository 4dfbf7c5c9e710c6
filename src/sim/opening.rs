//! What a client sends first, and where its connection goes.

use std::net::{IpAddr, SocketAddr};

use super::client::host;
use super::network::Network;
use super::scenario::{ClientOddity, ClientPlan, Entrance, ORIGINS, Speaks, Target};

/// The address of origins that have a name, for clients whose connections are redirected.
pub const ORIGIN: &str = "198.51.100.10";

/// An address that the routes deny.
const DENIED: &str = "10.66.0.1";

/// The port identifies the client to its origin.
pub fn port(number: usize) -> u16 {
    9_000 + u16::try_from(number).unwrap()
}

/// Notes where the connection of client `number` was going.
pub fn redirect(number: usize, wire: usize, target: Target, by_address: bool, network: &mut Network) {
    let address = match target {
        Target::DirectAddress => ORIGINS[0],
        Target::MetadataAddress => "169.254.169.254",
        Target::Denied if by_address => DENIED,
        _ => ORIGIN,
    };
    network.wires[wire].original = Some(SocketAddr::new(address.parse().unwrap(), port(number)));
}

/// A client of the routes' denied target has either a name or an address that is denied.
pub fn is_denied_by_address(number: usize, plan: &ClientPlan) -> bool {
    plan.speaks == Speaks::Tcp || number % 2 == 1
}

/// Whether client `number` waits for its server to speak first.
pub fn waits_for_server(number: usize, plan: &ClientPlan) -> bool {
    plan.speaks == Speaks::Tcp && number % 2 == 1 && plan.down.bytes > 0
}

/// The address of a connection, and the PROXY header on it for a client at `from`.
pub fn proxied(entrance: Entrance, number: usize, from: SocketAddr) -> (SocketAddr, Vec<u8>) {
    if entrance != Entrance::ProxyHeader {
        return (from, Vec::new());
    }
    let (IpAddr::V4(ip), through) = (from.ip(), SocketAddr::from(([127, 0, 0, 9], from.port()))) else {
        panic!("clients have IPv4 addresses")
    };
    let header = match number % 2 {
        0 => format!("PROXY TCP4 {ip} 192.0.2.7 {} 443\r\n", from.port()).into_bytes(),
        _ => {
            let ports = [from.port().to_be_bytes(), 443u16.to_be_bytes()].concat();
            [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &ip.octets()[..], &[192, 0, 2, 7], &ports].concat()
        }
    };
    (through, header)
}

/// The first bytes of client `number`.
pub fn head(number: usize, plan: &ClientPlan, proxy_header: &[u8]) -> Vec<u8> {
    let authority = format!("{}:{}", host(number, plan.target), port(number));
    let head = match plan.speaks {
        Speaks::Http => http_head(&authority, plan.filler),
        Speaks::Socks4a | Speaks::Socks5 => socks_request(number, plan),
        Speaks::Tls => hello(number, plan),
        Speaks::Tcp if waits_for_server(number, plan) => Vec::new(),
        Speaks::Tcp => b"\0sim".to_vec(),
        Speaks::Nothing => Vec::new(),
    };
    let head = [proxy_header, &head].concat();
    match plan.oddity {
        Some(ClientOddity::ClosesAtOnce | ClientOddity::StaysSilent) => Vec::new(),
        Some(ClientOddity::SendsHalfAHead | ClientOddity::ClosesInHead) => {
            head[..head.len().min(21).saturating_sub(1)].to_vec()
        }
        Some(ClientOddity::SpeaksTls) => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
        Some(ClientOddity::SendsGarbage) => b"what is this?\r\n\r\n".to_vec(),
        _ => head,
    }
}

fn http_head(authority: &str, filler: usize) -> Vec<u8> {
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: sim\r\n");
    if filler > 0 {
        head += &format!("X-Filler: {}\r\n", "f".repeat(filler));
    }
    head += "\r\n";
    head.into_bytes()
}

/// A SOCKS5 greeting with its request after it, or a SOCKS4a request.
fn socks_request(number: usize, plan: &ClientPlan) -> Vec<u8> {
    let host = host(number, plan.target);
    let port = port(number).to_be_bytes();
    match plan.speaks {
        Speaks::Socks5 => {
            let length = u8::try_from(host.len()).unwrap();
            [b"\x05\x01\x00\x05\x01\x00\x03", &[length][..], host.as_bytes(), &port].concat()
        }
        _ => [b"\x04\x01", &port[..], b"\0\0\0\x01sim\0", host.as_bytes(), b"\0"].concat(),
    }
}

/// A ClientHello with the name of the destination unless that is an address, in one record or several.
fn hello(number: usize, plan: &ClientPlan) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized(content)].concat();
    let name = match plan.target {
        Target::DirectAddress | Target::MetadataAddress => None,
        Target::Denied if is_denied_by_address(number, plan) => Some(host(number, Target::ViaUpstream)),
        target => Some(host(number, target)),
    };
    let server_name = name.map(|name| extension(0, &sized(&[&[0][..], &sized(name.as_bytes())].concat())));
    let extensions = [extension(21, &vec![0; plan.filler]), server_name.unwrap_or_default()].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &sized(&extensions)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    let most = if number.is_multiple_of(3) { 1 << 14 } else { 90 };
    message.chunks(most).flat_map(|part| [&[22, 3, 1][..], &sized(part)].concat()).collect()
}
