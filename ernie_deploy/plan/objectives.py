"""How fast a stack should answer: the objectives that --slo gives, or those that follow from the plan."""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from ernie_deploy.errors import UsageError
from ernie_deploy.plan.roofline import FP8_PEAK, PEAK_SHARE, Load, prefill_flops, step_bytes
from ernie_deploy.plan.settings import value_of

if TYPE_CHECKING:
    from ernie_deploy.plan.plan import Plan

# vLLM's histograms, by the name that the field has for them.
HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
}
METRICS = tuple(HISTOGRAMS)
OBJECTIVE = re.compile(rf"({'|'.join(METRICS)})_p(50|90|95|99)=([0-9]{{1,6}}(?:\.[0-9]{{1,6}})?)(ms|s)")
# Above it vLLM's histograms no longer tell one time per token from another.
LONGEST_S = {"ttft": 640.0, "tpot": 80.0, "itl": 80.0, "e2e": 1920.0}
# The slower of the two published runs took 2.8 times the floor a token (vl-28b: 36.35 ms against 12.84 ms).
FLOOR_FACTOR = 3
DERIVED_PERCENTILE = 95
DIGITS = 2


class Objective(Struct, frozen=True, kw_only=True):
    """At most `100 - percentile` percent of the requests may take longer than `limit_s` for `metric`."""

    metric: str
    percentile: int
    limit_s: float
    origin: str

    @property
    def budget(self) -> float:
        """The share of requests that may be slower."""
        return round(1 - self.percentile / 100, 2)

    @property
    def text(self) -> str:
        """As --slo takes it: `ttft_p95=2s`."""
        shown = f"{self.limit_s:g}s" if self.limit_s >= 1 else f"{self.limit_s * 1000:g}ms"
        return f"{self.metric}_p{self.percentile}={shown}"


def parse(words: tuple[str, ...]) -> tuple[Objective, ...]:
    """The objectives of --slo; raises `UsageError` where one is no such thing or stands twice."""
    objectives = tuple(_objective(word) for word in words)
    names = [(one.metric, one.percentile) for one in objectives]
    if len(set(names)) != len(names):
        raise UsageError(f"--slo gives one objective twice: {','.join(words)[:80]}.")
    return objectives


def _objective(word: str) -> Objective:
    match = OBJECTIVE.fullmatch(word)
    limit_s = float(match[3]) / (1000 if match[4] == "ms" else 1) if match else 0.0
    if not match or not 0 < limit_s <= LONGEST_S[match[1]]:
        longest = f" of at most {LONGEST_S[match[1]]:g}s" if match else ""
        raise UsageError(
            f"--slo {word[:40]!r} is no objective.",
            cause=f"it is METRIC_pNN=TIME{longest}: {', '.join(METRICS)}, p50 to p99, s or ms",
            next_step="write one or more, such as --slo ttft_p95=2s,tpot_p95=50ms",
        )
    return Objective(metric=match[1], percentile=int(match[2]), limit_s=limit_s, origin="--slo")


def objectives(plan: "Plan") -> tuple[Objective, ...]:
    """What --slo gives; where it gives none, what the plan derives: nothing without the memory's bandwidth."""
    return parse(plan.request.slo) or tuple(_derived(plan))


def _derived(plan: "Plan") -> Iterator[Objective]:
    if not plan.target.bandwidth_gb_per_s:
        return
    context, full = plan.memory.context_tokens, full_load(plan)
    yield Objective(
        metric="ttft",
        percentile=DERIVED_PERCENTILE,
        limit_s=_rounded(min(prefill_s(plan, context), LONGEST_S["ttft"])),
        origin=f"derived: a prompt of {context:,} tokens read at {PEAK_SHARE:.0%} of the GPUs' peak",
    )
    yield Objective(
        metric="tpot",
        percentile=DERIVED_PERCENTILE,
        limit_s=_rounded(min(FLOOR_FACTOR * decode_floor_s(plan), LONGEST_S["tpot"])),
        origin=f"derived: {FLOOR_FACTOR} times the floor of {full.batch:.0f} requests that fill the KV cache",
    )


def max_num_seqs(plan: "Plan") -> int:
    """Requests that one engine runs at once, by vLLM's flag or its default on this card."""
    return int(str(value_of(plan.settings, "max-num-seqs", plan.target.engine_defaults.max_num_seqs)))


def full_load(plan: "Plan") -> Load:
    """All engines with as many requests as they run at once, which together fill their KV cache."""
    engines, sequences = plan.topology.data_parallel_size, max_num_seqs(plan)
    return Load(
        batch=float(engines * sequences),
        context_tokens=min(plan.memory.context_tokens, plan.memory.kv_cache_tokens / sequences),
        input_tokens=plan.memory.context_tokens,
        fp8=_fp8(plan),
    )


def decode_floor_s(plan: "Plan") -> float:
    """The time of a decode step of a full KV cache by the memory's bandwidth, without drafts; estimated. 0 without the memory's bandwidth."""
    per_s = plan.target.bandwidth_gb_per_s * 1e9
    return step_bytes(plan.model, plan.topology, full_load(plan)) / per_s if per_s else 0.0


def most_tokens_per_s(plan: "Plan") -> float:
    """Tokens a second at that floor, of all replicas; shorter requests and accepted drafts go beyond. 0 without the memory's bandwidth."""
    floor_s = decode_floor_s(plan)
    return len(plan.replicas) * full_load(plan).batch / floor_s if floor_s else 0.0


def prefill_s(plan: "Plan", tokens: int) -> float:
    """The time that one engine takes to read a prompt, at the share of the peak that a published run reached."""
    ranks = plan.topology.tensor_parallel_size * plan.topology.pipeline_parallel_size
    flops_per_s = plan.target.peak_bf16_tflops * 1e12 * ranks * (FP8_PEAK if _fp8(plan) else 1)
    return prefill_flops(plan.model, tokens) / (PEAK_SHARE * flops_per_s)


def _fp8(plan: "Plan") -> bool:
    return str(value_of(plan.settings, "quantization", "")).startswith("fp8")


def _rounded(seconds: float) -> float:
    """Up to two digits: an estimate shows no more."""
    step = 10.0 ** (math.floor(math.log10(seconds)) - DIGITS + 1)
    return float(f"{math.ceil(seconds / step) * step:.{DIGITS}g}")
