#!/usr/bin/env python3
"""Kernel TLS, in a virtual machine with Debian's kernel: tests/long kernel_tls.

Boots the kernel with the program and machine.py, which is its first process, in the initial RAM disk: once with the
kernel's module for TLS and once without. The kernel comes from Debian's package, which is downloaded and not installed.
Ends with 77 if something is missing that this needs.
"""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
WORK = HERE.parent.parent / "target" / "kernel_tls"
PACKAGE = "linux-image-cloud-amd64"
MODULES = ["ctr", "ghash-generic", "gcm", "tls"]
PYTHON = "/usr/bin/python3"
LIBRARIES = ["/usr/lib/x86_64-linux-gnu/libssl.so.3"]
SECONDS = 600


def skip(why):
    print(f"SKIPPED kernel_tls: {why}")
    sys.exit(77)


def output(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def kernel():
    """The directory of the unpacked package."""
    for file in WORK.glob("*/boot/vmlinuz-*"):
        return file.parent.parent
    try:
        depends = output("apt-cache", "depends", PACKAGE, stderr=subprocess.DEVNULL)
        name = re.search(r"Depends: (linux-image-\S+)", depends).group(1)
        subprocess.run(["apt-get", "download", "-q", name], cwd=WORK, check=True, stdout=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, AttributeError) as error:
        skip(f"the package {PACKAGE} cannot be downloaded ({error})")
    package = next(WORK.glob("linux-image-*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, WORK / "new"], check=True)
    (WORK / "new").rename(WORK / "kernel")
    return WORK / "kernel"


def module_files(directory, names):
    """The files of modules and of those that they need, in the order in which they have to be loaded."""
    files = {file.name.split(".ko")[0].replace("-", "_"): file for file in directory.glob("lib/modules/**/*.ko")}
    ordered = []

    def add(name):
        file = files[name.replace("-", "_")]
        depends = re.search(rb"\0depends=([^\0]*)\0", file.read_bytes()).group(1).decode()
        for needed in filter(None, depends.split(",")):
            add(needed)
        if file not in ordered:
            ordered.append(file)

    for name in names:
        add(name)
    return ordered


class Disk:
    """An initial RAM disk: an archive in cpio's new format."""

    def __init__(self):
        self.parts = []
        self.names = set()

    def entry(self, name, mode, data=b"", device=(0, 0)):
        if name in self.names:
            return
        self.names.add(name)
        parent = os.path.dirname(name)
        if parent:
            self.entry(parent, stat.S_IFDIR | 0o755)
        encoded = name.encode() + b"\0"
        fields = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        for part in (head, data):
            self.parts.append(part + b"\0" * (-len(part) % 4))

    def file(self, source, name=None):
        source = pathlib.Path(source)
        mode = stat.S_IFREG | (0o755 if os.access(source, os.X_OK) else 0o644)
        self.entry(str(name or source).lstrip("/"), mode, source.read_bytes())

    def program(self, source, name=None):
        """A file with the libraries that it needs."""
        self.file(source, name)
        for library in re.findall(r"(/\S+) \(0x", output("ldd", source)):
            self.file(library)

    def write(self, path):
        self.entry("TRAILER!!!", 0)
        path.write_bytes(b"".join(self.parts))


def make_disk(program, modules, certificates):
    disk = Disk()
    disk.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name in ["proc", "sys", "tmp", "run"]:
        disk.entry(name, stat.S_IFDIR | 0o755)
    disk.program(program, "/ntlm-gateway")
    disk.program(os.path.realpath(PYTHON), PYTHON)
    for library in LIBRARIES:
        disk.program(library)
    paths = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    standard = pathlib.Path(output(PYTHON, "-c", paths).strip())
    unneeded = {"test", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "__pycache__", "dist-packages"}
    for file in sorted(standard.rglob("*")):
        if file.is_file() and not unneeded & set(file.relative_to(standard).parts):
            disk.file(file)
    for extension in (standard / "lib-dynload").glob("_ctypes.*"):
        disk.program(extension)
    for number, file in enumerate(modules):
        disk.file(file, f"/modules/{number:02}-{file.name}")
    for file in certificates:
        disk.file(file, f"/{file.name}")
    disk.entry("init", stat.S_IFREG | 0o755, (HERE / "machine.py").read_bytes())
    return disk


def boot(directory, program, certificates, modules):
    """The lines that the machine prints."""
    disk = WORK / "disk"
    make_disk(program, module_files(directory, modules), certificates).write(disk)
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]
    command += ["-nographic", "-no-reboot", "-nic", "none", "-kernel", next(directory.glob("boot/vmlinuz-*"))]
    command += ["-initrd", disk, "-append", "console=ttyS0 quiet panic=-1"]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
    watch = threading.Timer(SECONDS, machine.kill)
    watch.start()
    said = []
    for line in machine.stdout:
        said.append(line.rstrip("\r\n"))
        if said[-1].startswith(("PASS ", "FAIL ", "INFO ")):
            print(said[-1], flush=True)
    machine.wait()
    watch.cancel()
    return said


def main():
    for tool in ["qemu-system-x86_64", "apt-get", "dpkg-deb", "openssl", "ldd"]:
        if not shutil.which(tool):
            skip(f"no {tool}")
    for file in [PYTHON, *LIBRARIES]:
        if not os.path.exists(file):
            skip(f"no {file}")
    WORK.mkdir(parents=True, exist_ok=True)
    directory = kernel()
    program = os.environ.get("NTLM_GATEWAY_TESTS_KERNEL_TLS_PROGRAM")
    if not program:
        subprocess.run(["cargo", "build", "--locked"], cwd=HERE.parent.parent, check=True)
        program = HERE.parent.parent / "target" / "debug" / "ntlm-gateway"
    certificate, key = WORK / "proxy.crt", WORK / "proxy.key"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=proxy -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    failed = False
    for modules in [MODULES, MODULES[:-1]]:
        print(f"==> the kernel {'with' if 'tls' in modules else 'without'} its module for TLS", flush=True)
        said = boot(directory, program, [certificate, key], modules)
        if "PASS all" not in said:
            failed = True
            print("\n".join(said[-100:]))
    sys.exit(1 if failed else 0)


main()
