"""A rule as Prometheus reads it: an alert with what a person needs at night, or a query that others repeat."""

from typing import Any, Literal

from msgspec import Struct

# Where the kit has the pages of its alerts.
PAGES = "docs/alerts"
Severity = Literal["critical", "warning"]


class Record(Struct, frozen=True, kw_only=True):
    """A query that is kept under a name."""

    name: str
    expr: str

    @property
    def entry(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.name, "expr": self.expr}


class Alert(Struct, frozen=True, kw_only=True):
    """A condition that a person must hear of.

    `hold` is how long it must last, in Prometheus' words; `description` may hold `{{ $value }}` and `{{ $labels.x }}`.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    summary: str
    description: str
    labels: dict[str, str] = {}

    def entry(self, runbooks: str = "") -> dict[str, Any]:
        """As Prometheus reads it, with the page to open: below the URL `runbooks`, or its path in the kit."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbooks.rstrip('/') or PAGES}/{self.name}.md",
            },
        }


def duration(seconds: float) -> str:
    """Whole minutes as Prometheus writes them, rounded up: `44m`."""
    return f"{-(-int(seconds) // 60)}m"
