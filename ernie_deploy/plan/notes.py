"""What a plan has to say beside its figures, one sentence each."""

import re
from collections.abc import Iterator

from ernie_deploy.plan import recipe
from ernie_deploy.plan.exposure import is_in_clear, is_open, left_open
from ernie_deploy.plan.layout import Layout, expert_tiles
from ernie_deploy.plan.memory import serve_memory_gib
from ernie_deploy.plan.pairing import Pairing, find
from ernie_deploy.plan.request import Request

COMMIT = re.compile("[0-9a-f]{40}")


def warnings_on(pairing: Pairing, layout: Layout, request: Request) -> Iterator[str]:
    """What the user should know before the stack is started; `render` says it too."""
    names = ("revision", "code-revision", "tokenizer-revision")
    revisions = [str(s.value) for s in layout.settings if s.name in names] or [pairing.model.revision]
    moving = [revision for revision in revisions if not COMMIT.fullmatch(revision)]
    if moving and find(layout.settings, "trust-remote-code") and not request.weights:
        yield MOVABLE_CODE.format(hf_id=pairing.model.hf_id, revision=moving[0])
    yield from _on_precision(layout, request)
    yield from _on_experts(pairing, layout)
    if is_open(request):
        yield f"{PUBLISHED.format(bind=request.bind)} {_open_routes(pairing, request)} {GATEWAY}"
    if is_in_clear(request):
        yield IN_CLEAR.format(bind=request.bind)
    if request.tls == "self-signed":
        yield SELF_SIGNED


def _on_precision(layout: Layout, request: Request) -> Iterator[str]:
    """Where the weights are served in another precision than the recipe's, or than the checkpoint's unasked."""
    quantization, row = find(layout.settings, "quantization"), layout.row
    here = str(quantization.value) if quantization else "BF16"
    published = layout.row is not None and "quantization" in layout.row.settings
    if row and bool(quantization) != published:
        there = f"{row.recipe}:{row.lines[0]}-{row.lines[1]}"
        yield f"The precision is {here}, where the recipe ({there}) has {'FP8' if published else 'BF16'}."
    elif not row and {p.id for p in layout.profiles} - set(request.profiles):
        yield f"The precision is {here}: the checkpoint's BF16 does not fit. `plan` has the arithmetic."


def _on_experts(pairing: Pairing, layout: Layout) -> Iterator[str]:
    """Where a kernel may refuse a rank's share of the experts' width, which vLLM does not pad."""
    experts, topology = pairing.model.experts, layout.topology
    tiles = expert_tiles(pairing, layout.settings)
    if not experts or not tiles or tiles.padded or topology.expert_parallel:
        return
    widths = (experts.intermediate_size, experts.vision_intermediate_size)
    shares = [width // topology.expert_shards for width in widths]
    odd = [share for share in shares if tiles.rounded(share) != share]
    if odd:
        yield MISFIT.format(multiple=tiles.multiple, share=odd[0])


def _open_routes(pairing: Pairing, request: Request) -> str:
    """What answers without a key, in a sentence."""
    if not request.api_key_file:
        return "Anyone who can reach it can use the model and every other route: no key is required."
    known = pairing.engine.api_key
    *others, last = left_open(known, pairing.user)
    return (
        f"vLLM's API key guards {', '.join(known.guards)} alone: {', '.join(others)} and {last}"
        " answer without it, and /invocations serves whatever /v1 serves."
    )


def notes_on(pairing: Pairing, layout: Layout, request: Request) -> list[str]:
    """What the user should know, one sentence each."""
    if request.upstreams:
        return list(_notes_on_replicas(layout, request))
    model, target = pairing.model, pairing.target
    bench = recipe.bench_for(pairing.recipes, model, target)
    kinds = [target.vendor, *bench.settings, *(["vision"] if model.vision else [])]
    notes = [] if pairing.engine.served else [UNSERVED.format(engine=pairing.engine)]
    notes += _notes_on_security(pairing, request)
    if request.api_key_file and not is_open(request):
        notes.append(_open_routes(pairing, request))
    notes += _notes_on_nodes(layout, request)
    notes += _notes_on_replicas(layout, request)
    notes.append(NO_LIMIT if target.gpus else LIMIT.format(gib=serve_memory_gib(layout.memory)))
    notes += [_on_egress(request), *([REQUESTS] if model.vision and not request.gateway else [])]
    return notes + recipe.notes(pairing.recipes, kinds)


def _on_egress(request: Request) -> str:
    """Whether the server is cut off from the network, and by what."""
    if not request.gateway:
        return EGRESS
    return OPENED_FOR_MEDIA if request.media_domains else ENCLOSED


def _notes_on_security(pairing: Pairing, request: Request) -> Iterator[str]:
    """What the security set gives up, and what nobody has run."""
    name = f"--security {pairing.security_name}{'' if request.security else ', the default here,'}"
    if pairing.security.gives_up:
        yield f"{name} {pairing.security.gives_up}. --security strict does not."
    if pairing.security.unproven:
        yield f"{name} {pairing.security.unproven}."


def _notes_on_nodes(layout: Layout, request: Request) -> list[str]:
    """What several nodes cost and open."""
    topology = layout.topology
    if topology.nodes == 1:
        return []
    notes = [UNENCRYPTED]
    if topology.spans_nodes:
        notes.append(f"{SLOW_INTERCONNECT}{'' if request.rdma else ' Without --rdma it goes over TCP.'}")
    if topology.pipeline_parallel_size > 1 and layout.drafts:
        notes.append(DRAFTS_WITH_A_PIPELINE)
    if request.multi_node == "ray":
        notes.append(RAY)
    return notes


def _notes_on_replicas(layout: Layout, request: Request) -> Iterator[str]:
    """What several servers are and are not, and what sends a request to one of them."""
    ranks = layout.topology.data_parallel_size
    if request.replicas > 1:
        within = f", here with {ranks} data-parallel engines each" if ranks > 1 else ""
        yield REPLICAS.format(count=request.replicas, within=within)
    if request.replicas > 1 or len(request.upstreams) > 1:
        yield STICKY if request.balance == "sticky" else LEASTCONN
    if request.upstreams:
        yield UPSTREAMS


UNSERVED = "vLLM {engine.version}, which --engine asks for: {engine.status}."
MISFIT = (
    "AITER may refuse these experts at start: its FP8 kernels take a rank's share of their width in multiples of"
    " {multiple} columns (ROCm/aiter#5413), and vLLM does not pad {share}. --profile expert-parallel keeps them whole."
)
PUBLISHED = "The API is published beyond this host, on {bind}."
GATEWAY = (
    "Leave --bind out and forward the port (`ssh -N -L 8000:127.0.0.1:8000 HOST`), or add --gateway, which"
    " passes on only the paths that clients need."
)
IN_CLEAR = (
    "The gateway is published beyond this host, on {bind}, without TLS: anyone on the network path can read keys and prompts."
    " Add --tls files, or let a proxy of yours that speaks TLS stand before it."
)
SELF_SIGNED = (
    "A self-signed certificate is for testing: clients cannot tell this gateway from an impostor unless they have its"
    " certificate. `ernie-deploy tls install` puts one of a CA in its place."
)
MOVABLE_CODE = (
    "This stack runs code from {hf_id} at revision {revision}, which its owner can change: review the code, then pin it"
    " with `ernie-deploy lock`, or with --set revision=COMMIT (40 digits; tokenizer and code follow)."
)
NO_LIMIT = (
    "SERVE_MEMORY sets no limit here: an untested limit could kill the server while it loads."
    " `doctor --write-env` proposes one."
)
LIMIT = (
    "SERVE_MEMORY is {gib}g, derived: what vLLM may take and 4 GiB for its processes, the compiler and requests."
    " Raise it by as much as you raise CPU_KV_CACHE_GIB."
)
EGRESS = (
    "`serve` is told to stay offline (HF_HUB_OFFLINE=1, no usage statistics). Compose does not enforce it: a service"
    " cannot both publish a port and be cut off from the network. The manifests of --format kubernetes hold a"
    " NetworkPolicy that does."
)
ENCLOSED = (
    "`serve` is on an internal network of Docker's, which leads no further than this host: what listens here on every"
    " address is reached, and who has an account here reaches vLLM at its container's address, without a key."
)
OPENED_FOR_MEDIA = "--media-domains gives `serve` a way out, which Compose cannot narrow to those hosts: only vLLM enforces them."
REQUESTS = (
    "Images, pixels, hosts and answers are bounded per request. The number of concurrent requests is not:"
    " SERVE_MEMORY bounds the memory of all."
)
UNENCRYPTED = (
    "The traffic between the nodes is neither encrypted nor authenticated (vLLM's docs/usage/security.md):"
    " keep it on a network of its own, and open its ports to the nodes alone."
)
SLOW_INTERCONNECT = (
    "Tensor parallel over the nodes sends every layer's activations through the network twice: with less than"
    " InfiniBand or RoCE between them it is slow."
)
DRAFTS_WITH_A_PIPELINE = (
    "MTP with a pipeline dies at start on vLLM's CPU runner and is unproven on a GPU: --pp 1 avoids it."
)
RAY = (
    "--multi-node ray: vLLM's images have no Ray since 0.18, so `docker compose build` adds a pinned one."
    " vLLM for CPU refuses Ray, so beyond its configuration this is unproven here."
)
REPLICAS = (
    "--replicas {count}: as many servers, each with its own engine, API and GPUs{within}; the gateway leaves out one that"
    " stops, hangs or dies. --dp makes replicas within one server, which share its API and, in an MoE model, the experts:"
    " they start, stop and fail together."
)
LEASTCONN = (
    "--balance leastconn: each request goes to the least busy server, so that every server computes and keeps the"
    " prefixes of every client. --balance sticky keeps a key's requests together while its server has room."
)
STICKY = (
    "--balance sticky: a key's requests go to one server, whose prefix cache they find, until its load is one and"
    " a half times the average; then to the next. With one key for everybody it is no better than leastconn."
)
UPSTREAMS = (
    "--upstreams: the servers must require no key, accept requests from this gateway alone (a firewall must see to it),"
    " and serve the same model. The gateway sees only their /health: one that hangs keeps its requests until they time out."
)
