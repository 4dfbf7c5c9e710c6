"""A rolling restart under `ntlm-loadtest run mixed`: two gateways behind HAProxy, each ended and replaced in turn.

Fails if a new tunnel fails, if a tunnel is cut before its gateway's drain ends, or if a gateway does not exit cleanly. Needs
HAProxy and the workspace built in release mode. `tests/operations/rolling.rs` shows the same in the ordinary run, with its
own clients.

    python3 tests/rolling_mixed.py [SECONDS]
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARIES = ROOT / "target" / "release"
SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
DRAIN_SECONDS = 60
# The gateway rejects unknown variables with its prefix, such as those of the tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("NTLM_GATEWAY_")}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(0.05)


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ready(admin):
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(f"http://127.0.0.1:{admin}/readyz", timeout=2).status == 200
    except OSError:
        return False


class Gateway:
    def __init__(self, scratch, upstream, listen, admin):
        self.arguments = [
            BINARIES / "ntlm-gateway", "run", "--upstream", f"127.0.0.1:{upstream}", "--user", r"CORP\alice",
            "--password-file", scratch / "password", "--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}",
            "--shutdown-delay", "2s", "--drain-timeout", f"{DRAIN_SECONDS}s", "--log-level", "warn",
        ]
        self.admin, self.log = admin, scratch / f"gateway-{listen}.log"
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.arguments, stderr=self.log.open("ab"), env=ENVIRONMENT)
        until(lambda: ready(self.admin), "a gateway to be ready")

    def replace(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=DRAIN_SECONDS + 20)
        took = time.monotonic() - began
        self.start()
        return code, took


def main():
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="ntlm-gateway-rolling-"))
    (scratch / "password").write_text("correct horse")
    upstream, control, front, *ports = free_ports(7)
    processes = []
    try:
        processes.append(subprocess.Popen(
            [BINARIES / "ntlm-loadtest", "upstream", "--listen", f"127.0.0.1:{upstream}", "--control", f"127.0.0.1:{control}"],
            stdout=subprocess.DEVNULL))
        until(lambda: accepts(upstream), "the upstream")
        gateways = [Gateway(scratch, upstream, *ports[:2]), Gateway(scratch, upstream, *ports[2:])]
        servers = "\n".join(
            f"  server g{place} 127.0.0.1:{ports[2 * place]} check port {ports[2 * place + 1]} inter 200ms fall 1 rise 1"
            for place in range(2))
        (scratch / "haproxy.cfg").write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n  retries 0\n"
            f"listen gateways\n  bind 127.0.0.1:{front}\n  balance roundrobin\n  option httpchk GET /readyz\n{servers}\n")
        processes.append(subprocess.Popen(["haproxy", "-db", "-f", scratch / "haproxy.cfg"], stderr=subprocess.DEVNULL))
        until(lambda: accepts(front), "HAProxy")
        report = scratch / "mixed.json"
        load = subprocess.Popen([
            BINARIES / "ntlm-loadtest", "run", "mixed", "--proxy", f"127.0.0.1:{front}", "--concurrency", "50",
            "--duration", str(SECONDS), "--json", report])
        time.sleep(SECONDS / 6)
        outcomes = []
        for gateway in gateways:
            outcomes.append(gateway.replace())
            time.sleep(SECONDS / 6)
        code = load.wait(timeout=SECONDS + 120)
        for gateway in gateways:
            gateway.process.terminate()
        ends = [gateway.process.wait(timeout=DRAIN_SECONDS + 20) for gateway in gateways]
        print(json.dumps({"load": code, "replaced": outcomes, "ends": ends}))
        if code or any(ends) or any(code or took >= DRAIN_SECONDS for code, took in outcomes):
            sys.exit("the restart was noticed")
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=10)


if __name__ == "__main__":
    main()
