"""ED14x, second part: several containers of one service, networks without ports, and what a swarm leaves out."""

from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.hardware import ranks
from ernie_deploy.check.service import Service, never_together, replicas
from ernie_deploy.check.swarm import SHARED_MEMORY, TMPFS, in_swarm
from ernie_deploy.check.values import shown

# Keys that `docker stack deploy` passes over with a line that few read, and what is lost without them.
IGNORED = {
    "devices": "the server sees no GPU that only `devices` gives",
    "ipc": "the 64 MB of /dev/shm stay",
    "shm_size": "the 64 MB of /dev/shm stay",
    "network_mode": "the service is on the stack's own network",
    "privileged": "it is not privileged",
    "restart": "deploy.restart_policy decides",
    "security_opt": "the defaults hold",
}


@rule(
    "ED145",
    "error",
    "The service has several containers, and only one of them can have this name or port.",
    remedy="a service for each GPU with its own device_ids and port, or one server with --data-parallel-size",
    source="run with Compose 2.40.3: `container name must be unique`; the engine gives a port to one container only",
)
def one_of_several(service: Service) -> Iterator[Spot]:
    """`container_name` or a fixed host port beside `replicas`, and one name for two services."""
    count, name = replicas(service), service.text("container_name")
    if name and (twin := _twin(service, name)):
        yield Spot(service.line_of("container_name"), f"container_name {shown(name)} is {shown(twin.name)}'s too",
                   "give each service a name of its own")  # fmt: skip
    if count <= 1 or in_swarm(service):
        return
    if name:
        sentence = f"container_name {shown(name)} with {count} replicas: a name must be unique"
        yield Spot(service.line_of("container_name"), sentence, "leave out container_name")
    for port in service.host_ports:
        if 0 < len(port.numbers) < count:
            yield Spot(port.line, f"port {shown(port.published)} of the host goes to one of {count} replicas")


def _twin(service: Service, name: str) -> Service | None:
    """A service earlier in the file with the same `container_name`."""
    for other in service.stack.services.values():
        if other is service:
            return None
        if other.text("container_name") == name and not never_together(service, other):
            return other
    return None


@rule(
    "ED147",
    "warning",
    "The service has no network of its own, so `ports` has no effect.",
    remedy="leave out `ports`, or leave out `network_mode` and publish on 127.0.0.1",
    source="run with Compose 2.40.3: `config` accepts it; docs.docker.com, Host network driver: port mappings are discarded",
)
def ports_without_effect(service: Service) -> Iterator[Spot]:
    """`ports` beside `network_mode: host` or `none`; beside another container's it is refused."""
    mode = service.text("network_mode")
    if not service.ports or not mode:
        return
    line = service.line_of("ports")
    if mode in ("host", "none"):
        yield Spot(line, f"ports has no effect beside network_mode: {mode}")
    elif mode.startswith(("service:", "container:")):
        what = f"ports is refused beside network_mode: {shown(mode)}"
        yield Spot(line, what, "publish the port at the service whose network it is", severity="error")


@rule(
    "ED149",
    "warning",
    "`docker stack deploy` ignores this key.",
    remedy="set it under `deploy`, or leave it out",
    source="docker/cli cli/compose/types UnsupportedProperties: devices, ipc, network_mode, privileged, restart,"
    " security_opt, shm_size",
)
def ignored_by_swarm(service: Service) -> Iterator[Spot]:
    """What a swarm does not do; an error where vLLM's processes are left with 64 MB of shared memory."""
    if not service.serve or not in_swarm(service):
        return
    mounted = any(mount.target == SHARED_MEMORY for mount in service.mounts)
    for key, lost in IGNORED.items():
        memory = key in ("ipc", "shm_size")
        if service.value(key) is None or (memory and mounted):
            continue
        fatal = key == "devices" or (memory and (ranks(service) or 1) > 1)
        sentence = f"{key}: a swarm ignores it, {lost}"
        yield Spot(service.line_of(key), sentence, f"mount a tmpfs on /dev/shm: {TMPFS}" if memory else "",
                   severity="error" if fatal else "warning")  # fmt: skip
