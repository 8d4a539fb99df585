"""Every query of the dashboard, as data: panels and tests take them from here, and so does a proof with a real Prometheus.

A query reads a window of the dashboard's choice where Grafana puts it, `$__rate_interval`; `at` puts another.
"""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from ernie_deploy.catalog.monitoring_schema import Unit
from ernie_deploy.monitoring.gpus import of_cards
from ernie_deploy.monitoring.jobs import jobs_of
from ernie_deploy.plan.monitoring import JOBS
from ernie_deploy.plan.objectives import HISTOGRAMS, most_tokens_per_s, objectives
from ernie_deploy.plan.plan import Plan

WINDOW = "$__rate_interval"
QUANTILES = (50, 95, 99)
SECONDS_PER_HOUR, TOKENS = 3600, 1_000_000

Kind: TypeAlias = Literal["graph", "number", "table", "text"]


class Query(Struct, frozen=True, kw_only=True):
    """One PromQL expression and how its series are called."""

    expr: str
    legend: str = ""

    def at(self, window: str) -> str:
        """The expression with a window such as `1m`, as Prometheus itself takes it."""
        return self.expr.replace(WINDOW, window)


class Panel(Struct, frozen=True, kw_only=True):
    """One question of the on-call and what answers it, or a text; each of `limits` is drawn as a line.

    `quiet` says when a healthy server has no series for it.
    """

    row: str
    title: str
    why: str
    queries: tuple[Query, ...] = ()
    unit: Unit = "none"
    kind: Kind = "graph"
    limits: tuple[float, ...] = ()
    quiet: str = ""


SERVING, SPEED, FULL = "Is it serving?", "How fast?", "How full?"
USED, WHO, GPUS, COST = "How well used?", "Who?", "The GPUs", "Joules and money"
ROWS = (SERVING, SPEED, FULL, USED, WHO, GPUS, COST)
LATENCIES = {
    "ttft": ("Time to first token", "What a user waits before anything comes."),
    "tpot": ("Time per output token",
             "How fast an answer flows, per request: its time after the first token over its further tokens."),
    "itl": ("Inter-token latency", "Each pause between two outputs: stutter shows here."),
    "e2e": ("End to end", "From arrival to the last token; long answers are slow by length."),
}  # fmt: skip
BY_KEY = (
    "HAProxy's metrics know no keys. Requests, 429s and bytes of each key are in the gateway's log, a line of JSON a "
    "request with `key` and `status`, between lines of its own that are none: "
    "`docker compose logs --no-log-prefix gateway | jq -rR 'fromjson? | .key' | sort | uniq -c`"
)
NO_ANSWER = "until a request has ended"


def panels(plan: Plan) -> tuple[Panel, ...]:
    """The panels of a stack's dashboard, in the order in which the on-call asks."""
    jobs = {job.name for job in jobs_of(plan)}
    parts = (_serving(jobs), _speed(plan), _full(plan), _used(plan), _who(jobs), _gpus(plan), _cost(plan))
    return tuple(panel for part in parts for panel in part)


def queries(plan: Plan) -> tuple[Query, ...]:
    """Every query of the dashboard."""
    return tuple(query for panel in panels(plan) for query in panel.queries)


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}[{WINDOW}]))"


def _serving(jobs: set[str]) -> Iterator[Panel]:
    yield Panel(
        row=SERVING, title="Servers that answer", kind="number", queries=(Query(expr='up{job="vllm"}', legend="{{instance}}"),),
        why="1 where Prometheus' last question to /metrics was answered; 0 is down, or still loading its weights.",
    )  # fmt: skip
    yield Panel(
        row=SERVING, title="Up for", kind="number", unit="s", queries=(Query(expr='time() - process_start_time_seconds{job="vllm"}', legend="{{instance}}"),),
        why="A server that restarts begins again at 0.",
    )  # fmt: skip
    yield Panel(
        row=SERVING, title="Alerts", kind="table", queries=(Query(expr='ALERTS{alertstate="firing"}'),),
        why="The alerts that fire now; each alert's annotation names its page.", quiet="while nothing is wrong",
    )  # fmt: skip
    yield Panel(
        row=SERVING, title="Ended requests by reason", unit="reqps",
        queries=(Query(expr=_rate("vllm:request_success_total", "finished_reason"), legend="{{finished_reason}}"),),
        why="stop and length are answers; abort is a client that left; error is the server's own.",
    )  # fmt: skip
    if "gateway" in jobs:
        yield Panel(
            row=SERVING, title="Servers up behind the gateway", kind="number",
            queries=(Query(expr='haproxy_backend_active_servers{proxy="serve"}', legend="up"),),
            why="The gateway's own view, by its health checks.",
        )  # fmt: skip


def _speed(plan: Plan) -> Iterator[Panel]:
    for metric, (title, why) in LATENCIES.items():
        goals = sorted(
            (one for one in objectives(plan) if one.metric == metric), key=lambda one: one.percentile
        )
        aims = [f"p{one.percentile} at most {one.limit_s:g} s ({one.origin})" for one in goals]
        aim = f" Objective: {', '.join(aims)}." if aims else " No objective."
        lines = " Each is a line." if len(goals) > 1 else ""
        yield Panel(
            row=SPEED, title=title, unit="s", queries=tuple(_quantile(HISTOGRAMS[metric], quantile) for quantile in QUANTILES),
            why=why + aim + lines, limits=tuple(one.limit_s for one in goals), quiet=NO_ANSWER,
        )  # fmt: skip


def _quantile(histogram: str, percent: int) -> Query:
    inner = _rate(f"{histogram}_bucket", "le")
    return Query(expr=f"histogram_quantile({percent / 100:g}, {inner})", legend=f"p{percent}")


def _full(plan: Plan) -> Iterator[Panel]:
    yield Panel(
        row=FULL, title="Requests in the server",
        queries=(Query(expr="sum(vllm:num_requests_running)", legend="computed"), Query(expr="sum(vllm:num_requests_waiting)", legend="waiting")),
        why="Waiting ones hold no place in the KV cache yet; a queue that only grows is more load than this server takes.",
    )  # fmt: skip
    yield Panel(
        row=FULL, title="KV cache in use", unit="percentunit", queries=(Query(expr="max by (instance, engine) (vllm:kv_cache_usage_perc)", legend="{{instance}} {{engine}}"),),
        why=f"Of {plan.memory.kv_cache_tokens:,} tokens by the plan. At 100 % requests are preempted.", limits=(1.0,),
    )  # fmt: skip
    yield Panel(
        row=FULL, title="Preemptions", unit="reqps", queries=(Query(expr=_rate("vllm:num_preemptions_total"), legend="preempted"),),
        why="Each gave its KV cache up and is computed anew: a shorter --max-model-len or fewer requests at once end it.",
    )  # fmt: skip
    yield Panel(
        row=FULL, title="Time in the queue", unit="s", queries=(_quantile("vllm:request_queue_time_seconds", 95),),
        why="p95 of what requests waited before they were computed.", quiet=NO_ANSWER,
    )  # fmt: skip
    if plan.gateway:
        yield Panel(
            row=FULL, title="The gateway's queue", queries=(Query(expr='haproxy_backend_current_queue{proxy="serve"}', legend="waiting"),),
            why=f"Requests that no server has a place for; beyond {plan.gateway.queue} they are refused with 503.", limits=(float(plan.gateway.queue),),
        )  # fmt: skip
        yield Panel(
            row=FULL, title="The gateway's connections", queries=(Query(expr='haproxy_frontend_current_sessions{proxy="front"}', legend="open"),),
            why="Beyond the line the next client waits; whoever shows no key keeps a connection for a minute at most.", limits=(float(plan.gateway.most_connections),),
        )  # fmt: skip
    if any(JOBS.get(one.id) == "node" for one in plan.monitoring):
        yield Panel(
            row=FULL, title="Disk left", unit="bytes", queries=(Query(expr='node_filesystem_avail_bytes{mountpoint=~"/disk/.*"}', legend="{{mountpoint}}"),),
            why="Where the weights and the compiled kernels lie.",
        )  # fmt: skip


def _used(plan: Plan) -> Iterator[Panel]:
    tokens = (Query(expr=_rate("vllm:generation_tokens_total"), legend="generated"),)
    most = most_tokens_per_s(plan)
    yield Panel(
        row=USED, title="Tokens a second, generated", unit="tokens/s", queries=tokens, limits=(round(most),) if most else (),
        why="The line is estimated: a full server whose requests fill the KV cache, without drafts; shorter requests and accepted drafts go beyond it."
        if most else "The plan knows no bandwidth of this target's memory, so there is no line.",
    )  # fmt: skip
    yield Panel(
        row=USED, title="Tokens a second, read", unit="tokens/s", queries=(Query(expr=_rate("vllm:prompt_tokens_total"), legend="prompts"),),
        why="Prompt tokens, those from the prefix cache too.",
    )  # fmt: skip
    hits, asked = _rate("vllm:prefix_cache_hits_total"), _rate("vllm:prefix_cache_queries_total")
    yield Panel(
        row=USED, title="Prefix cache hits", unit="percentunit", queries=(Query(expr=f"{hits} / {asked}", legend="hits"),),
        why="Share of the prompt tokens that were not computed again.", quiet="without prompts in the window",
    )  # fmt: skip
    if "mtp" in plan.profiles:
        yield from _mtp()


def _mtp() -> Iterator[Panel]:
    drafts = _rate("vllm:spec_decode_num_drafts_total")
    yield Panel(
        row=USED, title="Drafted tokens accepted, by position", unit="percentunit",
        queries=(Query(expr=f"{_rate('vllm:spec_decode_num_accepted_tokens_per_pos_total', 'position')} / on() group_left() {drafts}", legend="position {{position}}"),),
        why="Where a position is rarely accepted, a shorter draft is faster.", quiet="without drafts in the window",
    )  # fmt: skip
    accepted, drafted = (
        _rate("vllm:spec_decode_num_accepted_tokens_total"),
        _rate("vllm:spec_decode_num_draft_tokens_total"),
    )
    yield Panel(
        row=USED, title="Drafted tokens accepted", unit="percentunit", queries=(Query(expr=f"{accepted} / {drafted}", legend="accepted"),),
        why="Of all that were drafted.", quiet="without drafts in the window",
    )  # fmt: skip


def _who(jobs: set[str]) -> Iterator[Panel]:
    if "gateway" not in jobs:
        yield Panel(
            row=WHO,
            title="By key",
            kind="text",
            why="Without --gateway there are no keys: vLLM cannot tell its clients apart.",
        )
        return
    yield Panel(
        row=WHO, title="Requests at the gateway", unit="reqps", queries=(Query(expr=_rate('haproxy_frontend_http_requests_total{proxy="front"}'), legend="asked"),),
        why="All keys together, refused ones too.",
    )  # fmt: skip
    yield Panel(
        row=WHO, title="Answers by class", unit="reqps",
        queries=(Query(expr=_rate('haproxy_frontend_http_responses_total{proxy="front"}', "code"), legend="{{code}}"),),
        why="4xx are refusals: no key (401), no such route (404), over a limit (429). Which of them and whose is in the log.",
    )  # fmt: skip
    yield Panel(
        row=WHO, title="Refused by a limit", unit="reqps",
        queries=(Query(expr=_rate('haproxy_frontend_requests_denied_total{proxy="front"}'), legend="429"),),
        why="Requests over their key's rate or concurrency (429): all that the gateway denies.",
    )  # fmt: skip
    yield Panel(row=WHO, title="By key", kind="text", why=BY_KEY)


def _gpus(plan: Plan) -> Iterator[Panel]:
    if metrics := plan.vendor.gpu_metrics:
        for panel in metrics.panel:
            query = Query(expr=of_cards(plan, panel.expr), legend=f"GPU {{{{{metrics.card_label}}}}}")
            yield Panel(row=GPUS, title=panel.title, unit=panel.unit, queries=(query,), why=panel.why)


def _cost(plan: Plan) -> Iterator[Panel]:
    generated, price = _rate("vllm:generation_tokens_total"), plan.request.gpu_price
    if metrics := plan.vendor.gpu_metrics:
        yield Panel(
            row=COST, title="Joules a generated token", unit="J/token", queries=(Query(expr=f"sum({of_cards(plan, metrics.power)}) / ({generated} > 0)", legend="J/token"),),
            why="Of the cards alone; prompts are paid for by the tokens that they lead to.", quiet="while nothing is generated",
        )  # fmt: skip
    if price and plan.gpu_ids:
        a_second = price * len(plan.gpu_ids) / SECONDS_PER_HOUR
        yield Panel(
            row=COST, title="USD per million generated tokens", unit="USD",
            queries=(Query(expr=f"{a_second * TOKENS:.6g} / ({generated} > 0)", legend="USD"),),
            why=f"{len(plan.gpu_ids)} GPUs at {price:g} USD an hour each (--gpu-price), over what they generate now.", quiet="while nothing is generated",
        )  # fmt: skip
