"""Opens tunnels through a proxy, authenticated by MIT's library: initiate.py HOST:PORT SERVICE MECHANISM [repeat].

Prints the status of the answer, and "complete" if the proxy has authenticated, too, or else the error. With `repeat`,
the same token is sent again on another connection."""

import base64
import socket
import sys

import gssapi


def ask(proxy, token):
    host, port = proxy.rsplit(":", 1)
    head = b""
    with socket.create_connection((host, int(port)), 20) as connection:
        credentials = b"Proxy-Authorization: Negotiate " + base64.b64encode(token)
        connection.sendall(b"CONNECT echo.test:7 HTTP/1.1\r\nHost: echo.test:7\r\n" + credentials + b"\r\n\r\n")
        while b"\r\n\r\n" not in head:
            piece = connection.recv(65536)
            if not piece:
                break
            head += piece
    prefix = b"proxy-authenticate: negotiate "
    answers = [line[len(prefix):] for line in head.split(b"\r\n") if line.lower().startswith(prefix)]
    return head.split(b" ")[1].decode(), base64.b64decode(answers[0]) if answers else None


proxy, service, mechanism, *repeat = sys.argv[1:]
mechanisms = {"krb5": gssapi.MechType.kerberos, "spnego": gssapi.OID.from_int_seq("1.3.6.1.5.5.2")}
name = gssapi.Name(service, gssapi.NameType.kerberos_principal)
flags = gssapi.RequirementFlag.mutual_authentication
sent = None
for _ in ["first", *repeat]:
    # A context judges one answer only.
    context = gssapi.SecurityContext(name=name, mech=mechanisms[mechanism], usage="initiate", flags=flags)
    token = context.step()
    sent = sent or token
    status, answer = ask(proxy, sent)
    try:
        context.step(answer or b"")
        outcome = "complete" if context.complete else "incomplete"
    except gssapi.exceptions.GSSError as error:
        outcome = "error " + str(error).replace("\n", " ")
    print(status, outcome)
