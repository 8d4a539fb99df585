"""What a user asks for, and what of it contradicts itself before any catalog is read."""

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
# Where the gateway's certificate comes from: its owner's files, or made here for a laboratory.
Tls = Literal["files", "self-signed"]
Balance = Literal["leastconn", "sticky"]

LOOPBACK = "127.0.0.1"
# Docker's, for users and groups.
LARGEST_ID = 2**31 - 1
HIGHEST_PRICE = 1000

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


def check_words(request: Request) -> None:
    """Refuse what no compose file can carry; raises `UsageError`."""
    try:
        bind_address(request.bind)
    except ValueError as fault:
        raise UsageError(f"--bind {fault}.") from None
    if request.name and not is_stack_name(request.name):
        raise UsageError(
            f"--name {request.name[:60]!r} cannot name a stack.",
            cause="Compose takes small letters, digits, `-` and `_`, the first no sign; the kit at most 40 of them",
            next_step="choose another, such as --name ernie-a",
        )
    if request.user and not _is_user(request.user):
        raise UsageError(
            f"--user {request.user[:40]!r} is not UID:GID.",
            cause="names are looked up in the image, where yours does not exist",
            next_step="give numbers, such as --user $(id -u):$(id -g)",
        )
    if request.nodes == 1 and (request.rdma or request.multi_node == "ray"):
        raise UsageError(
            f"--{'rdma' if request.rdma else 'multi-node ray'} is about more than one node.",
            next_step="add --nodes 2, or leave it out",
        )
    _check_figures(request)
    if len(set(request.gpus)) != len(request.gpus):
        raise UsageError(f"--gpus names a GPU twice: {','.join(map(str, request.gpus))}.")
    if not request.weights.isprintable():
        raise UsageError("--weights has a character that no path here can carry (newline, NUL, control).")
    for word in (*request.pairs, *request.extra):
        if not fits_yaml(word):
            raise UsageError(
                f"{word[:40]!r} has a character that YAML cannot carry.",
                cause="a control character or half of a surrogate pair",
            )


def _check_figures(request: Request) -> None:
    """What the dashboard and the alerts are told."""
    if request.gpu_price is not None and not 0 < request.gpu_price <= HIGHEST_PRICE:
        raise UsageError(
            f"--gpu-price {request.gpu_price:g} is no price of a GPU for an hour, in US dollars."
        )
    if request.runbooks and not is_page(request.runbooks):
        raise UsageError(
            f"--runbooks {request.runbooks[:60]!r} is no address of pages.",
            next_step="give where you keep the kit's docs/alerts, such as --runbooks https://wiki.example.org/ernie",
        )


def is_page(text: str) -> bool:
    """Whether an alert may name it as where its page is."""
    from ernie_deploy.plan.references import PAGE_ADDRESS

    return bool(PAGE_ADDRESS.fullmatch(text))


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


def _is_user(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,10}:[0-9]{1,10}", text)) and all(
        int(number) <= LARGEST_ID for number in text.split(":")
    )


def command_words(request: Request) -> list[str]:
    """The command-line words that ask for exactly this, in one fixed order."""
    options: list[tuple[str, object]] = [
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
    chosen = [(name, value) for name, value in options if value not in (None, "", False)]
    tail = ["--", *request.extra] if request.extra else []
    flat = [w for name, value in chosen for w in ([name] if value is True else [name, f"{value}"])]
    return [request.target, *flat, *tail]
