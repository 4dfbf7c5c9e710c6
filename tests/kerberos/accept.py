"""Accepts GSS-API tokens with MIT's library. Reads a token in base64 from each line of standard input. Prints the name
of the client, the token that answers it in base64, and whether the context is complete, or the error. If an argument names a
certificate in DER, which is signed with SHA-384, it demands channel bindings to it (RFC 5929)."""

import base64
import hashlib
import pathlib
import sys

import gssapi

bindings = None
if len(sys.argv) > 1:
    certificate_hash = hashlib.sha384(pathlib.Path(sys.argv[1]).read_bytes()).digest()
    bindings = gssapi.raw.ChannelBindings(application_data=b"tls-server-end-point:" + certificate_hash)
# Otherwise an error shows only at the next use of the context.
gssapi.SecurityContext.__DEFER_STEP_ERRORS__ = False
for line in sys.stdin:
    context = gssapi.SecurityContext(creds=gssapi.Credentials(usage="accept"), usage="accept", channel_bindings=bindings)
    try:
        reply = context.step(base64.b64decode(line))
    except gssapi.exceptions.GSSError as error:
        print("error", str(error).replace("\n", " "), flush=True)
        continue
    print(context.initiator_name, base64.b64encode(reply or b"").decode(), context.complete, flush=True)
