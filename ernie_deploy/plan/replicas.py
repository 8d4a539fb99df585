"""Several servers of one model on a node behind its gateway, and servers elsewhere that a gateway alone stands before."""

import re
from collections.abc import Sequence

from msgspec import Struct

from ernie_deploy.catalog.schema import Target
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan.limits import is_host_name
from ernie_deploy.plan.request import Request

SERVICE = "serve"
HIGHEST_PORT = 65535
# From the start alone: each character of a long run would begin a match anew.
WITH_PORT = re.compile(r"\A(\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:]{1,253}):([0-9]{1,5})")


class Replica(Struct, frozen=True):
    """One server of the stack: its service in Compose, and its GPUs, which no other one has."""

    service: str
    gpu_ids: tuple[int, ...]

    @property
    def number(self) -> int:
        """1 for `serve`, 2 for `serve-2`."""
        return int(self.service.removeprefix(SERVICE).removeprefix("-") or 1)


def replicas_of(request: Request, gpu_ids: Sequence[int], each: int) -> tuple[Replica, ...]:
    """The replicas of a plan in order, the first `each` GPUs for the first of them; none where they are elsewhere."""
    if request.upstreams:
        return ()
    return tuple(
        Replica(
            SERVICE if number == 0 else f"{SERVICE}-{number + 1}",
            tuple(gpu_ids[number * each : (number + 1) * each]),
        )
        for number in range(request.replicas)
    )


def check_replicas(request: Request, target: Target) -> None:
    """Refuse replicas and upstreams that cannot be; raises `KitError`."""
    for option, asked in (
        (f"--replicas {request.replicas}", request.replicas > 1),
        ("--upstreams", bool(request.upstreams)),
        (f"--balance {request.balance}", request.balance != "leastconn"),
    ):
        if asked and not request.gateway:
            raise UsageError(
                f"{option} needs --gateway.",
                cause="the gateway distributes the requests among the servers",
                next_step="add --gateway, or use --dp N for replicas within one server",
            )
    if request.replicas > 1 and request.upstreams:
        raise UsageError(
            "--replicas and --upstreams exclude each other.",
            cause="with --upstreams the servers are elsewhere, and this stack has none",
            next_step="leave one of them out",
        )
    _check_gpus(request, target)


def _check_gpus(request: Request, target: Target) -> None:
    """Refuse replicas for which there are too few GPUs, or which could not have the same number."""
    there = len(request.gpus) or target.gpus
    if target.gpus and request.replicas > there:
        raise Refused(
            f"--replicas {request.replicas}: there are {there} GPUs, and each replica has its own.",
            cause=f"--gpus names {there}" if request.gpus else f"one {target.id} node has {there}",
            next_step=f"use --replicas {there} or less",
        )
    if len(request.gpus) % request.replicas:
        raise UsageError(
            f"--gpus names {there} GPUs, which {request.replicas} replicas cannot share evenly.",
            cause="all replicas are the same server, each with GPUs of its own",
            next_step="name the same number for each replica",
        )


def upstream(text: str) -> str:
    """`HOST:PORT` in its one spelling, an address of IPv6 within `[...]`; raises ValueError that says what is wrong."""
    match = WITH_PORT.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:60]!r} is not ADDRESS:PORT, such as 10.0.0.4:8000 or [fd00::4]:8000")
    host, port = match[1], int(match[2])
    if not 1 <= port <= HIGHEST_PORT:
        raise ValueError(f"{port} in {text[:60]!r} is no port")
    if host.startswith("["):
        import ipaddress  # A tenth of a rendering.

        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{port}"
        except ValueError:
            raise ValueError(f"{host} is no address of IPv6") from None
    return f"{_host(host)}:{port}"


def _host(text: str) -> str:
    """An address of IPv4 or a name, neither of them this host's loopback: the gateway's container has its own."""
    import ipaddress

    numeric = text.rpartition(".")[2].isdigit()
    try:
        host = str(ipaddress.IPv4Address(text)) if numeric else text.lower()
    except ValueError:
        raise ValueError(f"{text[:60]!r} is no address of IPv4") from None
    if not is_host_name(host):
        raise ValueError(f"{text[:60]!r} is no host name")
    if host == "localhost" or host.startswith("127."):
        raise ValueError(f"{text[:60]!r} would be the gateway's own container")
    return host
