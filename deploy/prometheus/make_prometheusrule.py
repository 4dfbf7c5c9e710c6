#!/usr/bin/env python3
"""Makes the PrometheusRule of deploy/kustomize from the rules in this directory.

    deploy/prometheus/make_prometheusrule.py            writes it
    deploy/prometheus/make_prometheusrule.py --check    ends with 1 when it is not what would be written
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent / "kustomize/components/prometheus-rules/prometheusrule.yaml"
HEAD = """\
# Made by deploy/prometheus/make_prometheusrule.py: change the rules there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ntlm-gateway
  labels: { app.kubernetes.io/name: ntlm-gateway }
spec:
  groups:
"""


def groups(path):
    """The list under `groups:`, two columns further in."""
    text = path.read_text(encoding="utf-8").split("\ngroups:\n", 1)[1]
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


def main():
    text = HEAD + "".join(groups(HERE / name) for name in ("recording.yaml", "alerts.yaml"))
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET} is not made of the present rules; run deploy/prometheus/make_prometheusrule.py")
    else:
        TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
