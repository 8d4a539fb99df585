"""Reads the server's own counters from /metrics, the Prometheus text that vLLM writes."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from ernie_deploy.safe_io.http_client import ask
from ernie_deploy.stack.servers import TIMEOUT_S, Server

# Name, labels, value; a label's text may hold braces.
SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN|\+Inf)$", re.MULTILINE)
LABEL = re.compile(r'(?<!\w)(\w+)="((?:[^"\\]|\\.)*+)"')
# No counter comes near it, and a sum of such numbers stays finite.
MOST = 1e18
# A share of each engine's own: the mean of several says how full they are.
SHARES = frozenset({"vllm:kv_cache_usage_perc"})


def fetch(url: str, *, timeout_s: float = TIMEOUT_S) -> str:
    """The body of a GET; raises OSError."""
    return ask(url, limit_s=timeout_s).decode("utf-8", "replace")


def samples(text: str) -> Iterator[tuple[str, str, float]]:
    """Name, labels and value of each sample; what is no number, NaN, infinite or absurd is left out."""
    for name, labels, word in SAMPLE.findall(text):
        try:
            value = float(word)
        except ValueError:
            continue
        # NaN fails every comparison.
        if abs(value) <= MOST:
            yield name, labels, value


def counters(text: str) -> dict[str, float]:
    """Each vLLM metric over its labels (engines, mostly) and over servers: shares as their mean, all else summed."""
    totals: dict[str, float] = defaultdict(float)
    parts: dict[str, int] = defaultdict(int)
    for name, _, value in samples(text):
        if name.startswith("vllm:"):
            totals[name] += value
            parts[name] += 1
    return {name: total / parts[name] if name in SHARES else total for name, total in totals.items()}


def scrape(servers: Iterable[Server]) -> dict[str, float]:
    """The counters of running servers, taken together; nothing where none answers."""
    return counters("".join(texts(servers).values()))


def texts(servers: Iterable[Server]) -> dict[str, str]:
    """What each server that answers prints under /metrics, by its service."""
    printed = {}
    for server in servers:
        try:
            printed[server.service] = server.text("/metrics")
        except OSError:
            continue
    return printed
