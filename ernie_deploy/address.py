"""Where a stack's API is, as the host that runs it reaches it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_deploy.containers import State


def api_address(services: Mapping[str, Any], states: Sequence[State]) -> str:
    """`HOST:PORT` of the API, from the resolved services and their containers; '' where it is not to be reached."""
    serve = next((state for state in states if state.service == "serve"), None)
    if serve is None:
        return ""
    if services["serve"].get("network_mode") == "host":
        # Over several nodes nothing is published: the client's own words say where the API is.
        return f"{_told(services, 'host')}:{_told(services, 'port')}"
    address = next(iter(serve.ports.values()), "")
    return address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - replaced


def _told(services: Mapping[str, Any], option: str) -> str:
    words: Sequence[str] = services["bench"]["command"]
    return next(word.partition("=")[2] for word in words if word.startswith(f"--{option}="))
