"""Checks that the rules' tests cover the rules, and that rules and dashboard query metrics that exist.

    python rules.py tests PROMTOOL           each alert fires in one test and not in another, and each test would notice a wrong rule
    python rules.py slo PROMTOOL             each comparison of an alert about the error budget matters to one of its tests
    python rules.py metrics TEXT PENDING     each metric used is in the file TEXT, the output of /metrics, or in PENDING, a
                                             comma-separated list of metrics, or metric{label}
"""

import copy
import json
import pathlib
import re
import shutil
import sys
import tempfile

import yaml
from common import DEPLOY, HOME, end, run
from queries import ADDED, RULE_FILES, alerts, asked, dashboard, expressions, families, grouped, panels, recorded, rules, stem

RULES = DEPLOY / "prometheus"
TEST_FILES = ("tests.yaml", "slo_fast_tests.yaml", "slo_slow_tests.yaml")
# An alert that always fires, and one that never does.
ALWAYS, NEVER = "vector(1)", "vector(1) > 2"


def anchors():
    """The anchors of the headings in deploy/README.md."""
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def labelled():
    for rule in alerts():
        name, annotations = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
            yield f"{name} has no severity"
        if {"summary", "description", "runbook_url"} - set(annotations):
            yield f"{name} lacks an annotation"
        path, _, anchor = annotations.get("runbook_url", "").partition("#")
        if path != f"{HOME}/deploy/README.md" or anchor not in anchors():
            yield f"{name}: {path}#{anchor} leads nowhere"


def readable():
    """Checks that the dashboard's variables are used, and that each panel has a unit and leads to what to do."""
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    if variables["runbooks"]["query"] != f"{HOME}/deploy/README.md":
        yield f"the dashboard's runbooks are {variables['runbooks']['query']}"
    text = json.dumps(dashboard()["panels"])
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval"}
    yield from (f"the dashboard has no variable {name}" for name in used - set(variables))
    yield from (f"no panel uses the variable {name}" for name in set(variables) - used)
    names = {rule["alert"].lower() for rule in alerts()}
    linked = set()
    for panel in panels():
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"the panel {panel['title']} has no unit"
        targets = [link["url"].removeprefix("${runbooks:raw}#") for link in panel.get("links", [])]
        if not targets or not set(targets) <= anchors():
            yield f"the panel {panel['title']} leads to {targets}"
        linked |= set(targets)
        for target in panel["targets"]:
            wanted = ["job", "namespace"] if ":" in target["expr"].partition("{")[0] else ["job", "namespace", "pod", "instance"]
            if missing := [name for name in wanted if f'{name}=~"${name}"' not in target["expr"]]:
                yield f"{panel['title']}, {target['refId']} does not select by {missing}"
    yield from (f"no panel leads to the alert {name}" for name in names - linked)


def covered():
    cases = [case for name in TEST_FILES for case in yaml.safe_load((RULES / name).read_text(encoding="utf-8"))["tests"]]
    of_alerts = [case for test in cases for case in test.get("alert_rule_test", [])]
    text = " ".join(case["expr"] for test in cases for case in test.get("promql_expr_test", []))
    for rule in alerts():
        of_rule = [case for case in of_alerts if case["alertname"] == rule["alert"]]
        if not any(case["exp_alerts"] for case in of_rule):
            yield f"{rule['alert']} fires in no test"
        if all(case["exp_alerts"] for case in of_rule):
            yield f"{rule['alert']} keeps quiet in no test"
    yield from (f"{name} is in no test" for name in recorded() if name not in text)


def passes(promtool, replaced, tests="tests.yaml"):
    """Whether the tests pass with changed contents of some files."""
    with tempfile.TemporaryDirectory() as directory:
        for name in (*RULE_FILES, tests):
            shutil.copy(RULES / name, directory)
        for name, contents in replaced.items():
            pathlib.Path(directory, name).write_text(yaml.safe_dump(contents, width=10**6), encoding="utf-8")
        return run(promtool, "test", "rules", tests, cwd=directory)


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


# A comparison of a burn rate, such as `job:x:ratio_rate1h > (14.4 * 0.001)`.
BURN = re.compile(r"(job:\w+:ratio_rate\w+) > (\([\d.]+ \* [\d.]+\))")
TRAFFIC = "job:ntlm_gateway_requests:rate5m > 0.1"


def burn_changes():
    """(what, the changed expression) for each way to change an alert about the error budget: a comparison that always holds, or
    a pair of which one never does."""
    for place in range(4):
        yield f"comparison {place + 1} always holds", lambda text, place=place: nth(text, place, r"\1 >= (0 * \2)")
    for place in (0, 2):
        yield f"comparison {place + 1} never holds", lambda text, place=place: nth(text, place, r"\1 > (10000 * \2)")
    yield "any traffic is enough", lambda text: text.replace(TRAFFIC, TRAFFIC.replace("0.1", "0"))


def nth(text, place, replacement):
    """The text with its comparison number `place` replaced."""
    match = list(BURN.finditer(text))[place]
    return text[: match.start()] + match.expand(replacement) + text[match.end() :]


def slo(promtool):
    contents = yaml.safe_load((RULES / "slo.yaml").read_text(encoding="utf-8"))
    for suffix, tests in (("Fast", "slo_fast_tests.yaml"), ("Slowly", "slo_slow_tests.yaml")):
        finished = passes(promtool, {}, tests)
        if finished.returncode:
            yield f"{tests} fails:\n{finished.stdout}{finished.stderr}"
            continue
        for what, change in burn_changes():
            spoilt = copy.deepcopy(contents)
            changed = [rule for group in spoilt["groups"] for rule in group["rules"] if rule.get("alert", "").endswith(suffix)]
            for rule in changed:
                rule["expr"] = change(rule["expr"])
            finished = passes(promtool, {"slo.yaml": spoilt}, tests)
            failures = finished.stdout + finished.stderr
            yield from (f"no test notices {rule['alert']} where {what}" for rule in changed if f"alertname: {rule['alert']}," not in failures)
    for value in (NEVER, ALWAYS):
        spoilt = copy.deepcopy(contents)
        changed = [rule for group in spoilt["groups"] for rule in group["rules"] if "record" in rule]
        for rule in changed:
            rule["expr"] = value
        finished = passes(promtool, {"slo.yaml": spoilt}, "slo_slow_tests.yaml")
        yield from (f"no test notices {rule['record']} as {value}" for rule in changed if rule["record"] not in finished.stdout + finished.stderr)


def tests(promtool):
    checked = run(promtool, "check", "rules", *(RULES / name for name in RULE_FILES))
    if checked.returncode:
        yield checked.stdout + checked.stderr
    yield from labelled()
    yield from readable()
    yield from covered()
    yield from noticed(promtool)


def metrics(text):
    exported = families(pathlib.Path(text).read_text(encoding="utf-8"))
    recorded_names = recorded()
    for where, expression in expressions():
        labels = set()
        for name, selected in asked(expression):
            if ":" in name:
                if name not in recorded_names:
                    yield f"{where} asks for {name}, which no rule records"
                labels |= grouped(recorded_names.get(name, ""))
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
    end(list({"tests": tests, "slo": slo, "metrics": metrics}[sys.argv[1]](*sys.argv[2:])))
