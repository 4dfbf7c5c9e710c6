#!/usr/bin/env python3
"""Opens a tunnel through the running service, and has a command replace the service in the meantime.

    packages.py COMMAND ARGUMENT…        a restart, or an upgrade

A small proxy of this script stands in for the corporate one. It asks for no credentials, because the package's files,
permissions and signals are what is tested.
"""

import pathlib
import socket
import subprocess
import sys
import threading
import time

GATEWAY = ("127.0.0.1", 3130)
PROXY = ("127.0.0.1", 3199)
BOUND = 20


def head(connection):
    got = b""
    while b"\r\n\r\n" not in got:
        piece = connection.recv(4096)
        assert piece, got
        got += piece
    return got


def serve(connection):
    head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while piece := connection.recv(4096):
        connection.sendall(piece)
    connection.close()


def proxy():
    listener = socket.create_server(PROXY)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def show(*properties):
    command = ["systemctl", "show", "--value", *(f"--property={name}" for name in properties), "ntlm-gateway.service"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def tunnel():
    deadline = time.monotonic() + BOUND
    while True:
        try:
            connection = socket.create_connection(GATEWAY, timeout=BOUND)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "the service does not listen"
            time.sleep(0.05)
    connection.sendall(b"CONNECT echo.test:443 HTTP/1.1\r\nHost: echo.test:443\r\n\r\n")
    answer = head(connection)
    assert b" 200 " in answer.split(b"\r\n")[0], answer
    return connection


def echo(connection, text):
    connection.sendall(text)
    got = b""
    while len(got) < len(text):
        piece = connection.recv(4096)
        assert piece, "the tunnel has ended"
        got += piece
    assert got == text, got


def main():
    proxy()
    (old,) = show("MainPID")
    assert pathlib.Path(f"/proc/{old}").owner() == "ntlm-gateway"
    connection = tunnel()
    echo(connection, b"before")
    replacing = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + BOUND
    while show("ActiveState") != ["deactivating"]:
        assert time.monotonic() < deadline and replacing.poll() is None, "the service is not stopped"
        time.sleep(0.05)
    time.sleep(1)
    assert show("MainPID", "ActiveState") == [old, "deactivating"], "it does not wait for its tunnel"
    echo(connection, b"while it drains")
    connection.close()
    assert replacing.wait(BOUND) == 0, replacing.returncode
    (new,) = show("MainPID")
    assert new != old, "it was not replaced"
    echo(tunnel(), b"after")
    print(f"ran as ntlm-gateway; the tunnel outlived: {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
