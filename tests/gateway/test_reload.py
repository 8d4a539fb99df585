"""A real HAProxy takes up keys while it streams: added, revoked, ended, damaged; and counts outlive the reload."""

import hashlib
import http.client
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, free_port
from gateway.front_door import WHOLE as ONE_ANSWER
from gateway.front_door import Answer, FrontDoor, front_door, read, request
from gateway.haproxy import binary, until, variables, written
from msgspec import Struct

from ernie_deploy.errors import ToolFailed
from ernie_deploy.gateway import key_file
from ernie_deploy.gateway.keys import Key, hashed
from ernie_deploy.stack.reload import configuration_words, reload_running

OK, UNAUTHORIZED, TOO_MANY = 200, 401, 429
BODY = b'{"model": "m", "prompt": "x", "stream": true}'
HEAD = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\r\n"
EVENTS = 3
# Keys that may ask three times a minute.
FEW = ("few", "few-too", "few-as-well")


class Streams(BaseHTTPRequestHandler):
    """A server whose streams begin at once and end when the test lets them."""

    protocol_version = "HTTP/1.1"
    release = threading.Event()

    def do_GET(self) -> None:
        self.send_response(OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.event("0")
        if b'"stream": true' in asked:
            self.release.wait(60)
        for number in range(1, EVENTS):
            self.event(str(number))
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, text: str) -> None:
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Quiet."""


WHOLE = b"".join(b"data: %d\n\n" % number for number in range(EVENTS)) + b"data: [DONE]\n\n"


class Front(Struct):
    """A HAProxy of the test's, as its container runs it."""

    folder: Path
    cfg: Path
    port: int
    own_port: int
    environment: dict[str, str]
    pid: int

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def status(self, key: str, connection: http.client.HTTPConnection | None = None) -> int:
        """The status of a short request with this key, on a connection that stays open."""
        asks = connection or self.connection()
        try:
            asks.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            answer = asks.getresponse()
            answer.read()
            return answer.status
        finally:
            if connection is None:
                asks.close()

    def inside(self, words: Sequence[str]) -> str:
        """What `docker exec` prints in the container, of which the process is 1 and the port 8405."""
        own = [
            word.replace("-USR2 1", f"-USR2 {self.pid}").replace("8405", str(self.own_port)) for word in words
        ]
        done = subprocess.run(own, capture_output=True, text=True, timeout=60, env=self.environment)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def reload(self) -> None:
        reload_running(self.inside, ["-f", str(self.cfg)], self.log)

    def set_keys(self, *keys: Key) -> None:
        (self.folder / "keys.map").write_text("".join(f"{key.line()}\n" for key in keys))


def key(secret: str, **limits: int) -> Key:
    return Key(digest=hashed(secret), name=f"of-{secret}", **limits)


@contextmanager
def streaming() -> Iterator[int]:
    Streams.release.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Streams) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            Streams.release.set()
            server.shutdown()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with streaming() as upstream:
        plan, path = written(tmp_path)
        made = Front(tmp_path, path, free_port(), free_port(), {**os.environ, **variables(plan)}, 0)
        text = path.read_text().replace(" serve:8000 ", f" 127.0.0.1:{upstream} ")
        text = re.sub(r"check port \d+", "check", text).replace("bind :8443", f"bind 127.0.0.1:{made.port}")
        path.write_text(text.replace("bind :8405", f"bind 127.0.0.1:{made.own_port}"))
        few = [key(secret, rate_per_minute=3) for secret in FEW]
        made.set_keys(key("a", rate_per_minute=1_000_000), *few)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [binary(), "-W", "-db", "-f", path], stdout=log, stderr=log, env=made.environment
            )
            made.pid = process.pid
            try:
                wait_for(made, process)
                yield made
            finally:
                Streams.release.set()
                process.terminate()
                process.wait(20)


def wait_for(front: Front, process: "subprocess.Popen[bytes]") -> None:
    def answers() -> bool:
        assert process.poll() is None, front.log()
        with suppress(OSError):
            return front.status("a") == OK
        return False

    until(answers)


def stream(front: Front, secret: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream of which the first event is there."""
    connection = front.connection()
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", BODY, headers)
    answer = connection.getresponse()
    assert answer.status == OK
    assert answer.read(len(b"data: 0\n\n")) == b"data: 0\n\n"
    return connection, answer


def rest(answer: http.client.HTTPResponse) -> bytes:
    Streams.release.set()
    return b"data: 0\n\n" + answer.read()


def refused(front: Front, secret: str, connection: http.client.HTTPConnection) -> bool:
    """Whether the next request on a connection is refused, or finds it closed and is refused on another."""
    try:
        return front.status(secret, connection) == UNAUTHORIZED
    except (http.client.HTTPException, ConnectionError):
        return front.status(secret) == UNAUTHORIZED


def test_a_key_is_added_during_a_stream(front: Front) -> None:
    assert front.status("b") == UNAUTHORIZED
    connection, answer = stream(front, "a")
    with key_file.locked(front.folder):
        key_file.add(front.folder, key("b"))
    assert front.status("b") == UNAUTHORIZED
    front.reload()
    assert front.status("b") == OK
    assert front.status("a") == OK
    assert rest(answer) == WHOLE
    connection.close()


def test_a_key_is_revoked_during_its_stream(front: Front) -> None:
    idle = front.connection()
    assert front.status("a", idle) == OK
    connection, answer = stream(front, "a")
    with key_file.locked(front.folder):
        key_file.revoke(front.folder, "of-a")
    front.reload()
    assert front.status("a") == UNAUTHORIZED
    assert refused(front, "a", idle)
    assert rest(answer) == WHOLE
    assert refused(front, "a", connection)
    connection.close()
    idle.close()


def test_a_keys_limits_are_changed_during_its_stream(front: Front) -> None:
    """More than its rate of before is answered, then less; the stream has its end either way."""
    connection, answer = stream(front, "few")
    with key_file.locked(front.folder):
        key_file.limit(front.folder, "of-few", {"rate_per_minute": 100, "concurrency": 50})
    front.reload()
    assert [front.status("few") for _ in range(8)] == [OK] * 8
    with key_file.locked(front.folder):
        key_file.limit(front.folder, "of-few", {"rate_per_minute": 1})
    front.reload()
    until(lambda: front.status("few") == TOO_MANY)
    assert front.status("a") == OK
    assert rest(answer) == WHOLE
    connection.close()


@contextmanager
def open_stream(front: Front) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection on which a stream goes on, and what came of it."""
    with socket.create_connection(("127.0.0.1", front.port), 30) as peer:
        length = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        peer.sendall(HEAD.replace(b"GET /v1/models", b"POST /v1/completions")[:-2] + length + BODY)
        yield peer, read(peer, 30, b"data: 0\n\n")[0]


def answer_behind(peer: socket.socket, begun: bytes) -> bytes:
    """The answer to a request that was sent while a stream went on: nothing, where the connection was closed instead.

    Read byte by byte from one place: a client with a buffer may have the second answer in it with the end of the first.
    """
    peer.sendall(HEAD)
    Streams.release.set()
    end = b"\r\n0\r\n\r\n"
    whole, _, late = (begun + read(peer, 30, end)[0]).partition(end)
    assert b"".join(re.findall(rb"data: .+?\n\n", whole)) == WHOLE
    if b"\r\n\r\n" not in late:
        more, ended = read(peer, 30, b"\r\n\r\n")
        assert ended != "silent"
        late += more
    return late


def test_a_request_behind_a_stream_on_its_connection_finds_the_key_revoked(front: Front) -> None:
    """Sent while the stream goes on, it waits in the old process, which has the old map; that may close as well."""
    with open_stream(front) as (peer, begun):
        front.set_keys(key("other"))
        front.reload()
        late = answer_behind(peer, begun)
    assert not late or late.startswith(b"HTTP/1.1 401"), late


def test_a_request_behind_a_stream_is_judged_once_and_by_the_next_process(front: Front) -> None:
    with open_stream(front) as (peer, begun):
        front.reload()
        late = answer_behind(peer, begun)
    assert not late or late.startswith(b"HTTP/1.1 200"), late
    (identity,) = re.findall(r"x-request-id: ([0-9a-f-]{36})", late.decode()) or ("",)
    until(lambda: identity in front.log())
    assert not identity or front.log().count(identity) == 1, "under the id that the client was given"


def test_a_key_ends_by_its_time_without_a_reload(front: Front) -> None:
    # Where the reload took longer than the key was good for, nothing is known: once more, with more time.
    for lasts_s in (4, 20, 60):
        ends = int(time.time()) + lasts_s
        front.set_keys(key("a"), key("short", expires=ends))
        front.reload()
        status = front.status("short")
        if time.time() < ends:
            break
    assert status == OK
    time.sleep(max(0.0, ends + 1 - time.time()))
    assert front.status("short") == UNAUTHORIZED
    assert front.status("a") == OK


def test_what_a_key_has_used_outlives_a_reload(front: Front) -> None:
    # A process that has just started cold waits two times 5 s for one before it, and until then teaches nobody.
    time.sleep(11)
    # On a busy machine that is not over yet, or the next process answers before it was taught: once more, then.
    assert any(is_remembered(front, secret) for secret in FEW)
    assert front.status("a") == OK


def is_remembered(front: Front, secret: str) -> bool:
    """Whether a key that has asked too often is refused by the next two processes too."""
    assert [front.status(secret) for _ in range(4)] == [OK, OK, OK, TOO_MANY]
    front.reload()
    statuses = [front.status(secret) for _ in range(2)]
    front.reload()
    return [*statuses, front.status(secret)] == [TOO_MANY] * 3


# Each with a key of its own, HASH of SECRET, so that one reload shows them all.
DAMAGED = ["", "broken", "HASH", "HASH ", "HASH b", "HASH b:0", "HASH b:0:0", "HASH :0:0:0", "HASH b:0:0:never", "UPPER b:0:0:0",
           "SECRET b:0:0:0", "# HASH b:0:0:0", "HASHb:0:0:0"]  # fmt: skip


def test_a_damaged_line_opens_nothing_and_closes_nothing(front: Front) -> None:
    lines = []
    for number, line in enumerate(DAMAGED):
        secret = f"b{number}"
        made = line.replace("HASH", hashed(secret)).replace("UPPER", hashed(secret).upper())
        lines += [made.replace("SECRET", secret), key(f"a{number}").line()]
    (front.folder / "keys.map").write_text("\n".join([*lines, key("a").line(), ""]))
    front.reload()
    statuses = [(front.status(f"b{number}"), front.status(f"a{number}")) for number in range(len(DAMAGED))]
    assert statuses == [(UNAUTHORIZED, OK)] * len(DAMAGED)
    assert front.status("a") == OK


def test_a_map_that_is_gone_is_refused_and_the_old_one_stays(front: Front) -> None:
    (front.folder / "keys.map").unlink()
    with pytest.raises(ToolFailed, match="those it has read before still count") as fault:
        front.reload()
    assert "keys.map" in fault.value.cause
    assert front.status("a") == OK


def test_a_faulty_configuration_is_refused_in_haproxys_words_and_the_old_one_stays(front: Front) -> None:
    text = front.cfg.read_text()
    front.cfg.write_text(text.replace("backend serve\n", "backend serve\n    balanse roundrobin\n"))
    with pytest.raises(ToolFailed, match="refuses its files") as fault:
        front.reload()
    assert "unknown keyword 'balanse'" in fault.value.cause
    assert front.status("a") == OK
    front.cfg.write_text(text)
    front.set_keys(key("b"))
    front.reload()
    assert (front.status("a"), front.status("b")) == (UNAUTHORIZED, OK)


def test_a_gateway_that_does_not_take_over_is_an_error(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_deploy.stack.reload.TAKES_OVER_S", 1.0)
    monkeypatch.setattr("ernie_deploy.stack.reload.SIGNAL", ("true",))
    with pytest.raises(ToolFailed, match="did not take up its files"):
        front.reload()


def test_a_gateway_that_does_not_answer_is_an_error(front: Front) -> None:
    front.own_port = free_port()
    with pytest.raises(ToolFailed, match="does not answer on its port"):
        front.reload()


def test_the_words_of_the_configuration_are_read_from_the_container() -> None:
    attrs = {
        "Path": "docker-entrypoint.sh",
        "Args": ["haproxy", "-W", "-db", "-f", "/a.cfg", "-f", "/b.cfg", "-L", "x"],
    }
    assert configuration_words(attrs) == ["-f", "/a.cfg", "-f", "/b.cfg", "-L", "x"]


def test_the_hash_is_what_haproxy_makes_of_a_key() -> None:
    assert hashed("a") == hashlib.sha256(b"a").hexdigest()


def test_no_client_is_refused_or_cut_by_reloads(front: Front) -> None:
    """New connections and kept ones, while one process hands over to the next and that to a third."""
    ended, statuses = threading.Event(), list[object]()

    def ask(*, kept: bool) -> None:
        connection = front.connection() if kept else None
        while not ended.is_set():
            try:
                statuses.append(front.status("a", connection))
            except (OSError, http.client.HTTPException) as fault:
                # A kept connection that is idle may be closed at any time: its client opens another.
                statuses.append(OK if kept else fault)
                connection = front.connection() if kept else None
        if connection:
            connection.close()

    threads = [threading.Thread(target=ask, kwargs={"kept": kept}) for kept in (False, False, True)]
    for thread in threads:
        thread.start()
    front.reload()
    front.reload()
    ended.set()
    for thread in threads:
        thread.join()
    assert len(statuses) > 50
    assert set(statuses) == {OK}, {str(status) for status in statuses}


def test_the_gateways_own_port_and_its_client_stand_in_one_place() -> None:
    texts = {path.relative_to(ROOT): path.read_text() for path in (ROOT / "ernie_deploy").rglob("*.py")}
    for words in ("/dev/tcp", "8405"):
        assert [str(path) for path, text in texts.items() if words in text] == [
            "ernie_deploy/plan/gateway.py"
        ]


def test_a_reload_cuts_no_stream_that_outlives_the_silence_allowed_to_a_server(tmp_path: Path) -> None:
    allowed_s = 3
    with (
        front_door(tmp_path, {"alice": "1000:100:0"}, answer_timeout_s=allowed_s) as door,
        door.connect() as peer,
    ):
        peer.sendall(request({"id": "stream", "mood": "held", "pace_s": 0.1}))
        door.upstream.one("stream")
        door.gateway.reload()
        time.sleep(allowed_s + 1)
        door.upstream.release.set()
        raw, _ = read(peer, 30, ONE_ANSWER)
        assert b"[DONE]" in raw


def test_what_a_reloaded_process_passes_on_is_its_clients_and_no_address_of_their_own(tmp_path: Path) -> None:
    sources = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]
    with (
        front_door(tmp_path, {"alice": "1000:100:0"}, connections_per_address=1) as door,
        ExitStack() as held,
    ):
        peers = [
            held.enter_context(socket.create_connection(("127.0.0.1", door.gateway.port), 20, (source, 0)))
            for source in sources
        ]
        for number, peer in enumerate(peers):
            peer.sendall(request({"id": f"stream-{number}", "mood": "held", "pace_s": 0.1}))
            door.upstream.one(f"stream-{number}")
        door.gateway.reload()
        for peer in peers:
            peer.sendall(request({"mood": "slow", "after_s": 1}))
        door.upstream.release.set()
        # The end of the second answer.
        answers = [Answer(*read(peer, 30, b'{"id":"x"}'), 0) for peer in peers]
        assert [answer.statuses for answer in answers] == [[200, 200]] * len(peers)
        # A line is written after its answer has gone.
        until(lambda: sorted(_clients(door)) == sorted(sources * 2))


def _clients(door: FrontDoor) -> list[str]:
    """The addresses in the log."""
    return [line["client"] for line in door.gateway.log()]
