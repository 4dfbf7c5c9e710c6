"""Checks that the manifests match Kubernetes' schemas and do what deploy/README.md says.

    python manifests.py GATEWAY              checks every overlay, and the chart with several values
    python manifests.py GATEWAY --spoilt     breaks them in every way that it checks, and verifies that it notices

GATEWAY is the program, which must accept the configuration in them.
"""

import base64
import copy
import functools
import pathlib
import re
import shutil
import struct
import sys
import tempfile
import tomllib

import yaml
from common import (
    BOTH,
    DEPLOY,
    ELSEWHERE,
    EVERYTHING,
    FILE,
    INJECTION,
    KERBEROS,
    KEYTAB,
    KEYTAB_OF_IDENTITY,
    LEASE,
    MEMORY,
    NEEDED,
    SECRETS,
    SERVICE_MONITOR,
    TABLES,
    TLS,
    checked,
    end,
    helm,
    invalid,
    kustomize,
    one,
    overlays,
    run,
)

# The oldest version that the chart allows and that is still maintained somewhere, the first with mutating policies, and the
# newest known one.
VERSIONS = ["1.27", "1.33", "1.36", "1.37"]
# What older versions do not have, and which one has it.
SINCE = {"MutatingAdmissionPolicy": "1.36", "MutatingAdmissionPolicyBinding": "1.36"}
# What belongs to no namespace.
CLUSTER_WIDE = {"Namespace", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingPolicy"}
# The fields that Kyverno's MutatingPolicy has and a MutatingAdmissionPolicy does not; the others are the same.
KYVERNO = {"autogen": {"podControllers": {"controllers": []}}, "evaluation": {"background": {"enabled": False}}}
UNITS_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
# The fields of custom resources that are used; their schemas are not in Kubernetes.
CUSTOM = {
    "ServiceMonitor": ("endpoints", {"jobLabel", "selector", "endpoints"}),
    "PodMonitor": ("podMetricsEndpoints", {"jobLabel", "selector", "podMetricsEndpoints"}),
    "PrometheusRule": (None, {"groups"}),
}


def names(manifests, kind):
    return {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == kind}


def pod(manifests):
    return one(manifests, "Deployment")["spec"]["template"]["spec"]


def without_kyverno(manifest):
    """A MutatingPolicy as the MutatingAdmissionPolicy that it extends."""
    common = {key: value for key, value in manifest["spec"].items() if key not in KYVERNO}
    return manifest | {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "spec": common}


def schema(manifests):
    for manifest in manifests:
        if manifest["kind"] in CLUSTER_WIDE and "namespace" in manifest["metadata"]:
            yield f"{manifest['kind']}: it has a namespace, and belongs to the whole cluster"
        if manifest["kind"] == "MutatingPolicy":
            if manifest["apiVersion"] != "policies.kyverno.io/v1":
                yield f"MutatingPolicy: apiVersion {manifest['apiVersion']}"
            if any(manifest["spec"].get(key) != value for key, value in KYVERNO.items()):
                yield "MutatingPolicy: it would change more than new pods"
            manifest = without_kyverno(manifest)
        if manifest["kind"] in CUSTOM:
            if not manifest["apiVersion"].startswith("monitoring.coreos.com/v1"):
                yield f"{manifest['kind']}: apiVersion {manifest['apiVersion']}"
            unknown = set(manifest["spec"]) - CUSTOM[manifest["kind"]][1]
            if unknown:
                yield f"{manifest['kind']}: unknown {unknown}"
            continue
        since = float(SINCE.get(manifest["kind"], "0"))
        yield from invalid(manifest, [version for version in VERSIONS if float(version) >= since])


def security(manifests):
    spec = one(manifests, "Deployment")["spec"]["template"]["spec"]
    pod, container = spec.get("securityContext", {}), spec["containers"][0].get("securityContext", {})
    wanted = [
        ("runAsNonRoot", pod.get("runAsNonRoot") is True),
        ("runAsUser", pod.get("runAsUser", 0) > 0 and pod.get("runAsGroup", 0) > 0),
        ("seccompProfile", pod.get("seccompProfile") == {"type": "RuntimeDefault"}),
        ("readOnlyRootFilesystem", container.get("readOnlyRootFilesystem") is True),
        ("allowPrivilegeEscalation", container.get("allowPrivilegeEscalation") is False),
        ("capabilities", container.get("capabilities") == {"drop": ["ALL"]}),
        ("automountServiceAccountToken of the ServiceAccount", one(manifests, "ServiceAccount").get("automountServiceAccountToken") is False),
        ("enableServiceLinks: NTLM_GATEWAY_PORT would be in the environment", spec.get("enableServiceLinks") is False),
        ("limits.memory", "memory" in spec["containers"][0]["resources"].get("limits", {})),
    ]
    yield from (f"Deployment: {what}" for what, holds in wanted if not holds)


def maps(manifests):
    """What the ConfigMaps have in them, by their names."""
    return {manifest["metadata"]["name"]: manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"}


def secrets_volume(manifests):
    """The volume with the files of secrets and of TLS; an empty one if there is none."""
    mounted = {mount["name"] for mount in pod(manifests)["containers"][0]["volumeMounts"] if mount["mountPath"] == SECRETS}
    return next((volume for volume in pod(manifests)["volumes"] if volume["name"] in mounted), {})


def mounted_maps(volume):
    """The names of the ConfigMaps in a volume."""
    sources = [volume, *volume.get("projected", {}).get("sources", [])]
    return [source["configMap"]["name"] for source in sources if "configMap" in source]


def configuration(manifests):
    """The settings of gateway.toml and the environment."""
    spec = pod(manifests)
    text = next(data["gateway.toml"] for data in maps(manifests).values() if "gateway.toml" in data)
    environment = {}
    for source in spec["containers"][0].get("envFrom", []):
        environment |= maps(manifests).get(source["configMapRef"]["name"], {})
    environment |= {variable["name"]: variable["value"] for variable in spec["containers"][0].get("env", [])}
    return text, environment


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * UNITS_SECONDS[unit]


def shutdown(manifests):
    timeouts = tomllib.loads(configuration(manifests)[0])["timeouts"]
    needed = seconds(timeouts["shutdown_delay"]) + seconds(timeouts["drain"])
    grace = one(manifests, "Deployment")["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
    if not needed + 10 <= grace <= needed + 60:
        yield f"terminationGracePeriodSeconds is {grace}; shutdown_delay + drain are {needed:.0f}"
    if seconds(timeouts["shutdown_delay"]) < 5:
        yield "shutdown_delay is too short for a Service to notice"


def secret_files(text, environment):
    """The names of the files in the Secret's directory that the configuration names."""
    return set(re.findall(re.escape(SECRETS) + r"/([-.\w]+)", "\n".join([text, *environment.values()])))


def uses_kerberos(text, environment):
    settings = tomllib.loads(text)
    auth = [settings.get("auth"), environment.get("NTLM_GATEWAY_AUTH"), *(identity.get("auth") for identity in settings.get("identities", []))]
    return "kerberos" in str(auth)


def keytab(name, realm):
    """A keytab with an AES-256 key for `name@realm`."""
    principal = struct.pack(">H", 1) + b"".join(struct.pack(">H", len(part)) + part.encode() for part in (realm, name))
    entry = principal + struct.pack(">IIBHH", 1, 0, 3, 18, 32) + bytes(range(32))
    return b"\x05\x02" + struct.pack(">i", len(entry)) + entry


@functools.cache
def certificate():
    """A self-signed certificate and its key, as PEM."""
    made = run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=proxy.corp.example", "-keyout", "-", "-out", "-").stdout
    key, start, rest = made.partition("-----BEGIN CERTIFICATE-----")
    return (start + rest).encode(), key.encode()


def valid_file(name):
    """What a file of this name may have in it."""
    if name.endswith("keytab"):
        return keytab("svc-egress", "CORP.EXAMPLE")
    if name.endswith((".crt", ".key")):
        return certificate()[name.endswith(".key")]
    return b"another password\n" if name == "previous-password" else b"some password\n"


def accepted(manifests, gateway):
    """Checks that the program accepts the pod's configuration."""
    text, environment = configuration(manifests)
    valid = {name: valid_file(name) for name in secret_files(text, environment)}
    files = {name: base64.b64decode(contents or "") for name, contents in ((one(manifests, "Secret") or {}).get("data") or {}).items()}
    files |= {name: contents.encode() for source in mounted_maps(secrets_volume(manifests)) for name, contents in maps(manifests).get(source, {}).items()}
    for name, contents in files.items():
        # Of an overlay: a placeholder is not a secret. Of the chart: a password with characters that need care.
        if contents.startswith(b"PLACEHOLDER"):
            finished = checked(gateway, text, environment, valid | {name: contents})
            if finished.returncode == 0 or name not in finished.stderr:
                yield f"the gateway takes the example's placeholder for a {name}: {finished.stderr}"
        elif contents:
            valid[name] = contents
    finished = checked(gateway, text, environment, valid)
    if finished.returncode:
        yield f"the gateway refuses the configuration: {finished.stdout}{finished.stderr}"
    for key, part in (("listen", "0.0.0.0:3128"), ("admin", "0.0.0.0:8128"), ("allow_clients", "10.0.0.0/8")):
        if part not in str(tomllib.loads(text).get(key)):
            yield f"gateway.toml: {key} is {tomllib.loads(text).get(key)}"


def probes(manifests):
    container = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    own = {name: port for name, port in ports.items() if name == f"proxy-{port}"}
    if ports != {"proxy": 3128, "admin": 8128} | own:
        yield f"ports are {ports}"
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        if container.get(probe, {}).get("httpGet") != {"path": path, "port": "admin"}:
            yield f"{probe} does not ask for {path}"
        # /healthz takes up to two seconds to report that an event loop does not respond.
        elif container[probe].get("timeoutSeconds", 1) <= 2:
            yield f"{probe} is not patient enough"


def connected(manifests):
    """Checks that names and labels match where they must."""
    deployment = one(manifests, "Deployment")
    template = deployment["spec"]["template"]
    labels, spec = template["metadata"]["labels"], template["spec"]
    service_labels = one(manifests, "Service")["metadata"]["labels"]
    selectors = [("Deployment", deployment["spec"]["selector"]["matchLabels"], labels)]
    selectors.append(("Service", one(manifests, "Service")["spec"]["selector"], labels))
    for kind, field, target in (
        ("PodDisruptionBudget", "selector", labels),
        ("NetworkPolicy", "podSelector", labels),
        ("PodMonitor", "selector", labels),
        ("ServiceMonitor", "selector", service_labels),
    ):
        if manifest := one(manifests, kind):
            selectors.append((kind, manifest["spec"][field].get("matchLabels"), target))
            if "jobLabel" in manifest["spec"] and target.get(manifest["spec"]["jobLabel"]) != "ntlm-gateway":
                yield f"{kind}: the job would not be called ntlm-gateway"
    for constraint in spec["topologySpreadConstraints"]:
        selectors.append(("topologySpreadConstraints", constraint["labelSelector"]["matchLabels"], labels))
    for what, selector, target in selectors:
        if not selector or not selector.items() <= target.items():
            yield f"{what} selects {selector}, and there are {target}"
    for volume in spec["volumes"]:
        # If the certificate of the CA is made here, it must be the one that is mounted. The chart names one that exists.
        is_made_here = "configMap" in volume or any("ca.crt" in data for data in maps(manifests).values())
        yield from (f"no ConfigMap {name}" for name in mounted_maps(volume) if is_made_here and name not in names(manifests, "ConfigMap"))
    if spec["serviceAccountName"] not in names(manifests, "ServiceAccount"):
        yield f"no ServiceAccount {spec['serviceAccountName']}"
    scaler = one(manifests, "HorizontalPodAutoscaler")
    if scaler and scaler["spec"]["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
        yield "the HorizontalPodAutoscaler scales something else"
    if bool(scaler) == ("replicas" in deployment["spec"]):
        yield "replicas must be given by the Deployment or by the HorizontalPodAutoscaler"


def mounted_secrets(volume):
    """The names of the Secrets in a volume, and its mode."""
    if "projected" in volume:
        sources = volume["projected"]["sources"]
        # With items, a key that is added later, or that was forgotten, would not be a file.
        return [source["secret"]["name"] for source in sources if set(source.get("secret", {})) == {"name"}], volume["projected"].get("defaultMode")
    secret = volume.get("secret", {})
    return [secret["secretName"]] if "items" not in secret and secret else [], secret.get("defaultMode")


def secrets(manifests):
    """Checks that each file with a secret is in a Secret that the pod has, and that the gateway's user can read it."""
    spec = pod(manifests)
    files = secret_files(*configuration(manifests))
    mounts = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == SECRETS]
    # With a subPath, a changed Secret would not reach the pod.
    if len(mounts) != 1 or mounts[0].get("readOnly") is not True or "subPath" in mounts[0]:
        yield f"Deployment: {SECRETS} is {mounts}"
        return
    volume = next(volume for volume in spec["volumes"] if volume["name"] == mounts[0]["name"])
    mounted, mode = mounted_secrets(volume)
    user = spec["securityContext"]
    if mode != 0o440 or user.get("fsGroup", 0) <= 0 or user.get("fsGroup") != user.get("runAsGroup"):
        yield f"Deployment: mode {mode} and group {user.get('fsGroup')} of the Secret's files"
    if not files or not mounted:
        yield f"Deployment: the configuration reads {files}, and the pod has {mounted}"
    made = {manifest["metadata"]["name"]: manifest["data"] for manifest in manifests if manifest["kind"] == "Secret"}
    if made and not made.keys() & set(mounted):
        yield f"no Secret {mounted}"
    # The others are not made here.
    if made.keys() >= set(mounted):
        keys = {key for name in mounted for key in made[name]}
        keys |= {key for name in mounted_maps(volume) for key in maps(manifests).get(name, {})}
        yield from (f"Secret: no key {name}" for name in files - keys - {"previous-password"})


def network(manifests):
    policy = one(manifests, "NetworkPolicy")
    if policy is None:
        return
    spec = policy["spec"]
    if sorted(spec["policyTypes"]) != ["Egress", "Ingress"]:
        yield "NetworkPolicy: not both ways"
    allowed = {rule["ports"][0]["port"] for rule in spec["ingress"] if rule.get("from")}
    if len(spec["ingress"]) != 2 or allowed != {"proxy", "admin"}:
        yield "NetworkPolicy: the way in is not just proxy and admin, each from somewhere"
    name_server, upstream = spec["egress"][:2]
    # With one label too many, no name resolves.
    if name_server["to"][0]["podSelector"]["matchLabels"] != {"k8s-app": "kube-dns"} or len(name_server["ports"]) != 2:
        yield "NetworkPolicy: the way to the name server"
    if any("ipBlock" not in peer or peer["ipBlock"]["cidr"].endswith("/0") for peer in upstream.get("to", [{}])):
        yield "NetworkPolicy: the way to the proxy is not limited to its addresses"
    text, environment = configuration(manifests)
    address = environment.get("NTLM_GATEWAY_UPSTREAM") or tomllib.loads(text).get("upstream")
    port = re.search(r":(\d+)$", address) if isinstance(address, str) else None
    if port and int(port[1]) not in {allowed["port"] for allowed in upstream["ports"]}:
        yield f"NetworkPolicy: no way to {address}"
    kdcs = [rule for rule in spec["egress"] if any(port.get("protocol") == "UDP" and port["port"] != 53 for port in rule["ports"])]
    wanted = [[("TCP", 88), ("UDP", 88)]] if uses_kerberos(*configuration(manifests)) else []
    if [sorted((port["protocol"], port["port"]) for port in rule["ports"]) for rule in kdcs] != wanted:
        yield f"NetworkPolicy: the way to the KDCs is {kdcs}"
    if any("ipBlock" not in peer or peer["ipBlock"]["cidr"].endswith("/0") for rule in kdcs for peer in rule.get("to", [{}])):
        yield "NetworkPolicy: the way to the KDCs is not limited to their addresses"


def guard(manifests):
    """Checks that the pod has what the credential guard's store needs, and no more."""
    text, environment = configuration(manifests)
    settings = tomllib.loads(text).get("guard", {})
    settings |= {name: environment[f"NTLM_GATEWAY_GUARD_{name.upper()}"] for name in ("store", "directory") if f"NTLM_GATEWAY_GUARD_{name.upper()}" in environment}
    uses_api = settings.get("store") == "kubernetes"
    if pod(manifests).get("automountServiceAccountToken") is not uses_api:
        yield f"Deployment: automountServiceAccountToken is not {uses_api}, and the guard's store is {settings.get('store')}"
    role, binding, policy = (one(manifests, kind) for kind in ("Role", "RoleBinding", "NetworkPolicy"))
    if uses_api:
        yield from permitted(manifests, role, binding, settings.get("lease", "ntlm-gateway-guard"))
    elif role or binding:
        yield "a Role or a RoleBinding is not needed"
    if policy:
        peers = [rule for rule in policy["spec"]["egress"] if {port["port"] for port in rule["ports"]} == {443, 6443}]
        if len(peers) != uses_api:
            yield f"NetworkPolicy: the way to the Kubernetes API is {peers}"
        if any("ipBlock" not in peer or peer["ipBlock"]["cidr"].endswith("/0") for rule in peers for peer in rule.get("to", [{}])):
            yield "NetworkPolicy: the way to the Kubernetes API leads everywhere"
    yield from writable(manifests, settings)


def permitted(manifests, role, binding, lease):
    """Checks that the pod's service account may do what the store does to its Lease, and nothing else."""
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    wanted = [leases | {"resourceNames": [lease], "verbs": ["get", "update", "watch"]}, leases | {"verbs": ["create"]}]
    if role is None or role["rules"] != wanted:
        yield f"Role: {role and role['rules']}"
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role and role["metadata"]["name"]}
    if binding is None or binding["roleRef"] != reference:
        yield f"RoleBinding: roleRef is {binding and binding['roleRef']}"
        return
    account = one(manifests, "ServiceAccount")["metadata"]
    namespace = binding["metadata"].get("namespace") or account.get("namespace") or "egress"
    if binding["subjects"] != [{"kind": "ServiceAccount", "name": pod(manifests)["serviceAccountName"], "namespace": namespace}]:
        yield f"RoleBinding: subjects are {binding['subjects']}"


def writable(manifests, settings):
    """Checks that a store in a file has a directory that survives a restart of the container, and nothing else has one."""
    spec = pod(manifests)
    empty = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
    mounts = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] in empty and not mount.get("readOnly")]
    wanted = [settings.get("directory", "/var/lib/ntlm-gateway")] if settings.get("store") == "file" else []
    if [mount["mountPath"] for mount in mounts] != wanted:
        yield f"Deployment: the guard counts in {wanted}, and writable are {mounts}"


def scaled(manifests):
    scaler = one(manifests, "HorizontalPodAutoscaler")
    if scaler is None:
        return
    most = tomllib.loads(configuration(manifests)[0]).get("max_tunnels", 10000)
    pods = [metric["pods"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    if not pods or pods[0]["metric"]["name"] != "ntlm_gateway_tunnels_open":
        yield "HorizontalPodAutoscaler: not by ntlm_gateway_tunnels_open"
    elif int(pods[0]["target"]["averageValue"]) > 0.85 * most:
        yield f"HorizontalPodAutoscaler: waits for more tunnels than a pod should have of {most}"


def injected(manifests):
    """Checks that the policy that sets the proxy variables concerns those who may connect, and names the Service."""
    policy, binding = one(manifests, "MutatingAdmissionPolicy"), one(manifests, "MutatingAdmissionPolicyBinding")
    kyverno = one(manifests, "MutatingPolicy")
    if policy is None and kyverno is None:
        return
    if policy and (binding is None or binding["spec"]["policyName"] != policy["metadata"]["name"]):
        yield f"MutatingAdmissionPolicy: the binding is {binding}"
        return
    selector = (binding["spec"]["matchResources"] if policy else kyverno["spec"]["matchConstraints"])["namespaceSelector"]
    if (clients := one(manifests, "NetworkPolicy")) and selector != clients["spec"]["ingress"][0]["from"][0]["namespaceSelector"]:
        yield f"the proxy variables are set where {selector}, and the NetworkPolicy lets others connect"
    variables = {variable["name"]: variable["expression"] for variable in (policy or kyverno)["spec"]["variables"]}
    service = one(manifests, "Service")["metadata"]
    url = f"http://{service['name']}.{service.get('namespace', 'egress')}.svc:3128"
    if variables["proxy"] != f'"{url}"':
        yield f"the proxy variables say {variables['proxy']}, and the gateway is {url}"


def findings(manifests, gateway):
    """All findings, the quick checks first."""
    for check in (security, shutdown, probes, connected, secrets, network, guard, scaled, injected):
        yield from check(manifests)
    yield from accepted(manifests, gateway)
    yield from schema(manifests)


def changed_overlay(name, change):
    """What a copy of an overlay renders whose kustomization was changed."""
    with tempfile.TemporaryDirectory() as directory:
        whole = pathlib.Path(shutil.copytree(DEPLOY / "kustomize", pathlib.Path(directory) / "egress"))
        path = whole / "overlays" / name / "kustomization.yaml"
        kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(kustomization)
        path.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return kustomize(path.parent)


def kerberos_with_password():
    """What the overlay's comment describes."""

    def change(kustomization):
        del kustomization["components"], kustomization["secretGenerator"]
        kustomization["configMapGenerator"][0]["literals"].append("NTLM_GATEWAY_AUTH=kerberos,ntlm")

    return changed_overlay("kerberos", change)


def kerberos_in_file():
    return changed_overlay("kerberos", lambda kustomization: kustomization["components"].append("../../components/guard-file"))


def sources():
    for overlay in overlays():
        yield f"overlay {overlay.name}", kustomize(overlay)
    yield "overlay kerberos with a password", kerberos_with_password()
    yield "overlay kerberos without the Kubernetes API", kerberos_in_file()
    for name, values in (
        ("needed", NEEDED),
        ("everything", EVERYTHING),
        ("a ServiceMonitor", SERVICE_MONITOR),
        ("tables", TABLES),
        ("a store in a file", FILE),
        ("a store in a directory of another name", ELSEWHERE),
        ("a store in memory", MEMORY),
        ("a Lease of another name", LEASE),
        ("a policy that sets the proxy variables", INJECTION),
        ("a policy of Kyverno", NEEDED | {"injection": {"mode": "kyverno", "noProxy": [".svc"]}}),
        ("a keytab", KEYTAB),
        ("Kerberos and NTLM with a password", KERBEROS),
        ("a keytab and a password", BOTH),
        ("a keytab of an identity", KEYTAB_OF_IDENTITY),
        ("TLS to the proxy", TLS),
    ):
        yield f"chart with {name}", helm(values)


def set_toml(manifests, old, new):
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap" and "gateway.toml" in manifest["data"]:
            manifest["data"]["gateway.toml"] = manifest["data"]["gateway.toml"].replace(old, new)


# One for each check; each must be found.
SPOILT = {
    "a field that Kubernetes does not know": lambda m: pod(m).update(terminationGracePeriod=330),
    "a number where text belongs": lambda m: one(m, "Deployment")["metadata"]["labels"].update(x=1),
    "an unknown field of a monitor": lambda m: one(m, "ServiceMonitor")["spec"].update(endpoint=[]),
    "a run as root": lambda m: pod(m)["securityContext"].update(runAsUser=0),
    "a run as perhaps root": lambda m: pod(m)["securityContext"].pop("runAsNonRoot"),
    "no seccomp": lambda m: pod(m)["securityContext"].pop("seccompProfile"),
    "a root file system to write on": lambda m: pod(m)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "capabilities": lambda m: pod(m)["containers"][0]["securityContext"].pop("capabilities"),
    "privilege escalation": lambda m: pod(m)["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "no token": lambda m: pod(m).pop("automountServiceAccountToken"),
    "a token that nothing uses": lambda m: set_toml(m, 'store = "kubernetes"', 'store = "memory"'),
    "a token for all pods": lambda m: one(m, "ServiceAccount").pop("automountServiceAccountToken"),
    "a Role for all Leases": lambda m: one(m, "Role")["rules"][0].pop("resourceNames"),
    "a Role that may delete": lambda m: one(m, "Role")["rules"][0]["verbs"].append("delete"),
    "a Role that cannot watch": lambda m: one(m, "Role")["rules"][0]["verbs"].remove("watch"),
    "a Lease without a Role": lambda m: set_toml(m, 'store = "kubernetes"', 'store = "kubernetes"\nlease = "other"'),
    "a binding for another account": lambda m: one(m, "RoleBinding")["subjects"][0].update(name="default"),
    "a binding in another namespace": lambda m: one(m, "RoleBinding")["subjects"][0].update(namespace="default"),
    "a binding to another Role": lambda m: one(m, "RoleBinding")["roleRef"].update(name="admin"),
    "no way to the API": lambda m: one(m, "NetworkPolicy")["spec"]["egress"].pop(2),
    "a way to the API that leads everywhere": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][2]["to"][0]["ipBlock"].update(cidr="0.0.0.0/0"),
    "a writable directory that nothing uses": lambda m: pod(m)["volumes"].append({"name": "x", "emptyDir": {}}) or pod(m)["containers"][0]["volumeMounts"].append({"name": "x", "mountPath": "/x"}),
    "service links": lambda m: pod(m).pop("enableServiceLinks"),
    "too little grace": lambda m: pod(m).update(terminationGracePeriodSeconds=300),
    "a longer drain": lambda m: set_toml(m, '"5m"', '"10m"'),
    "no delay": lambda m: set_toml(m, 'shutdown_delay = "10s"', 'shutdown_delay = "0s"'),
    "a setting that there is not": lambda m: set_toml(m, "max_tunnels", "maximum_tunnels"),
    "a listener on loopback": lambda m: set_toml(m, "0.0.0.0:3128", "127.0.0.1:3128"),
    "no upstream": lambda m: one(m, "ConfigMap") and pod(m)["containers"][0].pop("envFrom"),
    "readiness asking for liveness": lambda m: pod(m)["containers"][0]["readinessProbe"]["httpGet"].update(path="/healthz"),
    "impatience": lambda m: pod(m)["containers"][0]["livenessProbe"].update(timeoutSeconds=1),
    "a Service that selects nothing": lambda m: one(m, "Service")["spec"]["selector"].update(x="y"),
    "a monitor that selects nothing": lambda m: one(m, "ServiceMonitor")["spec"]["selector"].update(matchLabels={"x": "y"}),
    "a missing ConfigMap": lambda m: pod(m)["volumes"][0]["configMap"].update(name="x"),
    "a missing Secret": lambda m: pod(m)["volumes"][1]["secret"].update(secretName="x"),
    "two masters of replicas": lambda m: one(m, "Deployment")["spec"].update(replicas=2),
    "DNS with a label too many": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"].update(x="y"),
    "a way out to everywhere": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][1]["to"][0]["ipBlock"].update(cidr="0.0.0.0/0"),
    "a way in from everywhere": lambda m: one(m, "NetworkPolicy")["spec"]["ingress"][0].pop("from"),
    "scaling too late": lambda m: set_toml(m, "max_tunnels = 10000", "max_tunnels = 7000"),
}

# The same for the overlay with Kerberos.
SPOILT_KERBEROS = {
    "a keytab that is not mounted": lambda m: pod(m)["volumes"][1].update(secret={"secretName": "x", "defaultMode": 0o440}),
    "a directory without the keytab": lambda m: pod(m)["containers"][0]["volumeMounts"].pop(1),
    "a keytab in another directory": lambda m: pod(m)["containers"][0]["volumeMounts"][1].update(mountPath="/run/secrets/other"),
    "a Secret without the keytab": lambda m: one(m, "Secret").update(data={"password": "eA=="}),
    "a keytab that would not follow its Secret": lambda m: pod(m)["containers"][0]["volumeMounts"][1].update(subPath="keytab"),
    "a keytab for all users": lambda m: pod(m)["volumes"][1]["secret"].update(defaultMode=0o444),
    "a keytab for root": lambda m: pod(m)["volumes"][1]["secret"].update(defaultMode=0o400),
    "a keytab of another group": lambda m: pod(m)["securityContext"].update(fsGroup=1),
    "a keytab among chosen keys": lambda m: pod(m)["volumes"][1]["secret"].update(items=[{"key": "password", "path": "password"}]),
    "no realm": lambda m: site(m).pop("NTLM_GATEWAY_KERBEROS_REALM") and site(m).update(NTLM_GATEWAY_USER="svc-egress"),
    "no way to the KDCs": lambda m: one(m, "NetworkPolicy")["spec"]["egress"].pop(3),
    "a way to the KDCs without UDP": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][3]["ports"].pop(0),
    "a way to the KDCs without TCP": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][3]["ports"].pop(1),
    "a way to the KDCs that leads everywhere": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][3].pop("to"),
    "a way to KDCs that nothing uses": lambda m: pod(m)["containers"][0].update(env=[{"name": "NTLM_GATEWAY_PASSWORD_FILE", "value": f"{SECRETS}/keytab"}]),
    "a password that is missing": lambda m: pod(m)["containers"][0]["env"].append({"name": "NTLM_GATEWAY_PASSWORD_FILE", "value": f"{SECRETS}/password"}),
}

# The same for the overlay with TLS.
SPOILT_TLS = {
    "a CA that is missing": lambda m: sources_of_files(m)[1]["configMap"].update(name="x"),
    "a key for all users": lambda m: pod(m)["volumes"][1]["projected"].update(defaultMode=0o444),
    "a certificate without its key": lambda m: pod(m)["containers"][0]["env"].pop(),
    "a pin that is none": lambda m: site(m).update(NTLM_GATEWAY_TLS_PIN_SHA256="x"),
    "no way to the port with TLS": lambda m: one(m, "NetworkPolicy")["spec"]["egress"][1]["ports"][0].update(port=8080),
}

SPOILT_INJECTION = {
    "a policy for other namespaces": lambda m: one(m, "MutatingAdmissionPolicyBinding")["spec"]["matchResources"]["namespaceSelector"].update(matchLabels={"x": "y"}),
    "a policy without a binding": lambda m: one(m, "MutatingAdmissionPolicyBinding")["spec"].update(policyName="x"),
    "a policy for another gateway": lambda m: one(m, "MutatingAdmissionPolicy")["spec"]["variables"][0].update(expression='"http://x:3128"'),
    "an unknown field of a policy": lambda m: one(m, "MutatingAdmissionPolicy")["spec"].update(mutation=[]),
    "a policy in a namespace": lambda m: one(m, "MutatingAdmissionPolicy")["metadata"].update(namespace="egress"),
}


def site(manifests):
    """The settings of the site in the environment."""
    return next(data for data in maps(manifests).values() if "NTLM_GATEWAY_UPSTREAM" in data)


def sources_of_files(manifests):
    return pod(manifests)["volumes"][1]["projected"]["sources"]


def main():
    gateway = sys.argv[1]
    found = []
    if sys.argv[2:] == ["--spoilt"]:
        for overlay, ways in (("prometheus-operator", SPOILT), ("kerberos", SPOILT_KERBEROS), ("tls", SPOILT_TLS), ("injection", SPOILT_INJECTION)):
            good = kustomize(DEPLOY / "kustomize" / "overlays" / overlay)
            for what, spoil in ways.items():
                manifests = copy.deepcopy(good)
                spoil(manifests)
                if next(findings(manifests, gateway), None) is None:
                    found.append(f"nothing was found wrong with {what}")
        print(f"{len(SPOILT) + len(SPOILT_KERBEROS) + len(SPOILT_TLS) + len(SPOILT_INJECTION)} ways to spoil them")
    else:
        for source, manifests in sources():
            found += [f"{source}: {finding}" for finding in findings(manifests, gateway)]
            print(f"{source}: {len(manifests)} manifests")
    end(found)


if __name__ == "__main__":
    main()
