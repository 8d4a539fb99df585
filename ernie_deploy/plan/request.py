"""What a user asks for, and the command-line words that ask for it."""

import re
from typing import Literal

from msgspec import Struct

from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.vendor_schema import Security
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.lock import LockFile
from ernie_deploy.plan.settings import Setting, merge

MultiNode = Literal["native", "ray"]
ExtraPackages = Literal["fetch", "none"]
# Where the gateway's certificate comes from: its owner's files, or made here for testing.
Tls = Literal["files", "self-signed"]
Balance = Literal["leastconn", "sticky"]

LOOPBACK = "127.0.0.1"

# What the stack itself decides, or what would put a secret on a command line.
MANAGED = {
    "host": "the container listens on its own network; set BIND_ADDR in .env for the host's side",
    "port": "set PORT in .env for the host's side",
    "uds": "the health check and the published port need TCP",
    "api-key": "a key on a command line is visible to everyone on the host; use --api-key-file",
    "hf-token": "a token on a command line is visible to everyone on the host; set HF_TOKEN_FILE in .env",
    "config": "the kit gives vLLM its configuration; use --api-key-file for a key",
    "model": "choose it with --model",
    "model-tag": "choose it with --model",
    "download-dir": "set HF_CACHE_DIR in .env",
    "nnodes": "choose it with --nodes",
    "node-rank": "with --nodes each node has NODE_RANK in its .env",
    "master-addr": "with --nodes each node has HEAD_ADDR in its .env",
    "headless": "with --nodes the workers are; elsewhere the health check needs the API server",
}

# vLLM follows these from the rank of the node; chosen by hand they could contradict it.
MANAGED_OVER_NODES = {
    "distributed-executor-backend": "choose it with --multi-node",
    **dict.fromkeys(
        (
            "data-parallel-address",
            "data-parallel-backend",
            "data-parallel-external-lb",
            "data-parallel-hybrid-lb",
            "data-parallel-rank",
            "data-parallel-size-local",
            "data-parallel-start-rank",
        ),
        "with --nodes vLLM takes it from NODE_RANK and HEAD_ADDR",
    ),
}


class Baseline(Struct, frozen=True, kw_only=True):
    """What an accepted benchmark measured: mean seconds a token, at so many requests with prompts so long."""

    path: str
    cell: str
    mean_tpot_s: float
    concurrency: float
    prompt_tokens: float
    tolerance_percent: float


class Request(Struct, frozen=True, kw_only=True):
    """One call of `plan` or `render`; the same request gives the same bytes."""

    target: str
    model: str = ""
    engine: str = ""
    name: str = ""
    profiles: tuple[str, ...] = ()
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    nodes: int = 1
    multi_node: MultiNode = "native"
    rdma: bool = False
    gpus: tuple[int, ...] = ()
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    cuda: str = ""
    rocm: str = ""
    weights: str = ""
    user: str = ""
    gpus_cdi: bool = False
    security: Security | Literal[""] = ""
    api_key_file: bool = False
    gateway: bool = False
    routes: tuple[str, ...] = ()
    tls: Tls | Literal[""] = ""
    replicas: int = 1
    upstreams: tuple[str, ...] = ()
    balance: Balance = "leastconn"
    bind: str = LOOPBACK
    accept_open_routes: bool = False
    media_domains: tuple[str, ...] = ()
    extra_packages: ExtraPackages = "fetch"
    monitoring: bool = False
    node_exporter: bool = False
    registry: str = ""
    image: str = ""
    slo: tuple[str, ...] = ()
    gpu_price: float | None = None
    baseline: Baseline | None = None
    runbooks: str = ""
    lock: LockFile | None = None
    pairs: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def user_settings(request: Request, engine: Engine) -> tuple[Setting, ...]:
    """Everything the user decided about vLLM, as settings; raises `UsageError`."""
    options = {
        "tensor-parallel-size": request.tp,
        "pipeline-parallel-size": request.pp,
        "data-parallel-size": request.dp,
        "max-model-len": request.max_model_len,
        "gpu-memory-utilization": request.gpu_memory_utilization,
    }
    chosen = [
        Setting(name=name, value=value, origin="user") for name, value in options.items() if value is not None
    ]
    settings = merge(chosen, _free_settings(request, engine))
    for setting in settings:
        _refuse_managed(setting.name, MANAGED | MANAGED_OVER_NODES if request.nodes > 1 else MANAGED)
    return settings


def _free_settings(request: Request, engine: Engine) -> list[Setting]:
    """What was chosen by vLLM's own flags; only then is its flag table read."""
    if not (request.pairs or request.extra):
        return []
    from ernie_deploy.plan.words import parse_pair, parse_words

    return [*(parse_pair(pair, engine) for pair in request.pairs), *parse_words(request.extra, engine)]


def _refuse_managed(name: str, managed: dict[str, str]) -> None:
    if name in managed:
        why, _, remedy = managed[name].rpartition("; ")
        if not remedy.startswith(("choose", "set", "use")):
            why, remedy = managed[name], ""
        raise UsageError(f"--{name} is the stack's to set.", cause=why, next_step=remedy)


def bind_address(text: str) -> str:
    """An address as Compose publishes on it, one of IPv6 within `[...]`; raises ValueError that says what is wrong."""
    if text == LOOPBACK:
        return text  # The import costs a tenth of a rendering.
    import ipaddress

    try:
        if text.startswith("[") and text.endswith("]"):
            address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(text[1:-1])
        else:
            address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not an IP address") from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.scope_id:
        raise ValueError(f"{text[:40]!r} has a scope, and Docker publishes on addresses without one")
    return f"[{address}]"


def beyond_loopback(address: str) -> bool:
    """Whether other hosts can reach what is published on an address; on what is none, Compose publishes nothing."""
    import ipaddress

    try:
        return not ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def fits_yaml(text: str) -> bool:
    """Whether it has no control character but tab and newline, no lone surrogate and no non-character."""
    # Compiled when it is asked for: the pattern takes longer than the rest of this module.
    return not re.search("[^\t\n -~\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)


def is_stack_name(text: str) -> bool:
    """Whether Compose takes it as a project, with room for what Docker and Kubernetes put behind it."""
    return bool(re.fullmatch("[a-z0-9][a-z0-9_-]{0,39}", text))


def command_words(request: Request) -> list[str]:
    """The command-line words that ask for exactly this, in one fixed order."""
    options = [*_model_options(request), *_access_options(request), *_supply_options(request)]
    chosen = [(name, value) for name, value in options if value not in (None, "", False)]
    tail = ["--", *request.extra] if request.extra else []
    flat = [w for name, value in chosen for w in ([name] if value is True else [name, f"{value}"])]
    return [request.target, *flat, *tail]


def _model_options(request: Request) -> list[tuple[str, object]]:
    """What is served, and on what."""
    return [
        ("--model", request.model),
        ("--engine", request.engine),
        ("--name", request.name),
        *(("--profile", profile) for profile in request.profiles),
        ("--nodes", request.nodes if request.nodes > 1 else ""),
        ("--multi-node", "" if request.multi_node == "native" else request.multi_node),
        ("--rdma", request.rdma),
        ("--tp", request.tp),
        ("--pp", request.pp),
        ("--dp", request.dp),
        ("--gpus", ",".join(map(str, request.gpus))),
        ("--max-model-len", request.max_model_len),
        ("--gpu-memory-utilization", request.gpu_memory_utilization),
        ("--cuda", request.cuda),
        ("--rocm", request.rocm),
        ("--weights", request.weights),
        ("--user", request.user),
        ("--gpus-cdi", request.gpus_cdi),
    ]


def _access_options(request: Request) -> list[tuple[str, object]]:
    """What the containers may do, and who reaches the server."""
    return [
        ("--security", request.security),
        ("--api-key-file", request.api_key_file),
        ("--gateway", request.gateway),
        *(("--route", route) for route in request.routes),
        ("--tls", request.tls),
        ("--replicas", request.replicas if request.replicas > 1 else ""),
        ("--upstreams", ",".join(request.upstreams)),
        ("--balance", "" if request.balance == "leastconn" else request.balance),
        ("--bind", "" if request.bind == LOOPBACK else request.bind),
        ("--accept-open-routes", request.accept_open_routes),
        ("--media-domains", ",".join(request.media_domains)),
    ]


def _supply_options(request: Request) -> list[tuple[str, object]]:
    """Where things come from, and what is watched."""
    return [
        ("--extra-packages", "" if request.extra_packages == "fetch" else request.extra_packages),
        ("--monitoring", request.monitoring),
        ("--node-exporter", request.node_exporter),
        ("--registry", request.registry),
        ("--image", request.image),
        ("--slo", ",".join(request.slo)),
        ("--gpu-price", request.gpu_price),
        ("--baseline", request.baseline.path if request.baseline else ""),
        ("--runbooks", request.runbooks),
        ("--lock", request.lock.path if request.lock else ""),
        *(("--set", pair) for pair in request.pairs),
    ]
