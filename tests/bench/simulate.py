"""A benchmark without a GPU: the raw JSON that vLLM 0.32's client would save, consistent in every figure.

`simulate` is deterministic by seed, which is the client's seed as well.
"""

import math
from bisect import bisect_right
from collections import Counter
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Any

from bench.client_figures import EPOCH_S, figures, gaps
from bench.engine import Engine, Speed, Timeline
from msgspec.structs import replace

from ernie_deploy.bench import validity
from ernie_deploy.bench.journal import roofline
from ernie_deploy.bench.journal.arrivals import schedule
from ernie_deploy.bench.journal.derive import derive
from ernie_deploy.bench.journal.record import (
    Attempt,
    Cell,
    Environment,
    Evidence,
    InterTokenLatency,
    Journal,
    Line,
    Sample,
    Server,
    Start,
)  # fmt: skip

FAST = Speed()
START_UNIX_S = 1_795_000_000.0
SHAPES = {"prompt-heavy": (8000, 1000), "decode-heavy": (1000, 8000), "balanced": (1000, 1000)}
NUM_PROMPTS = (1, 16, 32, 64, 128, 256, 512)


def recipe_cell(shape: str = "prompt-heavy", num_prompts: int = 16, **other: Any) -> Cell:
    """A cell of the recipe's matrix."""
    input_len, output_len = SHAPES[shape]
    return Cell(shape=shape, input_len=input_len, output_len=output_len, num_prompts=num_prompts, **other)


def simulate(cell: Cell, *, seed: int = 0, speed: Speed = FAST) -> dict[str, Any]:
    """What `vllm bench serve --save-result --save-detailed` writes for the cell, lists of tokens included."""
    line = timeline(cell, seed, speed)
    result = figures(cell, line)
    requests = range(cell.num_prompts)
    steps = [b - a for a, b in pairwise([0.0, *line.ends])]
    result["itls"] = [steps[line.first[i] + 1 : line.last[i] + 1] for i in requests]
    result["generated_texts"] = [f"text {i}" for i in requests]
    return result


def simulate_reduced(
    cell: Cell, *, seed: int = 0, speed: Speed = FAST
) -> tuple[dict[str, Any], InterTokenLatency]:
    """The same, as the journal keeps it; quick, for no list of tokens is ever made."""
    line = timeline(cell, seed, speed)
    result = figures(cell, line)
    del result["itls"], result["generated_texts"]
    requests = range(cell.num_prompts)
    counts = tuple(line.last[i] - line.first[i] for i in requests)
    sums = tuple(line.ends[line.last[i]] - line.ends[line.first[i]] for i in requests)
    histogram: Counter[int] = Counter()
    for gap, weight in gaps(line):
        histogram[max(0, math.floor(math.log(gap * 1e6) / math.log(1.01)))] += weight
    return result, InterTokenLatency(counts=counts, sums_s=sums, histogram=dict(sorted(histogram.items())))


def timeline(cell: Cell, seed: int, speed: Speed) -> Timeline:
    """The engine's run of the cell; the client sends each request a little late, as an event loop does."""
    due = schedule(seed, cell.num_prompts, cell.request_rate)
    late = (at + 0.0002 * (1 + i % 3) for i, at in enumerate(due))
    arrivals = list(accumulate(late, max))
    return Engine(cell, arrivals, speed, seed).run()


def server_of(result: dict[str, Any], cell: Cell, *, kv_cache_tokens: int = FAST.kv_cache_tokens) -> Server:
    """The server's counters as they move through such a cell, after another one like it, and 100 samples."""
    n, tokens = cell.num_prompts, result["total_output_tokens"]
    moved = {
        "prompt_tokens": result["total_input_tokens"], "generation_tokens": tokens,
        "request_success": n, "request_success_length": n, "request_success_stop": 0,
        "request_success_abort": 0, "request_success_error": 0,
        "prefix_cache_queries": result["total_input_tokens"], "prefix_cache_hits": 0, "num_preemptions": 0,
    }  # fmt: skip
    if "spec_decode_num_drafts" in result:
        moved["spec_decode_num_drafts"] = result["spec_decode_num_drafts"]
        moved["spec_decode_num_accepted_tokens"] = result["spec_decode_accepted_tokens"]
    before = {name: float(value) for name, value in moved.items()}
    after = {name: 2.0 * value for name, value in moved.items()}
    samples = _samples(result, cell, kv_cache_tokens, before["generation_tokens"])
    return Server(before=before, after=after, samples=samples)


def _samples(result: dict[str, Any], cell: Cell, kv_cache_tokens: int, before: float) -> tuple[Sample, ...]:
    starts = sorted(at - EPOCH_S for at in result["start_times"])
    spans = [
        (at - EPOCH_S + ttft, at - EPOCH_S + took)
        for at, ttft, took in zip(result["start_times"], result["ttfts"], result["latencies"], strict=True)
    ]
    firsts, ends = sorted(a for a, _ in spans), sorted(b for _, b in spans)
    samples = []
    for k in range(101):
        at = result["duration"] * k / 100
        sent, begun, ended = bisect_right(starts, at), bisect_right(firsts, at), bisect_right(ends, at)
        active = [(at - a) / (b - a) * cell.output_len for a, b in spans if a <= at < b]
        held = sum(active) + (begun - ended) * cell.input_len
        samples.append(Sample(
            elapsed_s=at, running=begun - ended, waiting=sent - begun, kv_cache_use=min(1.0, held / kv_cache_tokens),
            generation_tokens=before + ended * cell.output_len + sum(active),
        ))  # fmt: skip
    return tuple(samples)


def environment(**other: Any) -> Environment:
    """One H100 that serves the text model."""
    known: dict[str, Any] = {
        "id": "e1", "taken_unix_s": 1.0, "model": "21b", "target": "h100",
        "hf_id": "baidu/ERNIE-4.5-21B-A3B-PT", "revision": "main",
        "vllm_version": "0.32.0", "client_version": "0.32.0",
        "image": "vllm/vllm-openai:v0.32.0", "image_digest": "sha256:" + "a" * 64,
        "argv": ("vllm", "serve", "baidu/ERNIE-4.5-21B-A3B-PT"), "gpus": ("NVIDIA H100 80GB HBM3",),
        "driver": "580.65.06", "compose_sha256": "b" * 64, "server_started": "2026-11-21T12:00:00Z",
        "cache": {"block_size": "16", "num_gpu_blocks": "30625", "enable_prefix_caching": "True"},
        "kv_cache_tokens": FAST.kv_cache_tokens, "max_model_len": 131_072, "gpu_count": 1,
        "kit_version": "0", "coherence": "passed",
    }  # fmt: skip
    return Environment(**(known | other))


def evidence(cell: Cell, *, seed: int = 0, speed: Speed = FAST, env: Environment | None = None) -> Evidence:
    """Everything about a good run of the cell, as the checks take it."""
    env = env or environment()
    result, itl = simulate_reduced(cell, seed=seed, speed=speed)
    server = server_of(result, cell, kv_cache_tokens=speed.kv_cache_tokens)
    return Evidence(
        cell=cell, figures=result, itl=itl, server=server, environment=env,
        derived=derive(result, itl, server, env, seed=seed), floor=roofline.of(cell, result, env),
    )  # fmt: skip


def attempt(
    cell: Cell, *, seed: int = 0, speed: Speed = FAST, env: Environment | None = None, **other: Any
) -> Attempt:
    """The attempt that a good run of the cell leaves in the journal, derived and judged by the kit."""
    env = env or environment()
    proof = evidence(cell, seed=seed, speed=speed, env=env)
    checks = validity.judge(proof)
    known: dict[str, Any] = {
        "run": "r1", "identity": sha256(cell.name.encode()).hexdigest(), "attempt": 1,
        "status": validity.status_of(checks), "reasons": tuple(check.id for check in checks if not check.ok),
        "cell": cell, "seed": seed, "environment": env.id,
        "start_unix_s": START_UNIX_S, "end_unix_s": START_UNIX_S + proof.figures["duration"] + 12.0,
        "argv": ("vllm", "bench", "serve", f"--seed={seed}"), "result": proof.figures, "itl": proof.itl,
        "derived": proof.derived, "server": proof.server, "floor": proof.floor, "checks": checks,
    }  # fmt: skip
    return Attempt(**(known | other))


def journal(repeats: int = 3, *, speed: Speed = FAST) -> Journal:
    """The recipe's whole matrix, one server start, every cell `repeats` times with a seed of its own."""
    env, lines = environment(), list[Line]()
    cells = [
        recipe_cell(shape, n, repeat=repeat)
        for shape in SHAPES for n in NUM_PROMPTS for repeat in range(1, repeats + 1)
    ]  # fmt: skip
    now = START_UNIX_S
    for seed, cell in enumerate(cells, start=1000):
        done = attempt(cell, seed=seed, speed=speed, env=env, start_unix_s=now)
        done = replace(done, end_unix_s=now + done.result["duration"] + 12.0)
        now = done.end_unix_s + 1.0
        start = Start(run=done.run, identity=done.identity, attempt=1, cell=cell, seed=seed,
                      environment=env.id, start_unix_s=done.start_unix_s)  # fmt: skip
        lines += [start, done]
    return Journal(lines=(env, *lines))
