#!/usr/bin/env python3
"""Lists what is linked into the program, as CycloneDX 1.5 JSON.

    deploy/sbom.py > ntlm-gateway.cdx.json

The list comes from Cargo, with the locked versions for the machine's target. Dependencies of tests and of build scripts
are not in it, and neither is the C library that a static program contains.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "ntlm-gateway"


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def linked(packages):
    """The ids of the packages that are linked, as Cargo resolves their features. Macros run in the compiler."""
    tree = ("tree", "--locked", "--package", NAME, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    lines = {tuple(line.split()[:2]) for line in output("cargo", *tree).splitlines() if line}
    return {id for id, package in packages.items() if (package["name"], "v" + package["version"]) in lines}


def component(package, checksums, kind):
    name, version = package["name"], package["version"]
    reference = f"pkg:cargo/{name}@{version}"
    made = {"type": kind, "bom-ref": reference, "name": name, "version": version, "purl": reference}
    # Old packages separate alternatives by a slash, which SPDX does not know.
    if package["license"]:
        made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if checksum := checksums.get((name, version)):
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return made


def main():
    target = re.search(r"^host: (.*)$", output("rustc", "-vV"), re.MULTILINE)[1]
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"))
    packages = {package["id"]: package for package in metadata["packages"]}
    lock = (ROOT / "Cargo.lock").read_bytes()
    entries = tomllib.loads(lock.decode())["package"]
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in entries}
    nodes = {node["id"]: node["dependencies"] for node in metadata["resolve"]["nodes"]}
    found = linked(packages)
    top = next(package for package in found if packages[package]["name"] == NAME)
    reference = {package: f"pkg:cargo/{packages[package]['name']}@{packages[package]['version']}" for package in found}
    # The same lock file makes the same document.
    digest = hashlib.sha256(lock + target.encode()).hexdigest()
    serial = f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": component(packages[top], checksums, "application"),
            "properties": [{"name": "target", "value": target}],
        },
        "components": [
            component(packages[package], checksums, "library")
            for package in sorted(found, key=lambda package: reference[package])
            if package != top
        ],
        "dependencies": [
            {"ref": reference[package], "dependsOn": sorted(reference[on] for on in nodes[package] if on in found)}
            for package in sorted(found, key=lambda package: reference[package])
        ],
    }
    json.dump(bill, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
