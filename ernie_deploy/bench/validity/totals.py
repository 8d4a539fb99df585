"""Checks of the totals: requests, tokens and throughput, of any result and of a published block."""

import math

from ernie_deploy.bench.journal.record import Check, Evidence
from ernie_deploy.bench.validity.basis import (
    STATISTIC,
    differing,
    hard,
    listed,
    number,
    numbers,
    rate_bounds,
    same,
    statistics_of,
)

INPUT_TOLERANCE = 0.01
METRICS = ("ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue")
# Its first token is its only one.
AFTER_FIRST = ("tpot", "itl")
QUEUE = "client_queue_time"


def completed(evidence: Evidence) -> Check:
    """Every request completed and none failed; vLLM's client exits 0 either way."""
    done, failed = number(evidence, "completed"), number(evidence, "failed") or 0
    n = evidence.cell.num_prompts
    text = f"{done or 0:g} of {n} requests completed, {failed:g} failed"
    return hard("completed", text, ok=done == n and not failed)


def output_tokens(evidence: Evidence) -> Check | None:
    """The token count, the only proof on the client's side that every answer ran to its end."""
    if not evidence.cell.lengths_fixed:
        return None
    want = evidence.cell.num_prompts * evidence.cell.output_len
    got = number(evidence, "total_output_tokens") or 0
    return hard("output-tokens", f"{got:,.0f} output tokens of {want:,} asked for", ok=got == want)


def input_tokens(evidence: Evidence) -> Check | None:
    """Prompts are as long as asked for; decoding and encoding random tokens again may lose a few.

    Images of random-mm add theirs, so that there only fewer than asked for is wrong.
    """
    if not evidence.cell.lengths_fixed:
        return None
    want = evidence.cell.num_prompts * evidence.cell.input_len
    got = number(evidence, "total_input_tokens") or 0
    high = math.inf if evidence.cell.dataset == "random-mm" else 1 + INPUT_TOLERANCE
    text = f"{got:,.0f} input tokens for {want:,} asked for ({got / want - 1:+.2%})"
    return hard("input-tokens", text, ok=1 - INPUT_TOLERANCE <= got / want <= high)


def request_throughput(evidence: Evidence) -> Check | None:
    """Requests over time."""
    return _throughput(evidence, "request_throughput", "completed")


def output_throughput(evidence: Evidence) -> Check | None:
    """Output tokens over time."""
    return _throughput(evidence, "output_throughput", "total_output_tokens")


def total_throughput(evidence: Evidence) -> Check | None:
    """Input and output tokens over time."""
    return _throughput(evidence, "total_token_throughput", "total_input_tokens", "total_output_tokens")


def _throughput(evidence: Evidence, name: str, *counts: str) -> Check | None:
    values = numbers(evidence, name, "duration", *counts)
    if values is None:
        return None
    rate, duration_s, *parts = values
    low, high = rate_bounds(sum(parts), duration_s, evidence.rounding)
    text = f"{name} {rate:,.2f}/s, and {sum(parts):,.0f} in {duration_s:.3f} s are {low:,.2f} to {high:,.2f}"
    return hard(name.replace("_", "-"), text, ok=low <= rate <= high)


def settings(evidence: Evidence) -> Check | None:
    """The client ran the cell that was asked for."""
    cell, figures = evidence.cell, evidence.figures
    asked = {
        "num_prompts": cell.num_prompts,
        "request_rate": "inf" if cell.request_rate is None else cell.request_rate,
        "burstiness": 1.0,
        "max_concurrency": cell.max_concurrency,
        # Of audio only.
        "rtfx": 0.0,
    }
    recorded = {name: figures[name] for name in asked if name in figures}
    return (
        listed("settings", differing(recorded, asked), f"{len(recorded)} settings as asked for")
        if recorded
        else None
    )


def positive(evidence: Evidence) -> Check:
    """Times and rates are positive; a server that is not there gives zeros and exit code 0."""
    zero_may_be = {"std", QUEUE} | (set(AFTER_FIRST) if evidence.cell.output_len == 1 else set())
    faults = []
    for key, value in evidence.figures.items():
        match = STATISTIC.fullmatch(key)
        if not (match or key in ("duration", "max_output_tokens_per_s") or key.endswith("_throughput")):
            continue
        least = 0.0 if match and zero_may_be & set(match.groups()) else math.ulp(0.0)
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= least):
            faults.append(f"{key} is {value}")
    return listed("positive", faults, "every time and rate is positive")


def ordering(evidence: Evidence) -> Check:
    """Percentiles rise, and the median is the 50th."""
    faults = []
    for metric in METRICS:
        known = {kind: value for _, kind, value in statistics_of(evidence, metric)}
        ranks = {float(kind[1:]): value for kind, value in known.items() if kind.startswith("p")}
        # numpy takes the two in different ways, which round differently in the last digit.
        if "median" in known and not same(ranks.setdefault(50.0, known["median"]), known["median"]):
            faults.append(f"the median {metric} {known['median']} is not p50 {ranks[50.0]}")
        ordered = [ranks[rank] for rank in sorted(ranks)]
        if ordered != sorted(ordered):
            faults.append(f"percentiles of {metric} fall: {ordered}")
    return listed("ordering", faults, "percentiles rise with their rank")
