"""ED134: programs beside the server that are told a wrong address of it."""

from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.plumbing import Port
from ernie_deploy.check.probe import LONGEST_WORD, LOOPBACK, Asked, own_names, speaks_tls, urls
from ernie_deploy.check.service import API_PORT, Service, neighbours
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import shown, whole


@rule(
    "ED134",
    "error",
    "A client is told an address at which the server does not answer.",
    remedy="http://SERVICE:8000/v1, with the service's name and the port that vLLM listens on inside its container",
    source="docs.docker.com, Networking in Compose: services reach each other by CONTAINER_PORT, not by HOST_PORT",
)
def lost_client(service: Service) -> Iterator[Spot]:
    """`OPENAI_API_BASE_URL: http://vllm:9000/v1`, the host's port, localhost, http to a server with a certificate."""
    servers = [other for other in neighbours(service) if other.answers and other.api_port]
    if service.argv or not servers:
        return
    for what, word in _words(service):
        for asked in urls(word.text) if len(word.text) < LONGEST_WORD else ():
            if reason := _fault(asked, service, servers):
                yield Spot(word.line, f"{what} {reason}")


def _words(service: Service) -> Iterator[tuple[str, Word]]:
    for name, word in service.environment.items():
        if not word.null:
            yield shown(name), word
    for word in (*(service.entrypoint or ()), *(service.command or ())):
        yield "the command", word


def _fault(asked: Asked, client: Service, servers: list[Service]) -> str:
    """Why the address is wrong; empty where it is right, or somebody else's."""
    for server in servers:
        if asked.host.lower() in own_names(server):
            return _fault_at(asked, server)
    alone = not client.text("network_mode") and asked.host in LOOPBACK
    meant = next((server for server in servers if alone and asked.port in _ports(server)), None)
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
