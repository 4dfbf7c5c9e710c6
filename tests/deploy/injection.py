"""Evaluates the policies that set the proxy variables in pods, and checks the pods that come out.

    python injection.py              the policies of the overlays and of the chart
    python injection.py --spoilt     breaks a policy in several ways, and verifies that a pod shows it

The expressions run in Google's CEL implementation and the patches in the package `jsonpatch`. Only the two functions that
Kubernetes adds to CEL and the matching of labels are our own.
"""

import copy
import sys

import jsonpatch
from cel_expr_python import cel
from common import DEPLOY, NEEDED, end, helm, kustomize
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, struct_pb2

OWN_NETWORKS = ["localhost", "127.0.0.1", "::1", ".svc", ".cluster.local", "$(KUBERNETES_SERVICE_HOST)", "10.0.0.0/8"]
CLIENTS = {"ntlm-gateway/client": "true"}

# An expression that does not compile, one that fails, and a patch that does not fit the pod.
FAILURES = (RuntimeError, ValueError, jsonpatch.JsonPatchException, jsonpatch.JsonPointerException)


def environment():
    """Kubernetes' environment of a mutation: the type JSONPatch, `indexOf` for lists and `lowerAscii`."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name="jsonpatch.proto", syntax="proto3", dependency=["google/protobuf/struct.proto"])
    message = file.message_type.add(name="JSONPatch")
    for number, name in enumerate(("op", "path", "from"), 1):
        message.field.add(name=name, number=number, type="TYPE_STRING", label="LABEL_OPTIONAL")
    message.field.add(name="value", number=4, type="TYPE_MESSAGE", type_name=".google.protobuf.Value", label="LABEL_OPTIONAL")
    pool.Add(file)
    strings = cel.Type.List(cel.Type.STRING)
    index = cel.Overload("list_index_of", cel.Type.INT, [strings, cel.Type.STRING], is_member=True, impl=lambda names, name: names.index(name))
    lower = cel.Overload("string_lower_ascii", cel.Type.STRING, [cel.Type.STRING], is_member=True, impl=lambda text: text.lower())
    return cel.NewEnv(
        descriptor_pool=pool,
        variables={"object": cel.Type.DYN, "variables": cel.Type.Map(cel.Type.STRING, cel.Type.DYN)},
        functions=[cel.FunctionDecl("indexOf", [index]), cel.FunctionDecl("lowerAscii", [lower])],
    )


ENVIRONMENT = environment()


def evaluate(expression, given):
    value = ENVIRONMENT.compile(expression).eval(data=given)
    if value.type() == cel.Type.ERROR:
        raise ValueError(f"{value.value()} in {expression}")
    return value.plain_value()


def selects(selector, labels):
    """Whether a label selector of Kubernetes matches."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for wanted in selector.get("matchExpressions", []):
        among = labels.get(wanted["key"]) in wanted["values"]
        if among is not {"In": True, "NotIn": False}[wanted["operator"]]:
            return False
    return True


class Policy:
    """A MutatingAdmissionPolicy with its binding, or Kyverno's MutatingPolicy."""

    def __init__(self, manifests):
        self.spec = next(m["spec"] for m in manifests if m["kind"] in ("MutatingAdmissionPolicy", "MutatingPolicy"))
        bindings = [m["spec"] for m in manifests if m["kind"] == "MutatingAdmissionPolicyBinding"]
        self.namespaces = (bindings[0]["matchResources"] if bindings else self.spec["matchConstraints"])["namespaceSelector"]

    def variables(self, pod):
        found = {}
        for variable in self.spec["variables"]:
            found[variable["name"]] = evaluate(variable["expression"], {"object": pod, "variables": found})
        return found

    def admit(self, pod, namespace=None):
        """The pod after its creation in a namespace with these labels."""
        pod = copy.deepcopy(pod)
        labels = pod["metadata"].get("labels", {})
        if not selects(self.namespaces, CLIENTS if namespace is None else namespace):
            return pod
        if not selects(self.spec["matchConstraints"]["objectSelector"], labels):
            return pod
        for mutation in self.spec["mutations"]:
            given = {"object": pod, "variables": self.variables(pod)}
            operations = [json_format.MessageToDict(each) for each in evaluate(mutation["jsonPatch"]["expression"], given)]
            pod = jsonpatch.apply_patch(pod, operations)
        return pod


def sources():
    for overlay in ("injection", "injection-kyverno"):
        yield f"overlay {overlay}", kustomize(DEPLOY / "kustomize" / "overlays" / overlay), "ntlm-gateway"
    for mode in ("policy", "kyverno"):
        yield f"chart with {mode}", helm(NEEDED | {"injection": {"mode": mode}}), "gw"


PROXY, NO_PROXY = "http://PROXY", "NO PROXY"
ALL = [
    {"name": "HTTPS_PROXY", "value": PROXY},
    {"name": "HTTP_PROXY", "value": PROXY},
    {"name": "NO_PROXY", "value": NO_PROXY},
    {"name": "https_proxy", "value": PROXY},
    {"name": "http_proxy", "value": PROXY},
    {"name": "no_proxy", "value": NO_PROXY},
]


def without(*names):
    """All variables but these, in either spelling."""
    return [variable for variable in ALL if variable["name"].lower() not in names]


def container(name="main", **fields):
    return {"name": name, "image": "example"} | fields


def pod(*containers, init=None, labels=None, **fields):
    spec = {"containers": list(containers)} | ({"initContainers": init} if init is not None else {}) | fields
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"} | ({"labels": labels} if labels else {}), "spec": spec}


OTHER = {"name": "HTTPS_PROXY", "value": "http://other:8080"}
DEBUG = {"name": "DEBUG", "value": "1"}
FROM_SECRET = {"name": "https_proxy", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "url", "optional": True}}}
REFERS = {"name": "JAVA_PROXY", "value": "$(HTTPS_PROXY)"}
SIDECAR = {"restartPolicy": "Always"}
EPHEMERAL = [{"name": "debugger", "image": "busybox", "targetContainerName": "main"}]
MANY = [f"c{number}" for number in range(12)]
SOURCE = [{"configMapRef": {"name": "settings"}}]

# What it is, the pod as it is created, the pod as it comes out (None: unchanged), and the namespace's labels.
CASES = [
    ("no variables", pod(container()), pod(container(env=ALL)), None),
    ("an empty list", pod(container(env=[])), pod(container(env=ALL)), None),
    ("other variables", pod(container(env=[DEBUG])), pod(container(env=[*ALL, DEBUG])), None),
    ("a variable that refers to ours", pod(container(env=[REFERS])), pod(container(env=[*ALL, REFERS])), None),
    ("a proxy of its own", pod(container(env=[OTHER, DEBUG])), pod(container(env=[*without("https_proxy"), OTHER, DEBUG])), None),
    (
        "a lower-case name",
        pod(container(env=[{"name": "http_proxy", "value": "http://other:1"}])),
        pod(container(env=[*without("http_proxy"), {"name": "http_proxy", "value": "http://other:1"}])),
        None,
    ),
    (
        "an empty value",
        pod(container(env=[{"name": "NO_PROXY", "value": ""}])),
        pod(container(env=[*without("no_proxy"), {"name": "NO_PROXY", "value": ""}])),
        None,
    ),
    ("a name without a value", pod(container(env=[{"name": "no_proxy"}])), pod(container(env=[*without("no_proxy"), {"name": "no_proxy"}])), None),
    ("valueFrom", pod(container(env=[FROM_SECRET])), pod(container(env=[*without("https_proxy"), FROM_SECRET])), None),
    ("the same name twice", pod(container(env=[DEBUG, DEBUG])), pod(container(env=[*ALL, DEBUG, DEBUG])), None),
    ("envFrom", pod(container(envFrom=SOURCE)), pod(container(envFrom=SOURCE, env=ALL)), None),
    ("everything set", pod(container(env=[{"name": v["name"], "value": "mine"} for v in ALL])), None, None),
    ("everything set in one spelling", pod(container(env=[{"name": v["name"], "value": "mine"} for v in ALL[:3]])), None, None),
    (
        "several containers",
        pod(container("a"), container("b", env=[OTHER]), container("c", env=[DEBUG])),
        pod(container("a", env=ALL), container("b", env=[*without("https_proxy"), OTHER]), container("c", env=[*ALL, DEBUG])),
        None,
    ),
    (
        "one of several containers has everything",
        pod(container("a", env=ALL), container("b")),
        pod(container("a", env=ALL), container("b", env=ALL)),
        None,
    ),
    ("a dozen containers", pod(*[container(name) for name in MANY]), pod(*[container(name, env=ALL) for name in MANY]), None),
    (
        "init containers",
        pod(container(), init=[container("fetch"), container("unpack", env=[OTHER])]),
        pod(container(env=ALL), init=[container("fetch", env=ALL), container("unpack", env=[*without("https_proxy"), OTHER])]),
        None,
    ),
    (
        "a sidecar among the init containers",
        pod(container(), init=[container("mesh", **SIDECAR), container("setup")]),
        pod(container(env=ALL), init=[container("mesh", **SIDECAR, env=ALL), container("setup", env=ALL)]),
        None,
    ),
    ("no init containers, as an empty list", pod(container(), init=[]), pod(container(env=ALL), init=[]), None),
    ("an ephemeral container", pod(container(), ephemeralContainers=EPHEMERAL), pod(container(env=ALL), ephemeralContainers=EPHEMERAL), None),
    ("other fields", pod(container(ports=[{"containerPort": 80}]), hostNetwork=True), pod(container(ports=[{"containerPort": 80}], env=ALL), hostNetwork=True), None),
    ("labels that mean nothing here", pod(container(), labels={"app": "x"}), pod(container(env=ALL), labels={"app": "x"}), None),
    ("the label that says yes", pod(container(), labels={"ntlm-gateway/inject": "true"}), pod(container(env=ALL), labels={"ntlm-gateway/inject": "true"}), None),
    ("the label that says no", pod(container(), labels={"ntlm-gateway/inject": "false"}), None, None),
    ("a pod of the gateway", pod(container(), labels={"app.kubernetes.io/name": "ntlm-gateway"}), None, None),
    ("a namespace without labels", pod(container()), None, {}),
    ("a namespace that is not a client", pod(container()), None, {"ntlm-gateway/client": "false"}),
]


def filled(node, proxy, no_proxy):
    """A pod with the policy's values instead of the placeholders."""
    if isinstance(node, dict):
        return {key: filled(value, proxy, no_proxy) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, proxy, no_proxy) for value in node]
    return {PROXY: proxy, NO_PROXY: no_proxy}.get(node, node) if isinstance(node, str) else node


def findings(policy, service):
    values = policy.variables(pod(container()))
    if values["proxy"] != f"http://{service}.egress.svc:3128":
        yield f"the proxy is {values['proxy']}"
    if missing := set(OWN_NETWORKS) - set(values["noProxy"].split(",")):
        yield f"NO_PROXY lacks {missing}"
    for what, before, after, namespace in CASES:
        wanted = filled(before if after is None else after, values["proxy"], values["noProxy"])
        before = filled(before, values["proxy"], values["noProxy"])
        try:
            got = policy.admit(before, namespace)
            # A webhook that changes the pod later makes Kubernetes evaluate the policy again.
            again = policy.admit(got, namespace)
        except FAILURES as error:
            yield f"{what}: {error}"
            continue
        if got != wanted:
            yield f"{what}: the pod is {got['spec']}, and should be {wanted['spec']}"
        elif again != got:
            yield f"{what}: a second evaluation changes {again['spec']}"


def replace(policy, old, new):
    """Replaces text in every expression, which must be in one of them."""
    expressions = [variable for variable in policy.spec["variables"]] + [mutation["jsonPatch"] for mutation in policy.spec["mutations"]]
    if not any(old in each["expression"] for each in expressions):
        sys.exit(f"no expression contains {old}")
    for each in expressions:
        each["expression"] = each["expression"].replace(old, new)


SPOILT = {
    "it takes only the same spelling for set": lambda p: replace(p, ".lowerAscii()", ""),
    "it forgets the container's own variables": lambda p: replace(p, "(has(c.env) ? c.env : [])", "[]"),
    "it appends": lambda p: replace(p, "/env\"", "/env/-\""),
    "it always writes to the first container": lambda p: replace(p, ".indexOf(c.name)", ".indexOf(object.spec.containers[0].name)"),
    "it overwrites": lambda p: replace(p, "!has(c.env) || !c.env.exists(e, e.name.lowerAscii() == w.name.lowerAscii()))", "true)"),
    "it needs variables": lambda p: replace(p, "!has(c.env) || ", ""),
    "it skips containers with variables": lambda p: replace(p, "!has(c.env) || !variables.wanted.all(w, c.env.exists(e, e.name.lowerAscii() == w.name.lowerAscii()))", "!has(c.env)"),
    "it sets no lower-case name": lambda p: replace(p, '"name": "https_proxy"', '"name": "Https_Proxy"'),
    "NO_PROXY lacks the services": lambda p: replace(p, ".svc,", ""),
    "another namespace": lambda p: replace(p, "egress", "other"),
    "no init containers": lambda p: p.spec["mutations"].pop(1),
    "no containers": lambda p: p.spec["mutations"].pop(0),
    "pods cannot opt out": lambda p: p.spec["matchConstraints"]["objectSelector"]["matchExpressions"].pop(0),
    "it changes the gateway's pods": lambda p: p.spec["matchConstraints"]["objectSelector"]["matchExpressions"].pop(1),
    "all namespaces": lambda p: p.namespaces.clear(),
    "it does not compile": lambda p: replace(p, "variables.wanted.filter(w,", "variables.wanted.filter(1,"),
}


def main():
    found = []
    if sys.argv[1:] == ["--spoilt"]:
        _, manifests, service = next(sources())
        found += findings(Policy(manifests), service)
        for what, spoil in SPOILT.items():
            policy = Policy(copy.deepcopy(manifests))
            spoil(policy)
            if next(findings(policy, service), None) is None:
                found.append(f"no pod shows this: {what}")
        print(f"{len(SPOILT)} ways to spoil them")
    else:
        for source, manifests, service in sources():
            found += [f"{source}: {finding}" for finding in findings(Policy(manifests), service)]
            print(f"{source}: {len(CASES)} pods")
    end(found)


if __name__ == "__main__":
    main()
