"""An OpenAI server with vLLM's counters that fools a benchmark in every known way: fake_openai.py [MOOD] [PORT]."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

NAME = "baidu/ERNIE-4.5-0.3B-PT"
# What goes wrong with every second request, or (whole moods) with all of them.
HALF = {"half-500", "half-in-band", "half-dropped", "half-short"}
MOODS = {"ok", "all-500", "stall", "dies", "no-metrics", "foreign", "wrong-name", *HALF}
CHUNKS_BEFORE_FAULT = 3
# What a run makes of a mood: its exit code, the attempt's status, and a word of its reasons.
LIES = {
    "all-500": (11, "invalid", "completed"),
    "half-500": (11, "invalid", "completed"),
    "half-in-band": (11, "invalid", "output-tokens"),
    "half-dropped": (11, "invalid", "output-tokens"),
    "half-short": (11, "invalid", "output-tokens"),
    "foreign": (11, "invalid", "generation"),
    "wrong-name": (11, "invalid", "completed"),
}


class FakeOpenAI(ThreadingHTTPServer):
    """Counts like vLLM; `answer` is what the coherence questions get, `count` its tokenizer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(  # noqa: PLR0913 - its ways to misbehave
        self,
        mood: str = "ok",
        port: int = 0,
        *,
        token_s: float = 0.0005,
        answer: str = "Paris 42 red",
        count: Callable[[str], int] = len,
        crowded: bool = False,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        assert mood in MOODS, mood
        self.mood, self.token_s, self.answer, self.count = mood, token_s, answer, count
        # As vLLM between the death of its engine and its own end: /health is 503, the rest is answered.
        self.dying = False
        # Whether a token takes the longer, the more requests there are.
        self.crowded = crowded
        self.card: dict[str, Any] = {"id": NAME, "root": NAME, "max_model_len": 131072}
        self.lock = threading.Lock()
        self.started = time.time()
        self.counters: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.running = 0
        self.asked = 0
        # A prefix cache that forgets nothing: prompts that were sent before.
        self.cached: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def admit(self, prompt: str) -> int:
        """Count a prompt in; returns the number of the request."""
        with self.lock:
            self.asked += 1
            self.running += 1
            tokens = self.count(prompt)
            self.counters["prompt_tokens"] += tokens
            self.counters["prefix_cache_queries"] += tokens
            if prompt in self.cached:
                self.counters["prefix_cache_hits"] += tokens
            self.cached.add(prompt)
            return self.asked

    def release(self, reason: str) -> None:
        with self.lock:
            self.running -= 1
            self.reasons[reason] += 1

    def token(self, count: int = 1) -> None:
        with self.lock:
            self.counters["generation_tokens"] += count

    def restart(self) -> None:
        """A fresh start: counters and cache empty."""
        with self.lock:
            self.started = time.time() + 1
            self.counters.clear()
            self.reasons.clear()
            self.cached.clear()

    def metrics(self) -> str:
        labels = f'engine="0",model_name="{NAME}"'
        lines = [f"process_start_time_seconds {self.started:.2f}",
                 f"vllm:num_requests_running{{{labels}}} {self.running}.0",
                 f"vllm:num_requests_waiting{{{labels}}} 0.0",
                 f"vllm:kv_cache_usage_perc{{{labels}}} {min(1.0, self.running / 100)}",
                 'vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="4096"} 1.0']  # fmt: skip
        names = (
            "prompt_tokens",
            "generation_tokens",
            "prefix_cache_queries",
            "prefix_cache_hits",
            "num_preemptions",
        )
        lines += [f"vllm:{name}_total{{{labels}}} {self.counters[name]}.0" for name in names]
        lines += [
            f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {self.reasons[reason]}.0'
            for reason in ("length", "stop", "abort", "error")
        ]
        return "\n".join(lines) + "\n"


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: the end of the connection ends a stream."""

    server: FakeOpenAI

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        if self.path == "/metrics":
            self.send(200 if self.server.mood != "no-metrics" else 404, self.server.metrics())
        elif self.path == "/v1/models":
            self.send(200, json.dumps({"data": [self.server.card]}))
        elif self.path == "/version":
            self.send(200, '{"version": "0.32.0"}')
        else:
            healthy = 503 if self.server.dying else 200
            self.send(healthy if self.path == "/health" else 404, "")

    def do_POST(self) -> None:
        server = self.server
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.paths.append(self.path)
        server.headers.append(dict(self.headers))
        if not self.path.startswith("/v1/"):
            server.cached.clear()
            self.send(200, "")
            return
        body = json.loads(raw)
        server.bodies.append(body)
        if body["model"] != NAME or (self.server.mood == "wrong-name" and body.get("stream")):
            self.send(404, json.dumps({"error": {"message": f"The model `{body['model']}` does not exist."}}))
        elif not body.get("stream"):
            self.whole(body)
        else:
            self.streamed(body)

    def whole(self, body: dict[str, Any]) -> None:
        """Answer a coherence question, or a canary's."""
        self.server.admit(str(body.get("prompt") or body["messages"]))
        count = min(4, body.get("max_tokens", 4))
        self.server.token(count)
        self.server.release("length")
        choice = {
            "finish_reason": "length",
            "text": self.server.answer,
            "message": {"content": self.server.answer},
        }
        if "messages" in body:
            del choice["text"]
        self.send(200, json.dumps({"choices": [choice], "usage": {"completion_tokens": count}}))

    def streamed(self, body: dict[str, Any]) -> None:
        server, wanted = self.server, int(body["max_tokens"])
        prompt = body["prompt"]
        number = server.admit(prompt)
        fault = server.mood if server.mood not in HALF or number % 2 else "ok"
        reason = "error"
        try:
            if fault in ("all-500", "half-500"):
                self.send(500, '{"error": {"message": "EngineCore encountered an issue"}}')
                return
            self.begin()
            for event in self.events(prompt, wanted, fault):
                self.wfile.write(f"data: {event}\n\n".encode())
                self.wfile.flush()
            reason = (
                "length"
                if fault in ("ok", "no-metrics", "foreign")
                else "stop"
                if fault == "half-short"
                else "error"
            )
        except OSError:
            reason = "abort"
        finally:
            server.release(reason)

    def events(self, prompt: str, wanted: int, fault: str) -> Iterator[str]:
        """Chunks, then the usage; a fault comes after a few of them."""
        server = self.server
        made = wanted // 2 if fault == "half-short" else wanted
        for count in range(made):
            if count == CHUNKS_BEFORE_FAULT and (end := self.broken(fault)) is not None:
                yield from end
                return
            time.sleep(server.token_s * (server.running if server.crowded else 1))
            server.token()
            yield json.dumps({"choices": [{"text": "x", "index": 0}]})
        if fault == "foreign":
            server.token(wanted)
        yield json.dumps(
            {"choices": [], "usage": {"prompt_tokens": server.count(prompt), "completion_tokens": made}}
        )
        yield "[DONE]"

    def broken(self, fault: str) -> list[str] | None:
        """What follows in the middle of a broken stream: an error with 200, a cut, silence or the end of all."""
        if fault == "half-in-band":
            return ['{"error": {"message": "EngineCore died", "code": 500}}', "[DONE]"]
        if fault == "half-dropped":
            self.connection.close()
            raise ConnectionError
        if fault == "stall":
            threading.Event().wait()
        if fault == "dies":
            self.server.socket.close()
            threading.Thread(target=self.server.shutdown, daemon=True).start()
            return []
        return None

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    with FakeOpenAI(
        sys.argv[1] if len(sys.argv) > 1 else "ok", int(sys.argv[2]) if len(sys.argv) > 2 else 0
    ) as fake:
        print(fake.url, flush=True)
        threading.Event().wait()
