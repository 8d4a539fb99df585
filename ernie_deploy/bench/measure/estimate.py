"""How long a cell takes, estimated before it runs, and whether it can run at all.

A fluid simulation: all decoding requests advance alike between two events (a send, a prompt read, an answer
done), at the pace that the roofline allows and one published run reached.
"""

from collections import deque

from msgspec import Struct

from ernie_deploy.bench.journal.record import Cell
from ernie_deploy.catalog.schema import Model, Target
from ernie_deploy.plan.roofline import BANDWIDTH_SHARE, PEAK_SHARE, Load, prefill_flops, step_bytes
from ernie_deploy.plan.topology import Topology

STEP_OVERHEAD_S = 0.0004
# Importing vLLM, reading the tokenizer and making prompts, measured for 0.32's client on two cores.
CLIENT_START_S = 10.0
CHUNK_TOKENS = 8192
# Into how many intervals an answer is cut at the least.
INTERVALS = 64


class Served(Struct, frozen=True, kw_only=True):
    """How a model is served; `kv_cache_tokens` of the whole stack, 0 where it is not known and taken as enough."""

    topology: Topology = Topology()
    kv_cache_tokens: int = 0
    fp8: bool = False


class Pace(Struct, frozen=True, kw_only=True):
    """How fast a stack decodes and reads prompts."""

    # Seconds of a step by batch size, at no context, and for each token of context.
    steps_s: tuple[float, ...]
    context_s: float
    prefill_tokens_per_s: float


def minutes(cell: Cell, model: Model, target: Target, served: Served) -> float | None:
    """Estimated minutes of one cell, the client's start included; None where the target's speed is unknown."""
    if not target.bandwidth_gb_per_s or not target.peak_bf16_tflops:
        return None
    most = target.engine_defaults.max_num_seqs * served.topology.data_parallel_size
    fluid = Fluid(cell, _pace(cell, model, target, served), _held_at_once(cell, served.kv_cache_tokens, most))
    return (CLIENT_START_S + fluid.run()) / 60


def feasible(cell: Cell, kv_cache_tokens: int, max_model_len: int) -> str:
    """Why the cell cannot be, or '' where it can; a limit of 0 is not known."""
    need = cell.input_len + cell.output_len
    total = f"{cell.input_len:,} input and {cell.output_len:,} output tokens are {need:,}"
    if max_model_len and need > max_model_len:
        return f"{total}, more than max_model_len {max_model_len:,}"
    if kv_cache_tokens and need > kv_cache_tokens:
        return f"{total}, more than the KV cache of {kv_cache_tokens:,} tokens holds"
    return ""


def queueing(cell: Cell, kv_cache_tokens: int) -> str:
    """What to know of a cell whose requests do not all fit the KV cache; they wait, and none is refused."""
    at_once = min(cell.num_prompts, cell.max_concurrency or cell.num_prompts)
    need = cell.input_len + cell.output_len
    if not kv_cache_tokens or at_once * need <= kv_cache_tokens:
        return ""
    return (
        f"up to {at_once * need:,} tokens for a KV cache of {kv_cache_tokens:,}: "
        f"about {max(1, kv_cache_tokens // need)} of {at_once} requests at once, the others may wait"
    )


def _held_at_once(cell: Cell, kv_cache_tokens: int, max_num_seqs: int) -> int:
    """Requests in the batch: a running one holds its prompt and, on average, half of its answer."""
    by_cache = kv_cache_tokens // (cell.input_len + cell.output_len // 2) if kv_cache_tokens else max_num_seqs
    return max(1, min(by_cache, max_num_seqs, cell.max_concurrency or max_num_seqs))


def _pace(cell: Cell, model: Model, target: Target, served: Served) -> Pace:
    per_s = target.bandwidth_gb_per_s * 1e9 * BANDWIDTH_SHARE
    topology = served.topology
    ranks = topology.expert_shards * topology.pipeline_parallel_size
    flops_per_s = target.peak_bf16_tflops * 1e12 * PEAK_SHARE * ranks

    def step_s(batch: int, context_tokens: float) -> float:
        load = Load(batch=batch, context_tokens=context_tokens, input_tokens=cell.input_len, fp8=served.fp8)
        return step_bytes(model, topology, load) / per_s

    return Pace(
        steps_s=tuple(step_s(batch, 0) + STEP_OVERHEAD_S for batch in range(cell.num_prompts + 1)),
        context_s=step_s(1, 1) - step_s(1, 0),
        prefill_tokens_per_s=cell.input_len * flops_per_s / prefill_flops(model, cell.input_len),
    )


class Fluid:
    """A cell under way: `step` counts the steps of decoding since the start, `now_s` the seconds."""

    def __init__(self, cell: Cell, pace: Pace, held_at_once: int) -> None:
        self.cell, self.pace, self.held_at_once = cell, pace, held_at_once
        gap_s = 1 / cell.request_rate if cell.request_rate else 0.0
        self.sends = deque(gap_s * (i + 1) for i in range(cell.num_prompts))
        # At which step each decoding request ends; they end in the order they began.
        self.ends: deque[float] = deque()
        self.waiting, self.now_s, self.step = 0, 0.0, 0.0
        self.unread, self.sum_of_ends = 0.0, 0.0

    def run(self) -> float:
        """Seconds until the last answer is done."""
        while self.sends or self.waiting or self.unread or self.ends:
            self._take()
            self._advance()
        return self.now_s

    def _take(self) -> None:
        while self.sends and self.sends[0] <= self.now_s:
            self.sends.popleft()
            self.waiting += 1
        if not self.unread and self.waiting and len(self.ends) < self.held_at_once:
            self.waiting -= 1
            self.unread = float(self.cell.input_len)

    def _advance(self) -> None:
        """Go on to the next event."""
        chunk = min(CHUNK_TOKENS, self.unread)
        took_s = self._decode_s() + chunk / self.pace.prefill_tokens_per_s
        events_s = [self.sends[0] - self.now_s] if self.sends else []
        events_s += [(self.ends[0] - self.step) * took_s] if self.ends else []
        events_s += [self.unread / chunk * took_s] if chunk else []
        # The context grows meanwhile, so that no interval may be long.
        events_s += [max(1.0, self.cell.output_len / INTERVALS) * took_s] if self.ends else []
        gone_s = max(0.0, min(events_s))
        self.now_s += gone_s
        self.step += gone_s / took_s if self.ends else 0.0
        self.unread = max(0.0, self.unread - chunk * gone_s / took_s)
        self._settle(read=bool(chunk))

    def _decode_s(self) -> float:
        """A step of the requests that decode now."""
        batch = len(self.ends)
        generated = batch * self.step - (self.sum_of_ends - batch * (self.cell.output_len - 1))
        return self.pace.steps_s[batch] + self.pace.context_s * (batch * self.cell.input_len + generated)

    def _settle(self, *, read: bool) -> None:
        if read and self.unread < 1:
            self.unread = 0.0
            self.ends.append(self.step + self.cell.output_len - 1)
            self.sum_of_ends += self.ends[-1]
        while self.ends and self.ends[0] <= self.step + 1e-6:
            self.sum_of_ends -= self.ends.popleft()
