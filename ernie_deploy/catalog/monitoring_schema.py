"""The catalog's types for what watches a stack: images, the users they run as, and what they may take."""

from typing import Literal, TypeAlias

from ernie_deploy.catalog.schema import Fact, Vendor

# As the dashboard shows a number.
Unit: TypeAlias = Literal[
    "none",
    "short",
    "s",
    "percentunit",
    "reqps",
    "tokens/s",
    "tokens",
    "watt",
    "celsius",
    "bytes",
    "J/token",
    "USD",
]
ExporterId = Literal["prometheus", "grafana", "dcgm-exporter", "device-metrics-exporter", "node-exporter"]


class Exporter(Fact, frozen=True):
    """One service of the monitoring; of `vendor` only where the target is, empty for any. `memory` is its limit."""

    id: ExporterId
    reference: str
    source: str
    user: str
    user_source: str
    port: int
    memory: str
    vendor: Vendor | Literal[""] = ""


class Exporters(Fact, frozen=True):
    """Everything that `init --monitoring` may run."""

    exporter: list[Exporter]


class MetricSource(Fact, frozen=True):
    """Who prints metrics, and where their names are written down."""

    id: str
    title: str
    source: str


class Metric(Fact, frozen=True):
    """One metric by its name on the wire, a histogram's without its endings; `needs` is a profile that it takes."""

    name: str
    kind: Literal["gauge", "counter", "histogram", "info"]
    of: str
    labels: list[str]
    what: str
    needs: str = ""


class Metrics(Fact, frozen=True):
    """Every metric that anything here reads."""

    source: list[MetricSource]
    metric: list[Metric]
