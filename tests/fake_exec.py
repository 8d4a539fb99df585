"""A Docker engine's API whose `exec` runs the command here, framed as the engine frames it."""

import contextlib
import struct
import subprocess
import threading
from socket import socket as Socket  # noqa: N812 - `exec_start` has an argument of that name
from socket import socketpair
from types import SimpleNamespace


class FakeExec:
    """Stands for a DockerClient; `container` is the only one that runs."""

    def __init__(self, container: str = "c1") -> None:
        self.api = self
        self.container = container
        self.words: list[str] = []
        self.ended = threading.Event()
        self.code: int | None = None

    def exec_create(self, container: str, words: list[str], *, stdin: bool, stderr: bool) -> dict[str, str]:
        from docker.errors import APIError

        if container != self.container:
            raise APIError(f"409 Client Error: container {container} is not running")
        assert not stderr
        self.words, self.reads = words, stdin
        return {"Id": "e1"}

    def exec_start(self, exec_id: str, *, socket: bool) -> object:
        ours, theirs = socketpair()
        threading.Thread(target=self._run, args=(theirs,), daemon=True).start()
        reader = ours.makefile("rb")

        def close() -> None:
            reader.close()
            ours.close()

        raw = SimpleNamespace(_fp=SimpleNamespace(fp=reader))
        return SimpleNamespace(_sock=ours, _response=SimpleNamespace(raw=raw, close=close))

    def _run(self, theirs: Socket) -> None:
        line = theirs.makefile("rb").readline() if self.reads else b""
        process = subprocess.Popen(
            self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin
        assert process.stdout
        with theirs, process.stdin, process.stdout, contextlib.suppress(OSError):
            process.stdin.write(line)
            process.stdin.flush()
            while part := process.stdout.read1(1 << 16):
                theirs.sendall(struct.pack(">BxxxL", 1, len(part)) + part)
        process.kill()
        self.code = process.wait()
        self.ended.set()

    def exec_inspect(self, exec_id: str) -> dict[str, int | None]:
        assert self.ended.wait(10)
        return {"ExitCode": self.code}
