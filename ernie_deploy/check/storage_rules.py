"""ED3xx, second part: images, caches, logs, limits, ports, and what Compose accepts but cannot start."""

from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.ports_and_mounts import Mount, Port
from ernie_deploy.check.secret_rules import used
from ernie_deploy.check.service import Service, never_together, replicas, split
from ernie_deploy.check.tree import Items, Table, Word
from ernie_deploy.check.values import shown, truth

UNBOUNDED_DRIVERS = {"", "json-file"}
WILDCARDS = {"", "0.0.0.0", "::", "[::]"}  # noqa: S104 - read from other people's files
HOMES = {"": "/root", "root": "/root", "0": "/root", "2000": "/home/vllm", "vllm": "/home/vllm"}
# What each key may be in a compose file, of the keys that the rules read.
SHAPES: dict[str, tuple[type, ...]] = {
    "image": (Word,), "restart": (Word,), "user": (Word,), "stop_grace_period": (Word,), "ipc": (Word,),
    "network_mode": (Word,), "command": (Word, Items), "entrypoint": (Word, Items), "tmpfs": (Word, Items),
    "environment": (Table, Items), "depends_on": (Table, Items), "healthcheck": (Table,), "deploy": (Table,),
    "logging": (Table,), "ports": (Items,), "volumes": (Items,), "devices": (Items,), "cap_add": (Items,),
    "cap_drop": (Items,), "security_opt": (Items,), "group_add": (Items,), "secrets": (Items,), "configs": (Items,),
}  # fmt: skip
KINDS: dict[type, str] = {Word: "a text", Items: "a list", Table: "a table"}
# Only so many services on one port are compared.
MOST_COMPARED = 50


@rule(
    "ED320",
    "error",
    "Compose refuses this shape.",
    remedy="see the Compose specification; `docker compose config -q` tells more",
    source="Compose 2.40.3; the other rules skip what is refused",
)
def refused_shape(service: Service) -> Iterator[Spot]:
    """Keys of the wrong kind, keys that stand twice, quotes that do not close."""
    for key, kinds in SHAPES.items():
        value = service.value(key)
        if value is not None and not isinstance(value, kinds):
            wanted = " or ".join(KINDS[kind] for kind in kinds)
            yield Spot(service.line_of(key), f"{key} is {KINDS[type(value)]}, and must be {wanted}")
        if isinstance(value, Word) and key in ("command", "entrypoint") and split(value) is None:
            yield Spot(value.line, f"a quote in {key} does not close")
    for table in (service.table, service.value("environment"), service.value("healthcheck")):
        for word in table.repeated if isinstance(table, Table) else ():
            yield Spot(word.line, f"the key {shown(word.raw)} stands twice")


@rule(
    "ED321",
    "warning",
    "The image's tag may name another image tomorrow.",
    remedy="name a release of this image in the tag, or a digest",
    source="OWASP Docker Cheat Sheet rule 13; flags come and go between vLLM's releases",
    of_absence=True,
)
def floating_image(service: Service) -> Iterator[Spot]:
    """No tag, `latest`, `nightly`, or a variable without a default."""
    reference, image = service.text("image"), service.image
    if not reference or service.value("build") is not None:
        return
    if image.floats and known(image.name):
        tag = image.tag or "no tag"
        yield Spot(
            service.line_of("image"), f"{shown(image.name)} with {shown(tag)} is whatever was pulled last"
        )
    elif not known(reference):
        yield Spot(
            service.line_of("image"), f"{shown(reference)}: the file does not say which version it is for"
        )


@rule(
    "ED322",
    "error",
    "Compiled code is cached on a tmpfs, from where it cannot run.",
    remedy="VLLM_CACHE_ROOT and TRITON_CACHE_DIR on a volume; HOME and /tmp may be a tmpfs",
    source="Docker mounts tmpfs noexec; torch.compile and Triton load the libraries they have written",
)
def cache_cannot_run(service: Service) -> Iterator[Spot]:
    """HOME, VLLM_CACHE_ROOT, TRITON_CACHE_DIR below a tmpfs."""
    for name, path in _compile_caches(service).items() if service.serve else ():
        mount = _mount_of(path, service)
        if mount and mount.kind == "tmpfs" and "exec" not in mount.options.split(","):
            yield Spot(mount.line, f"{name} ({shown(path)}) lies on the tmpfs {shown(mount.target)}")


@rule(
    "ED323",
    "note",
    "Compiled code is on no volume: every new container compiles again.",
    remedy="a volume at VLLM_CACHE_ROOT",
    source="vLLM 0.32.0 vllm/envs.py: VLLM_CACHE_ROOT, ~/.cache/vllm by default; minutes on large models",
    lacks="volume for compiled code",
)
def cache_is_lost(service: Service) -> Iterator[Spot]:
    """VLLM_CACHE_ROOT in the container's own layer."""
    path = _compile_caches(service).get("VLLM_CACHE_ROOT") if service.serve else None
    if path and _mount_of(path, service) is None:
        yield Spot(service.line, f"compiled code goes to {shown(path)}, in the container's own layer")


@rule(
    "ED324",
    "warning",
    "The weights are on no volume: every new container downloads them again.",
    remedy="a volume at HF_HOME",
    source="huggingface_hub keeps them in HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub",
    of_absence=True,
)
def weights_are_lost(service: Service) -> Iterator[Spot]:
    """A model from the hub with its cache in the container's own layer."""
    word, argv, path = service.model_word, service.serve, _weights_cache(service)
    if not word or not argv or not path or argv.last("download-dir") or word.text.count("/") != 1:
        return
    local = word.text.startswith(("/", ".", "~")) or not known(word.text)
    if not local and _mount_of(path, service) is None and not _unseen_mounts(service):
        remedy = "" if "modelscope" not in path else "a volume at MODELSCOPE_CACHE"
        yield Spot(service.line, f"the weights go to {shown(path)}, in the container's own layer", remedy)


def _unseen_mounts(service: Service) -> bool:
    """Whether a mount may hold the cache that the file does not show to do so."""
    targets = any(not known(mount.target) for mount in service.mounts)
    elsewhere = service.value("env_file") is not None and bool(service.mounts)
    return targets or elsewhere or service.value("volumes_from") is not None


def _home(service: Service) -> str:
    """HOME in the container; empty where only the image knows it."""
    home = service.variable("HOME")
    return home or HOMES.get(service.text("user").partition(":")[0], "")


def _compile_caches(service: Service) -> dict[str, str]:
    """Where code is compiled to, by the variable that says so; what is unknown is left out."""
    home = _home(service)
    below = service.variable("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    places = {
        "VLLM_CACHE_ROOT": service.variable("VLLM_CACHE_ROOT") or (below and f"{below}/vllm"),
        "TRITON_CACHE_DIR": service.variable("TRITON_CACHE_DIR") or (home and f"{home}/.triton/cache"),
    }
    return {name: path for name, path in places.items() if path.startswith("/") and known(path)}


def _weights_cache(service: Service) -> str:
    home = _home(service)
    below = service.variable("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    if truth(service.variable("VLLM_USE_MODELSCOPE")):
        path = service.variable("MODELSCOPE_CACHE") or (home and f"{home}/.cache/modelscope")
        return path if path.startswith("/") and known(path) else ""
    hub = service.variable("HF_HOME") or (below and f"{below}/huggingface")
    old = service.variable("HUGGINGFACE_HUB_CACHE")
    path = service.variable("HF_HUB_CACHE") or old or (hub and f"{hub}/hub")
    return path if path.startswith("/") and known(path) else ""


def _mount_of(path: str, service: Service) -> Mount | None:
    """The innermost mount that holds `path`."""
    holding = [m for m in service.mounts if m.target.startswith("/") and m.holds(path)]
    return max(holding, key=lambda mount: len(mount.target), default=None)


@rule(
    "ED325",
    "error",
    "A group is given by name, and names are looked up in the image.",
    remedy="write the host's number, in quotes: stat -c %g /dev/kfd /dev/dri/renderD*",
    source="run with Docker 20.10: Unable to find group render; ROCm's base images have it with their own number",
)
def group_by_name(service: Service) -> Iterator[Spot]:
    """`group_add: [render]` fails the start, other names give the image's number."""
    for word in service.words("group_add") if service.uses_vllm else ():
        if word.text.isdigit() or not known(word.text):
            continue
        missing = word.text == "render" and "rocm" not in service.image.name
        where = "which has no such group" if missing else "where its number need not be the host's"
        sentence = f"{shown(word.text)} is looked up in the image, {where}"
        yield Spot(word.line, sentence, severity="error" if missing else "warning")


@rule(
    "ED326",
    "error",
    "Two services publish the same port of the host.",
    remedy="give one of them another port, or profiles that are never on together",
    source="run with Compose 2.40.3: `config` accepts it; the engine gives a port to one container only",
)
def port_twice(service: Service) -> Iterator[Spot]:
    """Fixed host ports that collide, published or under the host's network."""
    for port in service.host_ports:
        for number in port.numbers[:MOST_COMPARED] if known(port.address) else ():
            if other := _rival(service, port, number):
                yield Spot(port.line, f"port {number} of the host is taken by {shown(other.name)} too")
                break


def _rival(service: Service, port: Port, number: int) -> Service | None:
    """A service earlier in the file on the same port and address."""
    for other, theirs in service.stack.published.get((number, port.protocol), [])[:MOST_COMPARED]:
        if other is service:
            return None
        addresses = {port.address, theirs.address}
        both = replicas(service) and replicas(other) and not never_together(service, other)
        if (len(addresses) == 1 or addresses & WILDCARDS) and both:
            return other
    return None


@rule(
    "ED327",
    "error",
    "Compose cannot write this secret or config into a read-only root file system.",
    remedy="use `file:`, which is mounted",
    source="run with Compose 2.40.3: `file` is the sole supported option in a read-only service",
)
def needs_writable_root(service: Service) -> Iterator[Spot]:
    """`environment:` and `content:` together with `read_only: true`."""
    for section in ("secrets", "configs") if service.truth("read_only") else ():
        for name, line in used(service, section):
            entry = service.stack.entry(section, name)
            inline = {"environment", "content"} & set(entry.values) if entry else ()
            if inline:
                yield Spot(line, f"{shown(name)} is made from `{min(inline)}:`, and the start fails")


@rule(
    "ED328",
    "warning",
    "The log grows without bound.",
    remedy='logging: {driver: json-file, options: {max-size: 10m, max-file: "5"}}',
    source="Docker's json-file driver has no limit by default; vLLM logs every HTTP request",
    lacks="log rotation",
)
def unbounded_log(service: Service) -> Iterator[Spot]:
    """The default driver without `max-size`."""
    rotated = service.text("logging", "options", "max-size")
    if service.serve and service.text("logging", "driver") in UNBOUNDED_DRIVERS and not rotated:
        yield Spot(service.line, "nothing rotates its log, unless the daemon's own configuration does")


@rule(
    "ED329",
    "note",
    "The number of processes is not limited.",
    remedy="pids_limit: 4096",
    source="CIS Docker Benchmark 5.29; 4096 is enough for eight GPUs",
    lacks="process limit",
)
def unlimited_processes(service: Service) -> Iterator[Spot]:
    """No `pids_limit`."""
    if (
        service.serve
        and not service.text("pids_limit")
        and not service.text("deploy", "resources", "limits", "pids")
    ):
        yield Spot(service.line, "pids_limit is not set")
