"""Sends every query of the dashboard to a Prometheus until each has data, for at most SECONDS.

    python live.py URL SECONDS

Then checks that Prometheus has loaded all rules and evaluates them.
"""

import json
import sys
import time
import urllib.parse
import urllib.request

from common import end
from queries import concrete, panels, rules

URL, SECONDS = sys.argv[1], float(sys.argv[2])


def answer(path, **parameters):
    # Ignore any proxy from the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{URL}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as response:
        return json.load(response)["data"]


def has_data(expression):
    samples = answer("/api/v1/query", query=concrete(expression))["result"]
    # Rates and quantiles of nothing are NaN.
    return any(sample["value"][1] != "NaN" for sample in samples)


def main():
    waiting = {f"{panel['title']}, {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]}
    total, deadline = len(waiting), time.monotonic() + SECONDS
    while True:
        waiting = {name: expression for name, expression in waiting.items() if not has_data(expression)}
        if not waiting or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    print(f"{total - len(waiting)} of {total} queries have data")
    findings = [f"no data for {name}: {concrete(waiting[name])}" for name in sorted(waiting)]
    taken = [rule for group in answer("/api/v1/rules")["groups"] for rule in group["rules"]]
    findings += [f"{rule['name']} is {rule['health']}: {rule.get('lastError')}" for rule in taken if rule["health"] == "err"]
    if len(taken) != len(rules()):
        findings.append(f"Prometheus has taken {len(taken)} rules")
    end(findings)


if __name__ == "__main__":
    main()
