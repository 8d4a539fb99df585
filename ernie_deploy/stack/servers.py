"""The servers of a stack as this host reaches them: at a published port, else from inside their containers."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ernie_deploy.safe_io.http_client import MOST_TEXT_BYTES, ask
from ernie_deploy.stack.address import address_of
from ernie_deploy.stack.container_exec import ask_inside
from ernie_deploy.stack.containers import State

if TYPE_CHECKING:
    from docker import DockerClient

# `serve` and, of several on one node, serve-2 and so on.
SERVE = re.compile(r"serve(?:-\d{1,3})?")
PORT = 8000
TIMEOUT_S = 5.0


class Server(Struct, frozen=True, kw_only=True):
    """One server: at `url`, or where that is empty in the container, on its own loopback address."""

    url: str = ""
    service: str = "serve"
    container_id: str = ""
    port: int = PORT
    engine: Any = None

    @property
    def place(self) -> str:
        """Where it is, for a sentence."""
        return self.url or f"the container of {self.service}, port {self.port}"

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        key: str = "",
        limit_s: float = TIMEOUT_S,
        most_bytes: int = MOST_TEXT_BYTES,
    ) -> bytes:
        """The answer to a GET, or to a POST of `body` as JSON; raises OSError, `BadStatus` among them."""
        if self.url:
            return ask(f"{self.url}{path}", body, key=key, limit_s=limit_s, most_bytes=most_bytes)
        return ask_inside(
            self.engine, self.container_id, self.port, path, body, key=key, limit_s=limit_s, most_bytes=most_bytes
        )  # fmt: skip

    def text(self, path: str, *, limit_s: float = TIMEOUT_S) -> str:
        """The body of a GET; raises OSError."""
        return self.ask(path, limit_s=limit_s).decode("utf-8", "replace")

    def is_healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            self.ask("/health")
        except OSError:
            return False
        return True


def servers(engine: "DockerClient", services: Mapping[str, Any], states: Sequence[State]) -> list[Server]:
    """Every running server of a stack, from its resolved services and their containers."""
    return [
        _server(engine, services, state)
        for state in states
        if SERVE.fullmatch(state.service) and state.status == "running"
    ]


def _server(engine: "DockerClient", services: Mapping[str, Any], state: State) -> Server:
    address = address_of(services, state)
    return Server(
        url=f"http://{address}" if address else "",
        service=state.service,
        container_id=state.id,
        port=_port(services.get(state.service, {}).get("command") or ()),
        engine=engine,
    )


def _port(command: Sequence[str]) -> int:
    """The port in a server's own command; vLLM's default where it names none."""
    named = (str(word).partition("=")[2] for word in command if str(word).startswith("--port="))
    return next((int(word) for word in named if word.isdecimal()), PORT)
