"""Reads two answers of /metrics, one as OpenMetrics and one as Prometheus' text, with the reference parser of each, and checks
that they have the same families and samples.

    python openmetrics.py OPENMETRICS TEXT
"""

import pathlib
import sys

from common import end
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text


def families(read, path):
    """What each family is, and the names and labels of its samples; their values change between two scrapes."""
    found = {}
    for family in read(pathlib.Path(path).read_text(encoding="utf-8")):
        samples = {(sample.name, *sorted((key, bound(key, value)) for key, value in sample.labels.items())) for sample in family.samples}
        found[family.name] = (family.type, family.documentation, samples)
    return found


def bound(label, value):
    return str(float(value)) if label == "le" else value


def main():
    one, other = families(read_openmetrics, sys.argv[1]), families(read_text, sys.argv[2])
    if len(one) < 40:
        yield f"only {len(one)} families"
    for name in sorted(set(one) | set(other)):
        if one.get(name) != other.get(name):
            yield f"{name} is {one.get(name)} in OpenMetrics and {other.get(name)} in Prometheus' text"


if __name__ == "__main__":
    end(list(main()))
