"""What a rehearsal with --monitoring proves besides: Prometheus confined, its targets, rules and the dashboard's queries."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ernie_deploy.catalog import Catalog
from ernie_deploy.monitoring.jobs import INTERVAL_S, jobs_of
from ernie_deploy.monitoring.queries import Panel, Query, panels
from ernie_deploy.plan.monitoring import JOBS
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import LOOPBACK
from ernie_deploy.rehearsal import prometheus_api
from ernie_deploy.rehearsal.confined import CONFINED, confined, state_of
from ernie_deploy.rehearsal.cpu_plan import WATCHING, unwatched
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.render.monitoring import RULES
from ernie_deploy.safe_io.reading import read_bounded
from ernie_deploy.stack import containers
from ernie_deploy.stack.waiting import poll_until

# A target is asked anew every INTERVAL_S, and a rate needs a request between two of the answers.
ANSWERED_S = 4 * INTERVAL_S
# What Grafana puts for `$__rate_interval` where it looks closely: four scrapes.
WINDOW = f"{4 * INTERVAL_S}s"
# A metric in a query, among words of the language.
NAME = re.compile(r"[a-zA-Z_:][\w:]*")


def hardened(stage: Stage) -> str:
    """What watches is as confined as the server, and Prometheus alone is published, on 127.0.0.1 alone."""
    services = [one.id for one in stage.rehearsal.plan.monitoring if one.id in WATCHING]
    uids = {service: confined(stage, service) for service in services}
    for service in services:
        addresses = _published(stage, service)
        if addresses != ({LOOPBACK} if service == prometheus_api.SERVICE else set()):
            raise Disproved(f"{service} is published on {', '.join(sorted(addresses)) or 'nothing'}")
    whose = ", ".join(f"{service} as uid {uid}" for service, uid in uids.items())
    return f"{whose}: {CONFINED}; published on 127.0.0.1 alone"


def _published(stage: Stage, service: str) -> set[str]:
    """The addresses of this host on which a service is published."""
    container = containers.client().containers.get(state_of(stage, service).id)
    ports = container.attrs["NetworkSettings"]["Ports"] or {}
    return {binding["HostIp"] for bindings in ports.values() for binding in bindings or ()}


def scrapes(stage: Stage) -> str:
    """Every target whose service was started answers; those of services that were left out are named."""
    plan, state = stage.rehearsal.plan, state_of(stage, prometheus_api.SERVICE)
    if not poll_until(lambda: not _silent(plan, state), ANSWERED_S):
        raise Disproved(f"not up within {ANSWERED_S} s: {'; '.join(_silent(plan, state))}")
    counts = {
        (one["metric"]["job"], one["metric"]["instance"]): one["value"][1]
        for one in prometheus_api.vector(state, "scrape_samples_post_metric_relabeling")
    }
    up = [f"{job} {address} ({counts.get((job, address), '0')} samples)" for job, address in _targets(plan)]
    left_out = "".join(f"; {job} left out with {service}" for job, service in _left_out(plan).items())
    return f"{', '.join(up)}{left_out}"


def _silent(plan: Plan, state: containers.State) -> list[str]:
    """The targets that ought to answer and do not, each with what Prometheus says of it."""
    active = {
        (one["labels"]["job"], one["labels"]["instance"]): one
        for one in prometheus_api.data(state, "targets")["activeTargets"]
    }
    seen = {target: active.get(target, {}) for target in _targets(plan)}
    return [
        f"{job} {address}: {one.get('lastError') or one.get('health', 'no such target')}"
        for (job, address), one in seen.items()
        if one.get("health") != "up"
    ]


def _targets(plan: Plan) -> list[tuple[str, str]]:
    """Job and address of whatever ought to answer."""
    left_out = _left_out(plan)
    return [(job.name, at) for job in jobs_of(plan) if job.name not in left_out for at in job.targets]


def _left_out(plan: Plan) -> dict[str, str]:
    """Job -> service of each job whose service is not started."""
    return {JOBS[service]: service for service in unwatched(plan) if service in JOBS}


def rules_loaded(stage: Stage) -> str:
    """Prometheus judges every rule of the rendering, and nothing fires but what a service that is left out causes."""
    state, rendered = state_of(stage, prometheus_api.SERVICE), _rendered(stage)
    if not poll_until(lambda: _judged(state) == rendered, ANSWERED_S):
        judged = _judged(state)
        faults = [": ".join(one) for one in sorted((judged - rendered) | (rendered - judged))]
        raise Disproved(f"not as rendered after {ANSWERED_S} s: {'; '.join(faults)}")
    groups = {group for group, _, _ in rendered}
    return f"{rendered.total()} rules of {len(groups)} groups judged without a fault, {_firing(stage, state)}"


def _firing(stage: Stage, state: containers.State) -> str:
    """The alerts that fire, which may be the silence of what is left out; raises `Disproved` for anything else."""
    left_out = _left_out(stage.rehearsal.plan)
    alerts = [one for _, rule in _rules(state) for one in rule.get("alerts", ()) if one["state"] == "firing"]
    wrong = [one for one in alerts if one["labels"].get("job") not in left_out]
    if wrong:
        sentences = (f"{one['labels']['alertname']} fires: {one['annotations']['summary']}" for one in wrong)
        raise Disproved("; ".join(sentences))
    known = {f"{one['labels']['alertname']} of {left_out[one['labels']['job']]}" for one in alerts}
    return f"none fires but {', '.join(sorted(known))}, which is left out" if known else "none fires"


def _rendered(stage: Stage) -> Counter[tuple[str, str, str]]:
    """Group and name of every rule of the file that was rendered, as they are where all is well."""
    import yaml

    document = yaml.safe_load(read_bounded(stage.rehearsal.folder / RULES))
    return Counter(
        (group["name"], rule.get("alert") or rule["record"], "ok")
        for group in document["groups"]
        for rule in group["rules"]
    )


def _judged(state: containers.State) -> Counter[tuple[str, str, str]]:
    """Group, name and health of every rule that Prometheus has."""
    return Counter((group, rule["name"], rule["health"]) for group, rule in _rules(state))


def _rules(state: containers.State) -> Iterator[tuple[str, dict[str, Any]]]:
    for group in prometheus_api.data(state, "rules")["groups"]:
        for rule in group["rules"]:
            yield group["name"], rule


def panels_have_data(stage: Stage) -> str:
    """Prometheus answers every query of the dashboard that no exporter is missing for."""
    plan, state = stage.rehearsal.plan, state_of(stage, prometheus_api.SERVICE)
    missing = _metrics_left_out(plan)
    every = [(panel, query) for panel in panels(plan) for query in panel.queries]
    asked = [one for one in every if not missing.intersection(NAME.findall(one[1].expr))]
    if not poll_until(lambda: not _empty(state, asked), ANSWERED_S):
        raise Disproved(f"no data within {ANSWERED_S} s: {'; '.join(_empty(state, asked))}")
    without = ", ".join(panel.title for panel, query in every if (panel, query) not in asked)
    rest = f"; without the GPU's exporter not asked: {without}" if without else ""
    return f"{len(asked)} of {len(asked)} queries answered over {WINDOW}{rest}"


def _empty(state: containers.State, asked: list[tuple[Panel, Query]]) -> list[str]:
    """The queries that are answered with no number."""
    return [f"{panel.title}: {query.expr}" for panel, query in asked if not _has_data(state, panel, query)]


def _metrics_left_out(plan: Plan) -> set[str]:
    """The metrics of a GPU's exporter that is not started."""
    if "gpu" not in _left_out(plan):
        return set()
    return {one.name for one in Catalog().metrics if one.of == plan.target.vendor}


def _has_data(state: containers.State, panel: Panel, query: Query) -> bool:
    """Whether a series has a number; the table of firing alerts is rightly empty, which `rules_loaded` looks at."""
    series = prometheus_api.vector(state, query.at(WINDOW))
    return panel.kind == "table" or any(math.isfinite(float(one["value"][1])) for one in series)
