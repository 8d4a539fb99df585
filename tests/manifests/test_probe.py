"""The kubelet restarts a hang and nothing else, and a worker is ready where its leader serves."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_vllm import FakeVllm
from manifests.reading import probe, unpacked, written


def liveness(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return probe(tmp_path, unpacked(tmp_path, written("h100")) / "liveness.py", *words)


def remember(tmp_path: Path, misses: int) -> None:
    """What the canary would remember of an engine that was healthy a minute ago and stood still since."""
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    folder = tmp_path / f"canary-{started}"
    folder.mkdir(exist_ok=True)
    (folder / "canary.json").write_text(json.dumps([{"0": [1, [0.0, 0.0], 0.0]}, 0.0, misses, {}, []]))


@contextmanager
def serving(mood: str) -> Iterator[FakeVllm]:
    server = FakeVllm(mood=mood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("mood", "misses", "code"), [("hung", 3, 1), ("hung", 0, 0), ("saturated", 3, 0), ("wrong-name", 5, 0)]
)
def test_the_kubelet_restarts_a_hang_and_nothing_else(
    tmp_path: Path, mood: str, misses: int, code: int
) -> None:
    remember(tmp_path, misses)
    with serving(mood) as server:
        done = liveness(tmp_path, server.url, "model")
    assert done.returncode == code, done
    assert ("hang" in done.stderr) is bool(code)


def test_the_kubelet_leaves_alone_what_never_was_healthy_and_a_key_it_cannot_read(tmp_path: Path) -> None:
    assert liveness(tmp_path, "http://127.0.0.1:1", "model").returncode == 0
    assert liveness(tmp_path, "http://127.0.0.1:1", "model", "/nonexistent").returncode == 0


def test_a_container_started_again_remembers_nothing(tmp_path: Path) -> None:
    """/tmp is the pod's: what the canary knew of the last container would end the new one."""
    remember(tmp_path, 5)
    (state,) = tmp_path.glob("canary-*")
    state.rename(tmp_path / "canary-1")
    assert liveness(tmp_path, "http://127.0.0.1:1", "model").returncode == 0
    assert len(list(tmp_path.glob("canary-*"))) == 2


@contextmanager
def leader_that_says(status: int) -> Iterator[int]:
    """The port of a leader whose /health is `status`, and any other path 404; 0 for one that is not there."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port if status else 1
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (0, 1)])
def test_a_worker_is_ready_where_the_leader_serves(tmp_path: Path, status: int, code: int) -> None:
    scripts = unpacked(tmp_path, written("h100", model="300b", nodes=2))
    # The image's path, here a folder of the test.
    common = scripts / "common.py"
    common.write_text(common.read_text().replace('"/stack"', repr(str(tmp_path))))
    count = tmp_path / f"starts-{os.uname().nodename}"
    count.write_text("2\n")
    with leader_that_says(status) as port:
        done = probe(tmp_path, scripts / "joined.py", str(port), LWS_LEADER_ADDRESS="127.0.0.1")
    assert done.returncode == code, done
    assert count.exists() is bool(code)
    assert "Traceback" not in done.stderr
