//! Whole exchanges: for each input, the exact output at every split of the input.

use super::push;
use crate::forward::{BodyPump, ForwardOptions, ForwardRequest, ForwardResponse, HeadPurpose, ResponseKind};
use crate::http::{FieldStorage, HeadEnd, RequestHead, ResponseHead};

const LIMIT_BYTES: usize = 64 * 1024;

/// A client's request and what the upstream receives, the upstream's response and what the client receives.
struct Exchange {
    name: &'static str,
    request: &'static str,
    upstream_gets: &'static str,
    response: &'static str,
    client_gets: &'static str,
    /// Whether the client's connection stays open.
    keeps: bool,
}

const EXCHANGES: &[Exchange] = &[
    Exchange {
        name: "a GET",
        request: "GET http://h/a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
        upstream_gets: "GET http://h/a HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
        client_gets: "HTTP/1.1 200 OK\r\nVia: 1.1 ntlm-gateway\r\nContent-Length: 5\r\n\r\nhello",
        keeps: true,
    },
    Exchange {
        name: "an upload in chunks, and chunks back",
        request: "POST http://h/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n\
            5;ext=1\r\nhello\r\n0\r\nDigest: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        upstream_gets: "POST http://h/a HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nTrailer: Digest\r\n\
            Transfer-Encoding: chunked\r\nProxy-Connection: Keep-Alive\r\n\r\n5\r\nhello\r\n0\r\nDigest: x\r\n\r\n",
        response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA \r\n0123456789\r\n1\r\nx\r\n00\r\n\
            Set-Cookie: no\r\nServer-Timing: x\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nVia: 1.1 ntlm-gateway\r\nTransfer-Encoding: chunked\r\n\r\n\
            A\r\n0123456789\r\n1\r\nx\r\n00\r\nServer-Timing: x\r\n\r\n",
        keeps: true,
    },
    Exchange {
        name: "an upload that waits for a 100",
        request: "PUT http://h/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
        upstream_gets: "PUT http://h/a HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nExpect: 100-continue\r\n\
            Content-Length: 5\r\nProxy-Connection: Keep-Alive\r\n\r\nhello",
        response: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
        client_gets: "HTTP/1.1 100 Continue\r\nVia: 1.1 ntlm-gateway\r\n\r\n\
            HTTP/1.1 201 Created\r\nVia: 1.1 ntlm-gateway\r\nContent-Length: 0\r\n\r\n",
        keeps: true,
    },
    Exchange {
        name: "interim responses that the client did not ask for",
        request: "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        upstream_gets: "GET http://h/ HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        response: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        client_gets: "HTTP/1.1 103 Early Hints\r\nLink: x\r\nVia: 1.1 ntlm-gateway\r\n\r\n\
            HTTP/1.1 204 No Content\r\nVia: 1.1 ntlm-gateway\r\n\r\n",
        keeps: true,
    },
    Exchange {
        name: "chunks for an HTTP/1.0 client",
        request: "GET http://h/ HTTP/1.0\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        upstream_gets: "GET http://h/ HTTP/1.1\r\nHost: h\r\nVia: 1.0 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nVia: 1.1 ntlm-gateway\r\nConnection: close\r\n\r\nhello!",
        keeps: false,
    },
    Exchange {
        name: "a close-delimited body for an HTTP/1.0 client",
        request: "GET http://h/ HTTP/1.0\r\n\r\n",
        upstream_gets: "GET http://h/ HTTP/1.1\r\nHost: h\r\nVia: 1.0 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        response: "HTTP/1.0 200 OK\r\n\r\nhello\r\n\r\nworld",
        client_gets: "HTTP/1.1 200 OK\r\nVia: 1.0 ntlm-gateway\r\nConnection: close\r\n\r\nhello\r\n\r\nworld",
        keeps: false,
    },
    Exchange {
        name: "a HEAD",
        request: "HEAD http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
        upstream_gets: "HEAD http://h/ HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        response: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        client_gets: "HTTP/1.1 200 OK\r\nVia: 1.1 ntlm-gateway\r\nContent-Length: 1000\r\n\r\n",
        keeps: true,
    },
    Exchange {
        name: "a WebSocket",
        request: "GET http://h/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        upstream_gets: "GET http://h/ws HTTP/1.1\r\nHost: h\r\nVia: 1.1 ntlm-gateway\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nProxy-Connection: Keep-Alive\r\n\r\n",
        response: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        client_gets: "HTTP/1.1 101 Switching Protocols\r\nVia: 1.1 ntlm-gateway\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\n\r\n",
        keeps: false,
    },
];

/// Runs one exchange incrementally. Panics on any error.
#[derive(Default)]
struct ExchangeHarness {
    request: Option<(ForwardRequest, BodyPump)>,
    answered: Option<BodyPump>,
    from_client: Vec<u8>,
    from_upstream: Vec<u8>,
    upstream_gets: Vec<u8>,
    client_gets: Vec<u8>,
    keeps: bool,
}

impl ExchangeHarness {
    fn client_sends(&mut self, bytes: &[u8]) {
        self.from_client.extend_from_slice(bytes);
        if self.request.is_none() {
            let Some(len) = HeadEnd::request().find(&self.from_client, LIMIT_BYTES).unwrap() else {
                return;
            };
            let mut storage = FieldStorage::new();
            let head = RequestHead::parse(&self.from_client[..len], &mut storage).unwrap();
            let request = ForwardRequest::of(&head, &ForwardOptions::default()).unwrap();
            request.write_head(&mut self.upstream_gets, None, HeadPurpose::Answer);
            let pump = request.pump();
            self.request = Some((request, pump));
            self.from_client.drain(..len);
        }
        let (_, pump) = self.request.as_mut().unwrap();
        let pushed = push(pump, &self.from_client, &mut self.upstream_gets).unwrap();
        self.from_client.drain(..pushed.used);
    }

    fn upstream_sends(&mut self, bytes: &[u8]) {
        self.from_upstream.extend_from_slice(bytes);
        while self.answered.is_none() {
            let Some(len) = HeadEnd::response().find(&self.from_upstream, LIMIT_BYTES).unwrap() else {
                return;
            };
            self.answer(len);
            self.from_upstream.drain(..len);
        }
        let pump = self.answered.as_mut().unwrap();
        let pushed = push(pump, &self.from_upstream, &mut self.client_gets).unwrap();
        self.from_upstream.drain(..pushed.used);
    }

    fn answer(&mut self, len: usize) {
        let (request, _) = self.request.as_ref().unwrap();
        let mut storage = FieldStorage::new();
        let head = ResponseHead::parse(&self.from_upstream[..len], &mut storage).unwrap();
        let response = ForwardResponse::of(&head, request, &ForwardOptions::default()).unwrap();
        match response.kind() {
            ResponseKind::Interim { pass_on: false } => {}
            ResponseKind::Interim { pass_on: true } => {
                response.write_head(&mut self.client_gets, true);
            }
            ResponseKind::Switching | ResponseKind::Final => {
                self.keeps = response.write_head(&mut self.client_gets, true);
                self.answered = Some(response.pump());
            }
        }
    }

    fn upstream_closes(&mut self) {
        self.answered.as_mut().unwrap().finish(&mut self.client_gets).unwrap();
    }
}

/// The ways to split `text`: in two at every position, and into single bytes.
fn cuts(text: &str) -> impl Iterator<Item = Vec<&[u8]>> {
    let bytes = text.as_bytes();
    let in_two = (0..=bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]);
    in_two.chain([bytes.chunks(1).collect()])
}

#[test]
fn exchanges_have_the_expected_output_however_the_input_is_split() {
    for exchange in EXCHANGES {
        let name = exchange.name;
        for request_cut in cuts(exchange.request) {
            let mut gateway = ExchangeHarness::default();
            request_cut.iter().for_each(|bytes| gateway.client_sends(bytes));
            assert_eq!(String::from_utf8_lossy(&gateway.upstream_gets), exchange.upstream_gets, "{name}");
            let (_, pump) = gateway.request.as_ref().unwrap();
            assert!(pump.is_done() && gateway.from_client.is_empty(), "{name}");
        }
        for response_cut in cuts(exchange.response) {
            let mut gateway = ExchangeHarness::default();
            gateway.client_sends(exchange.request.as_bytes());
            response_cut.iter().for_each(|bytes| gateway.upstream_sends(bytes));
            gateway.upstream_closes();
            assert_eq!(String::from_utf8_lossy(&gateway.client_gets), exchange.client_gets, "{name}");
            assert_eq!((gateway.keeps, &gateway.from_upstream[..]), (exchange.keeps, &b""[..]), "{name}");
        }
    }
}

#[test]
fn a_close_delimited_body_keeps_its_content_in_chunks_however_it_is_split() {
    let response = "HTTP/1.1 200 OK\r\n\r\n0\r\n\r\nhello\r\n";
    for cut in cuts(response) {
        let mut gateway = ExchangeHarness::default();
        gateway.client_sends(EXCHANGES[0].request.as_bytes());
        cut.iter().for_each(|bytes| gateway.upstream_sends(bytes));
        assert!(!gateway.answered.as_ref().unwrap().is_done());
        gateway.upstream_closes();
        let head = b"HTTP/1.1 200 OK\r\nVia: 1.1 ntlm-gateway\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = gateway.client_gets.strip_prefix(head).unwrap();
        let mut content = Vec::new();
        let pushed = push(&mut BodyPump::dechunking(), body, &mut content).unwrap();
        assert_eq!((pushed.used, pushed.done), (body.len(), true));
        assert_eq!(content, b"0\r\n\r\nhello\r\n");
        assert!(gateway.keeps);
    }
}

#[test]
fn bytes_after_a_body_are_left_over() {
    let mut gateway = ExchangeHarness::default();
    let next = "GET http://h/2 HTTP/1.1\r\n";
    gateway.client_sends(format!("{}{next}", EXCHANGES[1].request).as_bytes());
    assert_eq!(gateway.from_client, next.as_bytes());
    gateway.upstream_sends(format!("{}poison", EXCHANGES[1].response).as_bytes());
    assert_eq!(gateway.from_upstream, b"poison");
    assert_eq!(String::from_utf8_lossy(&gateway.upstream_gets), EXCHANGES[1].upstream_gets);
    assert_eq!(String::from_utf8_lossy(&gateway.client_gets), EXCHANGES[1].client_gets);
}
