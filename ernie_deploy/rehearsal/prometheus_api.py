"""Asks the Prometheus of a rehearsed stack, on the port of this host that it is published on."""

from typing import Any
from urllib.parse import urlencode

from ernie_deploy.safe_io.http_client import MIB, ask, read_json
from ernie_deploy.stack.address import published
from ernie_deploy.stack.containers import State

SERVICE = "prometheus"
ASK_S = 20.0
# A stack has some thousand series of some hundred bytes.
MOST_BYTES = 16 * MIB


def data(state: State, path: str, **words: str) -> Any:
    """What its API answers under `data`; raises OSError."""
    try:
        return read_json(_answer(state, path, words))["data"]
    except (ValueError, LookupError, TypeError) as fault:
        raise OSError(f"Prometheus gave no answer to {path}: {fault!r}") from fault


def vector(state: State, expr: str) -> list[dict[str, Any]]:
    """The series of an instant query, each with `metric` and `value`; raises OSError."""
    series: list[dict[str, Any]] = data(state, "query", query=expr)["result"]
    return series


def every_series(state: State) -> bytes:
    """The name and labels of all that it has measured; raises OSError."""
    return _answer(state, "series", {"match[]": '{__name__=~".+"}'})


def _answer(state: State, path: str, words: dict[str, str]) -> bytes:
    query = f"?{urlencode(words)}" if words else ""
    return ask(f"http://{published(state)}/api/v1/{path}{query}", limit_s=ASK_S, most_bytes=MOST_BYTES)
