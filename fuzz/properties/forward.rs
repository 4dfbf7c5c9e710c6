//! Forwarded plain HTTP: what goes out is exactly one message to an independent reader, means the same as what came in,
//! and consumes no byte beyond it, however the bytes are split.
//!
//! The input is a byte that decides the split, a byte of options (1: the upstream closes after its data; 2: no Via; 4:
//! the gateway does not keep the client's connection; 8: no credentials for the upstream; 16, 32: the request that is
//! answered if the client's is rejected), what the client sends, 0x1e, and what the upstream sends.

use ntlm_gateway::forward::{
    BodyError, BodyPump, ForwardOptions, ForwardRequest, ForwardResponse, HeadPurpose, ResponseKind,
};
use ntlm_gateway::http::{
    FieldStorage, HeadEnd, PROXY_NAME, ProxyAuthorization, RequestHead, ResponseHead, unfold_field_lines,
};

use super::forward_heads::{self, ClientRequest, UpstreamAnswer};
use super::messages::{Body, End, Framing, Head, Reader};
use super::pieces::Pieces;

const HEAD_LIMIT_BYTES: usize = 4096;
const INTERIM_MAX: usize = 16;
/// Appears where only the next hop may see it.
const SECRET: &str = "s3cr3t";

/// Requests that are answered if the client's own request is rejected.
const REQUESTS: [&str; 4] = [
    "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HEAD http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\nConnection: Upgrade\r\n\
     Upgrade: a, b/1\r\n\r\n",
];

/// The second byte of the input.
#[derive(Clone, Copy)]
pub struct Options(u8);

impl Options {
    fn closes(self) -> bool {
        self.0 & 1 != 0
    }

    /// The options for forwarding messages.
    pub fn forward(self) -> ForwardOptions<'static> {
        ForwardOptions { via: (self.0 & 2 == 0).then_some(PROXY_NAME) }
    }

    /// Whether the gateway would keep the client's connection open.
    pub fn keeps(self) -> bool {
        self.0 & 4 == 0
    }

    /// Credentials for the upstream.
    pub fn credentials(self) -> Option<ProxyAuthorization<'static>> {
        (self.0 & 8 == 0).then_some(ProxyAuthorization::of("NTLM", b"NTLMSSP\0"))
    }

    fn request(self) -> &'static str {
        REQUESTS[usize::from(self.0 >> 4) % REQUESTS.len()]
    }
}

/// How a stream of bytes arrives and is passed on.
#[derive(Clone, Copy)]
enum Delivery {
    /// In one piece.
    Whole,
    /// In pieces.
    Split(u8),
    /// In pieces, bypassing the pump where that is allowed, and with partial writes.
    Spliced(u8),
}

/// What was passed on in one direction.
#[derive(Debug, Default)]
struct Passed {
    /// Each head that came in, with what went out for it.
    heads: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    /// Bytes consumed, heads included.
    used: usize,
    done: bool,
    /// Whether the end of the connection was accepted as the end of the body.
    finished: bool,
    rejected: Option<String>,
    /// The body was rejected: how much of it went out before depends on the split.
    in_body: bool,
}

/// Checks one exchange.
pub fn check(input: &[u8]) {
    let Some(([seed, options], said)) = input.split_first_chunk::<2>() else {
        return;
    };
    let options = Options(*options);
    let mut sides = said.splitn(2, |&byte| byte == 0x1e);
    let (client, upstream) = (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
    let (sent, request) = upload(client, Delivery::Whole, options);
    for delivery in [Delivery::Split(*seed), Delivery::Spliced(*seed)] {
        assert_equal(&sent, &upload(client, delivery, options).0, false);
    }
    let request = match request {
        Some(request) => {
            let (head, _) = Head::read(&sent.heads[0].0, Reader::Lenient).expect("an accepted head can be parsed");
            let client_request = ClientRequest::of(head, options);
            forward_heads::check_request(&client_request, &request);
            check_debug(&request);
            check_body(&sent, &client[sent.heads[0].0.len()..], client_request.framing, client_request.framing);
            (request, client_request)
        }
        None => {
            assert!(sent.rejected.is_some() || Head::read(client, Reader::Lenient).is_none(), "a head is missed");
            let (_, request) = upload(options.request().as_bytes(), Delivery::Whole, options);
            let (head, _) =
                Head::read(options.request().as_bytes(), Reader::Lenient).expect("our own request can be parsed");
            (request.expect("our own request is accepted"), ClientRequest::of(head, options))
        }
    };
    check_answers(upstream, *seed, &request, options);
}

fn check_answers(
    upstream: &[u8],
    seed: u8,
    (request, client_request): &(ForwardRequest, ClientRequest),
    options: Options,
) {
    let mut answers = Vec::new();
    let got = download(upstream, Delivery::Whole, request, options, &mut answers);
    let to_close = answers.last().is_some_and(|answer: &UpstreamAnswer| answer.framing == Some(Framing::ToClose));
    for delivery in [Delivery::Split(seed), Delivery::Spliced(seed)] {
        assert_equal(&got, &download(upstream, delivery, request, options, &mut Vec::new()), to_close);
    }
    for (answer, (_, out)) in answers.iter().zip(&got.heads) {
        forward_heads::check_answer(client_request, answer, out);
    }
    let Some(last) = answers.last().filter(|answer| answer.kind == ResponseKind::Final) else {
        return;
    };
    let before: usize = got.heads.iter().map(|(given, _)| given.len()).sum();
    let framing = last.framing.expect("what is ambiguous is rejected");
    let (seen, _) = Head::read(&got.heads[answers.len() - 1].1, Reader::Strict).expect("it was checked before");
    let client_framing = forward_heads::client_reads(client_request, &seen, last.status);
    check_body(&got, &upstream[before..], framing, client_framing);
    if last.keeps {
        assert_ne!(client_framing, Framing::ToClose, "the connection is kept after a body that ends at the close");
    }
}

/// Forwards what a client sends; returns the request if it was accepted.
fn upload(bytes: &[u8], delivery: Delivery, options: Options) -> (Passed, Option<ForwardRequest>) {
    let mut passed = Passed::default();
    let mut request: Option<(ForwardRequest, BodyPump)> = None;
    let mut end = HeadEnd::request();
    let mut pending = Vec::new();
    for piece in split(bytes, delivery) {
        pending.extend_from_slice(piece);
        if request.is_none() {
            match end.find(&pending, HEAD_LIMIT_BYTES) {
                Ok(Some(length)) => match take_request(&pending[..length], options, &mut passed) {
                    Ok(accepted) => {
                        let pump = accepted.pump();
                        passed.done = pump.is_done();
                        request = Some((accepted, pump));
                        pending.drain(..length);
                    }
                    Err(rejected) => passed.rejected = Some(rejected),
                },
                Ok(None) => {}
                Err(error) => passed.rejected = Some(error.to_string()),
            }
        }
        if let Some((_, pump)) = &mut request {
            passed.take_body(pump, &mut pending, delivery);
        }
        if passed.rejected.is_some() {
            break;
        }
    }
    if let Some((_, pump)) = request.as_mut().filter(|_| passed.rejected.is_none()) {
        passed.finish(pump);
    }
    (passed, request.map(|(request, _)| request))
}

fn take_request(bytes: &[u8], options: Options, passed: &mut Passed) -> Result<ForwardRequest, String> {
    let mut storage = FieldStorage::new();
    let head = RequestHead::parse(bytes, &mut storage).map_err(|error| error.to_string())?;
    let request = ForwardRequest::of(&head, &options.forward()).map_err(|error| {
        assert!(matches!(error.status(), 400 | 417 | 501));
        error.to_string()
    })?;
    let mut out = Vec::new();
    request.write_head(&mut out, options.credentials(), HeadPurpose::Answer);
    passed.heads.push((bytes.to_vec(), out));
    passed.used += bytes.len();
    Ok(request)
}

/// Forwards what the upstream sends.
fn download(
    bytes: &[u8],
    delivery: Delivery,
    request: &ForwardRequest,
    options: Options,
    answers: &mut Vec<UpstreamAnswer>,
) -> Passed {
    let mut passed = Passed::default();
    let mut pump = None;
    let mut end = HeadEnd::response();
    let mut pending: Vec<u8> = Vec::new();
    for piece in split(bytes, delivery) {
        pending.extend_from_slice(piece);
        while pump.is_none() && passed.rejected.is_none() {
            match end.find(&pending, HEAD_LIMIT_BYTES) {
                Ok(Some(length)) => match take_answer(&pending[..length], request, options, &mut passed) {
                    Ok((answer, body)) => {
                        pump = body;
                        answers.push(answer);
                        pending.drain(..length);
                        end = HeadEnd::response();
                    }
                    Err(rejected) => passed.rejected = Some(rejected),
                },
                Ok(None) => break,
                Err(error) => passed.rejected = Some(error.to_string()),
            }
        }
        if let Some(pump) = &mut pump {
            passed.take_body(pump, &mut pending, delivery);
        }
        if passed.rejected.is_some() {
            break;
        }
    }
    if let Some(pump) = pump.as_mut().filter(|_| options.closes() && passed.rejected.is_none()) {
        passed.finish(pump);
    }
    passed
}

fn take_answer(
    bytes: &[u8],
    request: &ForwardRequest,
    options: Options,
    passed: &mut Passed,
) -> Result<(UpstreamAnswer, Option<BodyPump>), String> {
    if passed.heads.len() == INTERIM_MAX {
        return Err("too many answers".to_owned());
    }
    let mut unfolded = bytes.to_vec();
    unfold_field_lines(&mut unfolded);
    let mut storage = FieldStorage::new();
    let head = ResponseHead::parse(&unfolded, &mut storage).map_err(|error| error.to_string())?;
    let (given, _) = Head::read(&unfolded, Reader::Lenient).expect("an accepted head can be parsed");
    let forward = options.forward();
    let response = match ForwardResponse::of(&head, request, &forward) {
        Ok(response) => response,
        Err(error) => {
            forward_heads::check_rejection(&given, request, &error);
            return Err(error.to_string());
        }
    };
    let mut out = Vec::new();
    let keeps = response.write_head(&mut out, options.keeps());
    let answer = UpstreamAnswer::of(given, &response, request, keeps);
    passed.heads.push((bytes.to_vec(), out));
    passed.used += bytes.len();
    let pump = matches!(response.kind(), ResponseKind::Final | ResponseKind::Switching).then(|| response.pump());
    passed.done = pump.as_ref().is_some_and(BodyPump::is_done);
    Ok((answer, pump))
}

fn split(bytes: &[u8], delivery: Delivery) -> Vec<&[u8]> {
    match delivery {
        Delivery::Whole => vec![bytes],
        Delivery::Split(seed) | Delivery::Spliced(seed) => Pieces::new(bytes, seed).collect(),
    }
}

impl Passed {
    fn take_body(&mut self, pump: &mut BodyPump, pending: &mut Vec<u8>, delivery: Delivery) {
        let moved = match delivery {
            Delivery::Spliced(_) => splice(pump, pending, &mut self.body),
            _ => push(pump, pending, &mut self.body),
        };
        match moved {
            Ok(used) => {
                self.used += used;
                self.done = pump.is_done();
                pending.drain(..used);
                assert!(self.done || pending.is_empty(), "bytes were left over");
            }
            Err(error) => {
                (self.rejected, self.in_body) = (Some(error.to_string()), true);
            }
        }
    }

    fn finish(&mut self, pump: &mut BodyPump) {
        let done = pump.is_done();
        match pump.finish(&mut self.body) {
            Ok(()) => {
                assert!(pump.is_done());
                (self.done, self.finished) = (true, true);
            }
            Err(BodyError::Truncated) => assert!(!done, "a complete body is reported as truncated"),
            Err(error) => panic!("unexpected error at the end: {error}"),
        }
    }
}

/// Through the pump alone.
fn push(pump: &mut BodyPump, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BodyError> {
    let before = out.len();
    let mut used = 0;
    loop {
        let piece = pump.step(&input[used..])?;
        piece.copy_rest(0, out);
        used += piece.used;
        assert_eq!(piece.done, pump.is_done());
        if piece.done || piece.is_empty() {
            break;
        }
    }
    assert!(used <= input.len(), "more bytes are consumed than exist");
    // The pump may have held back the name of a trailer field.
    assert!(out.len() - before <= input.len() + 32 + HEAD_LIMIT_BYTES * 4, "the output is too large");
    Ok(used)
}

/// Bypasses the pump where that is allowed, otherwise step by step, with each piece written in two parts.
fn splice(pump: &mut BodyPump, input: &[u8], out: &mut Vec<u8>) -> Result<usize, BodyError> {
    let run = usize::try_from(pump.splice_run()).unwrap_or(usize::MAX).min(input.len());
    out.extend_from_slice(&input[..run]);
    pump.skip(run as u64);
    let mut used = run;
    loop {
        let piece = pump.step(&input[used..])?;
        let all = piece.slices().concat();
        assert_eq!(all.len(), piece.len());
        out.extend_from_slice(&all[..all.len() / 2]);
        piece.copy_rest(all.len() / 2, out);
        used += piece.used;
        if piece.done || piece.is_empty() {
            return Ok(used);
        }
    }
}

/// Asserts that two deliveries have the same result. A body that ends at the close is split into chunks as it arrives.
fn assert_equal(whole: &Passed, other: &Passed, to_close: bool) {
    assert_eq!(whole.heads, other.heads, "a head depends on the split");
    assert_eq!(whole.rejected, other.rejected, "a rejection depends on the split");
    assert_eq!(whole.in_body, other.in_body);
    if whole.in_body {
        let shorter = whole.body.len().min(other.body.len());
        assert_eq!(whole.body[..shorter], other.body[..shorter], "a body depends on the split");
        return;
    }
    let outcome = |passed: &Passed| (passed.used, passed.done, passed.finished);
    assert_eq!(outcome(whole), outcome(other), "the outcome depends on the split");
    if !to_close {
        assert_eq!(whole.body, other.body, "a body depends on the split");
    } else if whole.body != other.body {
        let content = |passed: &Passed| Body::read(&passed.body, Framing::Chunked, Reader::Strict).content;
        assert_eq!(content(whole), content(other), "a body depends on the split");
    }
}

/// What goes out has the same content as what came in, ends where it ends, and nothing follows it.
fn check_body(passed: &Passed, given: &[u8], comes: Framing, goes: Framing) {
    let came = Body::read(given, comes, Reader::Lenient);
    let went = Body::read(&passed.body, goes, Reader::Strict);
    let heads: usize = passed.heads.iter().map(|(given, _)| given.len()).sum();
    if passed.rejected.is_some() {
        assert_ne!(came.end, End::Whole, "a complete body is rejected");
        assert_eq!(went.end, End::Cut, "a rejected body looks complete to the recipient");
        assert!(came.content.starts_with(&went.content));
        return;
    }
    assert_eq!(passed.used - heads, came.used, "the consumed bytes are not the body");
    assert_eq!(passed.done, came.end == End::Whole || passed.finished);
    assert_eq!(went.content, came.content, "the content differs");
    assert_eq!(went.used, passed.body.len(), "bytes follow the body");
    let ends = match goes {
        Framing::ToClose => End::Cut,
        _ if passed.done => End::Whole,
        _ => End::Cut,
    };
    assert_eq!(went.end, ends);
    if goes == Framing::Chunked && passed.done {
        assert_eq!(went.trailers, forward_heads::allowed_trailers(&came.trailers));
    }
}

/// Neither the path nor a field may appear in a log.
fn check_debug(request: &ForwardRequest) {
    let shown = format!("{request:?}").replace(request.origin(), "").replace(request.method(), "");
    assert!(!shown.contains(SECRET), "{shown}");
}

/// Exchanges of every kind, including malicious ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (options, client, upstream) in forward_heads::SEEDS {
        for seed in [0, 7, 50] {
            seeds.push([&[seed, *options], client.as_bytes(), b"\x1e", upstream.as_bytes()].concat());
        }
    }
    seeds
}
