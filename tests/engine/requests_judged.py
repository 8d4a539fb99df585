"""Hands vLLM's own request code what a stranger would send, under the limits of stacks, one JSON object a line.

Each stack has `domains` and `environment`, and is judged in a fork of its own, which costs no import of vLLM.
Prints one JSON object for each: what was tried -> "ok", or the refusal.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.multimodal.media import MediaConnector
from vllm.sampling_params import SamplingParams

HELLO = [{"role": "user", "content": "hello"}]


def png(side: int) -> bytes:
    """A black square that is small in a file and large in memory."""
    packer = zlib.compressobj(9)
    row = b"\0" * (side * 3 + 1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def data_url(side: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(side)).decode()}"


class Redirecting(BaseHTTPRequestHandler):
    """Sends `/redirect` on to `/inside`, where the image is; `seen` are the paths that were asked for."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        self.send_response(302 if self.path == "/redirect" else 200)
        if self.path == "/redirect":
            self.send_header("Location", f"http://localhost:{self.server.server_port}/inside")  # type: ignore[attr-defined]
        body = b"" if self.path == "/redirect" else png(4)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as refusal:  # noqa: BLE001 - whatever refuses a request is its verdict
        return f"{type(refusal).__name__}: {refusal}"
    return "ok"


def sampled(request: Any) -> SamplingParams:
    params: SamplingParams = request.to_sampling_params(max_tokens=1, default_sampling_params={})
    return params


def judge(domains: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirecting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    inside = f"http://127.0.0.1:{server.server_port}"
    fetch = MediaConnector(allowed_media_domains=domains).fetch_image
    attempts: dict[str, Callable[[], object]] = {
        "data": lambda: fetch(data_url(64)),
        "data in capitals": lambda: fetch("DATA" + data_url(64)[4:]),
        "another container": lambda: fetch(f"{inside}/image"),
        "redirect": lambda: fetch(f"{inside}/redirect"),
        "user before host": lambda: fetch(
            f"http://data-urls-only.invalid@127.0.0.1:{server.server_port}/user"
        ),
        "file": lambda: fetch("file:///etc/hostname"),
        "bomb": lambda: fetch(data_url(13_300)),
        "photo of 12 megapixels": lambda: fetch(data_url(3_500)),
        "chat n": lambda: sampled(ChatCompletionRequest(model="m", messages=HELLO, n=16_384)),
        "chat n=128": lambda: sampled(ChatCompletionRequest(model="m", messages=HELLO, n=128)),
        "completion n": lambda: sampled(CompletionRequest(model="m", prompt="a", n=16_384)),
        "prompts": lambda: CompletionRequest(model="m", prompt=["a"] * 17),
        "prompts of tokens": lambda: CompletionRequest(model="m", prompt=[[1]] * 17),
        "16 prompts": lambda: CompletionRequest(model="m", prompt=["a"] * 16),
    }
    verdicts = {name: outcome(attempt) for name, attempt in attempts.items()}
    print(json.dumps({"verdicts": verdicts, "seen": Redirecting.seen}), flush=True)


def main() -> None:
    for line in sys.stdin:
        child = multiprocessing.get_context("fork").Process(target=judge, kwargs=json.loads(line))
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit(child.exitcode)


if __name__ == "__main__":
    main()
