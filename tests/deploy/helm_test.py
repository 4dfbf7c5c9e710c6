"""Runs what `helm test` runs: its command against a gateway that serves, and against none.

    python helm_test.py GATEWAY
"""

import re
import subprocess
import sys
import tempfile

from common import EVERYTHING, NEEDED, SERVICE_MONITOR, TABLES, end, helm, run
from manifests import one, schema

SERVICE = "gw.egress.svc:3128"


def command(gateway, container, upstream):
    """The container's outcome, with the address of a gateway in place of the Service's."""
    arguments = [argument.replace(SERVICE, upstream) for argument in container["args"]]
    with tempfile.TemporaryDirectory() as directory:
        return run(gateway, *arguments, cwd=directory, env={variable["name"]: variable["value"] for variable in container["env"]})


def outcome(gateway):
    container = one(helm(NEEDED | {"test": {"target": "hello.demo:80"}}, hooks=True), "Pod")["spec"]["containers"][0]
    if not any(SERVICE in argument for argument in container["args"]):
        yield f"the test does not use the Service: {container['args']}"
    refused = one(helm(NEEDED | {"test": {"target": "no-such-name.invalid:443"}}, hooks=True), "Pod")["spec"]["containers"][0]
    with subprocess.Popen([gateway, "demo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as demo:
        try:
            address = next(found[1] for line in demo.stdout if (found := re.search(r"The gateway is on ([0-9.:]+),", line)))
            served, unopened = command(gateway, container, address), command(gateway, refused, address)
        finally:
            demo.terminate()
    if served.returncode or "opened a tunnel to hello.demo:80" not in served.stdout:
        yield f"the test fails with a gateway that serves: {served.stdout}{served.stderr}"
    if not unopened.returncode:
        yield f"the test passes where no tunnel is opened: {unopened.stdout}"
    unserved = command(gateway, container, address)
    if not unserved.returncode:
        yield f"the test passes without a gateway: {unserved.stdout}"


def manifests():
    for values in (NEEDED, EVERYTHING, TABLES, SERVICE_MONITOR):
        hooks, own = helm(values, hooks=True), helm(values)
        yield from schema(hooks)
        pod, labels = one(hooks, "Pod"), one(own, "Service")["spec"]["selector"]
        if labels.items() <= pod["metadata"]["labels"].items():
            yield "the Service would send clients to the test's pod"
        container = pod["spec"]["containers"][0]
        if container["image"] != one(own, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]:
            yield f"the test needs another image: {container['image']}"
        # What the Pod Security Standard `restricted` asks for.
        if not pod["spec"]["securityContext"]["runAsNonRoot"] or container["securityContext"]["capabilities"] != {"drop": ["ALL"]}:
            yield "the test's pod is not restricted"
        policy = one(hooks, "NetworkPolicy")
        if bool(policy) != bool(one(own, "NetworkPolicy")):
            yield "the test has a NetworkPolicy where the gateway has none, or none where it has one"
        if policy:
            peers = policy["spec"]["ingress"][0]["from"]
            if policy["spec"]["podSelector"]["matchLabels"] != labels or len(peers) != 1:
                yield f"the test's NetworkPolicy is for {policy['spec']['podSelector']} from {peers}"
            if not peers[0]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items():
                yield "the test's NetworkPolicy does not let it in"
            weights = [int(hook["metadata"]["annotations"].get("helm.sh/hook-weight", 0)) for hook in (policy, pod)]
            if weights != sorted(set(weights)):
                yield "the test starts before its NetworkPolicy"


if __name__ == "__main__":
    end([*manifests(), *outcome(sys.argv[1])])
