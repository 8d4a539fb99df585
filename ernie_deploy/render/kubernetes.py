"""Writes a plan down as Kubernetes manifests: the words and variables of the compose file, in LeaderWorkerSet pods."""

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from ernie_deploy.errors import UsageError
from ernie_deploy.plan.memory import GIB
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import LOOPBACK, Request, command_words
from ernie_deploy.plan.settings import Setting, words
from ernie_deploy.plan.sizes import size_parts
from ernie_deploy.render.compose import defaults_of
from ernie_deploy.render.gateway import NAME as CONFIGURATION
from ernie_deploy.render.gateway import configuration
from ernie_deploy.render.scripts import OF_NODES, fetch_script, read, scripts_of
from ernie_deploy.render.yaml import comment, environment, scalar

if TYPE_CHECKING:
    from jinja2 import Environment

# A worker's pod is labelled with its StatefulSet's name and a hash of 11 characters; a label holds 63.
LONGEST_NAME = 45
# The first wait of docker/scripts/serve.py after failed starts, and the way to the engine's own clock.
BACK_OFF_S = 600
BEFORE_ENGINE_S = 60
PROBE_PERIOD_S = 10
# A pod that ends is still sent requests until every node knows of it.
LEAVES_S = 5
# Slots for `kubectl scale`: those without a pod cost nothing.
MOST_SERVERS = 16
# What a download keeps beside the weights: tokenizer, metadata, parts of files.
WEIGHTS_ROOM = 1.25
CACHE_SIZE = "20Gi"
# What two packages take many times over; no storage gives less.
PACKAGES_SIZE = "1Gi"
TOKEN_SECRET = "ernie-hf-token"  # noqa: S105 - the name of a Secret
PIP_SECRET = "ernie-pip"  # noqa: S105 - likewise

# What a node's .env says to compose, the controller's variables say here. A pod has an address of its own,
# so that its server listens as on one node.
OF_NODE = {"NODE_RANK": "$(LWS_WORKER_INDEX)", "HEAD_ADDR": "$(LWS_LEADER_ADDRESS)"}
FROM_CONTROLLER = "kit: each pod's own"
LISTENS = ("BIND_ADDR", "PORT")
POD_NIC = "eth0"

# Compose reads these for `fetch`; where the catalog has no default for them there is nothing to say.
FETCH_VARIABLES = ("HF_ENDPOINT", "PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Gateway(Struct, frozen=True, kw_only=True):
    """The gateway's pod: what it is called, what it may read, and the limits that haproxy.cfg takes from variables."""

    name: str
    uid: int
    gid: int
    servers: str
    key_secret: str
    tls_secret: str
    environment: dict[str, str]
    drain_s: int


class Stack(Struct, frozen=True, kw_only=True):
    """What Kubernetes needs decided beyond the plan."""

    command: str
    name: str
    nodes: int
    nodes_in_words: str
    uid: int
    gid: int
    device_groups: tuple[str, ...]
    unconfined: bool
    capabilities: tuple[str, ...]
    host_ipc: bool
    devices: str
    node_hint: str
    access: str
    weights_claim: str
    weights_size: str
    cache_claim: str
    cache_size: str
    packages_claim: str
    packages_size: str
    shm_size: str
    token_secret: str
    pip_secret: str
    key_secret: str
    gateway: "Gateway | None"
    service: str
    port: str
    startup_s: int
    leader_words: tuple[tuple[str, str], ...]
    worker_words: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str, str], ...]
    fetch_environment: dict[str, str]
    code_network: str
    code_timeout_s: str
    code_words: tuple[str, ...]
    scripts: dict[str, str]
    fetch_script: str


def manifests(plan: Plan, defaults: dict[str, str]) -> str:
    """The text of one file for `kubectl apply`; `defaults` decide what compose leaves to the host."""
    refuse_host_options(plan.request)
    template = _environment().get_template("kubernetes/stack.yml.j2")
    return template.render(plan=plan, stack=stack_of(plan, defaults_of(plan, defaults)))


def refuse_host_options(request: Request) -> None:
    """Refuse what only a host can be told; raises `UsageError`."""
    reasons = {
        "--multi-node ray": request.multi_node == "ray" and "the controller starts every rank",
        "--gpus": bool(request.gpus) and "the device plugin hands out GPUs; --tp and --dp say how many",
        "--gpus-cdi": request.gpus_cdi and "the device plugin hands out GPUs",
        "--replicas": request.replicas > 1
        and "a LeaderWorkerSet has replicas of its own, which `kubectl scale` sets, and the gateway finds them",
        "--upstreams": bool(request.upstreams) and "a Service without a selector names servers elsewhere",
        "--bind": request.bind != LOOPBACK and "a Service has an address of the cluster",
    }
    for option, reason in reasons.items():
        if reason:
            raise UsageError(
                f"{option} has no meaning in Kubernetes.", cause=reason, next_step=f"leave out {option}"
            )


def stack_of(plan: Plan, host: dict[str, str]) -> Stack:
    """Decide what is Kubernetes' alone; `host` has each variable's value."""
    name, nodes = short_name(plan.project), plan.topology.nodes
    uid, gid = map(int, (plan.user or "0:0").split(":"))
    resource = plan.vendor.kubernetes.resource
    return Stack(
        command=command_line(plan.request),
        name=name,
        nodes=nodes,
        nodes_in_words="one node" if nodes == 1 else f"{nodes} nodes",
        uid=uid,
        gid=gid,
        device_groups=(host["RENDER_GID"], host["VIDEO_GID"]) if plan.joins_device_groups else (),
        unconfined=plan.security.unconfined,
        capabilities=plan.capabilities,
        host_ipc=plan.security.host_ipc,
        devices=f"{resource}: {plan.topology.gpus}" if resource else "",
        node_hint=plan.vendor.kubernetes.node_hint,
        access="ReadWriteOnce" if nodes == 1 else "ReadWriteMany",
        weights_claim=_weights_claim(plan),
        weights_size=f"{-(-round(plan.weight_bytes * WEIGHTS_ROOM) // GIB) + 1:.0f}Gi",
        cache_claim=f"{name}-engine-cache",
        cache_size=CACHE_SIZE,
        packages_claim=f"{name}-packages",
        packages_size=PACKAGES_SIZE,
        shm_size=quantity(host["SHM_SIZE"]),
        token_secret=TOKEN_SECRET,
        pip_secret=PIP_SECRET,
        key_secret=f"{name}-api-key",
        gateway=_gateway(plan, name, host, plan.gateway.answer_timeout_s) if plan.gateway else None,
        # The controller gives the LeaderWorkerSet's own name to a headless Service.
        service=f"{name}-api",
        port=host["PORT"],
        startup_s=_startup_s(plan),
        leader_words=_words(plan.settings),
        worker_words=_words(plan.worker_settings),
        environment=tuple(_variable(setting) for setting in plan.environment),
        fetch_environment=_fetch_environment(plan, host),
        code_network=host["REMOTE_CODE_NETWORK"],
        code_timeout_s=host["REMOTE_CODE_IMPORT_TIMEOUT_S"],
        code_words=(*plan.code.import_words.values(), *plan.code.serve_words) if plan.code else (),
        scripts=pod_scripts(plan),
        fetch_script=fetch_script(plan),
    )


def _gateway(plan: Plan, name: str, host: dict[str, str], longest_answer_s: int) -> Gateway:
    uid, gid = map(int, host["GATEWAY_USER"].split(":"))
    text = pod_scripts(plan)[CONFIGURATION]
    return Gateway(
        name=f"{name}-gateway",
        uid=uid,
        gid=gid,
        servers=servers_name(plan),
        key_secret=f"{name}-gateway-keys",
        tls_secret=f"{name}-gateway-tls" if plan.request.tls else "",
        environment={variable: value for variable, value in host.items() if f"${{{variable}}}" in text},
        drain_s=longest_answer_s + LEAVES_S,
    )


def servers_name(plan: Plan) -> str:
    """The headless Service whose name has the address of each server's pod."""
    return f"{short_name(plan.project)}-serve"


def short_name(project: str) -> str:
    """The stack's name as Kubernetes takes it; a long one ends in a hash of all of it."""
    if len(project) <= LONGEST_NAME:
        return project
    digest = hashlib.sha256(project.encode()).hexdigest()[:8]
    return f"{project[: LONGEST_NAME - 9].rstrip('-')}-{digest}"


def _weights_claim(plan: Plan) -> str:
    """Named by the model, so that another stack of it downloads nothing again."""
    model = plan.model.id.replace(".", "")
    return f"ernie-{model}-weights" if plan.topology.nodes == 1 else f"ernie-{model}-weights-shared"


def _startup_s(plan: Plan) -> int:
    """How long the kubelet lets a start take: longer than vLLM, whose own message says more."""
    seconds = plan.ready_timeout_s + BACK_OFF_S + BEFORE_ENGINE_S
    return -(-seconds // PROBE_PERIOD_S) * PROBE_PERIOD_S


def _words(settings: Iterable[Setting]) -> tuple[tuple[str, str], ...]:
    """Flags of `vllm serve` as YAML scalars, the first word of each with its origin."""
    flags = [_flag(setting) for setting in settings if setting.variable not in LISTENS]
    return tuple(
        (word, "" if i else origin) for flag_words, origin in flags for i, word in enumerate(flag_words)
    )


def _flag(setting: Setting) -> tuple[list[str], str]:
    """The words of one flag and where its value comes from; a node's own value is the controller's to say."""
    if setting.variable in OF_NODE:
        return [f'"--{setting.name}={OF_NODE[setting.variable]}"'], FROM_CONTROLLER
    return [scalar(word) for word in words([setting])], setting.origin


def _variable(setting: Setting) -> tuple[str, str, str]:
    """A variable's name, its value as Kubernetes wants it, and where that comes from."""
    if setting.variable == "HOST_IP":
        return setting.name, "valueFrom: {fieldRef: {fieldPath: status.podIP}}", FROM_CONTROLLER
    if setting.variable == "NIC":
        return setting.name, f"value: {scalar(POD_NIC)}", "kit: what a pod's first interface is called"
    return setting.name, f"value: {scalar(setting.value)}", setting.origin


def _fetch_environment(plan: Plan, host: dict[str, str]) -> dict[str, str]:
    """What `fetch` is told; with weights of the user's it asks for packages at most."""
    variables = {"HOME": "/tmp", "HF_HOME": "/cache/hf", "HF_HUB_DISABLE_TELEMETRY": "1"}  # noqa: S108
    if not plan.request.weights:
        variables |= {"HF_TOKEN_PATH": "/run/secrets/hf_token"}
    if plan.packages:
        variables |= {"PIP_CONFIG_FILE": "/run/pip/pip.conf"}
    if plan.request.weights and not plan.packages:
        return variables
    return {**variables, **{name: host[name] for name in FETCH_VARIABLES if host[name]}}


def quantity(size: str) -> str:
    """A size as Docker has it (`16g`) as Kubernetes has it (`16Gi`)."""
    if not (parts := size_parts(size)):
        raise UsageError(f"{size!r} is no size.", cause="a size is a number and one of k, m, g, t")
    number, unit = parts
    return number + (f"{unit.upper()}i" if unit else "")


def plain(value: object) -> str:
    """`value` as one YAML scalar where Kubernetes expands nothing, so that `$` stays single."""
    return scalar(value).replace("$$", "$")


def command_line(request: Request) -> str:
    """The command that makes this very file."""
    import shlex

    target, *options = command_words(request)
    return comment(shlex.join(["ernie-deploy", "render", target, "--format", "kubernetes", *options]))


def pod_scripts(plan: Plan) -> dict[str, str]:
    """The Python files that the pods run, as they are: a ConfigMap interpolates nothing."""
    texts = dict(scripts_of(plan).texts)
    if plan.gateway:
        texts[CONFIGURATION] = configuration(plan, servers_name(plan), MOST_SERVERS)
    probes = ["liveness.py"] + ["joined.py"] * plan.several_nodes
    first = {"canary.py": texts["canary.py"]} | {name: read(name) for name in probes}
    # The controller starts the ranks, so that no pod needs what checks a node.
    rest = {name: text for name, text in texts.items() if name not in (*first, *OF_NODES)}
    return {name: text.rstrip("\n") for name, text in (first | rest).items()}


@cache
def _environment() -> "Environment":
    """The one of the compose files: `$$` is `$` in words and variables here too."""
    made = environment().overlay()
    made.filters = {**made.filters, "plain": plain}
    return made
