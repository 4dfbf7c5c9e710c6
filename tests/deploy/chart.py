"""Is the chart what it says: its values, its schema and its templates one thing, and its manifests those of Kustomize?

    python chart.py
"""

import copy
import json
import re

import jsonschema
import yaml
from common import CHART, DEPLOY, EVERYTHING, NEEDED, SERVICE_MONITOR, TOOLBOX, end, helm, kustomize, run

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

# Values that must be refused, by what they change.
WRONG = {
    "no upstream": {"upstream": ""},
    "an upstream without a port": {"upstream": "proxy.corp.example"},
    "no user": {"user": ""},
    "no password": {"password": {"existingSecret": ""}},
    "two passwords": {"password": {"existingSecret": "a", "value": "b"}},
    "a network policy without the proxy": {"networkPolicy": {"upstreamCidrs": []}},
    "a value that there is not": {"replicaCount": 2},
    "the chart's own setting given twice": {"settings": {"listen": ["127.0.0.1:1"]}},
    "a drain that the grace would not know of": {"timeouts": {"drain": "1h"}},
    "nobody allowed": {"allowClients": []},
    "an unknown monitor": {"monitoring": {"monitor": "both"}},
}


def paths(values, schema, above=""):
    """The dotted names of values, down to where the schema leaves them open."""
    for key, value in values.items():
        inner = (schema or {}).get("properties", {}).get(key, {})
        yield f"{above}{key}"
        if isinstance(value, dict) and "properties" in inner:
            yield from paths(value, inner, f"{above}{key}.")


def in_schema(schema, above=""):
    for key, inner in schema.get("properties", {}).items():
        yield f"{above}{key}"
        yield from in_schema(inner, f"{above}{key}.")


def in_templates():
    """What the templates ask for: `.Values.a.b`, and `.b` within `with .Values.a` at the file's top."""
    used = set()
    for template in (CHART / "templates").iterdir():
        text = template.read_text(encoding="utf-8")
        used |= set(re.findall(r"\.Values\.([A-Za-z.]+)", text))
        if block := re.match(r"\{\{- with \.Values\.(\w+) \}\}", text):
            used |= {f"{block[1]}.{name}" for name in re.findall(r"[\s(]\.([a-z]\w+)", text)}
    return used


def agreement():
    values, schema, used = set(paths(VALUES, SCHEMA)), set(in_schema(SCHEMA)) - {"global"}, in_templates()
    yield from (f"{path} is in the schema and not in values.yaml" for path in schema - values)
    yield from (f"{path} is in values.yaml and not in the schema" for path in values - schema)
    yield from (f"a template asks for {path}, which is not in values.yaml" for path in used - values)
    whole = {path for path in values if not any(other.startswith(path + ".") for other in values)}
    yield from (f"no template asks for {path}" for path in whole - used)


def lint():
    # Against the meta-schema; helm itself holds the values against the schema.
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    for values in (NEEDED, EVERYTHING, SERVICE_MONITOR):
        finished = run(TOOLBOX / "helm", "lint", "--strict", CHART, "--values", "-", input=yaml.safe_dump(values))
        if finished.returncode:
            yield finished.stdout
    for what, change in WRONG.items():
        values = yaml.safe_dump(NEEDED | change)
        finished = run(TOOLBOX / "helm", "template", CHART, "--values", "-", input=values)
        if "specifications of the schema" not in finished.stderr:
            yield f"{what} was not refused by the schema"


def bare(manifests, kind):
    """The manifest's spec without what is of the one kind of installation: names, labels, the image, the site's settings."""
    found = copy.deepcopy([manifest for manifest in manifests if manifest["kind"] == kind])
    if len(found) != 1:
        return f"{len(found)} of them"

    def strip(node):
        if isinstance(node, dict):
            for key in ("labels", "annotations", "matchLabels", "image", "envFrom", "serviceAccountName", "secretName"):
                if key != "matchLabels" or "app.kubernetes.io/name" in node.get(key, {}):
                    node.pop(key, None)
            if "configMap" in node or "scaleTargetRef" in node:
                node.get("configMap", node.get("scaleTargetRef")).pop("name", None)
            for value in node.values():
                strip(value)
        elif isinstance(node, list):
            for value in node:
                strip(value)
        return node

    spec = strip(found[0]["spec"])
    if kind == "Service":
        spec.pop("selector")
    return spec


def likeness():
    """The chart with what it needs makes what the overlays make."""
    monitoring = {"autoscaling": {"enabled": True}, "monitoring": {"monitor": "service", "rules": True}}
    for overlay, values in (("example", {}), ("prometheus-operator", monitoring)):
        ours, charts = kustomize(DEPLOY / "kustomize" / "overlays" / overlay), helm(NEEDED | values)
        for kind in sorted({manifest["kind"] for manifest in ours} - {"Namespace", "ConfigMap", "Secret", "ServiceAccount"}):
            one, other = bare(ours, kind), bare(charts, kind)
            if one != other:
                yield f"{overlay}: {kind} differs\n  kustomize {json.dumps(one, sort_keys=True)}\n  helm      {json.dumps(other, sort_keys=True)}"


def notes():
    finished = run(TOOLBOX / "helm", "install", "gw", CHART, "--dry-run=client", "--values", "-", input=yaml.safe_dump(EVERYTHING))
    text = finished.stdout.partition("NOTES:")[2]
    for part in ("HTTPS_PROXY=http://gw.default.svc:3128", "kubectl label namespace NAME ntlm-gateway/client=true", "Up to 12 wrong"):
        if part not in text:
            yield f"the notes do not say: {part}\n{text}{finished.stderr}"


if __name__ == "__main__":
    end([*agreement(), *lint(), *likeness(), *notes()])
