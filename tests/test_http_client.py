"""Servers that send without end, drop by drop, elsewhere, or nonsense: each costs little and is one sentence."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import ROOT

from ernie_deploy.bench.journal.record import Environment
from ernie_deploy.bench.measure import coherence
from ernie_deploy.bench.measure.server import Endpoint, read_metrics
from ernie_deploy.errors import KitError, ServerDied
from ernie_deploy.rehearsal import client
from ernie_deploy.safe_io import http_client
from ernie_deploy.stack import metrics, status
from ernie_deploy.stack.servers import Server

KEY = "sk-planted"
DEEP = b"[" * 200_000


class Handler(BaseHTTPRequestHandler):
    server: "Bad"

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        mood = self.server.mood
        if mood == "redirect":
            self.send_response(302)
            self.send_header("Location", self.server.elsewhere)
            self.end_headers()
        elif mood == "header-drops":
            self.drip(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1000)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.content)
            if mood == "endless":
                while True:
                    self.wfile.write(b"x" * (1 << 20))
            if mood == "drops":
                self.drip(b"x" * 1000)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def drip(self, content: bytes) -> None:
        for byte in content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.1)

    def log_message(self, *_: object) -> None:
        pass


class Bad(ThreadingHTTPServer):
    """Its `mood` is endless, drops, header-drops, redirect or content."""

    daemon_threads = True
    mood, content, elsewhere = "content", b"", ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.headers: list[dict[str, str]] = []

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def started() -> Iterator[Bad]:
    with Bad() as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()


bad, other = pytest.fixture(started, name="bad"), pytest.fixture(started, name="other")


def completed(url: str) -> object:
    """A completion with a limit that a test can wait for."""
    with patch.object(client, "COMPLETION_S", 1.0):
        return client.complete(url, "m", "p", max_tokens=1)


CLIENTS: dict[str, Callable[[str], object]] = {
    "metrics": lambda url: metrics.fetch(f"{url}/metrics", timeout_s=1.0),
    "scrape": lambda url: metrics.scrape([Server(url=url)]),
    "status": lambda url: status.at_work([Server(url=url)]),
    "look": lambda url: Endpoint(url=url, api_key=KEY).current_metrics(),
    "json": lambda url: Endpoint(url=url, api_key=KEY).get("/version"),
    "card": lambda url: Endpoint(url=url, api_key=KEY).model_card(),
    "post": lambda url: Endpoint(url=url, api_key=KEY).post("/v1/completions", {}, timeout_s=1.0),
    "reset": lambda url: Endpoint(url=url, api_key=KEY).reset_caches(),
    "coherence": lambda url: coherence.require(Endpoint(url=url, api_key=KEY), "m", Environment(id="e", taken_unix_s=0, hf_id="m")),
    "chat": lambda url: client.chat(url, "m", max_tokens=1, stream=False, timeout_s=1.0),
    "stream": lambda url: client.chat(url, "m", max_tokens=1, stream=True, timeout_s=1.0),
    "complete": completed,
}  # fmt: skip
FORESEEN = (OSError, ValueError, KitError)


def call(name: str, url: str) -> object:
    try:
        return CLIENTS[name](url)
    except FORESEEN as fault:
        return fault


# All in one process that may have 600 MB: an endless /metrics took 4 GB.
LITTLE_MEMORY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
sys.path.insert(0, sys.argv[1])
from test_http_client import CLIENTS, call
for name in CLIENTS:
    print(name, type(call(name, sys.argv[2])).__name__, flush=True)
"""


def test_no_client_takes_an_answer_without_end(bad: Bad) -> None:
    bad.mood = "endless"
    words = [sys.executable, "-c", LITTLE_MEMORY, str(Path(__file__).parent), bad.url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MemoryError" not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(CLIENTS)


@pytest.mark.parametrize("mood", ["drops", "header-drops"])
@pytest.mark.parametrize("limit_s", [0.3])
def test_the_limit_is_for_the_whole_answer(bad: Bad, mood: str, limit_s: float) -> None:
    bad.mood = mood
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no whole answer within 0\.3 s"):
        http_client.ask(bad.url, limit_s=limit_s)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", CLIENTS)
def test_no_client_follows_a_redirect_with_its_key(bad: Bad, other: Bad, name: str) -> None:
    bad.mood, bad.elsewhere = "redirect", f"http://localhost:{other.server_port}/stolen"
    call(name, bad.url)
    assert bad.headers
    assert not other.headers


@pytest.mark.parametrize("name", CLIENTS)
def test_no_client_asks_a_proxy(bad: Bad, other: Bad, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, other.url)
    call(name, bad.url)
    assert bad.headers
    assert not other.headers


SHAPES = [DEEP, b"null", b"[]", b"7", b'{"data": 3}', b'{"data": [3]}', b'{"choices": [1], "usage": 2}',
          b'{"choices": {"a": 1}}', b'{"choices": [{"text": 1}]}', b'"\xff"', b"1" * 10_000]  # fmt: skip


@pytest.mark.parametrize("content", SHAPES, ids=lambda content: repr(content[:30]))
@pytest.mark.parametrize("name", ["json", "card", "post", "coherence"])
def test_json_of_any_depth_and_shape_is_foreseen(bad: Bad, name: str, content: bytes) -> None:
    bad.content = content
    call(name, bad.url)


def test_a_card_nested_too_deeply_is_one_sentence(bad: Bad) -> None:
    bad.content = DEEP
    with pytest.raises(ServerDied) as raised:
        Endpoint(url=bad.url).model_card()
    assert raised.value.cause == "GET /v1/models: JSON that is nested too deeply"


@pytest.mark.parametrize("word", ["NaN", "+Inf", "-Inf", "1.2.3", "1e999", "1e300", "0x1", "--", "e"])
def test_what_is_no_number_is_left_out(bad: Bad, word: str) -> None:
    good = 'vllm:num_requests_running{engine="0"} 2\nvllm:generation_tokens_total 3\n'
    text = "".join(f'vllm:{name}{{engine="1"}} {word}\n' for name in ("num_requests_running", "generation_tokens_total",
                   "kv_cache_usage_perc", "prefix_cache_queries_total", "request_success_total")) + good  # fmt: skip
    look = read_metrics(text)
    assert (look.running, look.counters["generation_tokens"]) == (2, 3)
    bad.content = text.encode()
    shown = status.at_work([Server(url=bad.url)])
    assert shown
    assert (shown["requests_running"], shown["kv_cache_usage"]) == (2, 0)
    json.dumps(shown, allow_nan=False)


def test_a_key_that_no_header_can_carry_is_not_quoted(bad: Bad) -> None:
    with pytest.raises(OSError, match="no header can carry") as raised:
        http_client.ask(bad.url, key=f"{KEY}\n")
    assert KEY not in repr(raised.value.__context__) + str(raised.value)
    assert not bad.headers


def test_a_refusal_keeps_its_number(bad: Bad) -> None:
    bad.mood = "redirect"
    with pytest.raises(http_client.BadStatus, match="HTTP 302") as raised:
        http_client.ask(bad.url)
    assert raised.value.code == 302
