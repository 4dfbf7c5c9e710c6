"""A proxy that speaks TLS by Python's ssl and demands NTLM, which pyspnego verifies, with channel bindings to its own
certificate. A tunnel leads to an echo.

    proxy.py --certificate FILE --key FILE [--client-ca FILE] [--highest 1.1|1.2] [--no-bindings] [--plain]

Prints its port, then one line for each logon: `accepted`, the account and the common name of the client's certificate, if it has
one, or `rejected` and the reason. The account is in the file that NTLM_USER_FILE names."""

import argparse
import base64
import socket
import ssl
import threading
import warnings

VERSIONS = {"1.1": ssl.TLSVersion.TLSv1_1, "1.2": ssl.TLSVersion.TLSv1_2}


def context_of(options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    if options.highest:
        # OpenSSL refuses versions before 1.2 unless it is told that this is meant.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version = min(ssl.TLSVersion.TLSv1_1, VERSIONS[options.highest])
            context.maximum_version = VERSIONS[options.highest]
    if options.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(options.client_ca)
    return context


def bindings(certificate):
    import spnego.channel_bindings
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    with open(certificate, "rb") as file:
        parsed = x509.load_pem_x509_certificate(file.read())
    algorithm = parsed.signature_hash_algorithm or hashes.SHA512()
    if algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    data = b"tls-server-end-point:" + parsed.fingerprint(algorithm)
    return spnego.channel_bindings.GssChannelBindings(application_data=data)


def head_of(stream):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = stream.recv(4096)
        if not piece:
            return None
        head += piece
        if head[0] == 22:
            # TLS to a port without TLS.
            stream.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            return None
    return head.decode("latin-1")


def token_of(head):
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "proxy-authorization":
            return base64.b64decode(value.strip().removeprefix("NTLM "))
    return None


def ask(stream, token):
    value = ("NTLM " + base64.b64encode(token).decode()).strip()
    stream.sendall(f"HTTP/1.1 407 Authenticate\r\nProxy-Authenticate: {value}\r\nContent-Length: 0\r\n\r\n".encode())


def common_name(stream):
    """That of the client's certificate, if it has one."""
    subject = stream.getpeercert().get("subject", ()) if isinstance(stream, ssl.SSLSocket) and stream.getpeercert() else ()
    return [value for ((name, value),) in subject if name == "commonName"]


def serve(stream, options):
    import spnego

    server = None
    while head := head_of(stream):
        token = token_of(head)
        if token is None:
            ask(stream, b"")
            continue
        server = server or spnego.server(
            protocol="ntlm",
            options=spnego.NegotiateOptions.use_ntlm,
            channel_bindings=None if options.plain or options.no_bindings else bindings(options.certificate),
        )
        try:
            answer = server.step(token)
        except spnego.exceptions.SpnegoError as error:
            print("rejected", str(error).replace("\n", " "), flush=True)
            server = None
            ask(stream, b"")
            continue
        if not server.complete:
            ask(stream, answer)
            continue
        print("accepted", server.client_principal, *common_name(stream), flush=True)
        stream.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        while piece := stream.recv(65536):
            stream.sendall(piece)
        return


def connection(raw, context, options):
    raw.settimeout(30)
    try:
        with context.wrap_socket(raw, server_side=True) if context else raw as stream:
            serve(stream, options)
    except OSError:
        # The gateway has rejected this proxy.
        raw.close()


parser = argparse.ArgumentParser()
parser.add_argument("--certificate")
parser.add_argument("--key")
parser.add_argument("--client-ca")
parser.add_argument("--highest", choices=VERSIONS)
parser.add_argument("--no-bindings", action="store_true")
parser.add_argument("--plain", action="store_true")
arguments = parser.parse_args()
tls = None if arguments.plain else context_of(arguments)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=connection, args=(accepted, tls, arguments), daemon=True).start()
