"""ED3xx, first part: starting, staying up, being found dead, stopping."""

import re
from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.hardware import ranks
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.swarm import SHARED_MEMORY, TMPFS, in_swarm
from ernie_deploy.check.tree import Table, Word
from ernie_deploy.check.values import seconds, shown, whole
from ernie_deploy.plan.sizes import size_bytes

DEFAULT_GRACE_S = 10
READY_TIMEOUT_S = 600
ENOUGH_SHARED_MEMORY = 1 << 30
INITS = {"tini", "dumb-init", "docker-init", "s6-svscan"}
POLICIES = {"always": "always", "unless-stopped": "unless-stopped", "on-failure": "on-failure", "no": "no"}
# `deploy.restart_policy.condition` in the words of `restart`.
CONDITIONS = {"any": "always", "on-failure": "on-failure", "none": "no"}
HEALTH_PATHS = re.compile(
    r"https?://(?:(?!https?://)[^\s'\"])*/(?:health|v1/models|ping|version|load)/?(?=[\s'\"]|$)"
)


@rule(
    "ED301",
    "warning",
    "The server has no health check.",
    remedy="ask it for one token; `ernie-deploy render` writes such a check",
    source="run with Compose 2.40.3: without one, `up --wait` calls a crash loop healthy",
    lacks="health check",
)
def no_health_check(service: Service) -> Iterator[Spot]:
    """A server whose death nobody notices."""
    if service.answers and not service.health_test:
        yield Spot(service.line, "no health check: nobody notices when it stops answering")


@rule(
    "ED302",
    "note",
    "The health check asks for something that a hung engine still answers.",
    remedy="ask it for one token, or watch vllm:iteration_tokens_total on /metrics",
    source="run with vLLM 0.32.0: with a stopped engine /health and /v1/models stay 200 for ever",
)
def shallow_health_check(service: Service) -> Iterator[Spot]:
    """/health alone."""
    texts = " ".join(word.text for word in service.health_test)
    if service.answers and HEALTH_PATHS.search(texts) and "completions" not in texts:
        yield Spot(service.line_of("healthcheck"), "this check still passes when the engine hangs")


@rule(
    "ED303",
    "error",
    "The restart policy leaves a dead server down.",
    remedy="restart: unless-stopped",
    source="run with vLLM 0.32.0: the server exits 0 when its engine dies (vllm#48966)",
    lacks="restart policy",
)
def not_restarted(service: Service) -> Iterator[Spot]:
    """`restart: on-failure` and `no` are errors, no policy at all a warning."""
    policy = _policy(service)
    line = service.line_of("restart")
    if not service.serve or not known(policy) or policy in ("always", "unless-stopped"):
        return
    if policy.partition(":")[0] not in POLICIES:
        yield Spot(line, f"Docker knows no policy {shown(policy)}, and Compose does not say so")
    elif policy == "no" and line == service.line:
        yield Spot(line, "no restart policy: nothing starts it again", severity="warning")
    else:
        yield Spot(line, f"restart: {shown(policy)}, and vLLM exits 0 when its engine dies")


def _policy(service: Service) -> str:
    """The restart policy in the words of `restart`, which a swarm passes over; it restarts by default."""
    swarm = in_swarm(service)
    condition = service.text("deploy", "restart_policy", "condition") or ("any" if swarm else "none")
    return ("" if swarm else service.text("restart")) or CONDITIONS.get(condition, condition)


@rule(
    "ED304",
    "error",
    "Docker kills the server before vLLM's own shutdown timeout ends.",
    remedy="stop_grace_period: the shutdown timeout and 30 s more",
    source="run with vLLM 0.32.0: streams end with the timeout; Docker's default grace is 10 s",
    of_absence=True,
)
def killed_while_draining(service: Service) -> Iterator[Spot]:
    """A grace period that is not above `--shutdown-timeout`."""
    grace, timeout = _grace(service), _shutdown_timeout(service)
    if grace is not None and timeout and grace <= timeout:
        line = service.line_of("stop_grace_period")
        yield Spot(line, f"vLLM drains for {timeout} s, Docker kills it after {grace:g} s")


@rule(
    "ED305",
    "warning",
    "Running answers are cut when the server stops.",
    remedy="--shutdown-timeout=60 with stop_grace_period: 90s",
    source="run with vLLM 0.32.0: by default a stream stalls without an end, and is cut after 10 s",
    lacks="shutdown timeout",
)
def cut_streams(service: Service) -> Iterator[Spot]:
    """Docker's default grace and no `--shutdown-timeout`."""
    grace = _grace(service)
    if service.answers and _shutdown_timeout(service) == 0 and grace is not None and grace <= DEFAULT_GRACE_S:
        yield Spot(
            service.line,
            "no --shutdown-timeout: on a stop streams stall, and Docker kills the server after 10 s",
        )


def _grace(service: Service) -> float | None:
    text = service.text("stop_grace_period")
    return seconds(text) if text else DEFAULT_GRACE_S


def _shutdown_timeout(service: Service) -> int | None:
    return service.serve.number("shutdown-timeout", 0) if service.serve else None


@rule(
    "ED306",
    "warning",
    "The server is the container's first process without an init.",
    remedy="init: true",
    source="run with vLLM 0.32.0: without it signals to PID 1 are lost and dead workers stay as zombies",
    lacks="init",
)
def no_init(service: Service) -> Iterator[Spot]:
    """No `init: true`, and no tini of its own."""
    first = service.entrypoint[0].text.rpartition("/")[2] if service.entrypoint else ""
    if service.serve and not service.truth("init") and first not in INITS:
        yield Spot(service.line, "no init: nothing reaps its workers or forwards signals")


@rule(
    "ED307",
    "error",
    "Several GPUs share memory through a /dev/shm that is too small.",
    remedy="shm_size: 16g",
    source="vLLM's documentation: either ipc=host or --shm-size; Docker's default is 64 MB",
    of_absence=True,
)
def small_shared_memory(service: Service) -> Iterator[Spot]:
    """More than one rank, private ipc, and less than 1 GiB of shared memory."""
    needed, shared = ranks(service), service.text("ipc")
    text = service.text("shm_size")
    given = size_bytes(text) if text else 64 << 20
    if not needed or needed == 1 or shared.startswith(("host", "container:", "service:")):
        return
    mounted = any(mount.target == SHARED_MEMORY for mount in service.mounts)
    if given is not None and given < ENOUGH_SHARED_MEMORY and not mounted:
        shared_memory = shown(text) if text else "Docker's 64 MB"
        remedy = f"mount a tmpfs on /dev/shm: {TMPFS}" if in_swarm(service) else ""
        yield Spot(
            service.line_of("shm_size"), f"{needed} processes share a /dev/shm of {shared_memory}", remedy
        )


@rule(
    "ED308",
    "warning",
    "The health check gives up before vLLM itself does.",
    remedy="start_period: as many seconds as VLLM_ENGINE_READY_TIMEOUT_S",
    source=f"vLLM 0.32.0 waits VLLM_ENGINE_READY_TIMEOUT_S for its engine, {READY_TIMEOUT_S} by default",
)
def hasty_health_check(service: Service) -> Iterator[Spot]:
    """A server that loads its weights is called unhealthy."""
    ready = whole(service.variable("VLLM_ENGINE_READY_TIMEOUT_S", str(READY_TIMEOUT_S)))
    patience = _patience(service)
    if service.answers and service.health_test and ready and patience is not None and patience < ready:
        line = service.line_of("healthcheck")
        yield Spot(
            line, f"it counts as unhealthy after {patience:g} s, but vLLM waits {ready} s for its engine"
        )


def _patience(service: Service) -> float | None:
    """Seconds until a container that never answers is unhealthy."""
    start = seconds(service.text("healthcheck", "start_period") or "0s")
    interval = seconds(service.text("healthcheck", "interval") or "30s")
    retries = whole(service.text("healthcheck", "retries") or "3")
    if start is None or interval is None or retries is None:
        return None
    return start + interval * retries


@rule(
    "ED309",
    "note",
    "start_interval needs Docker Engine 25 or later.",
    remedy="leave it out where an older engine may run the file",
    source="run with Engine 20.10: `up` fails: can't set healthcheck.start_interval",
)
def young_start_interval(service: Service) -> Iterator[Spot]:
    """`healthcheck.start_interval`."""
    if service.uses_vllm and service.text("healthcheck", "start_interval"):
        yield Spot(service.line_of("healthcheck"), "older engines refuse to start the service")


@rule(
    "ED310",
    "error",
    "A service waits for the health of one that has no health check.",
    remedy="give that service a health check, or wait for service_started",
    source="run with Compose 2.40.3: `config` accepts it, `up` fails; vLLM's images have no check (vllm#40462 closed)",
)
def waits_for_ever(service: Service) -> Iterator[Spot]:
    """`depends_on: {x: {condition: service_healthy}}`; a foreign image may bring its own check."""
    section = service.value("depends_on")
    for name, value in section.values.items() if isinstance(section, Table) else ():
        other = service.stack.services.get(name)
        condition = value.values.get("condition") if isinstance(value, Table) else None
        healthy = isinstance(condition, Word) and condition.text == "service_healthy"
        if other and healthy and not other.health_test and not other.partial:
            own = other.image.variant is not None or other.value("healthcheck") is not None
            sentence = f"{shown(name)} has no health check in this file"
            yield Spot(value.line, sentence, severity="error" if own else "warning")


@rule(
    "ED311",
    "warning",
    "The benchmark runs again whenever it ends.",
    remedy='restart: "no" and profiles: [bench]',
    source="Docker restarts whatever exits, with exit code 0 too",
)
def endless_bench(service: Service) -> Iterator[Spot]:
    """A bench service with `restart: always`."""
    if service.bench and service.text("restart") in ("always", "unless-stopped"):
        yield Spot(service.line_of("restart"), "it loads the server without end")


@rule(
    "ED312",
    "warning",
    "A shell runs between Docker and vLLM.",
    remedy="write `exec vllm serve ...`",
    source="POSIX sh does not pass SIGTERM on: the server is killed after the grace period",
)
def shell_between(service: Service) -> Iterator[Spot]:
    """`sh -c 'cd /x; vllm serve ...'` without `exec`."""
    script = service.process.script
    # A shell that has one simple command to run becomes that command.
    compound = script and re.search(r"[;|\n]|&&", script.text.replace("\\\n", " ").strip())
    if service.serve and script and compound and not re.search(r"\bexec\s", script.text):
        yield Spot(script.line, "the shell gets the signal to stop and does not pass it on")
