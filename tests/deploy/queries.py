"""The queries of the rules and the dashboard, and the metrics that they need from the gateway."""

import json
import re

import yaml
from common import DEPLOY

RULE_FILES = ("recording.yaml", "alerts.yaml", "slo.yaml")
DASHBOARD = DEPLOY / "grafana" / "ntlm-gateway.json"
# Labels that Prometheus or the cluster adds.
ADDED = {"job", "instance", "namespace", "pod", "le", "__name__"}


def rules(*names):
    """The rules of these files, or of all."""
    files = [yaml.safe_load((DEPLOY / "prometheus" / name).read_text(encoding="utf-8")) for name in names or RULE_FILES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def recorded():
    """Each recorded name, with its expression."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels():
    """Each panel of the dashboard that has a query."""
    return [panel for panel in dashboard()["panels"] if panel.get("targets")]


def expressions():
    """The places of queries, with the queries."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"dashboard, {panel['title']} {target['refId']}", target["expr"]


def concrete(expression, window="15s"):
    """A dashboard's query as Grafana sends it, with all values of each variable selected."""
    return re.sub(r"\$(job|namespace|pod|instance|upstream)\b", ".*", expression.replace("$__rate_interval", window))


def families(text):
    """Name → labels, from the text of /metrics."""
    found = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            found[name] = set()
        elif line and not line.startswith("#"):
            sample = re.match(r"([\w:]+)(?:\{(.*)\})? ", line)
            found[stem(sample[1], found)] |= set(re.findall(r'(\w+)="', re.sub(r'"(?:[^"\\]|\\.)*"', '""', sample[2] or "")))
    return found


def stem(name, known):
    """The family of a histogram's series."""
    return name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)


def asked(expression):
    """The metrics that an expression uses, each with the labels by which it selects them."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    for name, selector in re.findall(r"((?<![\w:$])[a-z_]\w*[\w:]*)(\{[^}]*\})?", text):
        if name.startswith(("ntlm_gateway_", "process_")) or ":" in name:
            yield name, set(re.findall(r"(\w+)\s*(?:=|!)", selector))


def grouped(expression):
    return {label.strip() for group in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression) for label in group.split(",")} - {""}
