"""A small HTTPS origin for the tests: bytes that follow from a seed, and a sink that says what it got.

    GET  /bytes/N?seed=S            N bytes; HEAD of it
    GET  /slow/N?seed=S&seconds=T   the same, spread over T seconds in ten parts
    PUT, POST /sink                 {"length": n, "sha256": "…"} of the body
    GET  /headers                   the request's own header fields, as JSON

Arguments: certificate file, key file. Prints "port N" once it listens. Plain HTTP when both are "-".
"""

import hashlib
import http.server
import json
import random
import ssl
import sys
import time
import urllib.parse

LIMIT_BYTES = 64 * 1024 * 1024


def body_of(path, query):
    length = int(path.rsplit("/", 1)[1])
    if not 0 <= length <= LIMIT_BYTES:
        raise ValueError("length")
    return random.Random(int(query.get("seed", ["0"])[0])).randbytes(length)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path.startswith("/bytes/"):
            self.answer(body_of(url.path, query), "application/octet-stream")
        elif url.path.startswith("/slow/"):
            seconds = min(float(query.get("seconds", ["1"])[0]), 60)
            self.answer(body_of(url.path, query), "application/octet-stream", pause=seconds / 10)
        elif url.path == "/headers":
            self.answer_json({name.lower(): value for name, value in self.headers.items()})
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def do_PUT(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = self.chunks()
        else:
            parts = self.pieces(int(self.headers.get("Content-Length", "0")))
        digest, length = hashlib.sha256(), 0
        for part in parts:
            digest.update(part)
            length += len(part)
        self.answer_json({"length": length, "sha256": digest.hexdigest()})

    do_POST = do_PUT

    def pieces(self, length):
        while length > 0:
            part = self.rfile.read(min(length, 65536))
            if not part:
                raise ConnectionError("body cut short")
            length -= len(part)
            yield part

    def chunks(self):
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            yield from self.pieces(size)
            self.rfile.readline()
            if size == 0:
                return

    def answer_json(self, value):
        self.answer(json.dumps(value).encode(), "application/json")

    def answer(self, body, kind, pause=0.0):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        part = len(body) if not pause else max(len(body) // 10, 1)
        for start in range(0, len(body), max(part, 1)):
            time.sleep(pause)
            self.wfile.write(body[start : start + part])
            self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    context = None

    def finish_request(self, request, client_address):
        # The TLS handshake belongs to the connection's own thread: one slow client must not hold up accepting.
        request.settimeout(60)
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)
        if self.context:
            request.close()

    def handle_error(self, request, client_address):
        pass


def main():
    certificate, key = sys.argv[1:3]
    server = Server(("127.0.0.1", 0), Handler)
    if certificate != "-":
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(certificate, key)
    print("port", server.server_address[1], flush=True)
    server.serve_forever()


main()
