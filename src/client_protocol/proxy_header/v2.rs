//! Version 2: binary, with further fields (TLVs) after the addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::crc32c::crc32c;
use super::{Header, HeaderError, NamedClient};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length of the rest.
const FIXED_BYTES: usize = 16;

/// Version 2 with the command LOCAL: the load balancer's own connection, such as a health check.
const LOCAL: u8 = 0x20;
/// Version 2 with the command PROXY.
const PROXY: u8 = 0x21;

/// Families with their transport protocol.
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The type of the TLV with the checksum.
const TYPE_CRC32C: u8 = 0x03;

pub(super) fn header(bytes: &[u8], limit_bytes: usize) -> Result<Option<Header>, HeaderError> {
    let start = bytes.get(..SIGNATURE.len()).unwrap_or(bytes);
    if !SIGNATURE.starts_with(start) {
        return Err(HeaderError::Missing);
    }
    let &[command, family, high, low] = bytes.get(SIGNATURE.len()..FIXED_BYTES).unwrap_or_default() else {
        return Ok(None);
    };
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderError::Malformed("its version or its command is unknown"));
    }
    let length_bytes = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length_bytes > limit_bytes {
        return Err(HeaderError::TooLong { length_bytes, limit_bytes });
    }
    let Some(whole) = bytes.get(..length_bytes) else { return Ok(None) };
    let client = match (command, family) {
        // The rest is to be ignored.
        (LOCAL, _) | (_, UNSPECIFIED) => None,
        _ => Some(client(whole, family)?),
    };
    Ok(Some((length_bytes, client)))
}

fn client(whole: &[u8], family: u8) -> Result<NamedClient, HeaderError> {
    const SHORT: HeaderError = HeaderError::Malformed("it is shorter than its addresses");
    let rest = whole.get(FIXED_BYTES..).unwrap_or_default();
    // Both addresses, then both ports; the client's come first.
    let address_bytes = match family {
        TCP_OVER_IPV4 => 4,
        TCP_OVER_IPV6 => 16,
        _ => return Err(HeaderError::Family),
    };
    let (addresses, tlvs) = rest.split_at_checked(2 * address_bytes + 4).ok_or(SHORT)?;
    let (address, rest) = addresses.split_at_checked(address_bytes).ok_or(SHORT)?;
    let address = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
        (Ok(octets), _) => IpAddr::V4(Ipv4Addr::from(octets)),
        (_, Ok(octets)) => IpAddr::V6(Ipv6Addr::from(octets)),
        _ => return Err(SHORT),
    };
    let Some(&[high, low]) = rest.get(address_bytes..address_bytes + 2) else { return Err(SHORT) };
    check_tlvs(whole, whole.len() - tlvs.len())?;
    Ok((address, u16::from_be_bytes([high, low])))
}

/// Checks that the TLVs, which begin at `at`, fill the rest of the header, and the checksum if one of them is that.
fn check_tlvs(whole: &[u8], mut at: usize) -> Result<(), HeaderError> {
    const CUT: HeaderError = HeaderError::Malformed("a field after the addresses is cut off");
    let mut is_checked = false;
    while let Some(&[kind, ref rest @ ..]) = whole.get(at..).filter(|rest| !rest.is_empty()) {
        let (length, rest) = rest.split_at_checked(2).ok_or(CUT)?;
        let length = <[u8; 2]>::try_from(length).map(u16::from_be_bytes).map_err(|_| CUT)?;
        let value = rest.get(..usize::from(length)).ok_or(CUT)?;
        if kind == TYPE_CRC32C {
            if std::mem::replace(&mut is_checked, true) {
                return Err(HeaderError::Malformed("it has more than one checksum"));
            }
            let claimed = <[u8; 4]>::try_from(value).map(u32::from_be_bytes).map_err(|_| HeaderError::Checksum)?;
            let own = at + 3..at + 7;
            // It is computed with zeros in its own place.
            let bytes = whole.iter().enumerate().map(|(place, byte)| if own.contains(&place) { 0 } else { *byte });
            if crc32c(bytes) != claimed {
                return Err(HeaderError::Checksum);
            }
        }
        at += 3 + value.len();
    }
    Ok(())
}
