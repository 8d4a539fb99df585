"""Takes a rehearsal from nothing to a verdict: checkpoint, image, up, proofs, down."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.monitoring_schema import Exporter
from ernie_deploy.errors import KitError, NotReady, ToolFailed, ToolMissing
from ernie_deploy.paths import DOCKER, SCRIPTS
from ernie_deploy.plan.plan import Plan
from ernie_deploy.rehearsal import (
    gateway_changes,
    gateway_proofs,
    group_proofs,
    media,
    monitoring_proofs,
    proofs,
)
from ernie_deploy.rehearsal.cpu_plan import WATCHING
from ernie_deploy.rehearsal.group import Member, address, lay_out_nodes, members
from ernie_deploy.rehearsal.override import Rehearsal, cpu_image, debian_images, hub_map, override_file
from ernie_deploy.rehearsal.planted import Planted, plant
from ernie_deploy.rehearsal.stage import Disproved, Stage, until
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import ask, demand, relay
from ernie_deploy.stack.evidence import gathered
from ernie_deploy.stack.failures import recognise
from ernie_deploy.stack.lifecycle import Show, Started, rendered_file, up
from ernie_deploy.stack.verdict import next_step, shown

UP_S = 600
CHECKPOINT_S = 120
PACKAGES_S = 900
NOTHING: Mapping[str, str] = MappingProxyType({})
# What vLLM says when it answers.
READY = "Application startup complete"


FRONT = [
    ("gateway hardened", gateway_proofs.hardened),
    ("routes closed", gateway_proofs.routes_closed),
    ("limit of a key", gateway_proofs.limits_a_key),
    ("servers counted", gateway_proofs.servers_counted),
    ("log names the key", gateway_proofs.log_names_the_key),
    ("key added and revoked", gateway_changes.key_comes_and_goes),
]
# After the benchmark, so that there is something to see.
DIALS = [
    ("monitoring hardened", monitoring_proofs.hardened),
    ("Prometheus scrapes the stack", monitoring_proofs.scrapes),
    ("rules loaded", monitoring_proofs.rules_loaded),
    ("panels have data", monitoring_proofs.panels_have_data),
]
SEEING = [("picture answered", media.sees_a_picture), ("video answered", media.sees_a_video)]


class Proof(Struct, frozen=True, kw_only=True):
    """One line of the verdict."""

    what: str
    holds: bool
    detail: str
    elapsed_s: float


def script(plan: Plan) -> list[tuple[str, Callable[[Stage], str]]]:
    """What is shown, in order."""
    group, guarded = plan.several_nodes, plan.request.api_key_file or plan.gateway is not None
    drafting = [("MTP drafts", proofs.drafts)] if plan.setting("speculative-config") else []
    return [
        ("weights fetched and verified", proofs.fetched_and_verified),
        ("hardening in force", proofs.hardened),
        ("KV cache as planned", proofs.caches_as_planned),
        *(FRONT if plan.gateway else []),
        *([("certificate renewed", gateway_changes.certificate_renewed)] if plan.request.tls else []),
        *([("key asked for", proofs.asks_for_the_key)] if guarded else []),
        ("chat answer", proofs.answers),
        ("streamed answer", proofs.streams),
        *(SEEING if sees(plan) else []),
        *drafting,
        ("benchmark cell", proofs.benchmarks),
        *([("benchmark with pictures", media.benchmarks)] if sees(plan) else []),
        *(DIALS if plan.monitoring else []),
        ("token and key kept secret" if guarded else "token kept secret", proofs.keeps_the_secret),
        ("drain on stop", proofs.drains),
        ("restart offline", proofs.becomes_healthy),
        ("engine killed, comes back", proofs.restarts),
        *([("worker killed, comes back", group_proofs.worker_dies)] if group else []),
        ("answers afterwards", proofs.answers),
        *([("answers as one node does", group_proofs.as_one_node)] if group else []),
        *([("gateway drains on down", gateway_proofs.drains_on_down)] if plan.gateway else []),
    ]


def sees(plan: Plan) -> bool:
    """Whether the server looks at pictures: a vision-language model, and not for text alone."""
    return plan.model.vision is not None and plan.setting("language-model-only") is None


def unproven(plan: Plan) -> list[str]:
    """What no machine without the hardware can show."""
    left_open = ["real weights and the answers they give", "speed"]
    if plan.target.gpus:
        left_open[:0] = [
            f"{plan.target.title}: driver, devices, kernels",
            "GPU memory (the memory plan is arithmetic)",
        ]
    if plan.topology.ranks > 1:
        left_open.append("traffic between GPUs (the ranks talked over gloo)")
    if plan.gateway:
        left_open.append(
            f"HAProxy's own image {plan.gateway.image} (Debian's HAProxy read its configuration)"
        )
    left_open += [_unwatched(one) for one in plan.monitoring]
    if plan.several_nodes:
        left_open.append("a network between machines (the nodes were containers on one)")
    return left_open


def _unwatched(exporter: Exporter) -> str:
    if exporter.id in WATCHING:
        return f"{exporter.id}'s own image {exporter.reference} (Debian's was started)"
    return f"{exporter.id} ({exporter.reference} was not started)"


def lay_out(rehearsal: Rehearsal, compose_text: str, watching: Mapping[str, str] = NOTHING) -> Planted:
    """Write every file of the rehearsal, make the network of its nodes and return the planted secrets.

    `watching` are the files of --monitoring, by name, that lie beside compose.yml.
    Raises `ToolFailed` where a script or Docker refuses.
    """
    folder = rehearsal.folder
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    demand(
        [
            sys.executable,
            "-I",
            str(DOCKER / "rehearsal/checkpoints.py"),
            str(checkpoints),
            rehearsal.checkpoint,
        ],
        timeout_s=CHECKPOINT_S,
    )
    if rehearsal.plan.packages:
        bring_packages(rehearsal)
    (checkpoints / "map.json").write_text(json.dumps(hub_map(rehearsal.plan, rehearsal.checkpoint)))
    (folder / "compose.yml").write_text(compose_text)
    for name, text in watching.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "rehearsal.yml").write_text(override_file(rehearsal))
    planted = plant(rehearsal)
    lay_out_nodes(rehearsal)
    return planted


def bring_packages(rehearsal: Rehearsal) -> None:
    """Bring what the rehearsal's hub gives as a package index; raises `ToolFailed` with the script's own sentence."""
    words = [f"--into={rehearsal.folder / 'packages'}", *(one.requirement for one in rehearsal.plan.packages)]
    script = str(SCRIPTS / "packages.py")
    demand([sys.executable, "-I", script, "bring", *words, "--", "true"], timeout_s=PACKAGES_S)


def require_images(plan: Plan, *, build_base: bool = False) -> None:
    """Build the images of a rehearsal that are missing where that is asked for; else raise `ToolMissing`."""
    engine = [str(DOCKER / "engine-cpu/build.py"), "--build-base"]
    _require(cpu_image(plan.engine), engine, "serves with the real vLLM for CPU", build_base)
    for service, image in debian_images(plan).items():
        name = "haproxy" if service == "gateway" else service
        build = [str(DOCKER / "debian/build_image.py"), name]
        _require(image, build, f"runs Debian's {name}", build_base)


def _require(image: str, build: list[str], why: str, build_base: bool) -> None:  # noqa: FBT001 - the user's word
    if not ask(["docker", "image", "inspect", image]).returncode:
        return
    if not build_base:
        # Without a registry vLLM's image takes the option; the others are made so at any time.
        words, option = (build[:1], "either command") if "--build-base" in build else (build, "`rehearse`")
        raise ToolMissing(
            f"The image {image} is not on this machine.",
            cause=f"the rehearsal {why}",
            next_step=f"build it with: python {' '.join(words)}; where no registry is reached, add --build-base to {option}",
        )
    if code := relay([sys.executable, *build], err=True):
        raise ToolFailed(
            f"Building the image {image} ended with {code}.", cause="see the build's own output above"
        )


def rehearse(
    rehearsal: Rehearsal, planted: Planted, show: Show, tell: Callable[[Proof], None]
) -> list[Proof]:
    """Bring it up and show everything; a proof that fails does not stop the later ones."""
    group = members(rehearsal)
    started = bring_up(group, show, start_limit_s(rehearsal.plan))
    first = Proof(what="healthy", holds=True, detail=_own_start(started), elapsed_s=started.elapsed_s)
    tell(first)
    stage = Stage(rehearsal=rehearsal, members=group, base_url=address(rehearsal), planted=planted)
    return [first, *_shown(stage, tell)]


def start_limit_s(plan: Plan) -> int:
    """How long the whole stack may take until it is healthy: servers that start at once share the processor."""
    return UP_S * max(1, len(plan.replicas))


def bring_up(group: tuple[Member, ...], show: Show, limit_s: int = UP_S) -> Started:
    """Start the workers, which wait for the head, then the head; returns when all are healthy.

    Raises `ToolFailed` or `NotReady`: a worker that ended in a known failure is the cause of a head that waits.
    """
    head, *workers = group
    for worker in workers:
        demand(worker.stack.words("up", "--detach"), timeout_s=limit_s)
    try:
        started = up(head.stack, limit_s, show)
        until(lambda: all(worker.state().health == "healthy" for worker in workers), limit_s)
    except (KitError, Disproved) as fault:
        late = fault if isinstance(fault, KitError) else NotReady(f"The workers were not healthy: {fault}.")
        raise _failure_of(workers) or late from fault
    return started


def _failure_of(workers: Sequence[Member]) -> ToolFailed | None:
    engine, catalog = containers.client(), Catalog()
    for worker in workers:
        log = containers.log_of_start(engine, worker.state())
        if known := recognise(gathered(logs=[log]), catalog):
            return ToolFailed(
                f"Node {worker.rank}: {known.what}",
                cause=f"the log says: {shown(known.line)}",
                next_step=next_step(known, rendered_file(worker.stack)),
            )
    return None


def _own_start(started: Started) -> str:
    """How much of the start was vLLM's own, Docker's wait for the next probe, and the stack's fetch and containers."""
    engine = containers.client()
    serve = next(state for state in started.states if state.service == "serve")
    vllm_s = containers.seconds_until(engine, serve, READY)
    probed_s = containers.seconds_until_probed(engine, serve)
    if vllm_s is None or probed_s is None:
        return "fetch, load, compile"
    return (
        f"{vllm_s:.1f} s of it vLLM's own start, {probed_s - vllm_s:.1f} s the wait for a health probe, "
        f"{started.elapsed_s - probed_s:.1f} s the stack's"
    )


def _shown(stage: Stage, tell: Callable[[Proof], None]) -> Iterator[Proof]:
    for what, proof in script(stage.rehearsal.plan):
        # A restart gives the container another port of the host.
        stage = replace(stage, base_url=_address(stage) or stage.base_url)
        begun = time.monotonic()
        holds, detail = _outcome(proof, stage)
        shown = Proof(what=what, holds=holds, detail=detail, elapsed_s=time.monotonic() - begun)
        tell(shown)
        yield shown


def _address(stage: Stage) -> str:
    try:
        return address(stage.rehearsal)
    except ToolFailed:
        return ""


def _outcome(proof: Callable[[Stage], str], stage: Stage) -> tuple[bool, str]:
    try:
        return True, proof(stage)
    except (Disproved, KitError, OSError, subprocess.SubprocessError) as fault:
        return False, str(fault)
