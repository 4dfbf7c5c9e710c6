#!/usr/bin/env python3
"""Writes the files that are made from the rules in prometheus/ and the dashboard in grafana/: the PrometheusRule of
kustomize/, and the chart's files, which are copies because a chart must be complete when it is copied elsewhere.

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


def made():
    """Each generated file, with its text."""
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
