"""`status --watch`: the dashboard's figures once every few seconds, as a page, a line or JSON."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ernie_deploy.stack import containers, gateway, metrics
from ernie_deploy.stack.interval import Look, figures
from ernie_deploy.stack.servers import servers

if TYPE_CHECKING:
    from docker import DockerClient

NOTHING = "-"
MS_PER_S = 1000


class Watched(Struct, frozen=True, kw_only=True):
    """A stack to be watched: its name, its resolved services, and the tokens a second at the plan's floor of a decode step."""

    project: str
    services: dict[str, Any]
    url: str = ""
    most_tokens_per_s: float | None = None


def ticks(engine: "DockerClient", watched: Watched, interval_s: float) -> Iterator[dict[str, Any]]:
    """The figures of each interval, without end; a stack that stands still or is down is told too."""
    before = _look(engine, watched)
    while True:
        since = time.time()
        time.sleep(interval_s)
        after = _look(engine, watched)
        yield {
            "project": watched.project,
            "time": time.strftime("%H:%M:%S"),
            **figures(before, after),
            "most_tokens_per_s": watched.most_tokens_per_s,
            "gateway": _front(engine, watched, since),
        }
        before = after


def _look(engine: "DockerClient", watched: Watched) -> Look:
    states = containers.states(engine, watched.project)
    texts = metrics.texts(servers(engine, watched.services, states))
    return Look(time.monotonic(), texts)


def _front(engine: "DockerClient", watched: Watched, since_unix_s: float) -> dict[str, Any] | None:
    """What the gateway did in the interval."""
    states = containers.states(engine, watched.project)
    seen = gateway.look(engine, states, watched.url, since_unix_s)
    return gateway.as_data(seen) if seen else None


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
        words += [f"{front['servers_up']}/{front['servers']} up", f"{front['refused']['429']} x 429"]
    return "  ".join(words)


def as_page(tick: dict[str, Any]) -> str:
    """One tick as a page, in the order in which one on call asks."""
    serving = f"{tick['servers']} serving" if tick["servers"] else "not serving"
    lines = [f"{tick['project']}  {tick['time']}  {serving}  (the last {tick['elapsed_s']:g} s)"]
    lines += [f"  {'ms':<6}{'p50':>9}{'p95':>9}{'p99':>9}"]
    lines += [f"  {name:<6}{_row(seen)}" for name, seen in tick["latencies_s"].items()]
    lines += [
        f"  {_queues(tick)}, KV {tick['kv_cache_usage']:.1%}, {tick['preemptions']} preemptions",
        f"  {tick['generation_tokens_per_s']:g} tokens/s out{_most(tick)}, {tick['prompt_tokens_per_s']:g} in",
        f"  prefix hits {_percent(tick['prefix_cache_hit_rate'])}, MTP acceptance {_positions(tick)}",
    ]
    return "\n".join(lines + _gateway_lines(tick["gateway"]))


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
    refused = ", ".join(f"{count} x {status}" for status, count in front["refused"].items())
    lines = [
        f"  gateway: {front['servers_up']} of {front['servers']} servers up, {front['queue']} wait; {refused}"
    ]
    for name, count in front["requests_by_key"].items():
        lines.append(f"    {name}: {count} requests, {front['limited_by_key'].get(name, 0)} x 429")
    return lines
