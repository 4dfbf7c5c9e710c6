"""Accepts GSS-API tokens with MIT's library. Reads a token in base64 from each line of standard input. Prints the name
of the client, the token that answers it in base64, and whether the context is complete, or the error."""

import base64
import sys

import gssapi

for line in sys.stdin:
    context = gssapi.SecurityContext(creds=gssapi.Credentials(usage="accept"), usage="accept")
    try:
        reply = context.step(base64.b64decode(line))
    except gssapi.exceptions.GSSError as error:
        print("error", str(error).replace("\n", " "), flush=True)
        continue
    print(context.initiator_name, base64.b64encode(reply or b"").decode(), context.complete, flush=True)
