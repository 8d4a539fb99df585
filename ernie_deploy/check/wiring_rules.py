"""ED1xx, third part: ports and names by which client, health check and server find each other."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from ernie_deploy.check.argv import Argv
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.probe import own, speaks_tls
from ernie_deploy.check.service import API_PORT, Service, neighbours
from ernie_deploy.check.tree import Table, Word
from ernie_deploy.check.values import shown, whole

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@rule(
    "ED130",
    "error",
    "The benchmark addresses a port where no server listens; vLLM's client then reports zeros and exits 0.",
    remedy="--host with the name of the service that serves, --port with its port",
    source="run with vLLM 0.32.0; the published recipe serves on 8000 and benches on 8200",
)
def bench_finds_no_server(service: Service) -> Iterator[Spot]:
    """A bench service whose host or port is not that of the serve service."""
    if service.bench is None or not _servers(service):
        return
    host, port = _address(service.bench)
    server = _server(service, host)
    if server is None and host in LOOPBACK and not service.text("network_mode"):
        line = service.bench.line_of("host", service.line)
        yield Spot(line, f"{host} is the benchmark's own container, where nothing listens")
    if server and port is not None and server.api_port not in (None, port):
        line = service.bench.line_of("port", service.line)
        yield Spot(line, f"it asks port {port}, but {shown(server.name)} listens on {server.api_port}")
    if server and speaks_tls(server) and not service.bench.text("base-url").startswith("https"):
        line = service.bench.line_of("base-url", service.bench.line_of("host", service.line))
        sentence = f"it speaks http, and {shown(server.name)} has a certificate"
        yield Spot(line, sentence, f"--base-url https://{server.name}:{server.api_port or API_PORT}")


def _servers(service: Service) -> list[Service]:
    return [other for other in neighbours(service) if other.answers]


def _address(argv: Argv) -> tuple[str, int | None]:
    """Host and port that the client asks; the port is None where it is unknown."""
    if base := argv.text("base-url"):
        return _address_of(base)
    return argv.text("host") or "127.0.0.1", argv.number("port", API_PORT)


def _address_of(base: str) -> tuple[str, int | None]:
    try:
        url = urlsplit(base)
        port = url.port
    except ValueError:
        return "", None
    return url.hostname or "", port or (443 if url.scheme == "https" else 80)


def _server(service: Service, host: str) -> Service | None:
    """The serve service that `host` means from inside this service's container."""
    mode = service.text("network_mode")
    for server in _servers(service):
        shared = mode == f"service:{server.name}" or (mode == "host" and server.host_network)
        if host in (server.name, server.text("container_name"), server.text("hostname")):
            return server
        if host in LOOPBACK and shared:
            return server
    return None


@rule(
    "ED131",
    "error",
    "The published port is not the one vLLM listens on; nothing answers there.",
    remedy="publish HOST_PORT:8000, or give vLLM the port with --port",
    source="vLLM 0.32.0 listens on --port, 8000 by default, on every address of the container",
)
def dead_port(service: Service) -> Iterator[Spot]:
    """Ports that lead nowhere, and servers that listen on the container's loopback only."""
    port, argv = service.api_port, service.serve
    if not argv or not service.answers or port is None or service.text("network_mode") or not service.ports:
        return
    if any(other.text("network_mode") == f"service:{service.name}" for other in neighbours(service)):
        # A gateway that shares the network may be what is published.
        return
    if argv.text("host") in LOOPBACK:
        line = argv.line_of("host")
        yield Spot(
            line, "vLLM listens inside the container only", "leave out --host; publish on 127.0.0.1 instead"
        )
    targets = [whole(published.target) for published in service.ports]
    if port not in targets and None not in targets and not argv.has("uds"):
        names = ", ".join(map(str, targets[:4]))
        yield Spot(service.line_of("ports"), f"vLLM listens on {port}, but {names} is published")


@rule(
    "ED132",
    "error",
    "The health check uses a port on which vLLM does not listen.",
    remedy="use the port of --port, 8000 by default",
    source="vLLM 0.32.0 listens on --port, 8000 by default",
)
def deaf_health_check(service: Service) -> Iterator[Spot]:
    """A health check that can never succeed."""
    port = service.api_port
    if not service.answers or port is None:
        return
    for name, line, test in _health_tests(service):
        asked = {address.port for address in own(service, test)}
        if asked and port not in asked:
            ports = ", ".join(map(str, sorted(asked)))
            yield Spot(line, f"{name} asks port {ports}, but vLLM listens on {port}")


def _health_tests(service: Service) -> Iterator[tuple[str, int, tuple[Word, ...]]]:
    """The health check, or each probe of a pod, with its line."""
    probes = service.value("probes")
    if isinstance(probes, Table):
        yield from ((name, probes.lines[name], service.words("probes", name)) for name in probes.values)
    else:
        yield "it", service.line_of("healthcheck"), service.health_test


@rule(
    "ED133",
    "error",
    "vLLM does not read this configuration file.",
    remedy="write `--config FILE.yaml` as two words",
    source="vLLM 0.32.0 vllm/utils/argparse_utils.py parse_args and load_config_file",
)
def unread_configuration(service: Service) -> Iterator[Spot]:
    """A name that stops vLLM at its start, and a spelling that it passes over, with the API key in it."""
    argument = service.argv.last("config") if service.argv else None
    if argument is None or not known(argument.value):
        return
    if argument.equals:
        yield Spot(
            argument.line, "`--config=FILE` is passed over without a word, and an API key in it with it"
        )
    elif not argument.value.endswith((".yaml", ".yml")):
        name = shown(argument.value.rpartition("/")[2])
        yield Spot(argument.line, f"vLLM takes names that end in .yaml or .yml, and {name} does not")
