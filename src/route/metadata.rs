//! Addresses of metadata services, from which clouds and hypervisors serve the credentials of the machine.
//!
//! This is the only list of them. No request may reach one, whether by an IP address, through `no_proxy` or through a
//! name that resolves to it, unless a route names the address. An IPv6 address that a translator or a tunnel maps to an
//! IPv4 address counts as that IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 networks, with sources.
const V4: &[Ipv4Net] = &[
    // Link-local, RFC 3927. AWS, Google, Azure, OpenStack and most others use 169.254.169.254; ECS 169.254.170.2, EKS
    // Pod Identity 169.254.170.23, Tencent 169.254.0.23, Scaleway 169.254.42.42.
    v4([169, 254, 0, 0], 16),
    // Alibaba Cloud, "Instance metadata" in the ECS guide.
    v4([100, 100, 100, 200], 32),
    // Azure's platform address (WireServer): "What is IP address 168.63.129.16?".
    v4([168, 63, 129, 16], 32),
    // Oracle Cloud Infrastructure Classic, "Retrieving Instance Metadata".
    v4([192, 0, 0, 192], 32),
];

/// IPv6 networks, with sources.
const V6: &[Ipv6Net] = &[
    // Link-local, RFC 4291 §2.5.6; OpenStack uses fe80::a9fe:a9fe.
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    // AWS services for Nitro instances: metadata ::254, EKS Pod Identity ::23, DNS ::253, time ::123.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    // Google Cloud, IPv6-only instances: "View and query VM metadata".
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // Oracle Cloud Infrastructure, the IPv6 endpoint in its SDKs.
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    // Scaleway and Akamai (Linode), the endpoints in the data sources of cloud-init.
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128),
    // Alibaba Cloud, IPv6 instances.
    v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128),
];

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// The network in this list to which `address` leads, if any.
#[must_use]
pub fn metadata_network(address: IpAddr) -> Option<IpNet> {
    let v4 = |address: Ipv4Addr| V4.iter().find(|network| network.contains(&address)).copied().map(IpNet::V4);
    match address.to_canonical() {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => {
            let native = V6.iter().find(|network| network.contains(&address)).copied().map(IpNet::V6);
            native.or_else(|| embedded(address).into_iter().flatten().find_map(v4))
        }
    }
}

/// Whether a network in a route explicitly names `address`, an address of a metadata service: it is a subnet of the
/// network in this list, or the single address. Anything wider, such as 0.0.0.0/0, was not written with metadata
/// services in mind.
#[must_use]
pub fn names(network: &IpNet, address: IpAddr) -> bool {
    let address = address.to_canonical();
    network.contains(&address)
        && (network.prefix_len() == network.max_prefix_len()
            || metadata_network(address).is_some_and(|banned| banned.contains(network)))
}

/// The IPv4 addresses to which a translator or a tunnel may lead a connection to `address`.
pub fn embedded_addresses(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let v6 = match address.to_canonical() {
        // They look like IPv4-compatible addresses.
        IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unspecified() => Some(v6),
        _ => None,
    };
    v6.into_iter().flat_map(embedded).flatten().map(IpAddr::V4)
}

/// The IPv4 addresses that may be embedded in an IPv6 address, depending on its prefix.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 6] {
    let octets = address.octets();
    let at = |indices: [usize; 4]| Some(Ipv4Addr::from(indices.map(|index| octets[index])));
    let last = at([12, 13, 14, 15]);
    let mut found = [None; 6];
    match address.segments() {
        // IPv4-compatible, RFC 4291 §2.5.5.1; IPv4-translated, RFC 2765 §2.1; the well-known NAT64 prefix, RFC 6052
        // §2.1.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => found[0] = last,
        // Local-use NAT64 prefixes, RFC 8215. The position of the address depends on the prefix length (RFC 6052 §2.2).
        [0x64, 0xff9b, 1, ..] => {
            found = [
                at([6, 7, 9, 10]),
                at([7, 9, 10, 11]),
                at([9, 10, 11, 12]),
                last,
                // Translators that do not skip the reserved octet 8.
                at([6, 7, 8, 9]),
                at([8, 9, 10, 11]),
            ];
        }
        // 6to4, RFC 3056 §2.
        [0x2002, ..] => found[0] = at([2, 3, 4, 5]),
        // Teredo, RFC 4380 §4: the server, and the client with inverted bits.
        [0x2001, 0, ..] => {
            found[0] = at([4, 5, 6, 7]);
            found[1] = Some(Ipv4Addr::from([12, 13, 14, 15].map(|index| !octets[index])));
        }
        // ISATAP, RFC 5214 §6.1, in any network.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => found[0] = last,
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_listed(text: &str) -> bool {
        metadata_network(text.parse().unwrap()).is_some()
    }

    #[test]
    fn addresses_of_metadata_services_are_listed() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.170.23",
            "169.254.0.23",
            "169.254.42.42",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fe80::a9fe:a9fe",
            "febf:ffff::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd00:ec2:0:1::1",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:100::100:200",
        ] {
            assert!(is_listed(text), "{text}");
        }
    }

    #[test]
    fn ipv4_addresses_embedded_in_ipv6_addresses_are_recognised() {
        for text in [
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::100.100.100.200",
            // RFC 6052 §2.2 for prefixes of 48, 56, 64 and 96 bits.
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9fe::",
            "64:ff9b:1:7:a9fe:a9fe::",
            "2002:a9fe:a9fe::1",
            "2002:a83f:8110::",
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808:0:0:5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:c000:c0",
        ] {
            assert!(is_listed(text), "{text}");
        }
    }

    #[test]
    fn ordinary_addresses_are_not_listed() {
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "169.253.255.255",
            "100.100.100.201",
            "168.63.129.17",
            "192.0.0.193",
            "::1",
            "2001:db8::a9fe:a9fe",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::10.0.0.1",
            "2002:0808:0808::1",
            "fd00:ec3::254",
            "fd20:ce::255",
            "fec0::1",
        ] {
            assert!(!is_listed(text), "{text}");
        }
    }

    #[test]
    fn only_a_listed_subnet_or_the_single_address_names_an_address() {
        let names = |network: &str, address: &str| names(&network.parse().unwrap(), address.parse().unwrap());
        assert!(names("169.254.0.0/16", "169.254.169.254"));
        assert!(names("169.254.169.254/32", "::ffff:169.254.169.254"));
        assert!(names("fd00:ec2::/32", "fd00:ec2::254"));
        assert!(names("100.100.100.200/32", "100.100.100.200"));
        assert!(names("64:ff9b::a9fe:a9fe/128", "64:ff9b::169.254.169.254"));
        assert!(!names("0.0.0.0/0", "169.254.169.254"));
        assert!(!names("100.64.0.0/10", "100.100.100.200"));
        assert!(!names("fd00::/8", "fd00:ec2::254"));
        assert!(!names("169.254.0.0/16", "64:ff9b::169.254.169.254"), "the request goes to a translator");
        assert!(!names("64:ff9b::/96", "64:ff9b::169.254.169.254"));
    }
}
