"""Where a stack's API is, as the host that runs it reaches it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_deploy.stack.containers import State, of_service

# Every interface of this host, the loopback one among them.
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - replaced


def api_address(services: Mapping[str, Any], states: Sequence[State]) -> str:
    """`HOST:PORT` of the API, from the resolved services and their containers; '' where none is to be found."""
    serve = of_service(states, "serve")
    return address_of(services, serve) if serve else ""


def address_of(services: Mapping[str, Any], server: State) -> str:
    """`HOST:PORT` of one server's container; '' where it is reached only from inside."""
    if server.ports:
        return published(server)
    # On the host's network nothing is published: the client's own words say where the API is.
    return _reachable(_client_option(services, "host"), _client_option(services, "port"))


def published(state: State) -> str:
    """`HOST:PORT` of the first port that a container publishes; '' where it publishes none."""
    host, _, port = next(iter(state.ports.values()), "").rpartition(":")
    return _reachable(host, port)


def _client_option(services: Mapping[str, Any], option: str) -> str:
    words: Sequence[str] = services.get("bench", {}).get("command") or ()
    own = bool(services.get("serve", {}).get("network_mode"))
    values = (word.partition("=")[2] for word in words if own and word.startswith(f"--{option}="))
    return next(values, "")


def _reachable(host: str, port: str) -> str:
    """An address that a client may be given, `[...]` around one of IPv6; '' where a part is missing."""
    host = ANYWHERE.get(host.strip("[]"), host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{host}:{port}" if host and port else ""
