"""A name server for one name: python name_server.py NAME ADDRESS. Listens on 127.0.0.1, UDP port 53."""

import socket
import struct
import sys

A, IN = 1, 1


def question(message):
    """The name, the type, and where the question ends (RFC 1035, section 4.1.2)."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower(), struct.unpack_from(">H", message, at + 1)[0], at + 5


def answer(message, known, address):
    name, kind, end = question(message)
    found = name == known and kind == A
    # A response with recursion available; NXDOMAIN (3) for other names.
    flags = 0x8180 | (0 if name == known else 3)
    head = message[:2] + struct.pack(">HHHHH", flags, 1, int(found), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, A, IN, 30, 4) + socket.inet_aton(address)
    return head + message[12:end] + (record if found else b"")


def main():
    known, address = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        print("ready", flush=True)
        while True:
            message, client = server.recvfrom(512)
            server.sendto(answer(message, known, address), client)


if __name__ == "__main__":
    main()
