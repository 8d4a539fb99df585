"""What a running stack is doing: containers from the engine, work from the server's own counters."""

import time
from collections.abc import Sequence
from typing import Any

from ernie_deploy.catalog import Catalog
from ernie_deploy.stack import containers, gateway, gateway_text, inspection, metrics
from ernie_deploy.stack.compose import Stack, require_compose
from ernie_deploy.stack.lifecycle import rendered_file, resolve, url_of_api
from ernie_deploy.stack.rendered import Rendered
from ernie_deploy.stack.servers import Server, servers
from ernie_deploy.stack.verdict import as_data, judge

RATE_S = 1.0


def status_of(stack: Stack) -> dict[str, Any]:
    """The state of each container and the server's figures, as plain data."""
    require_compose()
    resolved = resolve(stack)
    engine, project = containers.client(), resolved["name"]
    states = containers.states(engine, project)
    reached = servers(engine, resolved["services"], states)
    front = gateway.inspect_gateway(engine, states, url_of_api(stack, resolved["services"], states))
    return {
        "project": project,
        "containers": [_container(state) for state in states],
        "cause": _cause(engine, states, rendered_file(stack)),
        "server": at_work(reached),
        "gateway": gateway.as_data(front) if front else None,
    }


def _cause(engine: Any, states: list[containers.State], rendered: Rendered | None) -> dict[str, Any] | None:
    """What `explain` says of containers that are not well; None where all are, or nothing is known of it."""
    if all(inspection.is_well(state) for state in states):
        return None
    made = judge(inspection.of_containers(engine, states), Catalog(), rendered)
    return as_data(made) if made.known else None


def _container(state: containers.State) -> dict[str, Any]:
    return {
        "service": state.service,
        "status": state.status,
        "health": state.health or None,
        "restarts": state.restarts,
        "exit_code": state.exit_code if state.status == "exited" else None,
        "last_probe": state.last_probe or None,
    }


def at_work(reached: Sequence[Server]) -> dict[str, Any] | None:
    """Rates over one second and gauges of all servers together; None where none answers."""
    before = metrics.scrape(reached)
    if not before:
        return None
    time.sleep(RATE_S)
    after = metrics.scrape(reached)
    return {
        "url": ", ".join(server.place for server in reached),
        "generation_tokens_per_s": _rate(before, after, "vllm:generation_tokens_total"),
        "prompt_tokens_per_s": _rate(before, after, "vllm:prompt_tokens_total"),
        "requests_running": int(after.get("vllm:num_requests_running", 0)),
        "requests_waiting": int(after.get("vllm:num_requests_waiting", 0)),
        "kv_cache_usage": round(after.get("vllm:kv_cache_usage_perc", 0.0), 4),
        "prefix_cache_hit_rate": _share(after),
    }


def _rate(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return round((after.get(name, 0.0) - before.get(name, 0.0)) / RATE_S, 1)


def _share(figures: dict[str, float]) -> float | None:
    asked = figures.get("vllm:prefix_cache_queries_total", 0.0)
    return round(figures.get("vllm:prefix_cache_hits_total", 0.0) / asked, 4) if asked else None


def as_text(seen: dict[str, Any]) -> str:
    """The same as a short page."""
    lines = [seen["project"]]
    for one in seen["containers"]:
        health = f", {one['health']}" if one["health"] else ""
        code = f" ({one['exit_code']})" if one["exit_code"] is not None else ""
        restarts = f", {count} restart{'s' * (count > 1)}" if (count := one["restarts"]) else ""
        lines.append(
            f"  {one['service']:<8} {one['status']}{code}{health}{restarts}  {one['last_probe'] or ''}".rstrip()
        )
    if cause := seen.get("cause"):
        lines += [f"  {cause['id']}: {cause['what']}", f"  next: {cause['next']}"]
    if not seen["containers"]:
        lines.append("  no containers; start it with: ernie-deploy up")
    if at_work := seen["server"]:
        lines += [
            f"  {at_work['generation_tokens_per_s']:g} tokens/s out, {at_work['prompt_tokens_per_s']:g} in",
            f"  {at_work['requests_running']} running, {at_work['requests_waiting']} waiting",
            f"  {at_work['kv_cache_usage']:.1%} of the KV cache in use, {at_work['url']}",
        ]
    if front := seen.get("gateway"):
        since = gateway_text.span(time.time() - front["started"])
        lines.append(f"  gateway {front['url'] or 'without a published port'}: {gateway_text.servers(front)}")
        lines.append(f"  {gateway_text.answers(front)} in the {since} since its start or reload")
        lines.append(f"  logged in {gateway.RECENT_S // 60} minutes: {gateway_text.logged(front)}")
    return "\n".join(lines)
