#!/usr/bin/python3
"""The first process of the virtual machine of run.py: a proxy with OpenSSL, clients, and the gateway between them.

A client asks the proxy for HOST:443. The host says how the proxy behaves in the tunnel.
"""

import ctypes
import fcntl
import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

MIB = 1 << 20
PROXY = 8443
GATEWAY = 3128
ADMIN = 8128
BLOCK = bytes((index * 31 ^ index >> 8) & 255 for index in range(MIB))
SYSTEM = ctypes.CDLL(None, use_errno=True)

ssl = ctypes.CDLL("libssl.so.3")
for name in ["SSL_CTX_new", "TLS_server_method", "SSL_new"]:
    getattr(ssl, name).restype = ctypes.c_void_p
WANT_READ, WANT_WRITE, ZERO_RETURN = 2, 3, 6
TLS_1_2, TLS_1_3 = 0x0303, 0x0304


class Connection:
    """The server's end of a TLS connection. One thread uses it."""

    def __init__(self, context, stream):
        self.stream = stream
        self.ssl = ctypes.c_void_p(ssl.SSL_new(ctypes.c_void_p(context)))
        ssl.SSL_set_fd(self.ssl, stream.fileno())

    def retried(self, call):
        """What a call gives once the socket lets it: 0 at the end, None after an error."""
        while True:
            outcome = call()
            if outcome > 0:
                return outcome
            error = ssl.SSL_get_error(self.ssl, outcome)
            if error == ZERO_RETURN:
                return 0
            if error not in (WANT_READ, WANT_WRITE):
                return None
            self.wait(error == WANT_WRITE)

    def wait(self, for_room, seconds=60):
        select.select([self.stream], [self.stream] if for_room else [], [], seconds)

    def accept(self):
        return self.retried(lambda: ssl.SSL_accept(self.ssl))

    def read(self, most=65536):
        room = ctypes.create_string_buffer(most)
        count = self.retried(lambda: ssl.SSL_read(self.ssl, room, most))
        return None if count is None else room.raw[:count]

    def write(self, data):
        return self.retried(lambda: ssl.SSL_write(self.ssl, data, len(data)))

    def head(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = self.read(1)
            if not more:
                return None
            head += more
        return head.decode()

    def both(self, data, count):
        """Sends `data` so many times, and at the same time reads to the end. Returns the hash of what was read."""
        read, room = hashlib.sha256(), ctypes.create_string_buffer(65536)
        has_ended, sent = False, 0
        while sent < count or not has_ended:
            moved = False
            if sent < count:
                outcome = ssl.SSL_write(self.ssl, data, len(data))
                moved |= outcome > 0
                sent += outcome > 0
            if not has_ended:
                outcome = ssl.SSL_read(self.ssl, room, 65536)
                if outcome > 0:
                    read.update(room.raw[:outcome])
                    moved = True
                elif (error := ssl.SSL_get_error(self.ssl, outcome)) == ZERO_RETURN:
                    has_ended = moved = True
                elif error not in (WANT_READ, WANT_WRITE):
                    return None
            if not moved:
                self.wait(sent < count)
        return read.hexdigest()

    def end(self):
        """Sends close_notify, and waits for the peer's end."""
        ssl.SSL_shutdown(self.ssl)
        while self.read():
            pass


class Proxy:
    """A proxy with these versions and ciphers, which wants Basic and does what the destination's name says."""

    def __init__(self, version, cipher):
        self.context = ctypes.c_void_p(ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_server_method())))
        assert ssl.SSL_CTX_use_certificate_file(self.context, b"/proxy.crt", 1) == 1
        assert ssl.SSL_CTX_use_PrivateKey_file(self.context, b"/proxy.key", 1) == 1
        for control in (123, 124):
            assert ssl.SSL_CTX_ctrl(self.context, control, version, None) == 1
        choose = ssl.SSL_CTX_set_cipher_list if version == TLS_1_2 else ssl.SSL_CTX_set_ciphersuites
        assert choose(self.context, cipher.encode()) == 1
        # A write may be repeated from another address.
        ssl.SSL_CTX_ctrl(self.context, 33, 2, None)
        # Sessions are resumed only with tickets that a tunnel has asked for.
        ssl.SSL_CTX_set_num_tickets(self.context, 0)
        self.errors = []
        self.listener = socket.create_server(("127.0.0.1", PROXY))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.handle, args=(stream,), daemon=True).start()

    def handle(self, stream):
        try:
            stream.setblocking(False)
            connection = Connection(self.context.value, stream)
            if connection.accept():
                while head := connection.head():
                    if not self.answer(connection, head):
                        break
        except Exception:
            self.errors.append(traceback.format_exc())
        stream.close()

    def answer(self, connection, head):
        """Whether the connection can be used for another request."""
        if "proxy-authorization" not in head.lower():
            connection.write(
                b'HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm="proxy"\r\nContent-Length: 0\r\n\r\n'
            )
            return True
        method, target, _ = head.split(" ", 2)
        if method == "GET":
            count = int(target.rsplit("/", 1)[1])
            connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * MIB))
            for _ in range(count):
                connection.write(BLOCK)
            return True
        connection.write(b"HTTP/1.1 200 OK\r\n\r\n")
        kind, count = target.split(":")[0].split(".")[0].split("-")
        getattr(self, kind)(connection, int(count))
        return False

    def both(self, connection, count):
        digest = connection.both(BLOCK, count)
        if digest is None:
            self.errors.append("the client's bytes did not end with close_notify")
            return
        connection.write(digest.encode())
        connection.end()

    def download(self, connection, count):
        for _ in range(count):
            connection.write(BLOCK)
        connection.end()

    def slow(self, connection, count):
        """Reads late and slowly, so that the sockets in between are full when the client ends."""
        time.sleep(2)
        digest, received = hashlib.sha256(), 0
        while (piece := connection.read(16384)):
            digest.update(piece)
            received += len(piece)
            if received % MIB < 16384:
                time.sleep(0.05)
        if piece is None:
            self.errors.append(f"the client's bytes did not end with close_notify, but after {received} bytes")
            return
        connection.write(digest.hexdigest().encode())
        connection.end()

    def ended(self, connection, count):
        """Sends once the client has ended."""
        while connection.read():
            pass
        self.download(connection, count)

    def truncate(self, connection, count):
        for _ in range(count):
            connection.write(BLOCK)

    def ticket(self, connection, count):
        for _ in range(count):
            connection.write(BLOCK)
            assert ssl.SSL_new_session_ticket(connection.ssl) == 1
            assert ssl.SSL_do_handshake(connection.ssl) == 1
        connection.end()

    def keys(self, connection, count):
        for _ in range(count):
            connection.write(BLOCK)
        assert ssl.SSL_key_update(connection.ssl, 0) == 1
        assert ssl.SSL_do_handshake(connection.ssl) == 1
        connection.write(BLOCK)
        connection.end()

    def renegotiate(self, connection, count):
        for _ in range(count):
            connection.write(BLOCK)
        assert ssl.SSL_renegotiate(connection.ssl) == 1
        ssl.SSL_do_handshake(connection.ssl)
        for _ in range(count):
            connection.write(BLOCK)
        connection.end()


class Gateway:
    """The program, with its log."""

    def __init__(self, is_kernel, further=""):
        text = f"""
            upstream = "https://127.0.0.1:{PROXY}"
            user = 'CORP\\svc'
            password_file = "/tmp/password"
            allow_basic = true
            listen = ["127.0.0.1:{GATEWAY}"]
            admin = "127.0.0.1:{ADMIN}"
            [tls]
            ca_file = "/proxy.crt"
            kernel = {str(is_kernel).lower()}
            {further}
            """
        write("/tmp/password", "password")
        os.chmod("/tmp/password", 0o600)
        write("/tmp/gateway.toml", text)
        self.log = open("/tmp/log", "w+b")
        self.process = subprocess.Popen(
            ["/ntlm-gateway", "run", "/tmp/gateway.toml"], stdout=self.log, stderr=subprocess.STDOUT
        )
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", GATEWAY)).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the gateway does not listen: " + self.text())

    def text(self):
        with open("/tmp/log", errors="replace") as log:
            return log.read()

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/metrics", timeout=60) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split(" ")[1])
        return 0.0

    def spliced(self, direction):
        return int(self.metric(f'ntlm_gateway_bytes_total{{direction="{direction}",way="splice"}}'))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def kernel_counts():
    try:
        with open("/proc/net/tls_stat") as file:
            return {name: int(count) for name, count in map(str.split, file)}
    except OSError:
        return {}


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = stream.recv(1)
        assert more, head
        head += more
    return head


def tunnel(host):
    stream = socket.create_connection(("127.0.0.1", GATEWAY), timeout=120)
    stream.sendall(f"CONNECT {host}.test:443 HTTP/1.1\r\nHost: {host}.test:443\r\n\r\n".encode())
    head = read_head(stream)
    assert b" 200 " in head.split(b"\r\n")[0], head
    return stream


def read_all(stream):
    digest, count, tail = hashlib.sha256(), 0, b""
    while more := stream.recv(65536):
        digest.update(more)
        count += len(more)
        tail = (tail + more)[-64:]
    return digest.hexdigest(), count, tail


def digest_of(count, more=b""):
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(BLOCK)
    digest.update(more)
    return digest.hexdigest()


def both(count):
    """So many MiB each way at once, and the other end's hash after them."""
    stream = tunnel(f"both-{count}")

    def send():
        for _ in range(count):
            stream.sendall(BLOCK)
        stream.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    digest, _, tail = read_all(stream)
    sender.join()
    assert tail.decode(errors="replace") == digest_of(count), f"the proxy received something else: {tail}"
    assert digest == digest_of(count, tail), "the client received something else"


def slow(count):
    """Ends while most of the bytes have not reached the proxy."""
    stream = tunnel(f"slow-{count}")
    for _ in range(count):
        stream.sendall(BLOCK)
    stream.shutdown(socket.SHUT_WR)
    _, _, tail = read_all(stream)
    assert tail.decode(errors="replace") == digest_of(count), f"the proxy received something else: {tail}"


def several(number, count):
    """Tunnels at the same time."""
    errors = []

    def one():
        try:
            both(count)
        except Exception:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=one) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def whole(host, count, ends_first=False):
    stream = tunnel(host)
    if ends_first:
        stream.shutdown(socket.SHUT_WR)
    digest, received, _ = read_all(stream)
    assert received == count * MIB and digest == digest_of(count), f"{received} bytes"


def is_cut(host):
    try:
        _, received, _ = read_all(tunnel(host))
    except ConnectionResetError:
        return
    raise AssertionError(f"a clean end after {received} bytes")


def exchanges(count):
    """Plain HTTP through the proxy, several requests on one connection."""
    stream = socket.create_connection(("127.0.0.1", GATEWAY), timeout=120)
    for _ in range(3):
        stream.sendall(f"GET http://body.test/{count} HTTP/1.1\r\nHost: body.test\r\n\r\n".encode())
        head = read_head(stream)
        digest, left = hashlib.sha256(), count * MIB
        while left:
            more = stream.recv(min(left, 65536))
            assert more, f"{left} bytes are missing"
            digest.update(more)
            left -= len(more)
        assert digest.hexdigest() == digest_of(count)


def case(name, run):
    begun = time.monotonic()
    try:
        run()
    except Exception:
        print(f"FAIL {name}\n{traceback.format_exc()}", flush=True)
        return False
    print(f"PASS {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    return True


def check(condition, text):
    assert condition, text


def with_kernel(version, cipher, mib):
    proxy, gateway, before = Proxy(version, cipher), Gateway(True), kernel_counts()
    is_1_3 = version == TLS_1_3

    def counts():
        now = kernel_counts()
        grown = {name: now[name] - before[name] for name in now}
        print(f"INFO {cipher}: {grown}, spliced up {gateway.spliced('up')}, down {gateway.spliced('down')}", flush=True)
        # The gateway has tried two connections of its own.
        check(grown["TlsTxSw"] > 2 and grown["TlsRxSw"] > 2, "the kernel did no TLS")
        check(grown["TlsDecryptError"] == 0, "the kernel could not decrypt records")
        for direction in ("up", "down"):
            check(gateway.spliced(direction) > mib * MIB * 0.8, f"little was spliced {direction}")

    cases = [
        (f"{mib} MiB each way", lambda: both(mib)),
        ("counted as spliced, by the kernel without an error", counts),
        ("a download ends cleanly", lambda: whole("download-8", 8)),
        ("a client that ends first gets its download", lambda: whole("ended-8", 8, ends_first=True)),
        ("an upload to a slow proxy arrives whole", lambda: slow(16)),
        ("8 tunnels at once", lambda: several(8, 2)),
        ("plain HTTP on kept connections", lambda: exchanges(8)),
        ("an end without close_notify is a reset", lambda: is_cut("truncate-8")),
    ]
    if is_1_3:
        cases += [
            ("session tickets between the data", lambda: whole("ticket-8", 8)),
            ("and sessions are resumed with them", lambda: resumed(gateway)),
            ("new keys are a reset", lambda: is_cut("keys-8")),
            ("and are named in the log", lambda: said(gateway, "a KeyUpdate of TLS 1.3")),
        ]
    else:
        cases += [("renegotiation is declined", lambda: whole("renegotiate-8", 16))]
    cases += [
        ("the log says once that it is available", lambda: said_once(gateway, "kernel TLS is available")),
        ("the proxy saw no error", lambda: check(not proxy.errors, proxy.errors)),
    ]
    outcome = [case(f"{cipher}: {name}", run) for name, run in cases]
    finish(proxy, gateway, outcome)
    return all(outcome)


def with_small_buffers():
    """The kernel often holds a part of a record that the socket has not taken."""
    proxy, gateway = Proxy(TLS_1_3, "TLS_AES_128_GCM_SHA256"), Gateway(True, '[limits]\nsocket_buffer = "16KiB"')
    outcome = [
        case("small buffers: 1 MiB each way", lambda: both(1)),
        case("small buffers: uploads to a slow proxy arrive whole", lambda: [slow(2) for _ in range(5)]),
        case("small buffers: 8 tunnels at once", lambda: several(8, 1)),
        case("small buffers: the proxy saw no error", lambda: check(not proxy.errors, proxy.errors)),
    ]
    finish(proxy, gateway, outcome)
    return all(outcome)


def without_kernel(is_wanted):
    proxy, gateway = Proxy(TLS_1_3, "TLS_AES_128_GCM_SHA256"), Gateway(is_wanted)
    name = "wanted and missing" if is_wanted else "not wanted"
    outcome = [
        case(f"{name}: 16 MiB each way", lambda: both(16)),
        case(f"{name}: nothing is spliced", lambda: check(gateway.spliced("up") + gateway.spliced("down") == 0, "it is")),
        case(f"{name}: the kernel did no TLS", lambda: check(kernel_counts().get("TlsTxSw", 0) == 0, "it did")),
    ]
    if is_wanted:
        outcome.append(case(f"{name}: said once", lambda: said_once(gateway, "kernel TLS is not available")))
    finish(proxy, gateway, outcome)
    return all(outcome)


def resumed(gateway):
    name = f'ntlm_gateway_upstream_tls_handshakes_total{{session="resumed",upstream="127.0.0.1:{PROXY}"}}'
    before = gateway.metric(name)
    whole("download-1", 1)
    check(gateway.metric(name) > before, "no session was resumed")


def said(gateway, text):
    """The gateway logs after it has closed the client's connection."""
    for _ in range(100):
        if text in gateway.text():
            return
        time.sleep(0.1)
    raise AssertionError(f"the log does not say {text!r}")


def said_once(gateway, text):
    count = gateway.text().count(text)
    check(count == 1, f"{count} times")


def finish(proxy, gateway, outcome):
    gateway.stop()
    # Wakes a thread that accepts.
    proxy.listener.shutdown(socket.SHUT_RDWR)
    proxy.listener.close()
    if not all(outcome):
        print(f"{gateway.text()[-6000:]}\n{proxy.errors}", flush=True)


def prepare():
    for kind, path in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")]:
        SYSTEM.mount(kind.encode(), path.encode(), kind.encode(), 0, None)
    # The loopback interface comes up by SIOCSIFFLAGS.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
    for name in sorted(os.listdir("/modules")):
        with open(f"/modules/{name}", "rb") as file:
            # finit_module
            if SYSTEM.syscall(313, file.fileno(), b"", 0) != 0:
                raise OSError(ctypes.get_errno(), f"loading {name}")


def main():
    prepare()
    # Ends the line of the kernel or of the firmware.
    print(flush=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if not any(name.endswith("-tls.ko") for name in os.listdir("/modules")):
        return without_kernel(True)
    outcome = [without_kernel(False)]
    for version, cipher, mib in [
        (TLS_1_3, "TLS_AES_128_GCM_SHA256", 64),
        (TLS_1_3, "TLS_AES_256_GCM_SHA384", 16),
        (TLS_1_2, "ECDHE-RSA-AES128-GCM-SHA256", 16),
        (TLS_1_2, "ECDHE-RSA-AES256-GCM-SHA384", 16),
    ]:
        outcome.append(with_kernel(version, cipher, mib))
    outcome.append(with_small_buffers())
    return all(outcome)


try:
    print("PASS all" if main() else "FAIL some", flush=True)
except BaseException:
    print(f"FAIL\n{traceback.format_exc()}", flush=True)
finally:
    os.sync()
    time.sleep(0.2)
    SYSTEM.reboot(0x4321FEDC)
