"""Reads the server's own counters from /metrics, the Prometheus text that vLLM writes."""

import re
import urllib.error
import urllib.request
from collections import defaultdict
from http.client import HTTPException

# Name, labels, value; a label's text may hold braces.
SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN|\+Inf)$", re.MULTILINE)
TIMEOUT_S = 5.0
# A proxy of the shell is not for a server on this host.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, *, timeout_s: float = TIMEOUT_S) -> str:
    """The body of a GET; raises OSError."""
    try:
        with DIRECT.open(url, timeout=timeout_s) as answer:
            body: bytes = answer.read()
    except HTTPException as fault:
        raise OSError(f"no HTTP answer: {fault!r}") from fault
    return body.decode("utf-8", "replace")


def counters(text: str) -> dict[str, float]:
    """Each vLLM metric summed over its labels (engines, mostly)."""
    totals: dict[str, float] = defaultdict(float)
    for name, _, value in SAMPLE.findall(text):
        if name.startswith("vllm:"):
            totals[name] += float(value)
    return dict(totals)


def scrape(base_url: str) -> dict[str, float]:
    """The counters of a running server, or nothing where it does not answer."""
    try:
        return counters(fetch(f"{base_url}/metrics"))
    except (OSError, urllib.error.URLError):
        return {}
