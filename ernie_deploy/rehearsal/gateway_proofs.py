"""What a rehearsal with a gateway proves besides: closed routes, limits, a log without secrets, and its drain on down."""

import json
import time
from datetime import datetime

from ernie_deploy.rehearsal import prometheus_api
from ernie_deploy.rehearsal.client import QUESTION, status
from ernie_deploy.rehearsal.confined import CONFINED, confined, state_of
from ernie_deploy.rehearsal.planted import CLIENT, LIMITED, LIMITED_RATE
from ernie_deploy.rehearsal.proofs import (
    DRAIN_S,
    STREAMS,
    TOKENS,
    asked,
    complete,
    stopped_midway,
    tokens_in,
)
from ernie_deploy.rehearsal.stage import Disproved, Stage, until
from ernie_deploy.stack import containers, gateway
from ernie_deploy.stack.compose import demand

# vLLM has each of these, or a disguise of one; the canonical routes are held by the gateway's own tests.
CLOSED = (
    "/metrics", "/health", "/version", "/docs", "/openapi.json", "/ping", "/v1/models/", "//v1/models", "/v1/%6dodels",
    "/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/models/..%2f..%2fmetrics",
)  # fmt: skip
POSTED = ("/invocations", "/tokenize", "/detokenize", "/v1/models", "/v1/embeddings", "/reset_prefix_cache")
LOG_S = 20
DOWN_S = 600


def hardened(stage: Stage) -> str:
    """The gateway is neither root nor has it a capability or a way to new privileges, and its root is read-only."""
    uid = confined(stage, gateway.SERVICE)
    published = {
        state.service for state in containers.states(containers.client(), stage.stack.project) if state.ports
    }
    beside = published & {prometheus_api.SERVICE}
    if published - beside != {gateway.SERVICE}:
        raise Disproved(f"published: {', '.join(sorted(published))}")
    alone = "it and Prometheus are published" if beside else "it alone is published"
    return f"uid {uid}, {CONFINED}; {alone}"


def routes_closed(stage: Stage) -> str:
    """With a good key too, whatever is no route of the model's is answered 404, or 400 where it is no request."""
    asks = [(path, None) for path in CLOSED] + [(path, {"model": "x"}) for path in POSTED]
    seen = {
        f"{'POST' if body else 'GET'} {path}": status(
            f"{stage.base_url}{path}", body, api_key=stage.planted.api_key
        )
        for path, body in asks
    }
    if opened := {what: code for what, code in seen.items() if code not in (400, 404)}:
        raise Disproved(f"open: {opened}")
    return f"{len(seen)} routes and disguises of routes closed, with a good key"


def limits_a_key(stage: Stage) -> str:
    """A key of two requests a minute is answered twice, then 429; the other key is not slowed."""
    url = f"{stage.base_url}/v1/models"
    seen = [status(url, api_key=stage.planted.limited_key) for _ in range(LIMITED_RATE + 1)]
    other = status(url, api_key=stage.planted.api_key)
    if (seen, other) != ([200] * LIMITED_RATE + [429], 200):
        raise Disproved(f"{seen}, and {other} for another key")
    return f"{LIMITED_RATE} a minute answered, then 429; another key goes on"


def servers_counted(stage: Stage) -> str:
    """What `status` says of the gateway, from its own counters."""
    engine = containers.client()
    seen = gateway.inspect_gateway(engine, containers.states(engine, stage.stack.project), stage.base_url)
    if seen is None or not seen.servers or seen.up != seen.servers:
        raise Disproved(f"{seen}")
    return f"{seen.up} of {seen.servers} servers up, {seen.recent.limited_by_key.get(LIMITED, 0)} x 429"


def log_names_the_key(stage: Stage) -> str:
    """A request's line in the log has the name of its key, and nothing that was said."""
    since = time.time() - 1
    complete(asked(stage, TOKENS, stream=False), TOKENS)
    until(lambda: bool(_lines(stage, since)), LOG_S)
    line = _lines(stage, since)[-1]
    if QUESTION in line or "Bearer" in line:
        raise Disproved(f"it has more than it should: {line[:300]}")
    entry = json.loads(line)
    return f"{CLIENT} {entry['route']} {entry['status']}, neither question nor key"


def _lines(stage: Stage, since_unix_s: float) -> list[str]:
    log = containers.log_since(containers.client(), state_of(stage, gateway.SERVICE).id, since_unix_s)
    return [line for line in log.text.splitlines() if f'"{CLIENT}"' in line and "completions" in line]


def drains_on_down(stage: Stage) -> str:
    """`docker compose stop`, as `down` begins, ends the gateway first: a stream that is under way ends complete."""
    for _ in range(STREAMS):
        tokens = tokens_in(DRAIN_S, stage)
        if stopped_midway(stage, tokens, lambda: demand(stage.stack.words("stop"), timeout_s=DOWN_S)):
            return f"{tokens} of {tokens} tokens through the gateway, and {_order(stage)}"
    raise Disproved(f"{STREAMS} streams of {DRAIN_S:g} s each were over before the stack was told to stop")


def _order(stage: Stage) -> str:
    """Who ended first; raises `Disproved` unless it was the gateway."""
    engine = containers.client()
    ended = {
        state.service: datetime.fromisoformat(engine.containers.get(state.id).attrs["State"]["FinishedAt"])
        for state in containers.states(engine, stage.stack.project)
    }
    for replica in stage.rehearsal.plan.replicas:
        if not ended[gateway.SERVICE] < (at := ended[replica.service]):
            raise Disproved(f"the gateway ended at {ended[gateway.SERVICE]}, {replica.service} at {at}")
    return f"the gateway ended before {' and '.join(one.service for one in stage.rehearsal.plan.replicas)}"
