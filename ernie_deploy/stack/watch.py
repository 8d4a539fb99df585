"""`status --watch`: figures of servers and gateway once every few seconds, as a page, a line or JSON."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins

from ernie_deploy.plan.objectives import Objective
from ernie_deploy.stack import containers, gateway, gateway_text, metrics
from ernie_deploy.stack.interval import Scrape, figures
from ernie_deploy.stack.servers import servers

if TYPE_CHECKING:
    from docker import DockerClient

NOTHING = "-"
MS_PER_S, SECONDS_PER_HOUR, MILLION = 1000, 3600, 1_000_000


class Aims(Struct, frozen=True, kw_only=True):
    """What the plan says of a stack: its objectives, tokens a second at the floor of a decode step, its GPUs' price."""

    objectives: tuple[Objective, ...] = ()
    most_tokens_per_s: float | None = None
    usd_per_hour: float | None = None


class Watched(Struct, frozen=True, kw_only=True):
    """A stack to be watched: its name, its resolved services, where it is published, and what its plan says."""

    project: str
    services: dict[str, Any]
    url: str = ""
    aims: Aims = Aims()


def ticks(engine: "DockerClient", watched: Watched, interval_s: float) -> Iterator[dict[str, Any]]:
    """The figures of each interval, without end; a stack that stands still or is down is told too."""
    before, front_before = _scrape(engine, watched), _front(engine, watched, time.time())
    while True:
        time.sleep(interval_s)
        after, front = _scrape(engine, watched), _front(engine, watched, before.unix_s)
        seen = figures(before, after)
        yield {
            "project": watched.project,
            "time": time.strftime("%H:%M:%S"),
            **seen,
            **by_plan(watched.aims, seen),
            # One that was not seen before has counted nothing yet, as a server has no rate.
            "gateway": gateway.as_data(front, front_before or front) if front else None,
        }
        # What it counts while it does not answer comes with its next answer.
        before, front_before = after, front or front_before


def by_plan(aims: Aims, seen: Mapping[str, Any]) -> dict[str, Any]:
    """What the plan makes of an interval's figures: each objective beside its quantile, and what a million tokens cost."""
    tokens_per_s = seen["generation_tokens_per_s"]
    a_second = (aims.usd_per_hour or 0.0) / SECONDS_PER_HOUR
    return {
        "objectives": [{**to_builtins(one), "seen_s": _seen_s(one, seen)} for one in aims.objectives],
        "most_tokens_per_s": aims.most_tokens_per_s,
        "usd_per_million_tokens": round(a_second * MILLION / tokens_per_s, 4) if a_second and tokens_per_s else None,
    }  # fmt: skip


def _seen_s(objective: Objective, seen: Mapping[str, Any]) -> float | None:
    quantiles = seen["latencies_s"][objective.metric] or {}
    return quantiles.get(f"p{objective.percentile}")


def _scrape(engine: "DockerClient", watched: Watched) -> Scrape:
    states = containers.states(engine, watched.project)
    texts = metrics.texts(servers(engine, watched.services, states))
    return Scrape(time.monotonic(), texts, time.time())


def _front(engine: "DockerClient", watched: Watched, since_unix_s: float) -> gateway.Gateway | None:
    """The gateway now, and its log since then."""
    states = containers.states(engine, watched.project)
    return gateway.inspect_gateway(engine, states, watched.url, since_unix_s)


def show(seen: Iterator[dict[str, Any]], shown: Callable[[dict[str, Any]], None]) -> None:
    """Show each tick until Ctrl-C, which is how this ends."""
    try:
        for tick in seen:
            shown(tick)
    except KeyboardInterrupt:
        return


def as_line(tick: dict[str, Any]) -> str:
    """One tick as a line of a log."""
    if not tick["servers"]:
        return f"{tick['time']}  not serving"
    words = [
        tick["time"],
        f"{tick['generation_tokens_per_s']:g} tokens/s",
        _queues(tick),
        f"KV {tick['kv_cache_usage']:.0%}",
        *(f"{name} p95 {_ms(seen, 'p95')}" for name, seen in tick["latencies_s"].items() if seen),
    ]
    if front := tick["gateway"]:
        words += [f"{front['servers_up']}/{front['servers']} up", gateway_text.answers(front)]
    return "  ".join(words)


def as_page(tick: dict[str, Any]) -> str:
    """One tick as a page, in the order in which one on call asks."""
    lines = [f"{tick['project']}  {tick['time']}  {_serving(tick)}  (the last {tick['elapsed_s']:g} s)"]
    lines += [f"  {'ms':<6}{'p50':>9}{'p95':>9}{'p99':>9}"]
    lines += [f"  {name:<6}{_row(seen)}{_goals(tick, name)}" for name, seen in tick["latencies_s"].items()]
    lines += [
        f"  requests ended: {_ended(tick)}",
        f"  {_queues(tick)}, KV {tick['kv_cache_usage']:.1%}, {tick['preemptions']} preemptions",
        f"  {tick['generation_tokens_per_s']:g} tokens/s out{_most(tick)}, {tick['prompt_tokens_per_s']:g} in",
        f"  prefix hits {_percent(tick['prefix_cache_hit_rate'])}, MTP acceptance {_positions(tick)}",
    ]
    if (price := tick["usd_per_million_tokens"]) is not None:
        lines.append(f"  {price:.4g} USD per million generated tokens")
    return "\n".join(lines + _gateway_lines(tick["gateway"]))


def _serving(tick: dict[str, Any]) -> str:
    if not tick["servers"]:
        return "not serving"
    uptime_s = tick["uptime_s"]
    return f"{tick['servers']} serving{'' if uptime_s is None else f' for {gateway_text.span(uptime_s)}'}"


def _goals(tick: dict[str, Any], metric: str) -> str:
    """The objectives of one latency, each with its origin and whether it is met."""
    return "".join(f"  {_goal(one)}" for one in tick["objectives"] if one["metric"] == metric)


def _goal(one: dict[str, Any]) -> str:
    missed = one["seen_s"] is not None and one["seen_s"] > one["limit_s"]
    origin = one["origin"].partition(":")[0]
    limit = f"{one['limit_s'] * MS_PER_S:.4g}"
    return f"p{one['percentile']} {'OVER' if missed else 'at most'} {limit} ({origin})"


def _ended(tick: dict[str, Any]) -> str:
    """How requests ended; stop and length are answers, error is the server's own fault."""
    return ", ".join(f"{count} {reason}" for reason, count in tick["ended_by_reason"].items()) or NOTHING


def _queues(tick: dict[str, Any]) -> str:
    return f"{tick['requests_running']} running, {tick['requests_waiting']} waiting"


def _row(seen: dict[str, float] | None) -> str:
    return "".join(f"{_ms(seen, share):>9}" for share in ("p50", "p95", "p99"))


def _ms(seen: dict[str, float] | None, share: str) -> str:
    return f"{seen[share] * MS_PER_S:.4g}" if seen and share in seen else NOTHING


def _most(tick: dict[str, Any]) -> str:
    most = tick["most_tokens_per_s"]
    return f" (about {most:.0f} with a full KV cache, estimated)" if most else ""


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _positions(tick: dict[str, Any]) -> str:
    return ", ".join(map(_percent, tick["mtp_acceptance_per_position"] or [])) or NOTHING


def _gateway_lines(front: dict[str, Any] | None) -> list[str]:
    if front is None:
        return []
    lines = [
        f"  gateway: {gateway_text.servers(front)}; {gateway_text.answers(front)}",
        f"    logged: {gateway_text.logged(front)}",
    ]
    logged = front["logged"]
    for name, count in logged["requests_by_key"].items():
        lines.append(f"    {name}: {count} requests, {logged['limited_by_key'].get(name, 0)} x 429")
    return lines
