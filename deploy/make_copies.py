#!/usr/bin/env python3
"""Writes the files that are made from others: from the rules in prometheus/ the PrometheusRule of kustomize/, from the
MutatingAdmissionPolicy in kustomize/ the policy for Kyverno, and from these and the dashboard in grafana/ the chart's
files, which are copies because a chart must be complete when it is copied elsewhere. The chart's README is made from
the comments in its values.yaml.

    deploy/make_copies.py            writes them
    deploy/make_copies.py --check    exits with 1 if one is out of date
"""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
RULES = [HERE / "prometheus" / name for name in ("recording.yaml", "alerts.yaml", "slo.yaml")]
DASHBOARD = HERE / "grafana" / "ntlm-gateway.json"
CHART = HERE / "helm" / "ntlm-gateway"
FILES = CHART / "files"
PROMETHEUS_RULE = HERE / "kustomize" / "components" / "prometheus-rules" / "prometheusrule.yaml"
INJECTION = HERE / "kustomize" / "components" / "injection" / "policy.yaml"
KYVERNO = HERE / "kustomize" / "components" / "injection-kyverno" / "policy.yaml"
# What Kyverno's policy has instead of a part of the MutatingAdmissionPolicy. It has no binding.
KYVERNO_CHANGES = [
    (
        "# Sets the proxy variables in new pods of namespaces with the label of the binding. Needs Kubernetes 1.36.\n"
        "# deploy/make_copies.py makes the chart's copy and the Kyverno policy from this file.\n",
        "# Made by deploy/make_copies.py: change components/injection/policy.yaml.\n",
    ),
    ("apiVersion: admissionregistration.k8s.io/v1\n", "apiVersion: policies.kyverno.io/v1\n"),
    ("kind: MutatingAdmissionPolicy\n", "kind: MutatingPolicy\n"),
    ("  matchConstraints:\n", "  matchConstraints:\n    namespaceSelector: { matchLabels: { ntlm-gateway/client: \"true\" } }\n"),
    (
        "  variables:\n",
        "  # Pods only: what a Deployment contains stays as it was written.\n  autogen: { podControllers: { controllers: [] } }\n"
        "  evaluation: { background: { enabled: false } }\n  variables:\n",
    ),
]
HEAD = """\
# Made by deploy/make_copies.py: change the rules in deploy/prometheus.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ntlm-gateway
  labels: { app.kubernetes.io/name: ntlm-gateway }
spec:
  groups:
"""
# The chart's README has a table of the values after this.
README = """\
<!-- Made from values.yaml by deploy/make_copies.py: change that file. -->

# ntlm-gateway

An egress gateway that authenticates to the corporate NTLM proxy, so that workloads do not have to. Workloads use it as
an ordinary HTTP proxy, without credentials.

```sh
kubectl create namespace egress
kubectl -n egress create secret generic egress-account --from-file=password
helm install ntlm-gateway deploy/helm/ntlm-gateway --namespace egress \\
  --set image.repository=registry.corp.example/ntlm-gateway \\
  --set upstream=proxy.corp.example:8080 --set user='CORP\\\\svc-egress' \\
  --set password.existingSecret=egress-account --set 'networkPolicy.upstreamCidrs={192.0.2.10/32}'
helm test ntlm-gateway --namespace egress
```

[Running ntlm-gateway](../../README.md) explains sizing, upgrades, rotating the secret, the dashboard and each alert.

## Values

Unknown and invalid values are rejected. `values.yaml` has examples of the lists of tables.

| value | default | meaning |
|---|---|---|
"""


def groups(path):
    """The list under `groups:`, indented by two more columns."""
    text = path.read_text(encoding="utf-8").split("\ngroups:\n", 1)[1]
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


def kyverno():
    """The MutatingAdmissionPolicy as a policy of Kyverno, whose MutatingPolicy has the same fields and expressions."""
    text = INJECTION.read_text(encoding="utf-8")
    for old, new in KYVERNO_CHANGES:
        if text.count(old) != 1:
            sys.exit(f"{INJECTION} does not contain this once:\n{old}")
        text = text.replace(old, new)
    return text


def meaning(comment):
    """The lines of a comment as a table's cell: indented lines are items, and a paragraph of them is an example."""
    paragraphs = [paragraph.split("\n") for paragraph in "\n".join(comment).split("\n\n")]
    kept = [line for lines in paragraphs if not all(line.startswith("  ") for line in lines) for line in lines]
    text = " ".join(re.sub(r"^  (\w+)  +", r"<br>`\1`: ", line).strip() for line in kept)
    return text.replace("|", "\\|")


def values():
    """(name, default, meaning) of each value of the chart. A name without a default has others below it."""
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    above, comment = [], []
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped[1:].removeprefix(" ") if stripped != "#" else "")
            continue
        found = re.fullmatch(r"( *)([\w./-]+):(?: (.*))?", line)
        if found:
            above = [*above[: len(found[1]) // 2], found[2]]
            items = []
            for below in lines[number + 1 :]:
                if not (item := re.fullmatch(rf"{found[1]}  - (.*)", below)):
                    break
                items.append(item[1])
            default = "[" + ", ".join(items) + "]" if items else found[3]
            if default or comment:
                yield ".".join(above), default, meaning(comment)
        comment = []


def readme():
    rows = (f"| `{name}` | {f'`{default}`' if default else ''} | {text} |\n" for name, default, text in values())
    return README + "".join(row.replace("|  |", "| |") for row in rows)


def made():
    """Each generated file, with its text."""
    yield CHART / "README.md", readme()
    yield KYVERNO, kyverno()
    yield FILES / "injection.yaml", INJECTION.read_text(encoding="utf-8")
    yield PROMETHEUS_RULE, HEAD + "".join(groups(path) for path in RULES)
    for path in (*RULES, DASHBOARD):
        yield FILES / path.name, path.read_text(encoding="utf-8")


def main():
    check = sys.argv[1:] == ["--check"]
    for path, text in made():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.is_symlink() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path} is out of date; run deploy/make_copies.py")


if __name__ == "__main__":
    main()
