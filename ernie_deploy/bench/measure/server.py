"""The measured server as its own HTTP interface shows it: counters, idleness, caches, models."""

import time
from collections import defaultdict
from typing import Any

from msgspec import MsgspecError, Struct, convert

from ernie_deploy.errors import ServerDied, UsageError
from ernie_deploy.safe_io.http_client import MOST_JSON_BYTES, BadStatus, read_json
from ernie_deploy.stack.metrics import LABEL, samples
from ernie_deploy.stack.servers import Server

ANSWER_S = 10.0
IDLE_S = 60.0
COUNTERS = frozenset({
    "prompt_tokens", "generation_tokens", "request_success", "prefix_cache_queries", "prefix_cache_hits",
    "num_preemptions", "spec_decode_num_drafts", "spec_decode_num_accepted_tokens",
})  # fmt: skip
RESETS = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
NOT_FOUND = 404
# The kit and vLLM's client both go by it.
TRUST = "trust its certificate, as for a self-signed one: SSL_CERT_FILE=gateway/tls/tls.crt before the same command"
MOST_NAME_CHARACTERS = 512
# The health check's question is one word: "1".
MOST_CANARY_PROMPT_TOKENS = 4


class ModelCard(Struct, frozen=True, kw_only=True):
    """What a server says of its model: data for requests and reports, never a path or a repository to load."""

    id: str
    root: str | None = None
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        if not (is_name(self.id) and is_name(self.root or self.id)):
            raise ValueError("its model's name is empty, too long or not printable")


def is_name(text: str) -> bool:
    """Whether a server's word may stand in a command line, a journal and a report."""
    return 0 < len(text) <= MOST_NAME_CHARACTERS and text.isprintable()


class ServerMetrics(Struct, frozen=True, kw_only=True):
    """One reading of /metrics, summed over engines; `started` is the start time of the server's process."""

    counters: dict[str, float]
    running: float
    waiting: float
    kv_cache_use: float
    started: str = ""
    engines: int = 1
    cache: dict[str, str] = {}

    @property
    def idle(self) -> bool:
        """Whether no request is in the server."""
        return not self.running and not self.waiting

    @property
    def work(self) -> tuple[float, ...]:
        """What moves while the engine works."""
        names = ("prompt_tokens", "generation_tokens", "request_success")
        return (*(self.counters.get(name, 0.0) for name in names), self.kv_cache_use)


class Endpoint(Struct, frozen=True, kw_only=True):
    """An OpenAI-compatible server, asked without any proxy: at a URL, or inside its container, which has none."""

    url: str = ""
    api_key: str = ""
    inside: Server | None = None

    @property
    def server(self) -> Server:
        """Where it is asked."""
        return self.inside or Server(url=self.url)

    @property
    def place(self) -> str:
        """Where it is, for a sentence."""
        return self.server.place

    def current_metrics(self) -> ServerMetrics | None:
        """The counters now, or None where there are none."""
        try:
            text = self.server.text("/metrics")
        except OSError:
            return None
        return read_metrics(text)

    def get(self, path: str) -> Any:
        """The JSON of a GET; raises OSError or ValueError."""
        return self._json(path, None, ANSWER_S)

    def post(self, path: str, body: dict[str, Any], *, timeout_s: float = 120) -> Any:
        """The JSON answer to a POST; raises OSError or ValueError."""
        return self._json(path, body, timeout_s)

    def _json(self, path: str, body: dict[str, Any] | None, limit_s: float) -> Any:
        answer = self.server.ask(path, body, key=self.api_key, limit_s=limit_s, most_bytes=MOST_JSON_BYTES)
        return read_json(answer)

    def model_card(self) -> ModelCard:
        """The first entry of /v1/models; raises `ServerDied` where nothing answers, or with nothing usable."""
        try:
            return convert(self.get("/v1/models")["data"][0], ModelCard)
        except (OSError, ValueError, LookupError, TypeError, MsgspecError) as fault:
            raise ServerDied(
                f"No OpenAI server answers at {self.place}.",
                cause=f"GET /v1/models: {fault}",
                next_step=TRUST
                if "CERTIFICATE_VERIFY_FAILED" in str(fault)
                else "start it with `ernie-deploy up`, name the right address with --attach URL, or its key "
                "with --api-key-file",
            ) from fault

    def wait_idle(self, limit_s: float = IDLE_S) -> ServerMetrics | None:
        """Wait until no request is in the server; raises `ServerDied` where others keep it busy."""
        end = time.monotonic() + limit_s
        while (now := self.current_metrics()) and not now.idle:
            if time.monotonic() > end:
                raise ServerDied(
                    f"The server at {self.place} is busy with another client's requests.",
                    cause=f"{now.running:g} running and {now.waiting:g} waiting after {limit_s:g} s",
                    next_step="stop the other clients: a benchmark would measure them too",
                )
            time.sleep(0.5)
        return now

    def reset_caches(self) -> None:
        """Empty the caches; raises `UsageError` where the server has no such route."""
        for route in RESETS:
            try:
                self.server.ask(f"/{route}", {}, key=self.api_key, limit_s=ANSWER_S)
            except BadStatus as fault:
                if fault.code != NOT_FOUND:
                    raise
                raise UsageError(
                    f"The server has no /{route}.",
                    cause="vLLM opens it, and routes that can stop the server, only with VLLM_SERVER_DEV_MODE=1",
                    next_step="use --cold seed or --cold restart, or serve with that variable on a closed network",
                ) from fault


def read_metrics(text: str) -> ServerMetrics:
    """Sum the samples that a benchmark needs over their labels; finish reasons stay apart."""
    sums: dict[str, float] = defaultdict(float)
    reasons: dict[str, float] = defaultdict(float)
    cache: dict[str, str] = {}
    for sample, labels, value in samples(text):
        name = sample.removeprefix("vllm:").removesuffix("_total")
        if name == "cache_config_info":
            cache = dict(LABEL.findall(labels))
            sums["engines"] += 1
        sums[name] += value
        if name == "request_success":
            reasons[f"{name}_{dict(LABEL.findall(labels)).get('finished_reason', 'unknown')}"] += value
    engines = max(1.0, sums["engines"])
    return ServerMetrics(
        counters={name: value for name, value in sums.items() if name in COUNTERS} | reasons,
        running=sums["num_requests_running"],
        waiting=sums["num_requests_waiting"],
        kv_cache_use=sums["kv_cache_usage_perc"] / engines,
        started=f"{sums['process_start_time_seconds']:.2f}" if "process_start_time_seconds" in sums else "",
        engines=int(engines),
        cache=cache,
    )


def moved_only_by_canary(before: ServerMetrics, after: ServerMetrics) -> bool:
    """Whether nothing, or nothing but one-token answers to a one-word question, came between two looks."""
    moved = {name: value - before.counters.get(name, 0.0) for name, value in after.counters.items()}
    answers = moved.get("request_success", 0.0)
    return (
        after.idle
        and moved.get("generation_tokens", 0.0) == answers
        and moved.get("prompt_tokens", 0.0) <= answers * MOST_CANARY_PROMPT_TOKENS
    )
