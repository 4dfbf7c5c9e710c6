//! Corrupted input: nothing panics, and the next parser interprets what is forwarded as the gateway did.

use super::push;
use crate::forward::{BodyPump, ForwardOptions, ForwardRequest, ForwardResponse, HeadPurpose, ResponseKind};
use crate::http::{BodyFraming, FieldStorage, RequestHead, RequestTarget, ResponseHead, ResponseTo};
use crate::sim::rng::Rng;

const ROUNDS: usize = 20_000;

/// Inserts a few pieces that are significant to the parsers, or replaces bytes with them.
fn corrupt(random: &mut Rng, bytes: &mut Vec<u8>) {
    const SIGNIFICANT: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b",",
        b":",
        b";",
        b"0",
        b"5",
        b"\0",
        b"\xff",
        b"close",
        b"Upgrade",
        b"\r\nContent-Length: 5",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nHost: x",
        b"\r\nConnection: Via, Host",
        b"\r\nTrailer: x",
    ];
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let piece = SIGNIFICANT[random.below(SIGNIFICANT.len())];
        let cut = match random.below(3) {
            0 => at,
            _ => (at + random.below(4)).min(bytes.len()),
        };
        bytes.splice(at..cut, piece.iter().copied());
    }
}

/// The names of the hop-by-hop fields in a head.
fn connection_fields(head: &str) -> Vec<&str> {
    let names = head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    names.filter(|name| crate::http::is_hop_by_hop(name)).collect()
}

fn check_request(bytes: &[u8]) -> bool {
    let mut storage = FieldStorage::new();
    let Ok(head) = RequestHead::parse(bytes, &mut storage) else {
        return false;
    };
    let Ok(request) = ForwardRequest::of(&head, &ForwardOptions::default()) else {
        return false;
    };
    let mut out = Vec::new();
    request.write_head(&mut out, None, HeadPurpose::Answer);
    let mut storage = FieldStorage::new();
    let sent = RequestHead::parse(&out, &mut storage).unwrap();
    assert_eq!((sent.method, sent.target, sent.framing), (head.method, head.target, head.framing));
    let RequestTarget::Absolute { authority_text, .. } = head.target else { unreachable!() };
    assert_eq!(sent.fields.get("host"), Some(authority_text.as_bytes()));
    let text = String::from_utf8_lossy(&out);
    for name in connection_fields(&text) {
        let ours = ["Transfer-Encoding", "Trailer", "Connection", "Upgrade", "Proxy-Connection"];
        assert!(ours.contains(&name), "{text}");
    }
    out.clear();
    request.write_origin_head(&mut out);
    let mut storage = FieldStorage::new();
    let sent = RequestHead::parse(&out, &mut storage).unwrap();
    assert!(matches!(sent.target, RequestTarget::Origin(_) | RequestTarget::Asterisk));
    assert_eq!(sent.framing, head.framing);
    true
}

fn check_response(bytes: &[u8], request: &ForwardRequest) -> bool {
    let mut storage = FieldStorage::new();
    let Ok(head) = ResponseHead::parse(bytes, &mut storage) else {
        return false;
    };
    let Ok(response) = ForwardResponse::of(&head, request, &ForwardOptions::default()) else {
        return false;
    };
    let mut out = Vec::new();
    let keeps = response.write_head(&mut out, true);
    let mut storage = FieldStorage::new();
    let sent = ResponseHead::parse(&out, &mut storage).unwrap();
    assert_eq!((sent.status, sent.reason), (head.status, head.reason));
    assert_eq!(sent.forwarded_framing(ResponseTo::method(request.method())), Ok(response.client_framing()));
    if response.kind() == ResponseKind::Final {
        assert_eq!(sent.persists(), keeps);
    }
    true
}

#[test]
fn corrupted_requests_are_rejected_or_mean_the_same_to_the_next_hop() {
    let seeds = [
        "POST http://h.example:81/a?b HTTP/1.1\r\nHost: h\r\nConnection: close, X\r\nX: y\r\nTransfer-Encoding: chunked\r\n\
         Trailer: z\r\nExpect: 100-continue\r\n\r\n",
        "GET http://[::1] HTTP/1.0\r\nProxy-Connection: keep-alive\r\nVia: 1.1 a\r\nContent-Length: 5\r\n\r\n",
        "OPTIONS http://h HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5\r\nConnection: Upgrade\r\nUpgrade: a, b/1\r\n\r\n",
    ];
    let mut random = Rng::new(1);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        corrupt(&mut random, &mut bytes);
        accepted += usize::from(check_request(&bytes));
    }
    assert!(accepted > ROUNDS / 20, "only {accepted} were accepted: the test tests nothing");
}

#[test]
fn corrupted_responses_are_rejected_or_mean_the_same_to_the_client() {
    let seeds = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close, X\r\nX: y\r\nTrailer: z\r\n\r\n",
        "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: b/1\r\n\r\n",
        "HTTP/1.0 304 x\r\nContent-Length: 5\r\nProxy-Support: Session-Based-Authentication\r\n\r\n",
        "HTTP/1.1 426 x\r\nConnection: Upgrade\r\nUpgrade: b/1\r\n\r\n",
    ];
    let requests = [
        "GET http://h/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: a, b/1\r\n\r\n",
        "GET http://h/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "HEAD http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
    .map(|head| super::request(head).unwrap());
    let mut random = Rng::new(2);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        corrupt(&mut random, &mut bytes);
        accepted += usize::from(check_response(&bytes, &requests[random.below(requests.len())]));
    }
    assert!(accepted > ROUNDS / 20, "only {accepted} were accepted: the test tests nothing");
}

/// Feeds `input` in pieces of `step` bytes. Returns the output, how many bytes were used, and whether the body is done;
/// `None` if it is rejected.
fn pump(mut pump: BodyPump, input: &[u8], step: usize) -> Option<(Vec<u8>, usize, bool)> {
    let (mut out, mut used) = (Vec::new(), 0);
    for piece in input.chunks(step) {
        let pushed = push(&mut pump, piece, &mut out).ok()?;
        used += pushed.used;
        if pushed.done {
            break;
        }
    }
    Some((out, used, pump.is_done()))
}

#[test]
fn corrupted_chunks_are_rejected_or_mean_the_same_to_the_next_hop() {
    let seed = b"5;a=\"b\"\r\nhello\r\n0A  \r\n0123456789\r\n0\r\nT: v\r\nHost: x\r\nU: w\r\n\r\nleftover";
    let mut random = Rng::new(3);
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let mut bytes = seed.to_vec();
        corrupt(&mut random, &mut bytes);
        let step = 1 + random.below(9);
        let whole = pump(BodyPump::same(BodyFraming::Chunked), &bytes, bytes.len());
        assert_eq!(whole, pump(BodyPump::same(BodyFraming::Chunked), &bytes, step), "{bytes:?} in steps of {step}");
        let content = pump(BodyPump::dechunking(), &bytes, bytes.len());
        assert_eq!(content, pump(BodyPump::dechunking(), &bytes, step), "{bytes:?} in steps of {step}");
        let (Some((sent, used, done)), Some((content, content_used, content_done))) = (whole, content) else {
            continue;
        };
        assert_eq!((used, done), (content_used, content_done));
        let (content_of_sent, used_of_sent, done_of_sent) = pump(BodyPump::dechunking(), &sent, sent.len()).unwrap();
        assert_eq!((&content_of_sent, used_of_sent, done_of_sent), (&content, sent.len(), done), "{bytes:?}");
        let names_host = |bytes: &[u8]| String::from_utf8_lossy(bytes).to_ascii_lowercase().contains("\r\nhost:");
        assert!(names_host(&content) || !names_host(&sent), "{bytes:?}");
        accepted += usize::from(done);
    }
    assert!(accepted > ROUNDS / 20, "only {accepted} were accepted: the test tests nothing");
}
