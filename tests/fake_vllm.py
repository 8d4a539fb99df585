"""A small OpenAI and metrics server whose engines idle, work, hang or fail as told; alone: fake_vllm.py PORT MOOD."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = {"choices": [{"text": "1"}]}
FAILURE = {"error": {"message": "EngineCore encountered an issue", "code": 500}}

# mood: (running, iterations a look adds, cache blocks a look adds), one tuple an engine
ENGINES = {
    "saturated": [(8, 40, 1)],
    "hung": [(1, 0, 0)],
    "long-prompt": [(1, 0, 1)],
    "one-of-two-stuck": [(1, 40, 1), (1, 0, 0)],
    "two-idle": [(0, 0, 0), (0, 0, 0)],
    "long-steps": [(1, 40, 1)] + [(0, 0, 0)] * 7,
    "one-of-two-busy": [(1, 40, 1), (0, 0, 0)],
    "one-of-two-hung-idle": [(1, 40, 1), (0, 0, 0)],
}
NONSENSE = ("NaN", "+Inf", "-Inf", "1.2.3", "0x1", "many", "1e999")
SILENT = {"saturated", "hung", "long-prompt", "hung-idle", "just-busy", "flooded", "slow"}
LONG_STEP_S = 1.5
LATE_S = {"flooded": 30.0, "slow": 0.1}


class FakeVllm(ThreadingHTTPServer):
    """Its `mood` is one of ENGINES, or idle, hung-idle, just-busy, engine-dead, half-answer, no-metrics, wrong-name, nonsense,
    endless-metrics, endless-answer, not-an-object.

    The API of `flooded` answers nothing, that of `slow` its metrics alone, and late.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, mood: str = "idle", api_key: str = "") -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.mood, self.api_key = mood, api_key
        self.looks = self.answers = 0
        self.questions: list[dict[str, object]] = []
        self.ranks: list[str | None] = []
        self.released = threading.Event()

    def handle_error(self, *_: object) -> None:
        """A probe that went away is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def metrics(self) -> str:
        """Each look at a working engine finds it further on."""
        self.looks += 1
        lines = []
        for label, (running, steps, blocks) in enumerate(ENGINES.get(self.mood, [(0, 0, 0)])):
            labels = f'{{engine="{label}",model_name="a}} b"}}'
            lines += [
                "# HELP vllm:num_requests_running Number of requests in model execution batches.",
                f"vllm:num_requests_running{labels} {running:.1f}",
                f"vllm:kv_cache_usage_perc{labels} {self.looks * blocks / 1000}",
                f'vllm:iteration_tokens_total_bucket{{engine="{label}",le="1.0"}} {self.looks * 7}.0',
                f"vllm:iteration_tokens_total_count{labels} {self.answers * (label == 0) + self.looks * steps}.0",
                f"vllm:iteration_tokens_total_sum{labels} {self.looks * 9}.0",
            ]
        if self.mood == "nonsense":
            lines += [f'vllm:num_requests_running{{engine="{word}"}} {word}' for word in NONSENSE]
        return "\n".join(lines) + "\n"

    def complete(self, question: dict[str, object], bearer: str, rank: str | None) -> tuple[int, object]:
        self.questions.append(question)
        self.ranks.append(rank)
        if self.api_key and bearer != f"Bearer {self.api_key}":
            return 401, {"error": "Unauthorized"}
        if self.mood in SILENT or (self.mood == "one-of-two-hung-idle" and rank == "1"):
            self.answers += self.mood == "just-busy"
            self.released.wait()
        if self.mood == "not-an-object":
            return 200, [TOKEN]
        if self.mood == "wrong-name":
            return 404, {"error": {"message": "The model does not exist."}}
        if self.mood in ("engine-dead", "half-answer"):
            return (500, FAILURE) if self.mood == "engine-dead" else (200, TOKEN | FAILURE)
        self.answers += 1
        return 200, TOKEN


class Handler(BaseHTTPRequestHandler):
    """Routes the three paths that a probe may ask."""

    server: FakeVllm

    def do_GET(self) -> None:
        if self.server.mood == "endless-metrics":
            self.flood()
            return
        known = self.path == "/metrics" and self.server.mood != "no-metrics"
        if self.server.mood in LATE_S:
            self.server.released.wait(LATE_S[self.server.mood])
        self.reply(200 if known else 404, self.server.metrics() if known else "")

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.mood == "endless-answer":
            self.flood()
            return
        status, body = self.server.complete(
            question, self.headers.get("Authorization", ""), self.headers.get("X-data-parallel-rank")
        )
        if self.server.mood == "long-steps":
            self.server.released.wait(LONG_STEP_S)
        self.reply(status, json.dumps(body))

    def flood(self) -> None:
        """Send without end, as fast as it goes."""
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b"x" * (1 << 20))

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    FakeVllm(int(sys.argv[1]), sys.argv[2]).serve_forever()
