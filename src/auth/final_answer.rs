//! What an upstream answers to a final token. The status line is enough where the rest cannot be read.
//!
//! The credential guard needs it also for an answer that the client cannot get: one with too many fields, or one that
//! nobody waits for any more.

/// What the bytes so far contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalAnswer {
    /// Not enough to tell.
    More,
    /// The final status.
    Status(u16),
    /// 407 with Proxy-Authenticate.
    Refused,
    /// Not HTTP.
    NotHttp,
}

/// Reads the final answer behind any interim ones. `is_all` says that no more bytes will come. A 407 whose fields are
/// cut off then counts as a refusal, because that is what it usually is.
pub fn final_answer(bytes: &[u8], is_all: bool) -> FinalAnswer {
    let mut rest = bytes;
    loop {
        let Some(line_end) = rest.iter().position(|byte| *byte == b'\n') else {
            return if rest.len() >= STATUS_LINE_BYTES && status_of(rest).is_none() {
                FinalAnswer::NotHttp
            } else {
                FinalAnswer::More
            };
        };
        let Some(status) = status_of(&rest[..line_end]) else { return FinalAnswer::NotHttp };
        let head = head_end(rest).map(|end| rest.split_at(end));
        match (status, head) {
            (100 | 102..=199, Some((_, behind))) => rest = behind,
            (100 | 102..=199, None) => return FinalAnswer::More,
            (407, Some((head, _))) if has_proxy_authenticate(head) => return FinalAnswer::Refused,
            (407, None) if is_all => return FinalAnswer::Refused,
            (407, None) => return FinalAnswer::More,
            (status, _) => return FinalAnswer::Status(status),
        }
    }
}

/// `HTTP/1.1 200`, in bytes.
const STATUS_LINE_BYTES: usize = 12;

fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    match rest {
        [b'0' | b'1', b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            Some([a, b, c].iter().fold(0, |value, digit| value * 10 + u16::from(**digit - b'0')))
        }
        _ => None,
    }
}

/// The position behind the empty line that ends a head.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut line_start = 0;
    for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if matches!(&bytes[line_start..place], b"" | b"\r") {
            return Some(place + 1);
        }
        line_start = place + 1;
    }
    None
}

fn has_proxy_authenticate(head: &[u8]) -> bool {
    const NAME: &[u8] = b"proxy-authenticate:";
    head.split(|byte| *byte == b'\n')
        .any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_status_is_read_wherever_the_bytes_are_cut() {
        let cases: [(&[u8], FinalAnswer); 6] = [
            (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n", FinalAnswer::Status(200)),
            (b"HTTP/1.0 503\r\n\r\n", FinalAnswer::Status(503)),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 404 No\r\n\r\n",
                FinalAnswer::Status(404),
            ),
            (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", FinalAnswer::Status(101)),
            (b"HTTP/1.1 407 No\r\nDate: x\r\nproxy-AUTHENTICATE: NTLM\r\n\r\n", FinalAnswer::Refused),
            (b"HTTP/1.1 407 No\r\nX-Proxy-Authenticate: NTLM\r\n\r\n", FinalAnswer::Status(407)),
        ];
        for (bytes, expected) in cases {
            for cut in 0..bytes.len() {
                let heard = final_answer(&bytes[..cut], false);
                assert!(
                    [FinalAnswer::More, expected].contains(&heard),
                    "{heard:?} at {cut} of {}",
                    bytes.escape_ascii()
                );
            }
            assert_eq!(final_answer(bytes, false), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_407_that_is_cut_off_is_a_refusal_once_no_more_comes() {
        let cut = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Au";
        assert_eq!(final_answer(cut, false), FinalAnswer::More);
        assert_eq!(final_answer(cut, true), FinalAnswer::Refused);
        assert_eq!(final_answer(b"HTTP/1.1 4", true), FinalAnswer::More);
    }

    #[test]
    fn bytes_that_are_not_http_differ_from_an_incomplete_answer() {
        for bytes in [
            &b"\x16\x03\x01\x00\x05garbage"[..],
            b"ICY 200 OK\r\n",
            b"HTTP/2.0 200 OK\r\n",
            b"HTTP/1.1 2x0 OK\r\n",
            b"\r\n",
        ] {
            assert_eq!(final_answer(bytes, false), FinalAnswer::NotHttp, "{}", bytes.escape_ascii());
        }
        assert_eq!(final_answer(b"", true), FinalAnswer::More);
    }
}
