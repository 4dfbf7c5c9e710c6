#!/usr/bin/env python3
"""Writes the files that are made from others: from the rules in prometheus/ the PrometheusRule of kustomize/, from the
MutatingAdmissionPolicy in kustomize/ the policy for Kyverno, and from these and the dashboard in grafana/ the chart's
files, which are copies because a chart must be complete when it is copied elsewhere.

    deploy/make_copies.py            writes them
    deploy/make_copies.py --check    exits with 1 if one is out of date
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
RULES = [HERE / "prometheus" / name for name in ("recording.yaml", "alerts.yaml")]
DASHBOARD = HERE / "grafana" / "ntlm-gateway.json"
FILES = HERE / "helm" / "ntlm-gateway" / "files"
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


def made():
    """Each generated file, with its text."""
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
