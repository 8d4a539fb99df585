"""A plan in words for people and as plain data for programs."""

import shlex
from collections.abc import Iterator
from typing import Any

from ernie_deploy.catalog.package_schema import Package
from ernie_deploy.catalog.schema import Port
from ernie_deploy.plan.memory import MemoryPlan
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import command_words
from ernie_deploy.plan.settings import Setting, words
from ernie_deploy.render import gateway_words
from ernie_deploy.safe_io.columns import NARROWEST_TEXT, folded


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON takes it; sizes in GiB and bytes as the names say."""
    return {
        "command": ["ernie-deploy", "render", *command_words(plan.request)],
        "model": plan.model.hf_id,
        "revision": plan.revision,
        "target": plan.target.id,
        "support": plan.support.state,
        "recipe_row": plan.row or None,
        "profiles": list(plan.profiles),
        "image": plan.image,
        "engine": plan.engine,
        "topology": _topology_data(plan),
        "servers": [{"service": one.service, "gpu_ids": list(one.gpu_ids)} for one in plan.replicas],
        "upstreams": list(plan.request.upstreams),
        "memory_per_gpu": _memory_data(plan.memory),
        "gateway": gateway_words.as_data(plan.gateway) if plan.gateway else None,
        "packages": [_package(package) for package in plan.packages],
        "weight_bytes": plan.weight_bytes,
        "ready_timeout_s": plan.ready_timeout_s,
        "argv": ["vllm", "serve", plan.positional_model, *words(plan.settings)],
        "flags": [_setting(s) for s in plan.settings],
        "environment": [_setting(s) for s in plan.environment],
        "bench": [_setting(s) for s in plan.bench],
        "differs_from_recipe": list(plan.differences),
        "warnings": list(plan.warnings),
        "notes": list(plan.notes),
        "on_each_node": [{"node": where, "commands": typed} for where, typed in commands(plan)],
        "ports": [_port(plan, port) for port in plan.ports],
    }


def _topology_data(plan: Plan) -> dict[str, Any]:
    topology = plan.topology
    return {
        "tensor_parallel_size": topology.tensor_parallel_size,
        "data_parallel_size": topology.data_parallel_size,
        "pipeline_parallel_size": topology.pipeline_parallel_size,
        "nodes": topology.nodes,
        "gpus_used": plan.gpus if plan.target.gpus else 0,
        "gpus_of_node": plan.target.gpus,
        "gpu_ids": list(plan.gpu_ids),
    }


def _memory_data(memory: MemoryPlan) -> dict[str, Any]:
    return {
        "budget_gib": round(memory.budget_gib, 2),
        "weights_gib": round(memory.weights_gib, 2),
        "expert_padding_gib": round(memory.expert_padding_gib, 2),
        "overhead_gib_estimated": round(memory.overhead_gib, 2),
        "kv_cache_gib_estimated": round(memory.kv_cache_gib, 2),
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "kv_cache_tokens_estimated": memory.kv_cache_tokens,
        "context_tokens": memory.context_tokens,
        "sequences_of_full_context_estimated": round(memory.sequences, 1),
        "verdict": memory.verdict,
    }


def _port(plan: Plan, port: Port) -> dict[str, Any]:
    number = plan.port(port.id) or "ephemeral"
    return {"port": number, "on": port.on, "to": port.to, "what": port.summary, "source": port.source}


def _package(package: Package) -> dict[str, Any]:
    return {
        "name": package.id,
        "version": package.version,
        "archive": package.archive,
        "sha256": package.sha256,
        "size_bytes": package.size_bytes,
        "machine": package.machine or None,
        "reason": package.reason,
        "source": package.source,
    }


def _packages(plan: Plan) -> str:
    """What `fetch` brings beside the weights, each with its reason and the reason's source."""
    rows = [
        (f"{package.title}, {package.size_bytes / 1e6:.1f} MB", f"{package.reason} ({package.source})")
        for package in plan.packages
    ]
    return _settings("packages from the package index", rows) if rows else ""


def _gateway(plan: Plan) -> str:
    """What the gateway lets through, and how much of it."""
    return _settings("gateway", gateway_words.rows(plan.gateway)) if plan.gateway else ""


def commands(plan: Plan) -> list[tuple[str, list[str]]]:
    """What to type where, beginning with the file; nothing for one node."""
    if not plan.several_nodes:
        return []
    words_ = command_words(plan.request)
    render = shlex.join(["ernie-deploy", "render", "-o", "compose.yml", *words_])
    build = ["docker compose --profile worker build"] if plan.uses_ray else []

    def start(rank: str, profile: str) -> list[str]:
        options = ["--write-env", "--node-rank", rank, "--head", "ADDR"]
        doctor = shlex.join(["ernie-deploy", "doctor", *options, *words_])
        # The head makes the secret by which the nodes know each other; `doctor` says where it is missing.
        copy = [] if rank == "0" else ["scp -rp ADDR:FOLDER/group-secret ."]
        return [*copy, doctor, *build, f"docker compose --profile {profile} up -d --wait"]

    last = plan.topology.nodes - 1
    others = "node 1, a worker" if last == 1 else f"nodes 1 to {last}, the workers, each with its own rank"
    return [
        ("anywhere; then copy compose.yml to every node", [render]),
        ("node 0, the head, whose address ADDR the others reach", start("0", "head")),
        (others, start("1" if last == 1 else "RANK", "worker")),
    ]


def _on_each_node(plan: Plan) -> str:
    lines = [f"  {where}:\n" + "\n".join(f"    {c}" for c in typed) for where, typed in commands(plan)]
    return (
        "\n".join(["what to type; start the nodes in any order, each waits for the others", *lines])
        if lines
        else ""
    )


def _ports(plan: Plan) -> str:
    if not plan.ports:
        return ""
    rows = [
        (f"{plan.port(port.id) or 'ephemeral'} on {port.on} for {port.to}", port.summary)
        for port in plan.ports
    ]
    return _settings("ports to open (TCP), only to those named", rows)


def _setting(setting: Setting) -> dict[str, Any]:
    return {"name": setting.name, "value": setting.value, "from": setting.origin}


def as_text(plan: Plan, width: int | None = None) -> str:
    """The plan as a page: layout, memory, then every flag and variable with its origin.

    With a `width` longer lines are broken, at spaces alone.
    """
    sections = [
        *(_of_servers(plan) if plan.replicas else [_upstreams(plan)]),
        _gateway(plan),
        _on_each_node(plan),
        _ports(plan),
        _sentences("warnings", plan.warnings),
        _sentences("notes", plan.notes),
    ]
    page = "\n\n".join(section for section in sections if section)
    return page if width is None else "\n".join(_folded(page, width))


def _of_servers(plan: Plan) -> list[str]:
    """What this stack serves with."""
    return [
        _head(plan),
        _memory(plan),
        _settings("vllm serve", [(_flag_words(s), s.origin) for s in plan.settings]),
        _settings("environment", [(f"{s.name}={_value(s)}", s.origin) for s in plan.environment]),
        _settings("bench", [(" ".join(words([s])), s.origin) for s in plan.bench]),
        _sentences("where this differs from the published recipe", plan.differences),
        _packages(plan),
    ]


def _upstreams(plan: Plan) -> str:
    """What a stack of the gateway alone stands before."""
    servers = plan.gateway.servers if plan.gateway else ()
    rows = [(server.name, f"{server.address}, {server.connections} requests at once") for server in servers]
    title = f"the gateway of {plan.model.title} alone, before servers elsewhere ({plan.request.balance})"
    return _settings(title, rows)


def _folded(page: str, width: int) -> Iterator[str]:
    """Each line of the page; the right side of a row hangs under its start, or goes below where it has no room."""
    for line in page.split("\n"):
        start = len(line) - len(line.lstrip(" -"))
        left, gap, right = line[start:].partition("  ")
        at = len(line) - len(right.lstrip())
        if len(line) <= width:
            yield line
        elif not gap:
            yield from folded(line, width, " " * start)
        elif width - at >= NARROWEST_TEXT:
            first, *rest = folded(line[at:], width - at)
            yield from (line[:at] + first, *(" " * at + more for more in rest))
        else:
            yield from folded(f"{line[:start]}{left}", width, " " * (start + 4))
            yield from folded(f"{' ' * (start + 4)}{line[at:]}", width, " " * (start + 4))


def _flag_words(setting: Setting) -> str:
    """The flag as a reader takes it: what only a host can say is a variable."""
    return f"{' '.join(words([setting]))}{'' if setting.value != '' else _value(setting)}"


def _value(setting: Setting) -> str:
    return f"${setting.variable}" if setting.variable and setting.value == "" else f"{setting.value}"


def _head(plan: Plan) -> str:
    topology = plan.topology
    support = f"recipe row {plan.row}" if plan.row else "derived, not run on this hardware"
    sizes = [f"tensor_parallel_size {topology.tensor_parallel_size}"]
    if topology.data_parallel_size > 1:
        sizes.append(f"data_parallel_size {topology.data_parallel_size}")
    if topology.pipeline_parallel_size > 1:
        sizes.append(f"pipeline_parallel_size {topology.pipeline_parallel_size}")
    if len(plan.replicas) > 1:
        sizes.append(f"{len(plan.replicas)} replicas behind the gateway ({plan.request.balance})")
    gpus = f"{plan.gpus} of {plan.target.gpus} GPUs" if plan.target.gpus else "the processor"
    nodes = f" of each of {topology.nodes} nodes" if plan.several_nodes else ""
    rows = [
        ("model", f"{plan.positional_model}, revision {plan.revision}"),
        ("target", f"{plan.target.title}, {support}"),
        ("image", plan.serve_image),
        ("layout", f"{', '.join(sizes)} on {gpus}{nodes}"),
        *(
            (one.service, f"GPU {','.join(map(str, one.gpu_ids))}")
            for one in plan.replicas
            if one.gpu_ids and len(plan.replicas) > 1
        ),
        ("profiles", ", ".join(plan.profiles) or "none"),
        ("ready", f"within {plan.ready_timeout_s} s; after that the server is considered stuck"),
        ("origins", "recipe FILE:LINE: vllm-project/recipes, kept in tests/recipes; kit: our own choice"),
    ]
    return _settings(f"{plan.model.title} on {plan.target.id}, vLLM {plan.engine}", rows)


def _memory(plan: Plan) -> str:
    memory = plan.memory
    unit = "per GPU" if plan.target.gpus else "of host memory"
    padding = (
        f", {memory.expert_padding_gib:.1f} GiB of them padding of the experts" if memory.pads_experts else ""
    )
    rows = [
        (f"{memory.budget_gib:8.1f} GiB", f"vLLM may take {unit}"),
        (f"{memory.weights_gib:8.1f} GiB", f"weights{padding}"),
        (f"{memory.overhead_gib:8.1f} GiB", "overhead (estimated)"),
        (
            f"{memory.kv_cache_gib:8.1f} GiB",
            f"KV cache at {memory.kv_bytes_per_token:,} bytes a token (estimated)",
        ),
        (f"{memory.kv_cache_tokens:8,}", "tokens in the KV cache of a replica (estimated)"),
        (f"{memory.sequences:8.1f}", f"sequences of {memory.context_tokens:,} tokens at once (estimated)"),
    ]
    return _settings(f"memory: {memory.verdict}", rows)


def _settings(title: str, rows: list[tuple[str, str]]) -> str:
    width = max((len(left) for left, _ in rows), default=0)
    body = [f"  {left:<{width}}  {right}" for left, right in rows]
    return "\n".join([title, *body])


def _sentences(title: str, sentences: tuple[str, ...]) -> str:
    return "\n".join([title, *(f"  - {sentence}" for sentence in sentences)]) if sentences else ""
