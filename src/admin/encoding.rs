//! Choosing the content coding (RFC 9110 §12.5.3), and gzip (RFC 1952).

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Whether the Accept-Encoding fields of a request prefer gzip to no coding. A malformed field is ignored.
pub(super) fn prefers_gzip<'a>(fields: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for member in fields.filter_map(|field| std::str::from_utf8(field).ok()).flat_map(|field| field.split(',')) {
        let Some((coding, weight)) = parse(member) else { continue };
        match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight),
            "identity" => identity = Some(weight),
            "*" => any = Some(weight),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    // No coding is acceptable unless it is excluded, and ranks below the codings that are named.
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// A coding and its weight in thousandths.
fn parse(member: &str) -> Option<(&str, u16)> {
    let mut parts = member.split(';').map(str::trim);
    let coding = parts.next().filter(|coding| !coding.is_empty())?;
    match parts.next() {
        None => Some((coding, 1000)),
        Some(parameter) => {
            let (name, value) = parameter.split_once('=')?;
            let q = name.trim().eq_ignore_ascii_case("q").then(|| thousandths(value.trim()))??;
            Some((coding, q))
        }
    }
}

/// `qvalue` of RFC 9110 §12.4.2: 0 to 1 with at most three digits after the point.
pub(super) fn thousandths(text: &str) -> Option<u16> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let fraction: u16 = format!("{digits:0<3}").parse().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}

/// Compresses with gzip at the fastest level: a scrape is short-lived, and text as repetitive as metrics still shrinks
/// to a tenth.
///
/// # Errors
/// None in practice, because it writes to memory.
pub(super) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn weights_decide_as_in_rfc_9110() {
        for (fields, expected) in [
            (&["gzip"][..], true),
            (&["deflate, gzip;q=0.5"], true),
            (&["GZIP"], true),
            (&["x-gzip"], true),
            (&["*"], true),
            (&["*;q=0.1"], true),
            (&["deflate", "gzip ; q=1.000"], true),
            (&["gzip;q=0.001"], true),
            (&["gzip, identity"], true),
            (&["gzip;q=0.5, identity;q=0.4"], true),
            (&[], false),
            (&[""], false),
            (&["deflate, br"], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000, *"], false),
            (&["*;q=0"], false),
            (&["identity"], false),
            (&["gzip;q=0.5, identity;q=0.6"], false),
            (&["gzip;q=2"], false),
            (&["gzip;q=0.1234"], false),
            (&["gzip;q=-1"], false),
            (&["gzip;level=9"], false),
        ] {
            assert_eq!(prefers_gzip(fields.iter().map(|field| field.as_bytes())), expected, "{fields:?}");
        }
    }

    #[test]
    fn compressed_text_is_smaller_and_decompresses_to_the_original() {
        let text: String =
            (0..500).map(|number| format!("ntlm_gateway_some_metric{{number=\"{number}\"}} 0\n")).collect();
        let compressed = gzip(text.as_bytes()).unwrap();
        assert!(compressed.len() * 5 < text.len(), "{} of {}", compressed.len(), text.len());
        let mut back = String::new();
        flate2::read::GzDecoder::new(compressed.as_slice()).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
    }
}
