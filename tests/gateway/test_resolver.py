"""A resolver that fails for seconds takes no server away, and cuts no stream."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway import haproxy
from gateway.front_door import QUICK, WHOLE, FrontDoor, key, read, request
from gateway.haproxy import until
from gateway.recording import FakeUpstream

SERVER_FAILED, REFUSED = 2, 5
A_RECORD = 1
# Longer than what an answer is held that says that a name is gone.
EVENTS, PACE_S = 90, 0.1


class Resolver:
    """Answers each question for an IPv4 address with 127.0.0.1; after `fail` with an error, or with silence."""

    def __init__(self) -> None:
        self.failure: int | None = None
        self.fails = False
        self.failed = 0
        self.closed = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def fail(self, code: int | None) -> None:
        """From now on answer with that code of DNS, or not at all."""
        self.failure, self.fails = code, True

    def close(self) -> None:
        self.closed = True
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(4096)
                if answer := self._answer(data):
                    self._socket.sendto(answer, peer)
            except OSError:
                # One question that could not be answered does not end it.
                if self.closed:
                    return

    def _answer(self, data: bytes) -> bytes:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        self.failed += self.fails
        if self.fails:
            return b"" if self.failure is None else _head(data, self.failure, 0) + question
        if int.from_bytes(question[-4:-2]) != A_RECORD:
            return _head(data, 0, 0) + question
        record = (
            b"\xc0\x0c" + question[-4:] + (1).to_bytes(4) + (4).to_bytes(2) + socket.inet_aton("127.0.0.1")
        )
        return _head(data, 0, 1) + question + record


def _head(data: bytes, code: int, answers: int) -> bytes:
    """The head of an answer to that question."""
    return data[:2] + bytes([0x81, 0x80 | code]) + (1).to_bytes(2) + answers.to_bytes(2) + bytes(4)


@contextmanager
def named_server(folder: Path, resolver: Resolver) -> Iterator[FrontDoor]:
    """A gateway that has its server's address from that resolver alone."""
    times = {
        **QUICK,
        "parse-resolv-conf": f"nameserver stub 127.0.0.1:{resolver.port}",
        "timeout resolve 1s": "timeout resolve 100ms",
        "timeout retry 1s": "timeout retry 100ms",
        "hold valid 2s": "hold valid 100ms",
    }
    upstream = FakeUpstream()
    keys = {key("alice"): "alice:100000:1000:0"}
    try:
        with haproxy.running(folder, f"serve.test:{upstream.port}", keys, times=times) as gateway:
            yield FrontDoor(gateway, upstream)
    finally:
        upstream.close()
        resolver.close()


@pytest.mark.parametrize("code", [None, SERVER_FAILED, REFUSED], ids=["silence", "failure", "refusal"])
def test_a_resolver_that_fails_takes_no_server_away(tmp_path: Path, code: int | None) -> None:
    resolver = Resolver()
    with named_server(tmp_path, resolver) as door, door.connect() as peer:
        until(lambda: door.post(path="/healthz", method="GET").status == 200)
        peer.sendall(request({"id": "stream", "events": EVENTS, "pace_s": PACE_S}))
        door.upstream.one("stream")
        resolver.fail(code)
        raw, ended = read(peer, 30, WHOLE)
        assert b"[DONE]" in raw, (ended, raw[-200:])
        assert resolver.failed > 0
        assert door.post({"id": "later"}).status == 200
