"""Checks that copies of the chart and the overlays, made as in deploy/README.md, render the same as the originals.

    python copies.py
"""

import pathlib
import shutil
import tempfile

from common import CHART, DEPLOY, EVERYTHING, end, helm, kustomize, overlays


def main():
    found = []
    with tempfile.TemporaryDirectory() as directory:
        elsewhere = pathlib.Path(directory)
        # Links stay links, as with `cp -r` and in a repository.
        chart = shutil.copytree(CHART, elsewhere / "chart", symlinks=True)
        if helm(EVERYTHING, chart) != helm(EVERYTHING):
            found.append("the copied chart makes something else")
        whole = shutil.copytree(DEPLOY / "kustomize", elsewhere / "egress", symlinks=True)
        for overlay in overlays():
            copy = shutil.copytree(overlay, whole / "overlays" / f"my-{overlay.name}", symlinks=True)
            if kustomize(copy) != kustomize(overlay):
                found.append(f"the copy of {overlay.name} makes something else")
    end(found)


if __name__ == "__main__":
    main()
