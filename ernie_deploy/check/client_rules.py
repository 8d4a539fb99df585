"""ED134: programs beside the server that are told a wrong address of it."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.ports_and_mounts import Port
from ernie_deploy.check.probe import LONGEST_WORD, LOOPBACK, Asked, own_names, speaks_tls, urls
from ernie_deploy.check.service import API_PORT, Service, Stack
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import shown, whole

# Only so many servers may be meant by an address of the client's own.
MOST_COMPARED = 50


@rule(
    "ED134",
    "error",
    "A client is told an address at which the server does not answer.",
    remedy="http://SERVICE:8000/v1, with the service's name and the port that vLLM listens on inside its container",
    source="docs.docker.com, Networking in Compose: services reach each other by CONTAINER_PORT, not by HOST_PORT",
)
def lost_client(service: Service) -> Iterator[Spot]:
    """`OPENAI_API_BASE_URL: http://vllm:9000/v1`, the host's port, localhost, http to a server with a certificate."""
    servers = _servers(service.stack)
    if service.argv or not servers:
        return
    for what, word in _words(service):
        for asked in urls(word.text) if len(word.text) < LONGEST_WORD else ():
            if reason := _fault(asked, service, servers):
                yield Spot(word.line, f"{what} {reason}")


# Only the stack that is judged is asked for, service after service.
@lru_cache(maxsize=1)
def _servers(stack: Stack) -> Mapping[str, Service]:
    """The servers by each of their names."""
    servers = [service for service in stack.services.values() if service.answers and service.api_port]
    return {name: server for server in reversed(servers) for name in own_names(server)}


def _words(service: Service) -> Iterator[tuple[str, Word]]:
    for name, word in service.environment.items():
        if not word.null:
            yield shown(name), word
    for word in (*(service.entrypoint or ()), *(service.command or ())):
        yield "the command", word


def _fault(asked: Asked, client: Service, servers: Mapping[str, Service]) -> str:
    """Why the address is wrong; empty where it is right, or somebody else's."""
    if server := servers.get(asked.host.lower()):
        return _fault_at(asked, server)
    alone = not client.text("network_mode") and asked.host in LOOPBACK
    nearby = [*servers.values()][:MOST_COMPARED] if alone else []
    meant = next((server for server in nearby if asked.port in _ports(server)), None)
    return f"asks {asked.host}, its own container; the server is {shown(meant.name)}" if meant else ""


def _fault_at(asked: Asked, server: Service) -> str:
    if asked.port != server.api_port:
        host = [port for port in server.ports if asked.port in port.numbers and _leads_to(port, server)]
        of_host = ", the port of the host" if host else ""
        return f"asks port {asked.port}{of_host}; {shown(server.name)} listens on {server.api_port}"
    if speaks_tls(server) and asked.scheme == "http":
        return f"asks http://, and {shown(server.name)} has a certificate"
    return ""


def _leads_to(port: Port, server: Service) -> bool:
    return whole(port.target) == server.api_port


def _ports(server: Service) -> set[int]:
    """Where the server answers, inside and outside."""
    published = {number for port in server.ports if _leads_to(port, server) for number in port.numbers[:1]}
    return {server.api_port or API_PORT, *published}
