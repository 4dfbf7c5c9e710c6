#!/usr/bin/env python3
"""Lists what is linked into the program, as CycloneDX 1.5 JSON.

    deploy/sbom.py [--target TARGET] > ntlm-gateway.cdx.json
    deploy/sbom.py [--target TARGET] --compare PROGRAM

The list comes from Cargo, with the locked versions for the target, by default that of this machine. Dependencies of
tests and of build scripts are not in it, and neither is the C library that a static program contains. The second form
checks that the list which `cargo auditable` put into a program has all of them. That list has more, because it
comes from Cargo's metadata, which also names optional crates that are not built.
"""

import argparse
import hashlib
import json
import pathlib
import re
import struct
import subprocess
import sys
import tomllib
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "ntlm-gateway"


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def linked(packages, target):
    """The ids of the packages that are linked, as Cargo resolves their features. Macros run in the compiler."""
    tree = ("tree", "--locked", "--target", target, "--package", NAME, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
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


def bill_of(target):
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"))
    packages = {package["id"]: package for package in metadata["packages"]}
    lock = (ROOT / "Cargo.lock").read_bytes()
    entries = tomllib.loads(lock.decode())["package"]
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in entries}
    nodes = {node["id"]: node["dependencies"] for node in metadata["resolve"]["nodes"]}
    found = linked(packages, target)
    top = next(package for package in found if packages[package]["name"] == NAME)
    reference = {package: f"pkg:cargo/{packages[package]['name']}@{packages[package]['version']}" for package in found}
    # The same lock file makes the same document.
    digest = hashlib.sha256(lock + target.encode()).hexdigest()
    serial = f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"
    return {
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


def section(program, wanted):
    """The bytes of a section of a 64-bit ELF file, or None if it has no such section."""
    data = pathlib.Path(program).read_bytes()
    if data[:5] != b"\x7fELF\x02":
        sys.exit(f"{program} is not a 64-bit ELF file")
    order = "<" if data[5] == 1 else ">"
    table = struct.unpack_from(order + "Q", data, 0x28)[0]
    size, count, names = struct.unpack_from(order + "HHH", data, 0x3A)
    # Of each section: where its name is, where it begins, and its length.
    headers = [struct.unpack_from(order + "I20xQQ", data, table + size * index) for index in range(count)]
    strings = headers[names][1]
    for name, start, length in headers:
        if data[strings + name : data.index(b"\0", strings + name)] == wanted:
            return data[start : start + length]
    return None


def compare(bill, program):
    packed = section(program, b".dep-v0")
    if packed is None:
        sys.exit(f"{program} contains no list of its dependencies")
    packages = json.loads(zlib.decompress(packed))["packages"]
    contained = {(package["name"], package["version"]) for package in packages if package.get("kind") != "build"}
    parts = [bill["metadata"]["component"], *bill["components"]]
    listed = {(part["name"], part["version"]) for part in parts}
    if lacking := listed - contained:
        sys.exit(f"{program} does not name " + ", ".join(" ".join(package) for package in sorted(lacking)))
    surplus = len(contained - listed)
    print(f"{program} names all {len(listed)} crates that are linked into it, and {surplus} more")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="whose list; by default this machine's")
    parser.add_argument("--compare", metavar="PROGRAM", help="compare the list with that in a program")
    arguments = parser.parse_args()
    target = arguments.target or re.search(r"^host: (.*)$", output("rustc", "-vV"), re.MULTILINE)[1]
    bill = bill_of(target)
    if arguments.compare:
        compare(bill, arguments.compare)
    else:
        json.dump(bill, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
