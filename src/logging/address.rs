//! Addresses as text.

use std::io::Write as _;
use std::net::SocketAddr;

use super::format::write_decimal;

/// Appends what `Display` writes of an address. That takes 1,500 instructions, and most addresses are IPv4.
pub(super) fn write(out: &mut Vec<u8>, address: SocketAddr) {
    let SocketAddr::V4(v4) = address else {
        // Writing to memory cannot fail.
        let _ = write!(out, "{address}");
        return;
    };
    let [first, rest @ ..] = v4.ip().octets();
    write_decimal(out, first.into());
    for number in rest {
        out.push(b'.');
        write_decimal(out, number.into());
    }
    out.push(b':');
    write_decimal(out, v4.port().into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_display_writes_them() {
        for address in ["0.0.0.0:0", "10.1.2.3:40000", "255.255.255.255:65535", "[::1]:80", "[fe80::1%3]:443"] {
            let (address, mut out): (SocketAddr, _) = (address.parse().unwrap(), Vec::new());
            write(&mut out, address);
            assert_eq!(String::from_utf8(out).unwrap(), address.to_string());
        }
    }
}
