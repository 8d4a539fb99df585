"""What is read from inside a container: the same answers as at a port, bounded, and no secret among the arguments."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_exec import FakeExec
from fake_vllm import FakeVllm
from test_lifecycle import state

from ernie_deploy.safe_io.http_client import BadStatus
from ernie_deploy.stack import metrics
from ernie_deploy.stack.container_exec import ask_inside, run_inside
from ernie_deploy.stack.servers import Server, servers

KEY = "sk-0123456789abcdef"


@contextmanager
def serving(mood: str = "idle") -> Iterator[FakeVllm]:
    with FakeVllm(mood=mood) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with serving() as made:
        yield made


class Engine(threading.Thread):
    """A Docker engine that prints a command's output together with the head of its answer, as a busy host reads it."""

    def __init__(self, path: Path, printed: bytes) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.printed = printed

    def run(self) -> None:
        with self.listener, contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as asked:
            while line := asked.readline():
                length = 0
                while (header := asked.readline().strip()) != b"":
                    name, _, value = header.partition(b": ")
                    length = int(value) if name.lower() == b"content-length" else length
                asked.read(length)
                if b"/start" in line:
                    head = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
                    connection.sendall(head + struct.pack(">BxxxL", 1, len(self.printed)) + self.printed)
                    return
                body = b'{"ExitCode": 0}' if line.startswith(b"GET") else b'{"Id": "e1"}'
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                connection.sendall(head % len(body) + body)


@pytest.mark.parametrize("size", [1, 5000, 100_000])
def test_what_comes_with_the_head_of_the_answer_is_read(size: int, tmp_path: Path) -> None:
    """Docker's client had it in a buffer and read on behind it: on a busy host a command seemed to print nothing."""
    docker = pytest.importorskip("docker")
    printed = b"x" * (size - 1) + b"y"
    engine = Engine(tmp_path / "docker.sock", printed)
    engine.start()
    with contextlib.closing(docker.DockerClient(f"unix://{tmp_path}/docker.sock", version="1.41")) as client:
        assert run_inside(client, "c1", ["true"]) == printed
    engine.listener.close()


def test_inside_and_outside_read_the_same(fake: FakeVllm) -> None:
    inside = Server(service="serve", container_id="c1", port=fake.server_port, engine=FakeExec())
    outside = Server(url=fake.url)
    assert metrics.scrape([inside]).keys() == metrics.scrape([outside]).keys() != set()
    assert inside.is_healthy() == outside.is_healthy() is False, "it has no /health"
    question = {"model": "m", "prompt": "1", "max_tokens": 1}
    assert json.loads(inside.ask("/v1/completions", question)) == json.loads(
        outside.ask("/v1/completions", question)
    )


def test_a_refusal_inside_keeps_its_number(fake: FakeVllm) -> None:
    with pytest.raises(BadStatus, match="HTTP 404"):
        ask_inside(FakeExec(), "c1", fake.server_port, "/nowhere")  # type: ignore[arg-type]


def test_no_secret_is_an_argument(fake: FakeVllm) -> None:
    engine = FakeExec()
    ask_inside(engine, "c1", fake.server_port, "/v1/completions", {"prompt": "private"}, key=KEY)  # type: ignore[arg-type]
    assert fake.questions == [{"prompt": "private"}]
    assert not [word for word in engine.words if KEY in word or "private" in word]


def test_a_command_that_hangs_is_cut() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no whole answer within 0"):
        run_inside(FakeExec(), "c1", ["sleep", "60"], limit_s=0.3)  # type: ignore[arg-type]
    assert time.monotonic() - began < 30


def test_a_command_that_prints_without_end_is_cut() -> None:
    with pytest.raises(OSError, match="an answer of more than"):
        run_inside(FakeExec(), "c1", ["cat", "/dev/zero"], limit_s=30, most_bytes=1 << 20)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["false"], ["sh", "-c", "exit 7"]])
def test_a_command_that_fails_is_an_os_error(words: list[str]) -> None:
    with pytest.raises(OSError, match=f"`{words[0]}` in the container ended with"):
        run_inside(FakeExec(), "c1", words)  # type: ignore[arg-type]


def test_a_container_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="is not running"):
        run_inside(FakeExec(), "gone", ["true"])  # type: ignore[arg-type]


def test_several_servers_are_taken_together() -> None:
    with serving("saturated") as one, serving("saturated") as two:
        both = metrics.scrape([Server(url=one.url, service="serve"), Server(url=two.url, service="serve-2")])
        assert both["vllm:num_requests_running"] == 16
        alone = metrics.scrape([Server(url=one.url)])
        assert both["vllm:kv_cache_usage_perc"] <= alone["vllm:kv_cache_usage_perc"]


def test_every_running_server_of_a_stack_is_found() -> None:
    states = [state("fetch", "exited"), state("gateway", "running"), state("serve", "running"),
              state("serve-2", "running"), state("serve-3", "exited"), state("server", "running")]  # fmt: skip
    services = {"serve": {"command": ["m", "--port=9000"]}, "serve-2": {"command": ["m"]}}
    reached = servers(None, services, states)  # type: ignore[arg-type]
    assert [(one.service, one.url, one.port) for one in reached] == [
        ("serve", "", 9000),
        ("serve-2", "", 8000),
    ]
    assert reached[0].place == "the container of serve, port 9000"
