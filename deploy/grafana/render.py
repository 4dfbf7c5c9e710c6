#!/usr/bin/env python3
"""Draws the dashboard's panels from a Prometheus, without Grafana. Needs matplotlib, which brings Pillow.

    deploy/grafana/render.py [--minutes N] [--window 15s] URL FILE.png

URL is Prometheus' address, such as http://127.0.0.1:9090. The queries are the dashboard's; its variables match all, and
`$__rate_interval` is the window.
"""

import argparse
import io
import json
import pathlib
import re
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter  # noqa: E402

DASHBOARD = pathlib.Path(__file__).with_name("ntlm-gateway.json")
UNITS = {"s": "s", "Bps": "B/s", "bytes": "B", "reqps": "/s", "ops": "/s", "short": ""}
COLUMNS = 24


def answer(url, path, **parameters):
    # Ignore any proxy from the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as response:
        return json.load(response)["data"]["result"]


def formatter(unit):
    if unit == "percentunit":
        return PercentFormatter(1)
    if unit == "short":
        return FuncFormatter(lambda value, _: f"{value:g}" if abs(value) < 1000 else EngFormatter(sep="").format_eng(value))
    return EngFormatter(UNITS.get(unit, ""), sep="")


def save(figure, path):
    """Saves a picture with few colours, which takes a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def legend(template, metric):
    return re.sub(r"\{\{(\w+)\}\}", lambda label: metric.get(label[1], ""), template)


class Source:
    def __init__(self, options):
        self.url, self.window = options.url, options.window
        self.end = time.time()
        self.start = self.end - 60 * options.minutes
        self.step = max(1, round(options.minutes * 60 / 240))

    def series(self, target):
        """(legend, minutes, values) of each series of a query."""
        expression = re.sub(r"\$(job|namespace|pod|instance|upstream)\b", ".*", target["expr"].replace("$__rate_interval", self.window))
        result = answer(self.url, "/api/v1/query_range", query=expression, start=self.start, end=self.end, step=self.step)
        for series in result:
            minutes = [(moment - self.start) / 60 for moment, _ in series["values"]]
            yield legend(target["legendFormat"], series["metric"]), minutes, [float(value) for _, value in series["values"]]


def draw_stat(axes, panel, source):
    values = [values for target in panel["targets"] for _, _, values in source.series(target)]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if not values:
        text = "no data"
    elif unit == "percentunit":
        text = f"{values[0][-1]:.1%}"
    elif unit == "short":
        text = formatter(unit)(values[0][-1], None)
    else:
        text = formatter(unit).format_eng(float(f"{values[0][-1]:.3g}"))
    axes.axis("off")
    axes.text(0.5, 0.35, text, ha="center", va="center", fontsize=16, color="#1f60c4")


def draw_lines(axes, panel, source):
    defaults = panel["fieldConfig"]["defaults"]
    drawn = [series for target in panel["targets"] for series in source.series(target)]
    if defaults["custom"]["stacking"]["mode"] == "normal" and drawn:
        moments = sorted({minute for _, minutes, _ in drawn for minute in minutes})
        rows = [[dict(zip(minutes, values)).get(moment, 0) for moment in moments] for _, minutes, values in drawn]
        axes.stackplot(moments, rows, labels=[name for name, _, _ in drawn], alpha=0.7)
    else:
        for name, minutes, values in drawn:
            axes.plot(minutes, values, linewidth=1, label=name)
    axes.yaxis.set_major_formatter(formatter(defaults["unit"]))
    axes.set_xlim(0, (source.end - source.start) / 60)
    # Room for the legend.
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3, linewidth=0.5)
    if drawn:
        axes.legend(fontsize=5.5, loc="upper left", framealpha=0.6, ncols=1 + len(drawn) // 5)
    else:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", transform=axes.transAxes, color="grey", fontsize=8)


def draw(source):
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(13, rows * 0.29))
    for panel in panels:
        place = panel["gridPos"]
        left, top = place["x"] / COLUMNS, 1 - place["y"] / rows
        width, height = place["w"] / COLUMNS, place["h"] / rows
        if panel["type"] == "row":
            figure.text(0.01, top - height * 0.7, panel["title"], fontsize=11, fontweight="bold")
            continue
        axes = figure.add_axes((left + 0.035, top - height * 0.88, width - 0.05, height * 0.74))
        axes.set_title(panel["title"], fontsize=8, loc="left")
        (draw_stat if panel["type"] == "stat" else draw_lines)(axes, panel, source)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--window", default="15s")
    parser.add_argument("url")
    parser.add_argument("file")
    options = parser.parse_args()
    save(draw(Source(options)), options.file)


if __name__ == "__main__":
    main()
