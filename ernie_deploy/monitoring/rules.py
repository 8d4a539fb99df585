"""monitoring/rules.yml: what Prometheus watches a stack for, with the numbers of its plan."""

from collections.abc import Collection, Iterator
from typing import Any

from ernie_deploy.monitoring import gateway_alerts, host_alerts, latency_alerts, serving_alerts
from ernie_deploy.monitoring.rule import Alert, Record
from ernie_deploy.plan.plan import Plan

WIDTH = 100


def rules(plan: Plan, jobs: Collection[str]) -> str:
    """The rules of a stack whose Prometheus has the scrape jobs `jobs`: nothing that none of them could make fire."""
    import yaml

    groups = {
        "ernie-records": [one.entry for one in records(plan, jobs)],
        "ernie-alerts": [one.entry(plan.request.runbooks) for one in alerts(plan, jobs)],
    }
    document = {"groups": [{"name": name, "rules": entries} for name, entries in groups.items()]}
    return yaml.dump(document, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=WIDTH)


def records(plan: Plan, jobs: Collection[str]) -> Iterator[Record]:
    """Every query that is kept under a name."""
    yield from serving_alerts.records()
    yield from latency_alerts.records(plan)
    yield from gateway_alerts.records(jobs)


def alerts(plan: Plan, jobs: Collection[str]) -> Iterator[Alert]:
    """Every alert, the most urgent first."""
    yield from serving_alerts.alerts(plan)
    yield from gateway_alerts.alerts(plan, jobs)
    yield from latency_alerts.alerts(plan)
    yield from host_alerts.alerts(plan, jobs)


def _dumper() -> Any:
    """YAML that a person reads: a query of several lines stays one."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper
