"""The access log: one JSON object a request that names the key, and holds nothing that a client worded."""

import re
import time
from collections.abc import Iterator

import pytest
from conftest import CATALOG
from gateway.front_door import WHOLE, FrontDoor, front_door, key, read, request
from gateway.haproxy import until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ernie_deploy.stack.evidence import gathered, of_text
from ernie_deploy.stack.verdict import judge

# What a client may plant anywhere.
MARK = "zqmarkqz"
GRANTS = {"alice": "100000:1000:0", "narrow": "100000:1:0"}
FIELDS = {
    "time", "request_id", "key", "client", "route", "status", "server", "receive_ms", "queue_ms", "connect_ms",
    "first_byte_ms", "total_ms", "request_bytes", "response_bytes", "retries", "ended",
}  # fmt: skip


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    bounds = ("sc_gpc0_rate(2) gt", "sc_http_err_rate(1) gt", "var(sess.strange) -m int gt")
    unhindered = {f"{bound} 30": f"{bound} 100000" for bound in bounds}
    with front_door(tmp_path_factory.mktemp("door"), GRANTS, times=unhindered) as running:
        yield running


def text(door: FrontDoor) -> str:
    return (door.gateway.folder / "stdout").read_text(encoding="utf-8")


def test_a_request_is_one_object_with_its_times_and_bytes(door: FrontDoor) -> None:
    answer = door.post({"events": 5, "pace_s": 0.05})
    line = door.line(answer.headers["x-request-id"])
    assert set(line) == FIELDS
    assert (line["key"], line["route"], line["status"], line["server"]) == (
        "alice",
        "/v1/completions",
        200,
        "serve",
    )
    assert line["client"] == "127.0.0.1"
    assert 250 <= line["total_ms"] < 30_000
    assert 0 <= line["first_byte_ms"] < line["total_ms"]
    assert min(line["queue_ms"], line["connect_ms"], line["receive_ms"]) >= 0
    # The framing of chunks is not counted.
    assert len(answer.raw) - 100 < line["response_bytes"] < len(answer.raw)
    assert abs(line["request_bytes"] - len(request({"events": 5, "pace_s": 0.05}))) < 9
    assert abs(line["time"] - time.time()) < 60
    assert line["ended"] == "--"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(by=None), {"status": 401, "key": "-", "route": "/v1/completions", "server": "<NOSRV>", "ended": "LR"}),
        (request(path="/metrics"), {"status": 404, "key": "-", "route": "-", "ended": "LR"}),
        (b"\x00\r\n\r\n", {"status": 0, "key": "-", "route": "-", "ended": "PR"}),
    ],
    ids=["no key", "no route", "no request"],
)  # fmt: skip
def test_what_was_refused_says_so(door: FrontDoor, data: bytes, expected: dict[str, object]) -> None:
    before = len(door.lines())
    door.ask(data, until=WHOLE)
    until(lambda: len(door.lines()) > before)
    assert expected.items() <= door.lines()[-1].items()


def test_a_client_that_left_and_a_server_that_died_are_told_apart(door: FrontDoor) -> None:
    with door.connect() as peer:
        peer.sendall(request({"id": "leaver", "events": 100, "pace_s": 0.05}))
        raw = read(peer, 30, b"data:")[0]
    left = re.search(rb"x-request-id: (\S+)", raw)
    assert left
    died = door.ask(request({"id": "dies", "mood": "die"})).headers["x-request-id"]
    assert (door.line(left[1].decode())["ended"], door.line(died)["ended"]) == ("CD", "SD")


def test_nothing_that_a_client_wrote_is_in_the_log(door: FrontDoor) -> None:
    names = ("X-Request-Id", "User-Agent", "Cookie", "Host", "Referer", "x-api-key", MARK)
    paths = (f"/{MARK}", f"/v1/completions?{MARK}", f"/v1/completions/../{MARK}")
    asked = [request({"prompt": MARK}, headers=f"{name}: {MARK}\r\n".encode()) for name in names]
    asked += [request({"prompt": MARK}, path=path) for path in paths]
    asked += [request(by=None, method=MARK.upper())]
    asked += [request(by=None, headers=f"Authorization: Bearer {MARK}\r\n".encode())]
    before = len(door.lines())
    for data in asked:
        assert door.ask(data, until=WHOLE).status
    until(lambda: len(door.lines()) >= before + len(asked))
    assert MARK not in text(door).lower()
    assert key("alice") not in text(door)


def test_a_server_cannot_write_into_the_log_either(door: FrontDoor) -> None:
    door.post({"events": 1, "pad": 200})
    assert "xxx" not in text(door)


@given(
    method=st.binary(max_size=8),
    path=st.binary(max_size=30),
    header=st.binary(max_size=40),
    body=st.binary(max_size=30),
)
@example(method=b'"}', path=b'/"},{"a":"', header=b'X: "\\\n{"status":200}', body=b'"}\n{"key":"root"}\n')
@example(method=b"GET", path=b'/\r\n\r\n{"key":"root"}', header=b"\x1b[31m", body=b"\n")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_a_client_sends_each_line_is_an_object_of_these_fields(
    door: FrontDoor, method: bytes, path: bytes, header: bytes, body: bytes
) -> None:
    data = (
        method
        + b" "
        + path
        + b" HTTP/1.1\r\nHost: x\r\n"
        + header
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    with door.connect() as peer:
        peer.sendall(data + body)
        read(peer, 0.01)
    assert all(set(line) == FIELDS for line in door.lines()[-3:])


def test_after_all_that_the_whole_log_parses(door: FrontDoor) -> None:
    lines = door.lines()
    assert len(lines) > 100
    assert all(set(line) == FIELDS for line in lines)
    ids = [line["request_id"] for line in lines if line["request_id"] != "-"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "words", ["CUDA out of memory", "No space left on device", "torch.OutOfMemoryError: x"]
)
def test_no_line_of_it_is_evidence(door: FrontDoor, words: str) -> None:
    """Even a key that somebody calls after a failure does not make `explain` name it."""
    identity = door.post().headers["x-request-id"]
    assert door.line(identity)["key"] == "alice"
    # As HAProxy writes it: a number that was read and written again may have lost zeros at its end.
    (line,) = [one for one in text(door).splitlines() if identity in one]
    line = line.replace('"key":"alice"', f'"key":"{words}"')
    assert words in line
    for printed in (line, f"gateway-1  | {line}"):
        assert not of_text(printed).lines
        assert judge(of_text(printed), CATALOG).known is None
    assert not gathered(logs=[line]).lines
