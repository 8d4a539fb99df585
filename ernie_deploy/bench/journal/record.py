"""What the lines of a journal hold: the environment of a server, the start of an attempt, its end."""

from typing import Any, Literal

from msgspec import Struct

SCHEMA = "ernie-bench/1"

Cold = Literal["seed", "reset", "restart"]
Dataset = Literal["random", "random-mm", "sharegpt", "custom"]
Level = Literal["hard", "soft"]
Preset = Literal["", "published", "amd"]
Status = Literal["valid", "suspect", "invalid", "failed", "interrupted"]


class Cell(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One benchmark point; lengths in tokens, the rate in requests/s (None: all at once)."""

    shape: str
    input_len: int
    output_len: int
    num_prompts: int
    request_rate: float | None = 10.0
    max_concurrency: int | None = None
    repeat: int = 1
    cold: Cold = "seed"
    dataset: Dataset = "random"
    # Content of a dataset file, so that another file is another cell.
    dataset_sha256: str = ""
    # SLOs in ms: ttft, tpot, e2el.
    goodput: dict[str, float] = {}
    preset: Preset = ""
    # One seed for every attempt, as vLLM's default has it; None: a seed of its own for each.
    seed: int | None = None

    @property
    def name(self) -> str:
        """`prompt-heavy n=16`, with what differs from the recipe's settings."""
        rate = "" if self.request_rate == 10.0 else f" rate={self.rate}"  # noqa: PLR2004 - the recipe's rate
        limit = f" c={self.max_concurrency}" if self.max_concurrency else ""
        data = "" if self.dataset in ("random", self.shape) else f" {self.dataset}"
        again = f" #{self.repeat}" if self.repeat > 1 else ""
        return f"{self.shape} n={self.num_prompts}{rate}{limit}{data}{again}"

    @property
    def rate(self) -> str:
        """The rate as vLLM's client takes it."""
        return "inf" if self.request_rate is None else f"{self.request_rate:g}"

    @property
    def lengths_fixed(self) -> bool:
        """Whether every prompt and every answer has the cell's own length."""
        return self.dataset in ("random", "random-mm")


class Environment(Struct, frozen=True, kw_only=True, tag="environment", tag_field="kind"):
    """Everything about one start of a server that its figures depend on; an empty field could not be seen."""

    schema: str = SCHEMA
    id: str
    taken_unix_s: float
    # Catalog ids where the stack or the user names them.
    model: str = ""
    target: str = ""
    hf_id: str
    revision: str = ""
    vllm_version: str = ""
    client_version: str = ""
    image: str = ""
    image_digest: str = ""
    # The served command as it runs, and the variables that change speed; never a secret.
    argv: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    gpus: tuple[str, ...] = ()
    driver: str = ""
    compose_sha256: str = ""
    server_started: str = ""
    # Labels of vllm:cache_config_info: block_size, num_gpu_blocks, enable_prefix_caching, ...
    cache: dict[str, str] = {}
    kv_cache_tokens: int = 0
    max_model_len: int = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    gpu_count: int = 0
    kit_version: str = ""
    # Where this is a rehearsal: a tiny checkpoint with random weights, its speed means nothing.
    rehearsal: bool = False
    coherence: str = ""


class Start(Struct, frozen=True, kw_only=True, tag="start", tag_field="kind"):
    """Written before the first request, so that a cut run shows where it was cut."""

    schema: str = SCHEMA
    run: str
    identity: str
    attempt: int
    cell: Cell
    seed: int
    environment: str
    start_unix_s: float


class Sample(Struct, frozen=True, kw_only=True, array_like=True):
    """The server at one moment of a cell; kv_cache_use from 0 to 1."""

    elapsed_s: float
    running: float
    waiting: float
    kv_cache_use: float
    generation_tokens: float


class Server(Struct, frozen=True, kw_only=True):
    """The server's own counters (summed over engines) before and after a cell, and samples between.

    Keys as in /metrics without `vllm:` and `_total`: prompt_tokens, generation_tokens, request_success,
    request_success_length, request_success_stop, request_success_abort, request_success_error,
    prefix_cache_queries, prefix_cache_hits, num_preemptions, spec_decode_num_drafts,
    spec_decode_num_accepted_tokens. A counter that the server lacks is absent.
    """

    before: dict[str, float]
    after: dict[str, float]
    samples: tuple[Sample, ...] = ()
    # Requests of the health check that fell into the cell (0 or 1), and their tokens.
    canary_requests: int = 0

    def delta(self, name: str) -> float | None:
        """How far a counter came, or None where the server lacks it."""
        if name not in self.after:
            return None
        return self.after[name] - self.before.get(name, 0.0)


class InterTokenLatency(Struct, frozen=True, kw_only=True):
    """What is kept of the client's list of gaps, 27 bytes per token: sums, counts and a histogram.

    `histogram` maps k to how many gaps lie in [1.01**k, 1.01**(k+1)) microseconds; a gap under 1 us is k=0.
    """

    counts: tuple[int, ...]
    sums_s: tuple[float, ...]
    histogram: dict[int, int]


class Derived(Struct, frozen=True, kw_only=True):
    """Figures that vLLM's client does not print, each computed from its raw lists."""

    mean_concurrency: float
    peak_concurrency: int
    achieved_rate: float | None
    send_lag_p99_ms: float | None
    tok_s_user: float | None
    tok_s_gpu: float | None
    tokens_per_chunk: float | None
    # Quantiles 0, 10, ..., 100 of TTFT, in ms.
    ttft_deciles_ms: tuple[float, ...] = ()
    prefix_hit_share: float | None = None
    acceptance_length: float | None = None


class Floor(Struct, frozen=True, kw_only=True):
    """The roofline of decode: estimated, from the catalog's bandwidth and the model's figures."""

    batch: float
    context_tokens: float
    # Time to read the weights and KV of one step, with uniformly routed and with identical experts.
    uniform_ms: float
    collapsed_ms: float
    prefill_at_peak_s: float
    bandwidth_share: float | None = None


class Check(Struct, frozen=True, kw_only=True):
    """One check: its id, whether failing makes a record invalid (hard) or suspect (soft), and its numbers."""

    id: str
    level: Level
    ok: bool
    text: str


class Attempt(Struct, frozen=True, kw_only=True, tag="attempt", tag_field="kind"):
    """One attempt at a cell, ended.

    `result` is vLLM's own JSON unchanged, but for the two lists that grow with every token: `itls` is kept as
    `itl`, and `generated_texts` is dropped.
    """

    schema: str = SCHEMA
    run: str
    identity: str
    attempt: int
    status: Status
    reasons: tuple[str, ...] = ()
    cell: Cell
    seed: int
    environment: str
    start_unix_s: float
    end_unix_s: float
    argv: tuple[str, ...] = ()
    result: dict[str, Any] = {}
    itl: InterTokenLatency | None = None
    derived: Derived | None = None
    server: Server | None = None
    floor: Floor | None = None
    checks: tuple[Check, ...] = ()
    log_tail: tuple[str, ...] = ()


Line = Environment | Start | Attempt


class Journal(Struct, frozen=True, kw_only=True):
    """A journal as read: every line in order, and how many torn ones were left out."""

    lines: tuple[Line, ...]
    torn: int = 0

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt that ended, oldest first."""
        return [line for line in self.lines if isinstance(line, Attempt)]

    @property
    def environments(self) -> dict[str, Environment]:
        """The servers' environments by id."""
        return {line.id: line for line in self.lines if isinstance(line, Environment)}

    @property
    def cut(self) -> list[Start]:
        """Attempts that began and never ended: killed, or the power went."""
        ended = {(line.run, line.identity, line.attempt) for line in self.attempts}
        starts = [line for line in self.lines if isinstance(line, Start)]
        return [start for start in starts if (start.run, start.identity, start.attempt) not in ended]

    def best(self) -> dict[str, Attempt]:
        """For each identity the newest valid attempt, else the newest suspect, else the newest."""
        rank = {"valid": 2, "suspect": 1}
        chosen: dict[str, Attempt] = {}
        for attempt in self.attempts:
            known = chosen.get(attempt.identity)
            if known is None or rank.get(attempt.status, 0) >= rank.get(known.status, 0):
                chosen[attempt.identity] = attempt
        return chosen


class Evidence(Struct, frozen=True, kw_only=True):
    """Everything that the checks may look at; None where it is not known, as for a published block.

    `figures` are vLLM's flat keys (completed, failed, duration, total_input_tokens, mean_ttft_ms, p99_tpot_ms, ...);
    `rounding` is half a unit of their last printed digit: 0.005 for a published block, 0 for a record.
    """

    cell: Cell
    figures: dict[str, Any]
    rounding: float = 0.0
    itl: InterTokenLatency | None = None
    derived: Derived | None = None
    server: Server | None = None
    environment: Environment | None = None
    floor: Floor | None = None
