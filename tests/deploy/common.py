"""Shared by the deployment's tests: paths, running programs, rendering both kinds of manifests."""

import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "ntlm-gateway"
# The project's address: the alerts' runbooks are files of the repository below it.
HOME = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["home"]
TOOLBOX = pathlib.Path(sys.prefix)
# Where the manifests mount the files with secrets.
SECRETS = "/run/secrets/ntlm-gateway"

# The values that the chart requires, and values with which it renders everything.
NEEDED = {
    "upstream": "proxy.corp.example:8080",
    "user": r"CORP\svc-egress",
    "password": {"existingSecret": "egress-account"},
    "image": {"repository": "registry.corp.example/ntlm-gateway"},
    "networkPolicy": {"upstreamCidrs": ["192.0.2.10/32"]},
}
EVERYTHING = NEEDED | {
    "upstream": ["a.corp.example:8080", "b.corp.example:8080"],
    "password": {"value": "placeholder \"'<&", "previous": "before \"'<&"},
    "image": NEEDED["image"] | {"tag": "1", "pullSecrets": ["registry"]},
    "imagePullSecrets": [{"name": "mirror"}],
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "extraEnv": [{"name": "NTLM_GATEWAY_LOG_LEVEL", "value": "debug"}],
    "extraVolumes": [{"name": "ca", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "limits": {"head": "32KiB"},
    "timeouts": {"idle": "30m"},
    "networkPolicy": {"upstreamCidrs": ["192.0.2.10/32", "2001:db8::/64"], "dnsCidrs": ["169.254.20.10/32"]},
    "autoscaling": {"enabled": True},
    "injection": {"mode": "policy", "noProxy": ["localhost", ".svc"]},
    "monitoring": {"monitor": "pod", "rules": True, "dashboard": True, "labels": {"release": "prometheus"}},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "system-cluster-critical",
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
}
# The tables of the configuration file.
TABLES = {
    "listeners": [
        {"address": "0.0.0.0:1080", "protocols": ["socks"], "identity": "partner"},
        {"address": "0.0.0.0:5432", "target": "db.partner.example:5432"},
    ],
    "upstreams": [
        {"name": "east", "address": ["east-1.corp.example:8080", "east-2.corp.example:3128"], "weight": 3},
        {"name": "partner", "address": "proxy.partner.example:8443", "group": "partners", "identity": "partner", "warm": 0},
    ],
    "user": r"CORP\svc-egress",
    "password": {"existingSecret": "egress-account"},
    "image": NEEDED["image"],
    "identities": [
        {"name": "partner", "user": r"PARTNER\svc", "password_file": "/run/secrets/ntlm-gateway/partner-password", "clients": "192.0.2.0/24"},
        {"name": "batch", "user": r"CORP\batch", "password_file": "/run/secrets/ntlm-gateway/batch-password", "listen": "0.0.0.0:3129"},
    ],
    "routes": [
        {"host": [".partner.example", "build-*.example.net"], "to": "partners"},
        {"network": ["10.0.0.0/8"], "port": [443, "8000-8999"], "to": "direct"},
    ],
    "networkPolicy": {
        "upstreamCidrs": ["192.0.2.10/32"],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 443}]}],
    },
}
# TLS to the proxy, with the files that it needs.
TLS = NEEDED | {
    "upstream": "https://proxy.corp.example:8443",
    "tlsFiles": {"existingSecret": "egress-tls", "configMap": "corp-ca"},
    "tls": {
        "ca_file": "/run/secrets/ntlm-gateway/ca.crt",
        "client_cert_file": "/run/secrets/ntlm-gateway/tls.crt",
        "client_key_file": "/run/secrets/ntlm-gateway/tls.key",
    },
}
# The other stores of the credential guard.
FILE = NEEDED | {"guard": {"store": "file"}}
ELSEWHERE = NEEDED | {"guard": {"store": "file", "directory": "/srv/guard"}}
MEMORY = NEEDED | {"guard": {"store": "memory"}}
LEASE = NEEDED | {"guard": {"lease": "egress-guard", "attempts": 2}}
# Kerberos: with a keytab alone, with a password and NTLM beside it, and with both secrets.
KEYTAB = NEEDED | {
    "user": "svc-egress@corp.example",
    "password": {},
    "keytab": {"existingSecret": "egress-keytab"},
    "settings": {"auth": ["kerberos"]},
    "kerberos": {"realm": "CORP.EXAMPLE", "kdc": ["dc1.corp.example", "dc2.corp.example"]},
    "networkPolicy": NEEDED["networkPolicy"] | {"kdcCidrs": ["192.0.2.16/28"]},
}
KERBEROS = KEYTAB | {"password": NEEDED["password"], "keytab": {}, "settings": {"auth": ["kerberos", "ntlm"]}}
BOTH = KERBEROS | {"user": r"CORP\svc-egress", "password": {"value": "some password"}, "keytab": KEYTAB["keytab"]}
KEYTAB_OF_IDENTITY = KEYTAB | {
    "user": "",
    "settings": {},
    "identities": [{"name": "batch", "user": "svc-egress@corp.example", "auth": "kerberos", "keytab": "/run/secrets/ntlm-gateway/batch.keytab"}],
}
INJECTION = NEEDED | {"injection": {"mode": "policy"}}
SERVICE_MONITOR = NEEDED | {"monitoring": {"monitor": "service"}, "networkPolicy": {"enabled": False}}


def run(*command, **options):
    """The finished program, with its output as text."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False, **options)


def documents(*command, **options):
    finished = run(*command, **options)
    if finished.returncode:
        sys.exit(f"{command[0]} failed:\n{finished.stderr}")
    return [document for document in yaml.safe_load_all(finished.stdout) if document]


def is_hook(manifest):
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def helm(values, chart=CHART, hooks=False):
    """The chart's manifests with `values`, or those of its test."""
    rendered = documents(TOOLBOX / "helm", "template", "gw", chart, "--namespace", "egress", "--values", "-", input=yaml.safe_dump(values))
    return [manifest for manifest in rendered if is_hook(manifest) is hooks]


def kustomize(directory):
    return documents(TOOLBOX / "kubectl", "kustomize", directory)


def one(manifests, kind):
    """The first manifest of a kind."""
    return next((manifest for manifest in manifests if manifest["kind"] == kind), None)


def invalid(manifest, versions):
    """What Kubernetes' schemas of these versions say against a manifest."""
    # Not every script that imports this file runs in the toolbox.
    import kubernetes_validate

    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{manifest['kind']} against {version}: {'.'.join(map(str, error.path))}: {error.message}"


def checked(gateway, text, environment, secrets=()):
    """The program's finished check of a configuration, with the contents of the files with secrets by name."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {name: value.replace(SECRETS, directory) for name, value in environment.items()}
        for name, contents in (dict(secrets) | {"gateway.toml": text.encode()}).items():
            descriptor = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT, 0o600)
            with open(descriptor, "wb") as file:
                file.write(contents.replace(SECRETS.encode(), directory.encode()))
        return run(gateway, "check", "--strict", f"{directory}/gateway.toml", env=environment)


def overlays():
    return sorted(path.parent for path in (DEPLOY / "kustomize" / "overlays").glob("*/kustomization.yaml"))


def end(findings):
    """Ends the program: with status 1 and the findings, if there are any."""
    for finding in findings:
        print(finding)
    sys.exit(1 if findings else 0)
