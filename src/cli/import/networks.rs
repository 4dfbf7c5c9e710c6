//! The ways in which cntlm and px write addresses and networks, as networks.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

/// `10.0.0.0/8`, `10/8`, `*` or an address, as in cntlm's `Allow` and `Deny`.
pub(super) fn rule(text: &str) -> Option<IpNet> {
    if text == "*" {
        return Some(IpNet::V4(Ipv4Net::default()));
    }
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    if address.contains(':') {
        return text.parse().ok();
    }
    let address = short(address)?;
    Ipv4Net::new(address, length.parse().ok()?).ok().map(|network| IpNet::V4(network.trunc()))
}

/// An address whose last bytes may be missing, which are then 0.
fn short(text: &str) -> Option<Ipv4Addr> {
    let mut bytes = [0; 4];
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > bytes.len() {
        return None;
    }
    for (byte, part) in bytes.iter_mut().zip(parts) {
        *byte = part.parse().ok()?;
    }
    Some(bytes.into())
}

/// An address, a network, `192.168.*`, `192.168.0.*` or `10.0.0.1-10.0.0.9`; `None` if it is none of them.
pub(super) fn pattern(text: &str) -> Option<Vec<IpNet>> {
    if let Some((from, to)) = text.split_once('-') {
        let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        return (from <= to).then(|| Ipv4Subnets::new(from, to, 0).map(IpNet::V4).collect());
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(vec![network.trunc()]);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(vec![IpNet::from(address)]);
    }
    let parts: Vec<&str> = text.split('.').collect();
    let fixed = parts.iter().position(|part| *part == "*")?;
    let is_glob =
        (fixed > 0 || parts.len() == 4) && parts.len() <= 4 && parts.iter().skip(fixed).all(|part| *part == "*");
    // `192.168.*` means all of 192.168.0.0/16, however many stars there are.
    let address = if fixed == 0 { Some(Ipv4Addr::UNSPECIFIED) } else { short(&parts.get(..fixed)?.join(".")) };
    let network = Ipv4Net::new(address?, u8::try_from(fixed * 8).ok()?).ok()?;
    is_glob.then(|| vec![IpNet::V4(network)])
}
