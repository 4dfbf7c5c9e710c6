"""Checks that the chart's values, schema and templates agree, and that its manifests are those of Kustomize.

    python chart.py
"""

import copy
import json
import re
import shlex

import jsonschema
import yaml
from common import (
    BOTH,
    CHART,
    DEPLOY,
    EVERYTHING,
    FILE,
    INJECTION,
    KERBEROS,
    KEYTAB,
    KEYTAB_OF_IDENTITY,
    LEASE,
    MEMORY,
    NEEDED,
    ROOT,
    SERVICE_MONITOR,
    TABLES,
    TLS,
    TOOLBOX,
    end,
    helm,
    kustomize,
    run,
)

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

KYVERNO = {"injection": {"mode": "kyverno"}}
PARTNER = TABLES["identities"][0]
# Artifact Hub's.
CATEGORIES = {
    "ai-machine-learning",
    "database",
    "integration-delivery",
    "monitoring-logging",
    "networking",
    "security",
    "storage",
    "streaming-messaging",
    "skip-prediction",
}
# Their keys are the program's; tests/operations/chart.rs compares them.
SECTIONS = ("settings", "guard", "limits", "timeouts", "kerberos", "tls")

# Values that must be rejected, by what they change.
WRONG = {
    "no upstream": {"upstream": ""},
    "an upstream without a port": {"upstream": "proxy.corp.example"},
    "no user": {"user": ""},
    "no image": {"image": {"repository": ""}},
    "no password": {"password": {"existingSecret": ""}},
    "two passwords": {"password": {"existingSecret": "a", "value": "b"}},
    "a previous password beside a Secret that has its own": {"password": {"existingSecret": "a", "previous": "b"}},
    "a network policy without the proxy": {"networkPolicy": {"upstreamCidrs": []}},
    "a value that there is not": {"replicaCount": 2},
    "the chart's own setting given twice": {"settings": {"listen": ["127.0.0.1:1"]}},
    "a drain that the grace would not know of": {"timeouts": {"drain": "1h"}},
    "nobody allowed": {"allowClients": []},
    "an unknown monitor": {"monitoring": {"monitor": "both"}},
    "a misspelt setting": {"settings": {"max_tunels": 5}},
    "a misspelt time-out": {"timeouts": {"idel": "5m"}},
    "a misspelt limit": {"limits": {"heads": "5KiB"}},
    "a misspelt setting of the guard": {"guard": {"attempt": 2}},
    "a store of the guard that there is not": {"guard": {"store": "redis"}},
    "a store in Kubernetes that the pods could not reach": {"networkPolicy": NEEDED["networkPolicy"] | {"apiServerCidrs": []}},
    "a choice that there is not": {"settings": {"order": "random"}},
    "a table among the settings": {"settings": {"routes": [{"to": "deny"}]}},
    "an upstream given twice": {"upstreams": [{"address": "other.corp.example:8080"}]},
    "an upstream of a table without an address": {"upstream": "", "upstreams": [{"name": "east"}]},
    "an upstream of a table without a port": {"upstream": "", "upstreams": [{"address": "proxy"}]},
    "a misspelt setting of a route": {"routes": [{"hosts": "a", "to": "deny"}]},
    "an identity whose secret the pod would not have": {"identities": [PARTNER | {"password_file": "/etc/partner"}]},
    "an identity beside a Secret of one key": {"password": {"value": "a"}, "identities": [PARTNER]},
    "Kerberos without the KDCs' addresses": KEYTAB | {"networkPolicy": NEEDED["networkPolicy"]},
    "Kerberos of an identity without the KDCs' addresses": KEYTAB_OF_IDENTITY | {"networkPolicy": NEEDED["networkPolicy"]},
    "a keytab that nothing uses": KEYTAB | {"password": NEEDED["password"], "settings": {}},
    "a keytab without the password that NTLM needs": KEYTAB | {"settings": {"auth": ["kerberos", "ntlm"]}},
    "a keytab of another place than the Secret": {"settings": {"keytab": "/etc/krb5.keytab"}},
    "an identity's keytab that the pod would not have": {"identities": [PARTNER | {"auth": "kerberos", "keytab": "/etc/krb5.keytab"}]},
    "a krb5.conf that the pod would not have": {"kerberos": {"krb5_conf": "/etc/krb5.conf"}},
    "a listener that nobody could reach": {"listeners": [{"address": "127.0.0.1:1080"}]},
    "a listener with a target without a port": {"listeners": [{"address": "0.0.0.0:5432", "target": "db"}]},
    "gateways on the nodes without an image for their rules": {"transparentNode": {"enabled": True, "podCidrs": ["10.0.0.0/8"], "nodeCidrs": ["10.0.0.0/8"]}},
    "gateways on the nodes that their pods' networks are not given": {"transparentNode": {"enabled": True, "rulesImage": "nft:1", "nodeCidrs": ["10.0.0.0/8"]}},
    "gateways on the nodes that the network policy would not admit": {"transparentNode": {"enabled": True, "rulesImage": "nft:1", "podCidrs": ["10.0.0.0/8"]}},
    "an unknown policy": {"injection": {"mode": "webhook"}},
    "a list in an entry of NO_PROXY": {"injection": {"noProxy": ["a,b"]}},
    "a digest that is none": {"image": NEEDED["image"] | {"digest": "sha256:1"}},
    "an autoscaler without a metric": {"autoscaling": {"enabled": True, "cpuUtilizationPercent": 0, "tunnelsPerPod": 0}},
    "a volume without a name": {"extraVolumes": [{"emptyDir": {}}]},
    "a runbook that is no address": {"monitoring": {"runbookUrl": "deploy/README.md"}},
    "an identity that nobody could reach": {"identities": [PARTNER | {"listen": "127.0.0.1:3129"}]},
}


def paths(values, schema, above=""):
    """The dotted names of values, as deep as the schema defines them."""
    for key, value in values.items():
        inner = (schema or {}).get("properties", {}).get(key, {})
        yield f"{above}{key}"
        if isinstance(value, dict) and "properties" in inner and key not in SECTIONS:
            yield from paths(value, inner, f"{above}{key}.")


def in_schema(schema, above=""):
    for key, inner in schema.get("properties", {}).items():
        yield f"{above}{key}"
        if key not in SECTIONS:
            yield from in_schema(inner, f"{above}{key}.")


def in_templates():
    """The values that the templates use: `.Values.a.b`, and `.b` within `with .Values.a` at the top of the file."""
    used = set()
    for template in (path for path in (CHART / "templates").rglob("*") if path.is_file()):
        text = template.read_text(encoding="utf-8")
        used |= set(re.findall(r"\.Values\.([A-Za-z.]+)", text))
        if block := re.match(r"\{\{- with \.Values\.(\w+) \}\}", text):
            used |= {f"{block[1]}.{name}" for name in re.findall(r"[\s(]\.([a-z]\w+)", text)}
        # `get $.Values $name` over a list of names.
        for names in re.findall(r"range \$table := list ([^}]*)", text):
            used |= set(re.findall(r'"(\w+)"', names))
    return used


def agreement():
    values, schema, used = set(paths(VALUES, SCHEMA)), set(in_schema(SCHEMA)) - {"global"}, in_templates()
    yield from (f"{path} is in the schema and not in values.yaml" for path in schema - values)
    yield from (f"{path} is in values.yaml and not in the schema" for path in values - schema)
    # What is in a section is known to the schema only.
    used = {path.split(".")[0] if path.split(".")[0] in SECTIONS else path for path in used}
    yield from (f"a template asks for {path}, which is not in values.yaml" for path in used - values)
    whole = {path for path in values if not any(other.startswith(path + ".") for other in values)}
    yield from (f"no template asks for {path}" for path in whole - used)


def lint():
    # Against the meta-schema; helm itself validates the values.
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    for values in ({}, NEEDED, EVERYTHING, SERVICE_MONITOR, TABLES, FILE, MEMORY, LEASE, KEYTAB, KERBEROS, BOTH, KEYTAB_OF_IDENTITY, TLS):
        finished = run(TOOLBOX / "helm", "lint", "--strict", CHART, "--values", "-", input=yaml.safe_dump(values))
        if finished.returncode:
            yield finished.stdout
    for what, change in WRONG.items():
        values = yaml.safe_dump(NEEDED | change)
        finished = run(TOOLBOX / "helm", "template", CHART, "--values", "-", input=values)
        if "specifications of the schema" not in finished.stderr and "execution error" not in finished.stderr:
            yield f"{what} was not refused: {finished.stderr}"


def ports():
    """The NetworkPolicy has the upstreams' ports and, like the Service, those of identities."""
    cases = [
        ({}, [8080]),
        ({"upstream": "proxy.corp.example:3128"}, [3128]),
        ({"upstream": ["a.corp.example:8080", "b.corp.example:3128", "c.corp.example:8080"]}, [8080, 3128]),
        ({"upstream": "a.corp.example:8080, b.corp.example:81"}, [8080, 81]),
        ({"upstream": "[2001:db8::1]:3128"}, [3128]),
        ({"upstream": "https://proxy.corp.example:8443"}, [8443]),
        (TABLES | {"upstream": ""}, [8080, 3128, 8443]),
        ({"networkPolicy": {"upstreamCidrs": ["192.0.2.10/32"], "upstreamPorts": [9090]}}, [9090]),
    ]
    for change, wanted in cases:
        manifests = {manifest["kind"]: manifest for manifest in helm(NEEDED | change)}
        got = [port["port"] for port in manifests["NetworkPolicy"]["spec"]["egress"][1]["ports"]]
        if got != wanted:
            yield f"with {change} the NetworkPolicy lets {got} through"
    manifests = {manifest["kind"]: manifest for manifest in helm(TABLES)}
    container = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    if {"name": "proxy-3129", "containerPort": 3129} not in container["ports"]:
        yield f"an identity's port is none of the container's: {container['ports']}"
    if {"name": "proxy-3129", "port": 3129, "targetPort": "proxy-3129"} not in manifests["Service"]["spec"]["ports"]:
        yield "an identity's port is none of the Service's"
    policy = manifests["NetworkPolicy"]["spec"]
    if {"protocol": "TCP", "port": "proxy-3129"} not in policy["ingress"][0]["ports"]:
        yield "an identity's port is not let through"
    if policy["egress"][3:] != TABLES["networkPolicy"]["extraEgress"]:
        yield f"the further rules are {policy['egress'][3:]}"


def tls():
    """The files for TLS are where the settings say, beside the password."""
    manifests = {manifest["kind"]: manifest for manifest in helm(TLS)}
    text = manifests["ConfigMap"]["data"]["gateway.toml"]
    for line in ('upstream = "https://proxy.corp.example:8443"', "[tls]", 'ca_file = "/run/secrets/ntlm-gateway/ca.crt"'):
        if line not in text:
            yield f"gateway.toml lacks {line}"
    volumes = manifests["Deployment"]["spec"]["template"]["spec"]["volumes"]
    sources = [source for volume in volumes for source in volume.get("projected", {}).get("sources", [])]
    for wanted in ({"secret": {"name": "egress-account"}}, {"secret": {"name": "egress-tls"}}, {"configMap": {"name": "corp-ca"}}):
        if wanted not in sources:
            yield f"the pod lacks {wanted}: {sources}"


DIGEST = "sha256:" + 64 * "0"


def extras():
    """What an installation adds is where it belongs."""
    digest = {"image": NEEDED["image"] | {"tag": "1", "digest": DIGEST}}
    near = {"service": EVERYTHING["service"] | {"trafficDistribution": "PreferClose"}}
    manifests = {manifest["kind"]: manifest for manifest in helm(EVERYTHING | digest | near)}
    pod, service = manifests["Deployment"]["spec"]["template"]["spec"], manifests["Service"]
    container = pod["containers"][0]
    wanted = [
        ("the image's digest", container["image"], f"registry.corp.example/ntlm-gateway@{DIGEST}"),
        ("extraEnv", container["env"], EVERYTHING["extraEnv"]),
        ("extraVolumeMounts", container["volumeMounts"][-1:], EVERYTHING["extraVolumeMounts"]),
        ("extraVolumes", pod["volumes"][-1:], EVERYTHING["extraVolumes"]),
        ("imagePullSecrets", pod["imagePullSecrets"], EVERYTHING["imagePullSecrets"]),
        ("priorityClassName", pod["priorityClassName"], EVERYTHING["priorityClassName"]),
        ("the Service's annotations", service["metadata"]["annotations"], EVERYTHING["service"]["annotations"]),
        ("the Service's type", service["spec"]["type"], "LoadBalancer"),
        ("the Service's trafficDistribution", service["spec"]["trafficDistribution"], "PreferClose"),
    ]
    both = next(manifest for manifest in helm(EVERYTHING) if manifest["kind"] == "Deployment")["spec"]["template"]["spec"]
    wanted += [
        ("the image's tag", both["containers"][0]["image"], "registry.corp.example/ntlm-gateway:1"),
        ("both forms of imagePullSecrets", both["imagePullSecrets"], [{"name": "mirror"}, {"name": "registry"}]),
    ]
    for metric, change in (("Pods", {"cpuUtilizationPercent": 0}), ("Resource", {"tunnelsPerPod": 0})):
        scaler = next(m for m in helm(NEEDED | {"autoscaling": {"enabled": True} | change}) if m["kind"] == "HorizontalPodAutoscaler")
        wanted.append((f"an autoscaler with {change}", [each["type"] for each in scaler["spec"]["metrics"]], [metric]))
    yield from (f"{what}: {got}, and should be {right}" for what, got, right in wanted if got != right)


def metadata():
    """Artifact Hub finds what it shows, and each of the project's addresses is a file of the repository."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    yield from (f"Chart.yaml has no {key}" for key in ("home", "sources", "icon", "maintainers", "keywords") if not chart.get(key))
    annotations = chart["annotations"]
    if annotations["artifacthub.io/category"] not in CATEGORIES:
        yield f"Artifact Hub has no category {annotations['artifacthub.io/category']}"
    links = [link["url"] for link in yaml.safe_load(annotations["artifacthub.io/links"])]
    for url in [chart["icon"], VALUES["monitoring"]["runbookUrl"], *links]:
        path = url.removeprefix(f"{chart['home']}/")
        if path == url or not (ROOT / path).is_file():
            yield f"{url} is no file of the repository"


def runbooks():
    """The alerts' runbooks are where the values say."""
    elsewhere = "https://wiki.corp.example/egress"
    for values, url in (({}, VALUES["monitoring"]["runbookUrl"]), ({"runbookUrl": elsewhere}, elsewhere)):
        manifests = helm(NEEDED | {"monitoring": {"rules": True, "dashboard": True} | values})
        boards = [text for m in manifests if m["kind"] == "ConfigMap" for name, text in m["data"].items() if name.endswith(".json")]
        variables = {variable["name"]: variable for variable in json.loads(boards[0])["templating"]["list"]}
        if variables["runbooks"]["query"] != url:
            yield f"the dashboard's runbooks are {variables['runbooks']}"
        rule = next(manifest for manifest in manifests if manifest["kind"] == "PrometheusRule")
        alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"] if "alert" in alert]
        wrong = [alert["alert"] for alert in alerts if alert["annotations"]["runbook_url"] != f"{url}#{alert['alert'].lower()}"]
        if wrong or not alerts:
            yield f"runbooks are not in {url}: {wrong}"


def bare(manifests, kind):
    """What is specified, without what differs between the installations: names, labels, the image, the site's settings."""
    found = copy.deepcopy([manifest for manifest in manifests if manifest["kind"] == kind])
    if len(found) != 1:
        return f"{len(found)} of them"

    def strip(node):
        if isinstance(node, dict):
            for key in ("labels", "annotations", "matchLabels", "image", "env", "envFrom", "serviceAccountName", "secretName", "policyName"):
                if key != "matchLabels" or "app.kubernetes.io/name" in node.get(key, {}):
                    node.pop(key, None)
            for key in ("configMap", "scaleTargetRef", "roleRef"):
                (node.get(key) or {}).pop("name", None)
            if node.get("kind") == "ServiceAccount":
                node.pop("name")
            if node.get("name") == "proxy" and "expression" in node:
                node.pop("expression")
            for value in node.values():
                strip(value)
        elif isinstance(node, list):
            for value in node:
                strip(value)
        return node

    # A Role and a RoleBinding have no spec.
    spec = strip(found[0].get("spec") or {key: found[0].get(key) for key in ("rules", "roleRef", "subjects")})
    if kind == "Service":
        spec.pop("selector")
    return spec


def likeness():
    """The chart with its required values renders what the overlays render."""
    monitoring = {"autoscaling": {"enabled": True}, "monitoring": {"monitor": "service", "rules": True}}
    cases = [("example", {}), ("prometheus-operator", monitoring), ("guard-file", FILE), ("kerberos", KEYTAB)]
    cases += [("injection", INJECTION), ("injection-kyverno", KYVERNO)]
    for overlay, values in cases:
        ours, charts = kustomize(DEPLOY / "kustomize" / "overlays" / overlay), helm(NEEDED | values)
        for kind in sorted({manifest["kind"] for manifest in ours} - {"Namespace", "ConfigMap", "Secret", "ServiceAccount"}):
            one, other = bare(ours, kind), bare(charts, kind)
            if one != other:
                yield f"{overlay}: {kind} differs\n  kustomize {json.dumps(one, sort_keys=True)}\n  helm      {json.dumps(other, sort_keys=True)}"


def documented():
    """The commands in deploy/README.md render what the equivalent values render."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    if "kubectl create namespace egress" not in text:
        yield "the README makes no namespace"
    for verb, values in (("install", NEEDED), ("upgrade --install", KEYTAB)):
        command = re.search(rf"^helm {verb} (.*?[^\\])$", text, re.M | re.S)[1]
        finished = run(TOOLBOX / "helm", "template", *shlex.split(command.replace("\\\n", " ")), cwd=ROOT)
        if finished.returncode:
            yield f"the README's helm {verb} fails: {finished.stderr}"
        ours = run(TOOLBOX / "helm", "template", "ntlm-gateway", CHART, "--namespace", "egress", "--values", "-", input=yaml.safe_dump(values))
        if finished.stdout != ours.stdout:
            yield f"the README's helm {verb} makes something else:\n{finished.stdout}"


def notes():
    finished = run(TOOLBOX / "helm", "install", "gw", CHART, "--dry-run=client", "--values", "-", input=yaml.safe_dump(EVERYTHING))
    text = finished.stdout.partition("NOTES:")[2]
    for part in ("HTTPS_PROXY=http://gw.default.svc:3128", "kubectl label namespace NAME ntlm-gateway/client=true", "At most 3 failed logons"):
        if part not in text:
            yield f"the notes do not say: {part}\n{text}{finished.stderr}"
    finished = run(TOOLBOX / "helm", "install", "gw", CHART, "--dry-run=client", "--values", "-", input=yaml.safe_dump(NEEDED | MEMORY))
    if "Up to 6 failed logons" not in finished.stdout:
        yield f"the notes do not add up the replicas' budgets:\n{finished.stdout.partition('NOTES:')[2]}{finished.stderr}"


if __name__ == "__main__":
    end([*agreement(), *lint(), *ports(), *tls(), *extras(), *metadata(), *runbooks(), *likeness(), *documented(), *notes()])
