"""Prometheus' own verdict on rules: promtool with series of a test's making."""

import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from conftest import missing

STEP = "15s"
PER_MINUTE = 4


def binary(name: str = "promtool") -> str:
    """The path of a program of Prometheus; skips, or fails where nothing may be missing."""
    found = shutil.which(name)
    if not found:
        missing(name, "apt-get install --no-install-recommends prometheus")
    return str(found)


def run(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([binary(), *map(str, words)], capture_output=True, text=True, timeout=120)


def flat(value: float, minutes: float) -> str:
    """Samples that say the same for so many minutes."""
    return f"{value:.15g}+0x{round(minutes * PER_MINUTE) - 1}"


def rising(by: float, minutes: float, start: float = 0) -> str:
    """Samples that rise (or fall) by so much each step."""
    sign = "-" if by < 0 else "+"
    return f"{start:.12g}{sign}{abs(by):.10g}x{round(minutes * PER_MINUTE) - 1}"


Series = dict[str, str]


class Case(NamedTuple):
    """Series under which an alert fires at a time, and the same kind under which it does not.

    `quiet` is either the same series at an earlier time, or others at the same time; `labels` narrow the alert.
    """

    alert: str
    at: str
    fires: Series
    quiet: Series
    quiet_at: str = ""
    labels: str = ""
    plan: str = "nvidia"


def question(case: Case, *, fires: bool) -> dict[str, Any]:
    """One test of promtool: how many alerts of the name fire at the time."""
    series = case.fires if fires else case.quiet
    expr = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"{case.labels}}})'
    at = case.at if fires else case.quiet_at or case.at
    return {
        "interval": STEP,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


def judged(folder: Path, rules: str, tests: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
    """`promtool test rules` on rules and tests."""
    (folder / "rules.yml").write_text(rules)
    document = {"rule_files": ["rules.yml"], "evaluation_interval": STEP, "tests": tests}
    (folder / "tests.yml").write_text(yaml.safe_dump(document, width=1000))
    return run("test", "rules", folder / "tests.yml")
