"""ED203 to ED212: what a container or its clients may do to the host."""

import re
from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.hardware import uses_ray
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import shown, truth

SOCKETS = re.compile(r"(?:docker|containerd|podman|crio)\.sock")
UNCONFINED = re.compile(r"(?:seccomp|apparmor|systempaths)[:=]unconfined|label[:=]disable")
# Each is the host's root in other words.
ROOT_CAPABILITIES = {"ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "BPF"}
STRONG_CAPABILITIES = {
    "SYS_PTRACE",
    "NET_ADMIN",
    "NET_RAW",
    "DAC_READ_SEARCH",
    "PERFMON",
    "SYS_TIME",
    "SYSLOG",
}
DEVICES = {"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev"}
HOST_FOLDERS = {
    "/",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/usr",
    "/var",
    "/var/run",
}
SWITCHES = {
    "VLLM_SERVER_DEV_MODE": "opens /sleep, /reset_prefix_cache, /collective_rpc and others to every client",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "lets every client load adapters from any path or repository",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "lets pickled objects in, which run code when they are read",
}


@rule(
    "ED203",
    "error",
    "The container is privileged.",
    remedy="leave it out: on AMD devices /dev/kfd and /dev/dri are enough, on NVIDIA the reservation",
    source="CIS Docker Benchmark 5.5; inference runs with no capability at all (run with vLLM 0.32.0)",
)
def privileged(service: Service) -> Iterator[Spot]:
    """Every device, every capability, no filter."""
    if service.truth("privileged"):
        yield Spot(
            service.line_of("privileged"),
            "privileged: root in the container is root on the host",
            severity="error" if service.uses_vllm else "warning",
        )


@rule(
    "ED204",
    "error",
    "A container engine's socket is mounted.",
    remedy="leave it out; restart policies and health checks need no socket",
    source="CIS Docker Benchmark 5.32: whoever writes to it starts any container, as root, with any mount",
)
def engine_socket(service: Service) -> Iterator[Spot]:
    """The Docker socket, in any spelling, read-only too."""
    for mount in service.mounts:
        if SOCKETS.search(mount.source):
            yield Spot(mount.line, f"{shown(mount.source)} is root on the host, read-only too")
    if service.truth("use_api_socket"):
        yield Spot(service.line_of("use_api_socket"), "use_api_socket is root on the host")


@rule(
    "ED205",
    "error",
    "The container gets capabilities that inference never needs.",
    remedy="leave them out; real vLLM runs with none",
    source="CIS Docker Benchmark 5.4; run with vLLM 0.32.0: CapEff 0; SYS_ADMIN is for performance counters only",
)
def capabilities(service: Service) -> Iterator[Spot]:
    """SYS_ADMIN and its like are errors, debuggers' capabilities a warning."""
    for word in service.words("cap_add") if service.uses_vllm else ():
        name = word.text.upper().removeprefix("CAP_")
        if name in ROOT_CAPABILITIES:
            yield Spot(word.line, f"{name} is root on the host in other words")
        if name in STRONG_CAPABILITIES:
            yield Spot(word.line, f"{name} reaches beyond the container", severity="warning")


@rule(
    "ED206",
    "error",
    "The container gets a device that is the host's memory, or all devices.",
    remedy="leave it out: /dev/kfd and /dev/dri are all that ROCm needs",
    source="rocm.docs.amd.com, Running ROCm Docker containers; /dev/mem came from recipes PR #228",
)
def devices(service: Service) -> Iterator[Spot]:
    """/dev/mem and its like."""
    for word in service.words("devices"):
        path = word.text.partition(":")[0].rstrip("/")
        if path in DEVICES:
            yield Spot(word.line, f"{path} is not needed for inference")


@rule(
    "ED207",
    "warning",
    "The container shares the host's network.",
    remedy="leave it out and publish the port on 127.0.0.1; only several nodes need it",
    source="CIS Docker Benchmark 5.10; torch.distributed's TCPStore then listens on every address of the host",
)
def host_network(service: Service) -> Iterator[Spot]:
    """`network_mode: host` in a stack of one node."""
    if not service.uses_vllm or not service.host_network:
        return
    if not any(over_nodes(other) for other in service.stack.services.values()):
        yield Spot(
            service.line_of("network_mode"),
            "network_mode: host opens vLLM's internal ports to the host's network",
        )


def over_nodes(service: Service) -> bool:
    """Whether it runs one part of a server over several nodes."""
    argv = service.serve
    return argv is not None and (argv.number("nnodes", 1) != 1 or uses_ray(service))


@rule(
    "ED208",
    "warning",
    "The container shares the host's processes or shared memory.",
    remedy="ipc: private with shm_size: 16g; leave out pid",
    source="CIS Docker Benchmark 5.16, 5.17; vLLM's documentation: either ipc=host or --shm-size",
)
def host_namespaces(service: Service) -> Iterator[Spot]:
    """`ipc: host` and `pid: host`."""
    for key in ("ipc", "pid"):
        if service.uses_vllm and service.text(key) == "host":
            text = f"{key}: host lets the container read what other processes of the host hold"
            yield _of_the_recipe(service, service.line_of(key), text, key == "ipc")


@rule(
    "ED209",
    "warning",
    "seccomp, AppArmor or SELinux is switched off.",
    remedy="leave it out, as --security strict does; on AMD we know of nobody who has run vLLM that way",
    source="CIS Docker Benchmark 5.2, 5.22; ROCm/jax#878: eight MI355X clean under the default profile",
)
def unconfined(service: Service) -> Iterator[Spot]:
    """Filters that a copied `docker run` turned off."""
    for word in service.words("security_opt") if service.uses_vllm else ():
        if UNCONFINED.fullmatch(word.text):
            text = f"{shown(word.text)}: a process may make itself root of a new namespace"
            yield _of_the_recipe(service, word.line, text, "seccomp" in word.text)


def _of_the_recipe(service: Service, line: int, text: str, named: bool) -> Spot:  # noqa: FBT001
    """The finding; a note on a ROCm image where the recipe and vLLM's documentation name the setting."""
    if named and service.image.variant == "rocm":
        return Spot(
            line,
            f"{text}; the recipe asks for it on AMD, --security strict renders without it",
            severity="note",
        )
    return Spot(line, text)


@rule(
    "ED210",
    "warning",
    "A folder of the host's system is mounted writable.",
    remedy="mount the one folder that is needed, read-only where possible",
    source="CIS Docker Benchmark, section 5: no sensitive host directories",
)
def host_folders(service: Service) -> Iterator[Spot]:
    """/, /etc and their like."""
    for mount in service.mounts:
        source = mount.source.rstrip("/") or mount.source[:1]
        if mount.kind == "bind" and source in HOST_FOLDERS and "ro" not in mount.options.split(","):
            yield Spot(mount.line, f"{source} of the host is writable from the container")


@rule(
    "ED211",
    "warning",
    "A variable opens vLLM to its clients.",
    remedy="leave it out; it is for development",
    source="vLLM 0.32.0 vllm/envs.py, docs/usage/security.md",
)
def development_mode(service: Service) -> Iterator[Spot]:
    """VLLM_SERVER_DEV_MODE and its like; an error where the port is published."""
    published = bool(service.ports) or service.host_network
    for name, effect in SWITCHES.items():
        if service.serve and truth(service.variable(name)):
            line = service.environment[name].line
            yield Spot(line, f"{name} {effect}", severity="error" if published else "warning")


@rule(
    "ED212",
    "warning",
    "Clients can make the server read its own files.",
    remedy="leave out --allowed-local-media-path; let clients send media as data: URLs",
    source="vLLM 0.32.0 docs/usage/security.md",
)
def local_media(service: Service) -> Iterator[Spot]:
    """`--allowed-local-media-path`."""
    argument = service.serve.last("allowed-local-media-path") if service.serve else None
    if argument and argument.value:
        yield Spot(argument.line, f"clients can request any file below {shown(argument.value)}")
