"""Checks that the rules' tests cover the rules, and that rules and dashboard query metrics that exist.

    python rules.py tests PROMTOOL           each alert fires in one test and not in another, and each test would notice a wrong rule
    python rules.py metrics TEXT PENDING     each metric used is in the file TEXT, the output of /metrics, or in PENDING, a
                                             comma-separated list of metrics, or metric{label}
"""

import pathlib
import re
import shutil
import sys
import tempfile

import yaml
from common import DEPLOY, HOME, end, run
from queries import ADDED, asked, expressions, families, grouped, panels, rules, stem

RULES = DEPLOY / "prometheus"
# An alert that always fires, and one that never does.
ALWAYS, NEVER = "vector(1)", "vector(1) > 2"


def anchors():
    """The anchors of the headings in deploy/README.md."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def labelled():
    for rule in rules("alerts.yaml"):
        name, annotations = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
            yield f"{name} has no severity"
        if {"summary", "description", "runbook_url"} - set(annotations):
            yield f"{name} lacks an annotation"
        path, _, anchor = annotations.get("runbook_url", "").partition("#")
        if path != f"{HOME}/deploy/README.md" or anchor not in anchors():
            yield f"{name}: {path}#{anchor} leads nowhere"


def covered():
    cases = yaml.safe_load((RULES / "tests.yaml").read_text(encoding="utf-8"))["tests"]
    alerts = [case for test in cases for case in test.get("alert_rule_test", [])]
    text = " ".join(case["expr"] for test in cases for case in test.get("promql_expr_test", []))
    for rule in rules("alerts.yaml"):
        of_rule = [case for case in alerts if case["alertname"] == rule["alert"]]
        if not any(case["exp_alerts"] for case in of_rule):
            yield f"{rule['alert']} fires in no test"
        if all(case["exp_alerts"] for case in of_rule):
            yield f"{rule['alert']} keeps quiet in no test"
    yield from (f"{rule['record']} is in no test" for rule in rules("recording.yaml") if rule["record"] not in text)


def passes(promtool, replaced):
    """Whether the tests pass with changed contents of some files."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("recording.yaml", "alerts.yaml", "tests.yaml"):
            shutil.copy(RULES / name, directory)
        for name, contents in replaced.items():
            pathlib.Path(directory, name).write_text(yaml.safe_dump(contents, width=10**6), encoding="utf-8")
        return run(promtool, "test", "rules", "tests.yaml", cwd=directory)


def noticed(promtool):
    """Whether the tests fail for each rule if none ever fires or records, if all always do, and if all wait an hour."""
    finished = passes(promtool, {})
    if finished.returncode:
        yield f"the tests fail:\n{finished.stdout}{finished.stderr}"
        return
    changes = [("alerts.yaml", "expr", NEVER), ("alerts.yaml", "expr", ALWAYS), ("alerts.yaml", "for", "1h")]
    changes += [("recording.yaml", "expr", NEVER), ("recording.yaml", "expr", ALWAYS)]
    for name, field, value in changes:
        spoilt = yaml.safe_load((RULES / name).read_text(encoding="utf-8"))
        for rule in spoilt["groups"][0]["rules"]:
            rule[field] = value
        finished = passes(promtool, {name: spoilt})
        failures = finished.stdout + finished.stderr
        for rule in spoilt["groups"][0]["rules"]:
            place = f"alertname: {rule['alert']}," if "alert" in rule else rule["record"]
            if place not in failures:
                yield f"no test notices {rule.get('alert') or rule['record']} with {field}: {value}"


def tests(promtool):
    checked = run(promtool, "check", "rules", RULES / "recording.yaml", RULES / "alerts.yaml")
    if checked.returncode:
        yield checked.stdout + checked.stderr
    yield from labelled()
    yield from covered()
    yield from noticed(promtool)


def metrics(text):
    exported = families(pathlib.Path(text).read_text(encoding="utf-8"))
    recorded = {rule["record"] for rule in rules("recording.yaml")}
    for where, expression in expressions():
        labels = set()
        for name, selected in asked(expression):
            if ":" in name:
                if name not in recorded:
                    yield f"{where} asks for {name}, which no rule records"
                labels |= grouped(next((rule["expr"] for rule in rules("recording.yaml") if rule["record"] == name), ""))
                continue
            family = stem(name, exported)
            if family not in exported:
                yield f"{where} asks for {name}, which the gateway does not export"
                labels |= grouped(expression)
                continue
            labels |= exported[family]
            if unknown := selected - exported[family] - ADDED:
                yield f"{where}: {name} has no label {unknown}"
        if unknown := grouped(expression) - labels - ADDED:
            yield f"{where} groups by {unknown}, which nothing in it has"
    asked_for = {name for panel in panels() for target in panel["targets"] for name, _ in asked(target["expr"])}
    yield from (f"the dashboard does not show {name}" for name in exported if name.startswith("ntlm_gateway_") and not any(
        stem(shown, exported) == name for shown in asked_for))


if __name__ == "__main__":
    end(list({"tests": tests, "metrics": metrics}[sys.argv[1]](*sys.argv[2:])))
