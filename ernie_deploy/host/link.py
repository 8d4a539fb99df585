"""How this host reaches the head of its server over several nodes: interface, address, RDMA devices."""

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ernie_deploy.host import probes
from ernie_deploy.host.probes import Host, Ran
from ernie_deploy.plan.nodes import profile_of


class Link(Struct, frozen=True, kw_only=True):
    """The way to the head; `fault` is why there is none, `local` whether this host is the head."""

    fault: str = ""
    local: bool = False
    address: str = ""
    interface: str = ""
    rdma: tuple[str, ...] = ()


def route_to_head(host: Host, head: str) -> Link | None:
    """Ask the host for its way to the head; None where the head is not known yet."""
    if not head:
        return None
    devices = tuple(path.rpartition("/")[2] for path in host.glob(probes.RDMA_DEVICES))
    return read_link(host.run(probes.route_to(head)), host.run(probes.ADDRESSES), devices)


def read_link(route: Ran, addresses: Ran, rdma: tuple[str, ...]) -> Link:
    """Read what `ip` printed."""
    routes = _rows(route.stdout)
    if route.rc or not routes:
        return Link(fault=route.output.splitlines()[0] if route.output else "`ip` gave no route", rdma=rdma)
    address = str(routes[0].get("prefsrc") or "")
    local = routes[0].get("type") == "local"
    # The route to an address of one's own goes over `lo`, which no other node can reach.
    interface = _interface_of(address, addresses) if local else str(routes[0].get("dev") or "")
    return Link(local=local, address=address, interface=interface, rdma=rdma)


def _interface_of(address: str, addresses: Ran) -> str:
    for row in _rows(addresses.stdout):
        if any(info.get("local") == address for info in row.get("addr_info") or ()):
            return str(row.get("ifname") or "")
    return ""


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text or "[]")
    except ValueError:
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def variables(link: Link | None, now: Mapping[str, str]) -> dict[str, str]:
    """What .env of this node must say; the profile is Compose's own variable, so that a bare `up` does."""
    if link is None or link.fault or not now["NODE_RANK"].isdecimal():
        return {}
    return {
        "NODE_RANK": now["NODE_RANK"],
        "HEAD_ADDR": now["HEAD_ADDR"],
        "HOST_IP": link.address,
        "NIC": link.interface,
        "COMPOSE_PROFILES": profile_of(int(now["NODE_RANK"])),
    }
