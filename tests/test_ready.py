"""The parent of a server behind a gateway, run as a container runs it: when it says ready, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port
from container_scripts import copied
from gateway.haproxy import until

HANG_S, SEEN_S = 3.0, 4.0
# Ends with 7 when told to, and writes down when that was.
CHILD = """
import signal, sys, time
def end(*_):
    open(sys.argv[1], "w").write(str(time.monotonic()))
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + "-begun", "w").close()
while True:
    time.sleep(60)
"""
# Told to stop just before its child is there.
EARLY = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import ready
spawn = os.posix_spawnp
def late(*words, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    return spawn(*words, **options)
os.posix_spawnp = late
sys.exit(ready.main("0", "sleep", "15"))
"""


class Api(ThreadingHTTPServer):
    """vLLM's API: `status` of /health, what runs, and how far the engine is; silent while `quiet` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.running, self.steps, self.works = 200, 0, 0, True
        # When the engine last was a step further, and when the API last showed its metrics.
        self.moved_at = self.answered_at = time.monotonic()
        self.quiet = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Who asked has gone."""

    def metrics(self) -> str:
        self.answered_at = time.monotonic()
        if self.works and self.running > 0:
            self.steps += 1
            self.moved_at = time.monotonic()
        return (
            f'vllm:num_requests_running{{engine="0"}} {self.running}.0\n'
            f'vllm:iteration_tokens_total_count{{engine="0"}} {self.steps}.0\n'
            'vllm:kv_cache_usage_perc{engine="0"} 0.5\n'
        )


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        while self.server.quiet.is_set():
            time.sleep(0.05)
        body = self.server.metrics().encode() if self.path == "/metrics" else b""
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Ready:
    """The script with its child, and the API that it watches."""

    def __init__(
        self, folder: Path, api: Api, *, hang_s: float = HANG_S, command: list[str] | None = None
    ) -> None:
        self.port = free_port()
        self.api, self.ended, self.folder = api, folder / "ended", folder
        here = ("127.0.0.1", api.server_port)
        scripts = copied(folder / "scripts", PORT=self.port, API=here, LOOK_S=0.1, REPLY_S=0.5, SEEN_S=SEEN_S)
        child = command or [sys.executable, "-c", CHILD, str(self.ended)]
        words = [sys.executable, "-IS", str(scripts / "ready.py"), str(hang_s), *child]
        env = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
        )

    def close(self) -> None:
        """Ends it and its child."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def ask(self, path: str = "/ready") -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        except OSError:
            return 0, {}
        finally:
            connection.close()

    def wait_for(self, status: int, reason: str | None = None) -> float:
        """Until it answers so; when it had."""
        end = time.monotonic() + 60
        while True:
            asked_at = time.monotonic()
            answer, body = self.ask()
            if answer == status and reason in (None, body.get("reason")):
                return time.monotonic()
            assert asked_at < end, body
            time.sleep(0.02)

    def stays(self, status: int, seconds: float) -> None:
        """Whenever it is asked in that time it answers so."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.ask()[0] == status
            time.sleep(0.1)


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.quiet.clear()
    server.shutdown()
    server.server_close()


@pytest.fixture
def started(tmp_path: Path, api: Api) -> Iterator[Callable[..., Ready]]:
    made: list[Ready] = []

    def start(**options: Any) -> Ready:
        made.append(Ready(tmp_path, api, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_it_follows_the_health_of_the_api(started: Callable[..., Ready], api: Api) -> None:
    api.status = 503
    ready = started()
    says = "vLLM's /health says 503"
    ready.wait_for(503, says)
    assert ready.ask()[1] == {"ready": False, "reason": says}
    api.status = 200
    ready.wait_for(200)
    assert ready.ask()[1] == {"ready": True, "reason": ""}
    assert ready.ask("/metrics") == (404, {})
    api.status = 503
    ready.wait_for(503, says)
    api.status = 200
    ready.wait_for(200)
    api.shutdown()
    api.server_close()
    ready.wait_for(503)
    assert ready.ask()[1]["reason"].startswith("vLLM does not answer (Connection")


def test_a_stop_is_said_before_it_is_passed_on(started: Callable[..., Ready]) -> None:
    ready = started()
    ready.wait_for(200)
    told_at = time.monotonic()
    ready.process.send_signal(signal.SIGTERM)
    ready.wait_for(404)
    assert ready.ask()[1]["reason"] == "it stops"
    assert not ready.ended.exists()
    # A second one is no reason to hurry.
    ready.process.send_signal(signal.SIGTERM)
    assert ready.process.wait(60) == 7
    assert float(ready.ended.read_text()) - told_at >= SEEN_S - 0.1


def test_a_stop_at_the_first_moment_is_heard(started: Callable[..., Ready]) -> None:
    """Python runs no handler for a signal that comes just before it blocks."""
    for _ in range(15):
        ready = started(command=["sleep", "60"])
        ready.wait_for(200)
        ready.process.send_signal(signal.SIGTERM)
        ready.wait_for(404)
        ready.close()


def test_one_that_never_was_ready_stops_at_once(started: Callable[..., Ready], api: Api) -> None:
    api.status = 503
    ready = started()
    ready.wait_for(503, "vLLM's /health says 503")
    until((ready.folder / "ended-begun").exists)
    told_at = time.monotonic()
    ready.process.send_signal(signal.SIGTERM)
    assert ready.process.wait(60) == 7
    assert float(ready.ended.read_text()) - told_at < SEEN_S


def test_a_stop_while_the_child_is_made_is_passed_on_to_it(tmp_path: Path) -> None:
    port = free_port()
    scripts = copied(tmp_path / "scripts", PORT=port, API=("127.0.0.1", port), LOOK_S=0.1, SEEN_S=0.1)
    (tmp_path / "early.py").write_text(EARLY)
    words = [sys.executable, str(tmp_path / "early.py"), str(scripts)]
    assert subprocess.run(words, timeout=120, check=False).returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("end", "code"), [("exit 0", 0), ("exit 24", 24), ("kill -9 $$", 137), ("kill -6 $$", 134)]
)
def test_it_ends_at_once_as_its_child_did(started: Callable[..., Ready], end: str, code: int) -> None:
    # The orphan outlives the child and is no reason to wait.
    ready = started(command=["sh", "-c", f"sleep 0.5 & {end}"])
    assert ready.process.wait(60) == code


def test_an_engine_that_works_is_ready_and_one_that_stands_still_is_not(
    started: Callable[..., Ready], api: Api
) -> None:
    api.running = 3
    ready = started()
    ready.wait_for(200)
    ready.stays(200, HANG_S + 1)
    api.works = False
    assert ready.wait_for(503, "engine 0 stands still") > api.moved_at + HANG_S
    api.works = True
    ready.wait_for(200)
    # At rest nothing moves, and nothing is wrong.
    api.running = 0
    time.sleep(HANG_S + 0.5)
    assert ready.ask()[0] == 200


def test_what_the_health_check_knows_of_an_engine_at_rest_counts(
    started: Callable[..., Ready], tmp_path: Path
) -> None:
    ready = started()
    ready.wait_for(200)
    for stuck, words in ((["0", "2"], "engine 0, 2 stands still"), ([""], "engine ? stands still")):
        state: list[object] = [{}, 100.0, 1, {}, stuck]
        (tmp_path / "canary.json").write_text(json.dumps(state))
        ready.wait_for(503, words)
        state[2:] = [0, {}, []]
        (tmp_path / "canary.json").write_text(json.dumps(state))
        ready.wait_for(200)


def test_a_health_check_that_came_before_the_first_answer_is_no_hang(
    started: Callable[..., Ready], tmp_path: Path
) -> None:
    (tmp_path / "canary.json").write_text(json.dumps([{}, None, 3, {}, [""]]))
    ready = started()
    ready.wait_for(200)
    ready.stays(200, HANG_S + 1)


def test_a_silent_api_is_busy_for_a_while(started: Callable[..., Ready], api: Api) -> None:
    ready = started()
    ready.wait_for(200)
    api.quiet.set()
    assert ready.wait_for(503, f"vLLM has been silent for {HANG_S:.0f} s") > api.answered_at + HANG_S
    api.quiet.clear()
    ready.wait_for(200)


def test_the_only_server_is_never_taken_away_for_a_hang(started: Callable[..., Ready], api: Api) -> None:
    api.running, api.works = 1, False
    ready = started(hang_s=0)
    ready.wait_for(200)
    api.quiet.set()
    time.sleep(HANG_S + 1)
    assert ready.ask()[0] == 200


def test_a_check_that_goes_away_at_the_status_line_leaves_no_traceback(
    started: Callable[..., Ready], capfd: pytest.CaptureFixture[str]
) -> None:
    """As HAProxy's do, once a second: the log of the server is vLLM's."""
    ready = started()
    ready.wait_for(200)
    for _ in range(60):
        with socket.create_connection(("127.0.0.1", ready.port), timeout=30) as check:
            check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            check.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            assert check.recv(12) == b"HTTP/1.0 200"
    ready.wait_for(200)
    assert "Traceback" not in capfd.readouterr().err
