"""Checks that the Lease in a file matches Kubernetes' schema.

    python lease.py FILE.json
"""

import json
import pathlib
import sys

from common import end
from manifests import schema

if __name__ == "__main__":
    end(list(schema([json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))])))
