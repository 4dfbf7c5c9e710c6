//! Chunked bodies and discarded bodies: the same however they are split, and as a simple decoder in this file and
//! `httparse` read them. The input is a byte that decides the split, two bytes that are a length or a limit, and the
//! body.

use ntlm_gateway::http::{BodyDiscarder, BodyFraming, ChunkError, ChunkedDecoder, DiscardError};

use super::pieces::Pieces;

/// The result of decoding a body.
#[derive(Debug, PartialEq)]
struct Decoded {
    content: Vec<u8>,
    consumed: usize,
    done: bool,
    error: Option<ChunkError>,
}

/// Checks one body.
pub fn check(input: &[u8]) {
    let Some(([seed, low, high], body)) = input.split_first_chunk::<3>() else {
        return;
    };
    let number = u64::from(u16::from_le_bytes([*low, *high]));
    let whole = decode([body]);
    let in_pieces = decode(Pieces::new(body, *seed));
    assert_eq!(whole.content, in_pieces.content, "the content depends on the split");
    assert_eq!((whole.done, whole.error), (in_pieces.done, in_pieces.error));
    assert!(whole.error.is_some() || whole.consumed == in_pieces.consumed);
    assert!(whole.done || whole.error.is_some() || whole.consumed == body.len(), "bytes were left over");
    if whole.done {
        assert_eq!(simple_decode(&body[..whole.consumed]).as_ref(), Some(&whole.content));
    }
    check_round_trip(body, *seed);
    for framing in [BodyFraming::None, BodyFraming::Length(number), BodyFraming::Chunked, BodyFraming::CloseDelimited] {
        for limit_bytes in [0, 16, number, u64::MAX] {
            let discarded = discard(framing, limit_bytes, [body]);
            assert_eq!(
                discarded,
                discard(framing, limit_bytes, Pieces::new(body, *seed)),
                "{framing:?} within {limit_bytes} depends on the split"
            );
            check_discarded(framing, limit_bytes, body, discarded, &whole);
        }
    }
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = ChunkedDecoder::new();
    let mut decoded = Decoded { content: Vec::new(), consumed: 0, done: false, error: None };
    for mut piece in pieces {
        loop {
            let segment = match decoder.decode(piece) {
                Ok(segment) => segment,
                Err(error) => return Decoded { error: Some(error), ..decoded },
            };
            assert!(segment.len() <= piece.len());
            assert_eq!(segment.done, decoder.is_done());
            decoded.content.extend_from_slice(&piece[segment.overhead..segment.len()]);
            decoded.consumed += segment.len();
            decoded.done = segment.done;
            piece = &piece[segment.len()..];
            if segment.done || segment.is_empty() {
                break;
            }
        }
        if decoded.done {
            break;
        }
    }
    decoded
}

/// The content of a complete chunked body, read line by line; `httparse` reads the sizes as well.
fn simple_decode(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, rest) = (&body[..end], &body[end + 2..]);
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if let Ok(httparse::Status::Complete((_, other))) = httparse::parse_chunk_size(body) {
            assert_eq!(u64::try_from(size), Ok(other), "httparse reads a different size");
        }
        if size == 0 {
            // Trailers are lines; the last line is empty.
            return (rest == b"\r\n" || rest.ends_with(b"\r\n\r\n")).then_some(content);
        }
        content.extend_from_slice(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// Encoded content decodes to the same content.
fn check_round_trip(content: &[u8], seed: u8) {
    let mut body = Vec::new();
    for piece in Pieces::new(content, seed) {
        body.extend_from_slice(format!("{:x};seed={seed}\r\n", piece.len()).as_bytes());
        body.extend_from_slice(piece);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
    let consumed = body.len();
    body.extend_from_slice(b"leftover");
    let expected = Decoded { content: content.to_vec(), consumed, done: true, error: None };
    assert_eq!(decode(Pieces::new(&body, seed.wrapping_add(1))), expected);
}

/// How many bytes were consumed, and whether the body has ended.
fn discard<'a>(
    framing: BodyFraming,
    limit_bytes: u64,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(usize, bool), DiscardError> {
    let mut discarder = BodyDiscarder::new(framing, limit_bytes);
    let mut consumed = 0;
    // As the handshake does: it checks the body after the head even if nothing follows.
    for piece in std::iter::once(&[][..]).chain(pieces) {
        let discarded = discarder.feed(piece)?;
        assert!(discarded.consumed <= piece.len());
        assert_eq!(discarded.done, discarder.is_done());
        consumed += discarded.consumed;
        if discarded.done {
            break;
        }
    }
    let done = discarder.is_done();
    Ok((consumed, done))
}

fn check_discarded(
    framing: BodyFraming,
    limit_bytes: u64,
    body: &[u8],
    discarded: Result<(usize, bool), DiscardError>,
    chunked: &Decoded,
) {
    let size = body.len() as u64;
    match (framing, discarded) {
        (_, Ok((consumed, _))) if consumed as u64 > limit_bytes => {
            panic!("{consumed} bytes exceed the limit of {limit_bytes}")
        }
        (BodyFraming::None, outcome) => assert_eq!(outcome, Ok((0, true))),
        (BodyFraming::Length(length), Ok((consumed, done))) => {
            assert_eq!((consumed as u64, done), (length.min(size), size >= length));
        }
        (BodyFraming::Length(length), Err(_)) => assert!(length > limit_bytes),
        (BodyFraming::CloseDelimited, Ok(outcome)) => assert_eq!(outcome, (body.len(), false)),
        (BodyFraming::CloseDelimited, Err(_)) => assert!(size > limit_bytes),
        (BodyFraming::Chunked, Ok(outcome)) => assert_eq!(outcome, (chunked.consumed, chunked.done)),
        (BodyFraming::Chunked, Err(DiscardError::BadChunk(error))) => assert_eq!(Some(error), chunked.error),
        (BodyFraming::Chunked, Err(_)) => assert!(size > limit_bytes),
    }
}

/// Complete bodies, broken ones, and what follows them.
pub fn seeds() -> Vec<Vec<u8>> {
    let bodies = [
        "5;a=\"b\"\r\nhello\r\n0A  \r\n0123456789\r\n0\r\nT: v\r\nU:\r\n\r\nleftover",
        "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "00000000000000001\r\n",
        "ffffffffffffffff\r\nx",
        "1 ;x\r\na\r\n2\t\r\nbc\r\n0;y=z\r\n\r\n",
        "1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
        "3\r\nabcd",
        "3\r\nabc\n",
        "0\r\n folded\r\n\r\n",
        "g\r\n",
        "5\nhello",
    ];
    let frames = [[0, 5, 0], [3, 64, 0], [255, 0, 1]];
    bodies.iter().zip(frames.iter().cycle()).map(|(body, frame)| [&frame[..], body.as_bytes()].concat()).collect()
}
