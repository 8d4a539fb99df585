"""Runs a short command in a container through the engine's API: bounded in time and bytes, its input never an argument."""

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Any

from ernie_deploy.safe_io.http_client import MIB, MOST_TEXT_BYTES, BadStatus, cut_at

if TYPE_CHECKING:
    from docker import DockerClient

# The engine's own way and the start of a Python, beside what is asked.
MARGIN_S = 5.0
# As docker numbers a container's streams.
STDOUT = 1
# Before each part of it: the stream, and how many bytes come.
FRAME = struct.Struct(">BxxxL")
# The body goes by standard input: arguments are seen by everybody on the host. The alarm ends what nobody waits for.
ASK = """import http.client,json,signal,sys
asked=json.loads(sys.stdin.readline())
signal.alarm(asked["alarm_s"])
connection=http.client.HTTPConnection("127.0.0.1",asked["port"])
connection.request(asked["method"],asked["path"],asked["body"],asked["headers"])
answer=connection.getresponse()
sys.stdout.buffer.write(b"%d\\n"%answer.status+answer.read(asked["most_bytes"]))"""


def run_inside(  # noqa: PLR0913 - its bounds
    engine: "DockerClient",
    container_id: str,
    words: Sequence[str],
    *,
    line: str = "",
    limit_s: float = 10.0,
    most_bytes: int = MOST_TEXT_BYTES,
) -> bytes:
    """What a command prints in a running container, given `line` on standard input; raises OSError.

    A command that fails, is late, prints more than `most_bytes` or is not there is such a fault.
    """
    from docker.errors import DockerException

    api = engine.api
    try:
        made = api.exec_create(container_id, list(words), stdin=bool(line), stderr=False)["Id"]
        printed = _exchange(api.exec_start(made, socket=True), line, limit_s, most_bytes)
        code = api.exec_inspect(made)["ExitCode"]
    except DockerException as fault:
        raise OSError(str(fault).splitlines()[0][:200]) from fault
    if code:
        raise OSError(f"`{words[0]}` in the container ended with {code}")
    return printed


def _exchange(attached: Any, line: str, limit_s: float, most_bytes: int) -> bytes:
    """What the command prints, read from the engine's answer and not, as docker.utils.socket does, from its socket.

    What came together with the head of the answer has been read from the socket already, into http.client's buffer.
    """
    raw: socket.socket = getattr(attached, "_sock", attached)
    # Docker's client gives out neither in another way.
    response = attached._response  # noqa: SLF001
    reader: IO[bytes] = response.raw._fp.fp  # noqa: SLF001
    printed = bytearray()
    with closing(response), cut_at(limit_s, raw):
        if line:
            raw.sendall(f"{line}\n".encode())
        for stream, part in _frames(reader, most_bytes):
            printed += part if stream == STDOUT else b""
            if len(printed) > most_bytes:
                raise OSError(f"an answer of more than {most_bytes / MIB:g} MiB")
    return bytes(printed)


def _frames(reader: IO[bytes], most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Each part of what a command prints, with the number of its stream; no longer than what is read of it."""
    while len(head := reader.read(FRAME.size)) == FRAME.size:
        stream, size = FRAME.unpack(head)
        yield stream, reader.read(min(size, most_bytes + 1))


def ask_inside(  # noqa: PLR0913 - as `ask` has it, and where
    engine: "DockerClient",
    container_id: str,
    port: int,
    path: str,
    body: Any = None,
    *,
    key: str = "",
    limit_s: float = 10.0,
    most_bytes: int = MOST_TEXT_BYTES,
) -> bytes:
    """What `http_client.ask` does, asked from within a container with a Python; raises OSError, `BadStatus` among them."""
    asked = {
        "method": "GET" if body is None else "POST",
        "path": path,
        "body": None if body is None else json.dumps(body),
        "headers": {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        "port": port,
        "alarm_s": max(1, round(limit_s)),
        "most_bytes": most_bytes + 1,
    }
    printed = run_inside(
        engine, container_id, ["python3", "-IS", "-c", ASK], line=json.dumps(asked),
        limit_s=limit_s + MARGIN_S, most_bytes=most_bytes + len("200\n"),
    )  # fmt: skip
    status, _, answer = printed.partition(b"\n")
    if not HTTPStatus.OK <= int(status) < HTTPStatus.MULTIPLE_CHOICES:
        raise BadStatus(int(status))
    return answer
