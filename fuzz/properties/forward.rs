//! Plain HTTP on its way through the gateway: what goes out is one message to a reader of our own, means what came in, and
//! takes no byte that is not of it, however the bytes are cut.
//!
//! The input is a byte that says how to cut, a byte of options (1: the upstream closes behind what it says; 2: no Via; 4: the
//! gateway would not keep the client's connection; 8: no credentials for the upstream; 16, 32: the request that is answered if
//! the client's is refused), what the client says, 0x1e, and what the upstream says.

use ntlm_gateway::forward::{
    BodyError, BodyPump, ForwardOptions, ForwardRequest, ForwardResponse, HeadPurpose, ResponseKind,
};
use ntlm_gateway::http::{FieldStorage, HeadEnd, PROXY_NAME, RequestHead, ResponseHead, unfold_field_lines};

use super::forward_heads::{self, Answer, Asked};
use super::messages::{Body, End, Framing, Head, Reader};
use super::pieces::Pieces;

const HEAD_LIMIT_BYTES: usize = 4096;
const INTERIM_MAX: usize = 16;
/// Stands where nobody but the next hop may see it.
const SECRET: &str = "s3cr3t";

/// Those that are answered where the client's own request is refused.
const REQUESTS: [&str; 4] = [
    "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HEAD http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST http://h/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\nConnection: Upgrade\r\n\
     Upgrade: a, b/1\r\n\r\n",
];

/// What the second byte of the input says.
#[derive(Clone, Copy)]
pub struct Options(u8);

impl Options {
    fn closes(self) -> bool {
        self.0 & 1 != 0
    }

    /// How messages are passed on.
    pub fn forward(self) -> ForwardOptions<'static> {
        ForwardOptions { via: (self.0 & 2 == 0).then_some(PROXY_NAME) }
    }

    /// Whether the gateway would keep the client's connection.
    pub fn keeps(self) -> bool {
        self.0 & 4 == 0
    }

    /// Credentials for the upstream.
    pub fn credentials(self) -> Option<(&'static str, &'static [u8])> {
        (self.0 & 8 == 0).then_some(("NTLM", b"NTLMSSP\0"))
    }

    fn request(self) -> &'static str {
        REQUESTS[usize::from(self.0 >> 4) % REQUESTS.len()]
    }
}

/// How a stream of bytes comes in and goes out.
#[derive(Clone, Copy)]
enum Way {
    /// At once.
    Whole,
    /// In pieces.
    Cut(u8),
    /// In pieces, with data moved past the pump where it may be, and in writes that take only a part.
    Spliced(u8),
}

/// What became of one direction's bytes.
#[derive(Debug, Default)]
struct Passed {
    /// The bytes of the heads that came in, each with what went out for it.
    heads: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    /// Bytes taken, heads included.
    used: usize,
    done: bool,
    /// Whether the end of the connection was borne.
    finished: bool,
    refused: Option<String>,
    /// The refusal is of the body: how much of it went out before depends on how it was cut.
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
    let (sent, request) = upload(client, Way::Whole, options);
    for way in [Way::Cut(*seed), Way::Spliced(*seed)] {
        same(&sent, &upload(client, way, options).0, false);
    }
    let request = match request {
        Some(request) => {
            let (head, _) = Head::read(&sent.heads[0].0, Reader::Lenient).expect("what is accepted can be read");
            let asked = Asked::of(head, options);
            forward_heads::request_is_the_same(&asked, &request);
            shows_no_secret(&request);
            body_is_the_same(&sent, &client[sent.heads[0].0.len()..], asked.framing, asked.framing);
            (request, asked)
        }
        None => {
            assert!(sent.refused.is_some() || Head::read(client, Reader::Lenient).is_none(), "a head is not seen");
            let (_, request) = upload(options.request().as_bytes(), Way::Whole, options);
            let (head, _) = Head::read(options.request().as_bytes(), Reader::Lenient).expect("ours can be read");
            (request.expect("ours is accepted"), Asked::of(head, options))
        }
    };
    answered(upstream, *seed, &request, options);
}

fn answered(upstream: &[u8], seed: u8, (request, asked): &(ForwardRequest, Asked), options: Options) {
    let mut answers = Vec::new();
    let got = download(upstream, Way::Whole, request, options, &mut answers);
    let to_close = answers.last().is_some_and(|answer: &Answer| answer.framing == Some(Framing::ToClose));
    for way in [Way::Cut(seed), Way::Spliced(seed)] {
        same(&got, &download(upstream, way, request, options, &mut Vec::new()), to_close);
    }
    for (answer, (_, out)) in answers.iter().zip(&got.heads) {
        forward_heads::answer_is_the_same(asked, answer, out);
    }
    let Some(last) = answers.last().filter(|answer| answer.kind == ResponseKind::Final) else {
        return;
    };
    let before: usize = got.heads.iter().map(|(given, _)| given.len()).sum();
    let framing = last.framing.expect("what is ambiguous is refused");
    let (seen, _) = Head::read(&got.heads[answers.len() - 1].1, Reader::Strict).expect("looked at before");
    let client_framing = forward_heads::client_reads(asked, &seen, last.status);
    body_is_the_same(&got, &upstream[before..], framing, client_framing);
    if last.keeps {
        assert_ne!(client_framing, Framing::ToClose, "kept behind a body that the close ends");
    }
}

/// Sends what a client says on its way; the request if it was accepted.
fn upload(bytes: &[u8], way: Way, options: Options) -> (Passed, Option<ForwardRequest>) {
    let mut passed = Passed::default();
    let mut request: Option<(ForwardRequest, BodyPump)> = None;
    let mut end = HeadEnd::request();
    let mut pending = Vec::new();
    for piece in cut(bytes, way) {
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
                    Err(refused) => passed.refused = Some(refused),
                },
                Ok(None) => {}
                Err(error) => passed.refused = Some(error.to_string()),
            }
        }
        if let Some((_, pump)) = &mut request {
            passed.take_body(pump, &mut pending, way);
        }
        if passed.refused.is_some() {
            break;
        }
    }
    if let Some((_, pump)) = request.as_mut().filter(|_| passed.refused.is_none()) {
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

/// Sends what the upstream says on its way.
fn download(bytes: &[u8], way: Way, request: &ForwardRequest, options: Options, answers: &mut Vec<Answer>) -> Passed {
    let mut passed = Passed::default();
    let mut pump = None;
    let mut end = HeadEnd::response();
    let mut pending: Vec<u8> = Vec::new();
    for piece in cut(bytes, way) {
        pending.extend_from_slice(piece);
        while pump.is_none() && passed.refused.is_none() {
            match end.find(&pending, HEAD_LIMIT_BYTES) {
                Ok(Some(length)) => match take_answer(&pending[..length], request, options, &mut passed) {
                    Ok((answer, body)) => {
                        pump = body;
                        answers.push(answer);
                        pending.drain(..length);
                        end = HeadEnd::response();
                    }
                    Err(refused) => passed.refused = Some(refused),
                },
                Ok(None) => break,
                Err(error) => passed.refused = Some(error.to_string()),
            }
        }
        if let Some(pump) = &mut pump {
            passed.take_body(pump, &mut pending, way);
        }
        if passed.refused.is_some() {
            break;
        }
    }
    if let Some(pump) = pump.as_mut().filter(|_| options.closes() && passed.refused.is_none()) {
        passed.finish(pump);
    }
    passed
}

fn take_answer(
    bytes: &[u8],
    request: &ForwardRequest,
    options: Options,
    passed: &mut Passed,
) -> Result<(Answer, Option<BodyPump>), String> {
    if passed.heads.len() == INTERIM_MAX {
        return Err("too many answers".to_owned());
    }
    let mut unfolded = bytes.to_vec();
    unfold_field_lines(&mut unfolded);
    let mut storage = FieldStorage::new();
    let head = ResponseHead::parse(&unfolded, &mut storage).map_err(|error| error.to_string())?;
    let (given, _) = Head::read(&unfolded, Reader::Lenient).expect("what is accepted can be read");
    let forward = options.forward();
    let response = match ForwardResponse::of(&head, request, &forward) {
        Ok(response) => response,
        Err(error) => {
            forward_heads::is_refused_rightly(&given, request, &error);
            return Err(error.to_string());
        }
    };
    let mut out = Vec::new();
    let keeps = response.write_head(&mut out, options.keeps());
    let answer = Answer::of(given, &response, request, keeps);
    passed.heads.push((bytes.to_vec(), out));
    passed.used += bytes.len();
    let pump = matches!(response.kind(), ResponseKind::Final | ResponseKind::Switching).then(|| response.pump());
    passed.done = pump.as_ref().is_some_and(BodyPump::is_done);
    Ok((answer, pump))
}

fn cut(bytes: &[u8], way: Way) -> Vec<&[u8]> {
    match way {
        Way::Whole => vec![bytes],
        Way::Cut(seed) | Way::Spliced(seed) => Pieces::new(bytes, seed).collect(),
    }
}

impl Passed {
    fn take_body(&mut self, pump: &mut BodyPump, pending: &mut Vec<u8>, way: Way) {
        let moved = match way {
            Way::Spliced(_) => splice(pump, pending, &mut self.body),
            _ => push(pump, pending, &mut self.body),
        };
        match moved {
            Ok(used) => {
                self.used += used;
                self.done = pump.is_done();
                pending.drain(..used);
                assert!(self.done || pending.is_empty(), "bytes were left lying");
            }
            Err(error) => {
                (self.refused, self.in_body) = (Some(error.to_string()), true);
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
            Err(BodyError::Truncated) => assert!(!done, "what has ended is called truncated"),
            Err(error) => panic!("an end is no {error}"),
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
    assert!(used <= input.len(), "more is taken than there is");
    // A trailer's name may have been held.
    assert!(out.len() - before <= input.len() + 32 + HEAD_LIMIT_BYTES * 4, "a body swells");
    Ok(used)
}

/// Past the pump where it says so, otherwise piece by piece, each written in two.
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

/// Asserts that two ways came to the same. What the close ends is cut into chunks as it comes.
fn same(whole: &Passed, other: &Passed, to_close: bool) {
    assert_eq!(whole.heads, other.heads, "a head depends on how the bytes are cut");
    assert_eq!(whole.refused, other.refused, "a refusal depends on how the bytes are cut");
    assert_eq!(whole.in_body, other.in_body);
    if whole.in_body {
        let shorter = whole.body.len().min(other.body.len());
        assert_eq!(whole.body[..shorter], other.body[..shorter], "a body depends on how it is cut");
        return;
    }
    let outcome = |passed: &Passed| (passed.used, passed.done, passed.finished);
    assert_eq!(outcome(whole), outcome(other), "the outcome depends on how the bytes are cut");
    if !to_close {
        assert_eq!(whole.body, other.body, "a body depends on how it is cut");
    } else if whole.body != other.body {
        let content = |passed: &Passed| Body::read(&passed.body, Framing::Chunked, Reader::Strict).content;
        assert_eq!(content(whole), content(other), "a body depends on how it is cut");
    }
}

/// What goes out holds what came in, ends where that ends, and nothing is behind it.
fn body_is_the_same(passed: &Passed, given: &[u8], comes: Framing, goes: Framing) {
    let came = Body::read(given, comes, Reader::Lenient);
    let went = Body::read(&passed.body, goes, Reader::Strict);
    let heads: usize = passed.heads.iter().map(|(given, _)| given.len()).sum();
    if passed.refused.is_some() {
        assert_ne!(came.end, End::Whole, "a whole body is refused");
        assert_eq!(went.end, End::Cut, "a body that is refused is seen as a whole one");
        assert!(came.content.starts_with(&went.content));
        return;
    }
    assert_eq!(passed.used - heads, came.used, "more or less than the body is taken");
    assert_eq!(passed.done, came.end == End::Whole || passed.finished);
    assert_eq!(went.content, came.content, "the content is another");
    assert_eq!(went.used, passed.body.len(), "something goes out behind the body");
    let ends = match goes {
        Framing::ToClose => End::Cut,
        _ if passed.done => End::Whole,
        _ => End::Cut,
    };
    assert_eq!(went.end, ends);
    if goes == Framing::Chunked && passed.done {
        assert_eq!(went.trailers, forward_heads::trailers_that_pass(&came.trailers));
    }
}

/// Neither the path nor a field may be seen in a log.
fn shows_no_secret(request: &ForwardRequest) {
    let shown = format!("{request:?}").replace(request.origin(), "").replace(request.method(), "");
    assert!(!shown.contains(SECRET), "{shown}");
}

/// Exchanges of every kind, and those of people who try things.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (options, client, upstream) in forward_heads::SEEDS {
        for seed in [0, 7, 50] {
            seeds.push([&[seed, *options], client.as_bytes(), b"\x1e", upstream.as_bytes()].concat());
        }
    }
    seeds
}
