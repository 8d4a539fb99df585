"""Alerts on the servers themselves: down, restarting, hung, queueing, out of KV cache, failing."""

import math
from collections.abc import Iterator

from ernie_deploy.monitoring.rule import Alert, Record, duration
from ernie_deploy.plan.objectives import max_num_seqs
from ernie_deploy.plan.plan import Plan

# docker/scripts/canary.py has the same two, and a test holds them together: an engine with requests whose counters
# stand still so long is hung.
HANG_S = 60
PROGRESS = ("vllm:iteration_tokens_total_count", "vllm:kv_cache_usage_perc")
RUNNING = "vllm:num_requests_running"
WAITING = "ernie:requests_waiting:sum"
# A restart after an engine's death took 39 s here, after a hang 97 s (tests/integration/test_stack.py).
DOWN = "2m"
# Two falls within it are a loop: a server may load for as long as vLLM's own limit before it falls again.
LOADS_WITHIN_LOOP = 3
SHORTEST_LOOP_S = 3600
# Queue that is worth a call: a tenth of what runs at once.
QUEUE_SHARE = 0.1
FULL_KV = 0.9
ERROR_SHARE = 0.01
FEWEST_ERRORS = 5


def records() -> Iterator[Record]:
    """What more than one rule asks of the servers."""
    yield Record(name=WAITING, expr='sum by (instance) (vllm:num_requests_waiting{job="vllm"})')


def alerts(plan: Plan) -> Iterator[Alert]:
    """Every alert on the servers."""
    yield from (*_gone(plan), _hung(), _queue(plan), _kv(plan), _errors())


def _gone(plan: Plan) -> Iterator[Alert]:
    ready = duration(plan.ready_timeout_s)
    loop = duration(max(SHORTEST_LOOP_S, LOADS_WITHIN_LOOP * plan.ready_timeout_s))
    yield Alert(
        name="ErnieDown",
        expr='up{job="vllm"} == 0\nand max_over_time(up{job="vllm"}[7d]) == 1',
        hold=DOWN,
        severity="critical",
        summary="{{ $labels.instance }} served and does not answer",
        description=f"Prometheus has had no metrics of it for {DOWN}, longer than a restart took in our tests;"
        f" loading {plan.model.id} may take up to {ready} (vLLM's own limit, from the plan).",
    )
    yield Alert(
        name="ErnieNotStarted",
        expr='up{job="vllm"} == 0',
        hold=ready,
        severity="warning",
        summary="{{ $labels.instance }} has not started within its limit",
        description=f"It has not answered for {ready}, the time that the plan gives vLLM to load"
        f" {plan.weight_bytes / 1e9:.0f} GB of weights; the first download comes before that time.",
    )
    yield Alert(
        name="ErnieRestarting",
        # `resets` counts the falls from 1 to 0; `changes` would count the first start with the rises.
        expr=f'resets(up{{job="vllm"}}[{loop}]) >= 2',
        hold="0m",
        severity="critical",
        summary="{{ $labels.instance }} starts again and again",
        description=f"It went away twice or more within {loop}, {LOADS_WITHIN_LOOP} times the plan's limit for a start"
        " or an hour. Each start loads all weights anew, and fails for the same reason until somebody finds it.",
    )


def _hung() -> Alert:
    window = duration(HANG_S)
    still = "\n".join(f'and changes({metric}{{job="vllm"}}[{window}]) == 0' for metric in PROGRESS)
    return Alert(
        name="ErnieHung",
        expr=f'min_over_time({RUNNING}{{job="vllm"}}[{window}]) > 0\n{still}',
        # The canary needs three probes, 30 s apart: what lasts longer is what it could not end.
        hold="1m",
        severity="critical",
        summary="Engine {{ $labels.engine }} of {{ $labels.instance }} has requests and stands still",
        description="{{ $value }} requests run, and for two minutes no iteration ended and no KV cache was taken. The"
        f" canary ends the container after {HANG_S} s of it: this hang is one that it could not end.",
    )


def _queue(plan: Plan) -> Alert:
    sequences = max_num_seqs(plan) * plan.topology.data_parallel_size
    least = math.ceil(QUEUE_SHARE * sequences)
    return Alert(
        name="ErnieQueueGrowing",
        expr=f"min_over_time({WAITING}[10m]) >= {least}\nand (deriv({WAITING}[10m]) > 0 or {WAITING} > {sequences})",
        hold="5m",
        severity="warning",
        summary="More requests come to {{ $labels.instance }} than it serves",
        description=f"At least {least} requests have waited for ten minutes, a tenth of the {sequences} that it runs at"
        " once (max_num_seqs of the plan), and their number grows or is beyond that: a peak would have gone by.",
    )


def _kv(plan: Plan) -> Alert:
    tokens, context = plan.memory.kv_cache_tokens, plan.memory.context_tokens
    return Alert(
        name="ErnieKvCacheFull",
        expr=f'avg_over_time(vllm:kv_cache_usage_perc{{job="vllm"}}[10m]) > {FULL_KV}\nand (\n'
        '  avg_over_time(vllm:num_requests_waiting{job="vllm"}[10m]) >= 1\n'
        '  or increase(vllm:num_preemptions_total{job="vllm"}[10m]) > 0\n)',
        # A full cache alone is a server well used; with somebody waiting for it, ten minutes and five more.
        hold="5m",
        severity="warning",
        summary="The KV cache of {{ $labels.instance }} is full and requests wait for it",
        description="{{ $value | humanizePercentage }} of it was used in the last ten minutes. The plan counts on"
        f" {tokens:,} tokens an engine, {tokens / context:.1f} times the context of {context:,}.",
    )


def _errors() -> Alert:
    failed = 'sum by (instance) (increase(http_requests_total{job="vllm",status="5xx"}[15m]))'
    broken = (
        'sum by (instance) (increase(vllm:request_success_total{job="vllm",finished_reason="error"}[15m]))'
    )
    every = 'sum by (instance) (increase(http_requests_total{job="vllm"}[15m]))'
    parts = [
        f"(\n  {one} >= {FEWEST_ERRORS}\n  and {one} > {ERROR_SHARE} * {every}\n)" for one in (failed, broken)
    ]
    return Alert(
        name="ErnieErrors",
        expr="\nor ".join(parts),
        # One burst has left the window by then, unless it was large.
        hold="2m",
        severity="critical",
        summary="{{ $labels.instance }} fails requests",
        description="{{ $value | humanize }} requests failed within 15 minutes, more than"
        f" {ERROR_SHARE:.0%} of all: with a 5xx, or in a stream that had begun with 200.",
    )
