"""Reads the server's own counters from /metrics, the Prometheus text that vLLM writes."""

import re
from collections import defaultdict
from collections.abc import Iterator

from ernie_deploy.safe_io.http_client import ask

# Name, labels, value; a label's text may hold braces.
SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN|\+Inf)$", re.MULTILINE)
TIMEOUT_S = 5.0
# No counter comes near it, and a sum of such numbers stays finite.
MOST = 1e18


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
    """Each vLLM metric summed over its labels (engines, mostly)."""
    totals: dict[str, float] = defaultdict(float)
    for name, _, value in samples(text):
        if name.startswith("vllm:"):
            totals[name] += value
    return dict(totals)


def scrape(base_url: str) -> dict[str, float]:
    """The counters of a running server, or nothing where it does not answer."""
    try:
        return counters(fetch(f"{base_url}/metrics"))
    except OSError:
        return {}
