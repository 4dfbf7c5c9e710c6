#!/usr/bin/env python3
"""Runs the service of the installed package as its user, and replaces it while a tunnel is open.

    packages.py PROGRAM ARGUMENT…        as in the unit's ExecStart

A small proxy of this script stands in for the corporate one. It asks for no credentials, because the package's files,
permissions and signals are what is tested.
"""

import os
import signal
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


def start(command):
    state = "/var/lib/ntlm-gateway"
    os.makedirs(state, mode=0o700, exist_ok=True)
    subprocess.run(["chown", "ntlm-gateway:ntlm-gateway", state], check=True)
    as_user = ["setpriv", "--reuid=ntlm-gateway", "--regid=ntlm-gateway", "--init-groups", "--no-new-privs"]
    guard = {"NTLM_GATEWAY_GUARD_STORE": "file", "NTLM_GATEWAY_GUARD_DIRECTORY": state}
    return subprocess.Popen([*as_user, *command], env={"PATH": os.environ["PATH"], **guard})


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
    old = start(sys.argv[1:])
    connection = tunnel()
    echo(connection, b"before")
    # `systemctl restart` sends SIGTERM and waits.
    old.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert old.poll() is None, "it does not wait for its tunnel"
    echo(connection, b"while it drains")
    connection.close()
    assert old.wait(BOUND) == 0, old.returncode
    new = start(sys.argv[1:])
    echo(tunnel(), b"after")
    new.send_signal(signal.SIGTERM)
    assert new.wait(BOUND) == 0, new.returncode
    print("ran as ntlm-gateway; the tunnel outlived the signal")


if __name__ == "__main__":
    main()
