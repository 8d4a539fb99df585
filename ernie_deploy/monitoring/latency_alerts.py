"""Alerts on answers that come too slowly: burn rates of the objectives, and a benchmark's baseline that is left."""

import math
from collections.abc import Iterator

from msgspec import Struct

from ernie_deploy.monitoring.rule import Alert, Record, Severity
from ernie_deploy.plan.objectives import HISTOGRAMS, Objective, decode_floor_s, objectives
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Baseline

TITLES = {"ttft": "The first token", "tpot": "A token", "itl": "The next token", "e2e": "An answer"}
# No more than all requests can be slow: the share that an alert waits for stays below that.
MOST_SLOW = 0.9
# Half an hour, for a mean that another benchmark would reproduce.
BASELINE_WINDOW = "30m"
FEWEST_REQUESTS = 20
# One hundredth, as INPUT_TOLERANCE of bench/validity/totals.py lets the prompts of a benchmark differ.
PROMPT_TOLERANCE = 1.01


class Burn(Struct, frozen=True, kw_only=True):
    """A pair of windows in which the budget burns `factor` times as fast as it may."""

    long: str
    short: str
    factor: float
    severity: Severity
    hold: str
    spent: str


# The pairs of Google's SRE workbook (Alerting on SLOs, section 6), for a budget of 30 days; the short window ends the
# alert soon after the cause did.
BURNS = (
    Burn(
        long="1h", short="5m", factor=14.4, severity="critical", hold="2m", spent="2 % of 30 days' budget an hour"
    ),
    Burn(
        long="6h", short="30m", factor=6, severity="warning", hold="15m", spent="5 % of 30 days' budget in six hours"
    ),
)  # fmt: skip


def records(plan: Plan) -> Iterator[Record]:
    """The rates behind every quantile, of each metric that has an objective."""
    for metric in dict.fromkeys(one.metric for one in objectives(plan)):
        for window in (window for burn in BURNS for window in (burn.short, burn.long)):
            yield Record(
                name=rate(metric, window),
                expr=f'sum by (le) (rate({HISTOGRAMS[metric]}_bucket{{job="vllm"}}[{window}]))',
            )


def rate(metric: str, window: str) -> str:
    """The name under which the rate of a histogram's buckets is kept."""
    return f"ernie:{metric}_seconds_bucket:rate{window}"


def alerts(plan: Plan) -> Iterator[Alert]:
    """Two burn rates an objective, and the baseline where one was accepted."""
    yield from (_burning(plan, one, burn) for one in objectives(plan) for burn in BURNS)
    if plan.request.baseline:
        yield _left(plan.request.baseline)


def _burning(plan: Plan, objective: Objective, burn: Burn) -> Alert:
    """A share of slow requests above a limit is a quantile above the objective: no bucket need lie at it.

    `histogram_quantile` interpolates, so the share is estimated within a bucket and exact at a bucket's bound.
    """
    slow = min(burn.factor * objective.budget, MOST_SLOW)
    windows = "\nand ".join(
        f"histogram_quantile({1 - slow:.4g}, {rate(objective.metric, window)}) > {objective.limit_s:g}"
        for window in (burn.long, burn.short)
    )
    least = math.ceil(1 / objective.budget)
    count = f'sum(increase({HISTOGRAMS[objective.metric]}_count{{job="vllm"}}[{burn.long}])) >= {least}'
    return Alert(
        name="ErnieSlowAnswers",
        expr=f"{windows}\nand {count}",
        hold=burn.hold,
        severity=burn.severity,
        labels={"slo": f"{objective.metric}_p{objective.percentile}"},
        summary=f"{TITLES[objective.metric]} comes later than {objective.text} allows",
        description=f"More than {slow:.0%} of the requests of the last {burn.long} and {burn.short} took longer than"
        f" {objective.limit_s:g} s, where {objective.budget:.0%} may: {burn.spent}. The objective is"
        f" {objective.origin}.{_floor(plan)}",
    )


def _floor(plan: Plan) -> str:
    floor_s = decode_floor_s(plan)
    return (
        f" A token of a full KV cache without drafts takes about {floor_s * 1000:.1f} ms at least (estimated)."
        if floor_s
        else ""
    )


def _left(baseline: Baseline) -> Alert:
    name, window = HISTOGRAMS["tpot"], BASELINE_WINDOW
    limit_s = baseline.mean_tpot_s * (1 + baseline.tolerance_percent / 100)
    prompts = "vllm:request_prompt_tokens"
    return Alert(
        name="ErnieSlowerThanBaseline",
        expr=f"{_mean(name, window)} > {limit_s:.6g}\n"
        f'and max_over_time(sum(vllm:num_requests_running{{job="vllm"}})[{window}:]) <= {baseline.concurrency:g}\n'
        f"and {_mean(prompts, window)} <= {PROMPT_TOLERANCE * baseline.prompt_tokens:g}\n"
        f'and sum(increase({name}_count{{job="vllm"}}[{window}])) >= {FEWEST_REQUESTS}',
        hold="15m",
        severity="warning",
        summary="The server is slower than the benchmark that was accepted",
        description="{{ $value | humanizeDuration }} a token, where the baseline"
        f" ({baseline.path}, {baseline.cell}) has {baseline.mean_tpot_s * 1000:.2f} ms and {baseline.tolerance_percent:g} % more is its"
        f" tolerance; at no more requests at once ({baseline.concurrency:.0f}) and prompts no longer"
        f" ({baseline.prompt_tokens:.0f} tokens) than the benchmark had.",
    )


def _mean(name: str, window: str) -> str:
    return f'sum(rate({name}_sum{{job="vllm"}}[{window}])) / sum(rate({name}_count{{job="vllm"}}[{window}]))'
