"""HAProxy's counter of denied requests is of those that a key's limit refused, and of no others: an alert reads it."""

import re
import urllib.request
from pathlib import Path

from gateway import haproxy
from gateway.upstream import Upstream

COUNTER = r'^haproxy_frontend_requests_denied_total\{proxy="front"\} (\d+)$'


def denied(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        match = re.search(COUNTER, answer.read().decode(), re.MULTILINE)
    assert match
    return int(match[1])


def test_only_what_a_limit_refused_counts(tmp_path: Path) -> None:
    with (
        Upstream() as upstream,
        haproxy.running(tmp_path, upstream.address, {"ek_a": "alice:2:0:0"}) as front,
    ):
        before = denied(front.own_port)
        asked = [front.ask("GET", "/v1/models", "Authorization: Bearer ek_a") for _ in range(5)]
        assert [status for status, _ in asked] == [200, 200, 429, 429, 429]
        assert all(b"retry-after: 60" in answer.lower() for status, answer in asked if status == 429)
        assert b"rate_limit_exceeded" in asked[-1][1]
        # No key, no such route, no such method.
        assert front.ask("GET", "/v1/models")[0] == 401
        assert front.ask("GET", "/docs", "Authorization: Bearer ek_a")[0] == 404
        assert front.ask("DELETE", "/v1/models", "Authorization: Bearer ek_a")[0] in (404, 405)
        assert denied(front.own_port) - before == 3
