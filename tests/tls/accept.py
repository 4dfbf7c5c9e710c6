"""Accepts NTLM messages with pyspnego, which demands channel bindings to the certificate in the file that the first argument
names. Prints the MD5 hash of these bindings in hexadecimal digits. Then reads pairs of lines: a NEGOTIATE_MESSAGE in base64,
to which it prints the CHALLENGE_MESSAGE, and an AUTHENTICATE_MESSAGE, to which it prints `accepted` and the account, or
`rejected` and the reason. The account is in the file that NTLM_USER_FILE names."""

import base64
import hashlib
import struct
import sys

import spnego
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from spnego.channel_bindings import GssChannelBindings


def certificate_hash(certificate):
    """RFC 5929 section 4.1; for Ed25519, for which it defines nothing, what OpenSSL and GnuTLS use."""
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        algorithm = hashes.SHA512()
    elif algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


with open(sys.argv[1], "rb") as file:
    certificate = x509.load_pem_x509_certificate(file.read())
data = b"tls-server-end-point:" + certificate_hash(certificate)
# RFC 2744 section 3.11, as RFC 4121 section 4.1.1.2 hashes it.
print(hashlib.md5(bytes(16) + struct.pack("<I", len(data)) + data).hexdigest(), flush=True)
while line := sys.stdin.readline():
    context = spnego.server(
        protocol="ntlm",
        options=spnego.NegotiateOptions.use_ntlm,
        channel_bindings=GssChannelBindings(application_data=data),
    )
    challenge = context.step(base64.b64decode(line))
    print(base64.b64encode(challenge).decode(), flush=True)
    try:
        context.step(base64.b64decode(sys.stdin.readline()))
        print("accepted", context.client_principal, flush=True)
    except spnego.exceptions.SpnegoError as error:
        print("rejected", str(error).replace("\n", " "), flush=True)
