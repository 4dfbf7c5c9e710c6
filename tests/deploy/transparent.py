"""Checks the examples of transparent listeners: schemas, order, users, ports, privileges, and the gateway's own check.

    python transparent.py GATEWAY              checks them
    python transparent.py GATEWAY --spoilt     breaks the sidecar's example, and verifies that it notices
"""

import copy
import os
import pathlib
import re
import shutil
import sys
import tempfile
import tomllib

import yaml
from common import DEPLOY, NEEDED, checked, end, helm, invalid, kustomize, one, run

# The first version with sidecars, and the newest known one. The DaemonSet needs neither.
VERSIONS = ["1.29", "1.37"]
EXAMPLES = DEPLOY / "kustomize" / "examples"
# The chart's values for what examples/transparent-node renders, and those of a cluster with one family.
NODE = {"enabled": True, "rulesImage": "nft:1", "podCidrs": ["10.244.0.0/16", "fd00:10:244::/48"], "nodeCidrs": ["10.0.0.0/8"]}
ONE_FAMILY = NODE | {"podCidrs": ["10.244.0.0/16"], "directCidrs": ["10.0.0.0/8"]}


def of_chart(node):
    """What the chart adds for the nodes."""
    manifests = helm(NEEDED | {"transparentNode": node})
    return [manifest for manifest in manifests if manifest["metadata"]["name"].endswith("-node")]


def likeness():
    """The chart's DaemonSet is that of Kustomize."""
    specs = []
    for manifests in (kustomize(EXAMPLES / "transparent-node"), of_chart(NODE)):
        pod = copy.deepcopy(spec(manifests))
        for container in pod["initContainers"] + pod["containers"]:
            container.pop("image")
            container.pop("imagePullPolicy", None)
        pod["volumes"][0]["configMap"].pop("name")
        specs.append(pod)
    if specs[0] != specs[1]:
        yield f"the chart's pods differ\n  kustomize {specs[0]}\n  helm      {specs[1]}"
    policy = one(helm(NEEDED | {"transparentNode": NODE}), "NetworkPolicy")["spec"]
    if {"ipBlock": {"cidr": "10.0.0.0/8"}} not in policy["ingress"][0]["from"]:
        yield f"the nodes' gateways cannot reach the one with the account: {policy['ingress']}"


def of_program_with_chart():
    """What a chart has rendered, with the sidecar, by the post-renderer in docs/transparent.md."""
    with tempfile.TemporaryDirectory() as directory:
        for folder in ("labelled", "with-sidecar"):
            (pathlib.Path(directory) / folder).mkdir()
        component = os.path.relpath(DEPLOY / "kustomize" / "components" / "transparent", f"{os.path.realpath(directory)}/with-sidecar")
        files = {
            "labelled/rendered.yaml": yaml.safe_dump_all(without_sidecar()),
            "labelled/kustomization.yaml": blocks("docs/transparent.md", "labelled/kustomization.yaml"),
            "with-sidecar/kustomization.yaml": blocks("docs/transparent.md", "with-sidecar/kustomization.yaml").replace("COMPONENT", component),
        }
        for name, text in files.items():
            (pathlib.Path(directory) / name).write_text(text, encoding="utf-8")
        return kustomize(f"{directory}/with-sidecar")


def without_sidecar():
    """The example's program, as a chart may render it."""
    program = list(yaml.safe_load_all((EXAMPLES / "transparent" / "program.yaml").read_text(encoding="utf-8")))
    program[0]["metadata"].pop("labels")
    return program


def blocks(document, name):
    """The block of a document that begins with this file's name."""
    text = (DEPLOY.parent / document).read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith(f"# {name}\n"))


def spec(manifests):
    workload = one(manifests, "DaemonSet") or one(manifests, "Deployment")
    return workload["spec"]["template"]["spec"]


def parts(manifests):
    """The gateway's container, that which loads the rules, and the files that both have."""
    pod = spec(manifests)
    containers = pod["initContainers"] + pod["containers"]
    gateway = next(container for container in containers if container["name"] == "ntlm-gateway")
    rules = next(container for container in containers if container.get("command", [""])[0] == "nft")
    return gateway, rules, one(manifests, "ConfigMap")["data"]


def schema(manifests):
    for manifest in manifests:
        yield from invalid(manifest, VERSIONS)


def privileges(manifests):
    gateway, rules, _ = parts(manifests)
    for container, user, added in ((gateway, 31280, None), (rules, 0, ["NET_ADMIN"])):
        context = container["securityContext"]
        wanted = {"drop": ["ALL"]} | ({"add": added} if added else {})
        if context["capabilities"] != wanted or context["runAsUser"] != user:
            yield f"{container['name']}: user {context['runAsUser']} with {context['capabilities']}"
        if context["allowPrivilegeEscalation"] or not context["readOnlyRootFilesystem"]:
            yield f"{container['name']}: {context}"


def order(manifests):
    """Nothing of the pod runs before its connections are redirected, and nothing is redirected to nobody for long."""
    names = [container["name"] for container in spec(manifests)["initContainers"]]
    is_sidecar = one(manifests, "ConfigMap")["metadata"]["name"].startswith("ntlm-gateway-transparent")
    if is_sidecar:
        if names[:2] != ["ntlm-gateway", "ntlm-gateway-rules"]:
            yield f"the init containers begin with {names[:2]}"
        if spec(manifests)["initContainers"][0].get("restartPolicy") != "Always":
            yield "the gateway is no sidecar"
    elif not spec(manifests).get("hostNetwork"):
        yield "the rules are not those of the node"


def agreement(manifests):
    """The rules and the gateway's file say the same."""
    gateway, _, files = parts(manifests)
    rules, settings = files["rules.nft"], tomllib.loads(files["gateway.toml"])
    ports = {listener["address"].rsplit(":", 1)[1] for listener in settings["listeners"]}
    families = {listener["address"].startswith("[") for listener in settings["listeners"]}
    if set(re.findall(r"redirect to :(\d+)", rules)) != ports or families != {False, True}:
        yield f"the rules redirect elsewhere than to {settings['listeners']}"
    if any(listener["transparent"] != "redirect" for listener in settings["listeners"]):
        yield "a listener is not for redirected connections"
    user = str(gateway["securityContext"]["runAsUser"])
    if "hook output" in rules and set(re.findall(r"meta skuid (\d+) accept", rules)) != {user}:
        yield "the gateway's own connections would come back to it"
    if not re.search(r"udp dport 443 reject", rules):
        yield "QUIC passes"
    if nft := shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin"):
        finished = run("unshare", "--user", "--map-root-user", "--net", nft, "-c", "-f", "-", input=rules)
        if finished.returncode and "Operation not permitted" not in finished.stderr:
            yield f"nft refuses the rules: {finished.stderr}"
    if "delete table inet ntlm_gateway" not in rules:
        yield "the rules cannot be loaded a second time"
    if settings.get("without_credentials") != ["*"] or any("secret" in volume for volume in spec(manifests)["volumes"]):
        yield "there is a secret beside the program"


def accepted(manifests, gateway):
    container, _, files = parts(manifests)
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    finished = checked(gateway, files["gateway.toml"], environment)
    if finished.returncode:
        yield f"the gateway refuses the configuration: {finished.stdout}{finished.stderr}"


def findings(manifests, gateway):
    for check in (schema, privileges, order, agreement):
        yield from check(manifests)
    yield from accepted(manifests, gateway)


def with_chart(gateway):
    """A program's chart gets the sidecar before its own containers, which stay as they are."""
    manifests, own = of_program_with_chart(), spec(without_sidecar())
    if spec(manifests)["containers"] != own["containers"] or spec(manifests)["initContainers"][2:] != own["initContainers"]:
        yield "with a chart: the program's own containers differ"
    yield from (f"with a chart: {finding}" for finding in findings(manifests, gateway))


def replace(name, old, new):
    def change(manifests):
        files = one(manifests, "ConfigMap")["data"]
        assert old in files[name], f"{old} is not in {name}"
        files[name] = files[name].replace(old, new)

    return change


SPOILT = {
    "another port in the rules": replace("rules.nft", "redirect to :15001", "redirect to :15002"),
    "rules without the gateway's user": replace("rules.nft", "meta skuid 31280", "meta skuid 1000"),
    "rules that let QUIC pass": replace("rules.nft", "udp dport 443 reject", "udp dport 443 accept"),
    "rules that are loaded once": replace("rules.nft", "delete table", "list table"),
    "one family": replace("gateway.toml", "[::1]:15001", "127.0.0.2:15001"),
    "a misspelt setting": replace("gateway.toml", "first_leg", "first_log"),
    "credentials": replace("gateway.toml", 'without_credentials = ["*"]', "without_credentials = []"),
    "a gateway of another user": lambda manifests: parts(manifests)[0]["securityContext"].update(runAsUser=1),
    "all capabilities": lambda manifests: parts(manifests)[1]["securityContext"].update(capabilities={"add": ["ALL"]}),
    "the rules after the program's own init containers": lambda manifests: spec(manifests)["initContainers"].reverse(),
    "a field that Kubernetes does not know": lambda manifests: spec(manifests).update(hostNetworks=True),
}


def main():
    gateway = sys.argv[1]
    found = []
    for example in ("transparent", "transparent-node"):
        manifests = kustomize(EXAMPLES / example)
        if sys.argv[2:] != ["--spoilt"]:
            found += [f"{example}: {finding}" for finding in findings(manifests, gateway)]
    if sys.argv[2:] != ["--spoilt"]:
        for node in (NODE, ONE_FAMILY):
            found += [f"chart: {finding}" for finding in findings(of_chart(node), gateway)]
        found += likeness()
        found += with_chart(gateway)
    else:
        good = kustomize(EXAMPLES / "transparent")
        for what, spoil in SPOILT.items():
            manifests = copy.deepcopy(good)
            spoil(manifests)
            if next(findings(manifests, gateway), None) is None:
                found.append(f"nothing was found wrong with {what}")
    end(found)


if __name__ == "__main__":
    main()
