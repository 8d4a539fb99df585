"""ED23x: a reverse proxy in front of vLLM, and what goes past it."""

import re
from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.ports_and_mounts import Port
from ernie_deploy.check.service import Service, neighbours
from ernie_deploy.check.tree import Items, Table
from ernie_deploy.check.values import shown, truth

PROXIES = re.compile(r"(?:^|/)(?:haproxy|nginx|caddy|traefik|envoy)(?:$|[-_/])")
TLS_PORTS = {"443", "8443"}
TLS_WORDS = re.compile(r"ssl|tls|https|443|acme", re.IGNORECASE)
# What the kit's gateway has: the one says that it is the kit's, the other how it speaks.
OF_THE_KIT, TLS_LABEL = "GATEWAY_QUEUE", "ernie-deploy.tls"


def is_front(service: Service) -> bool:
    """Whether it is a reverse proxy that is published, with a server of vLLM's in its stack or as the kit's gateway."""
    if not service.ports or not PROXIES.search(service.image.name.lower()):
        return False
    return OF_THE_KIT in service.environment or any(other.answers for other in neighbours(service))


def _front_of(service: Service) -> Service | None:
    """The proxy in front of a server."""
    return next((other for other in neighbours(service) if service.answers and is_front(other)), None)


@rule(
    "ED230",
    "warning",
    "The server behind a proxy is published beyond this host too: clients can go past the proxy, its keys and its limits.",
    remedy="leave out the server's ports: the proxy reaches it by its name",
    source="Docker publishes a port whatever else is in front of the service",
)
def published_behind_a_front(service: Service) -> Iterator[Spot]:
    """Ports of a server that has a front; one on loopback is for who is on this host anyway."""
    front = _front_of(service)
    if front and service.text("network_mode") not in ("host", "none"):
        for port in service.ports:
            if not port.loopback:
                where = shown(port.published or port.target)
                yield Spot(port.line, f"who reaches port {where} goes past {shown(front.name)}")


@rule(
    "ED231",
    "note",
    "The server behind a proxy has a way out of its network.",
    remedy="give server and proxy a network with `internal: true`, and the proxy another one that is published",
    source="run with Docker: what is only on internal networks is reached by no other one, and reaches nothing outside",
)
def way_out_behind_a_front(service: Service) -> Iterator[Spot]:
    """A server whose networks are not all internal, although nobody else needs to reach it."""
    front = _front_of(service)
    if front and not service.ports and not service.text("network_mode") and not _is_shut_in(service):
        yield Spot(
            service.line_of("networks"),
            f"only {shown(front.name)} needs to reach it, and it needs to reach nobody",
        )


def _is_shut_in(service: Service) -> bool:
    value = service.value("networks")
    names = (
        [*value.values]
        if isinstance(value, Table)
        else [word.text for word in service.words("networks")]
        if isinstance(value, Items)
        else []
    )
    return bool(names) and all(_is_internal(service, name) for name in names)


def _is_internal(service: Service, name: str) -> bool:
    # Whoever made an external one decided.
    field = service.stack.field
    return truth(field("networks", name, "internal")) or truth(field("networks", name, "external"))


@rule(
    "ED232",
    "warning",
    "The proxy in front of the server is published beyond this host without TLS.",
    remedy="have it speak TLS (ernie-deploy render --gateway --tls files), or publish it on 127.0.0.1 behind what does",
    source="HTTP: anyone on the network path can read the Authorization header and every prompt",
)
def front_in_clear(service: Service) -> Iterator[Spot]:
    """A front whose clients send their keys as plain text, as far as the file says."""
    if is_front(service) and not _speaks_tls(service):
        for port in service.ports:
            if not port.loopback and port.protocol == "tcp":
                yield Spot(port.line, "keys and prompts of other hosts come as plain text")


def _speaks_tls(front: Service) -> bool:
    """Whether the file says so, or leaves it open."""
    if OF_THE_KIT in front.environment:
        return labelled(front, TLS_LABEL)
    words = [*(front.entrypoint or ()), *(front.command or ())]
    named = any(TLS_WORDS.search(word.text) for word in words)
    return named or any(_is_for_tls(port) for port in front.ports)


def _is_for_tls(port: Port) -> bool:
    return bool(TLS_PORTS & {port.published, port.target})


def labelled(service: Service, name: str) -> bool:
    """Whether the service has a label of this name."""
    labels = service.value("labels")
    if isinstance(labels, Table):
        return name in labels.values
    return any(word.text.partition("=")[0] == name for word in service.words("labels"))
