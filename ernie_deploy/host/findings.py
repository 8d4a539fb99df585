"""What `doctor` says: findings, each with its next command, as text for people and JSON for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct, to_builtins

from ernie_deploy.errors import KitError, ToolMissing

Severity: TypeAlias = Literal["ok", "warning", "error", "unknown"]

WORDS: dict[Severity, str] = {"ok": "ok", "warning": "warn", "error": "FAIL", "unknown": "?"}
COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "red", "?": "cyan"}
COUNTED: dict[Severity, str] = {"warning": "warning", "error": "error", "unknown": "unknown"}

# An error of these is about the tools themselves.
TOOLS = ("docker", "compose")


class Finding(Struct, frozen=True):
    """One thing that was looked at: how it is, and what to do where it is not well."""

    id: str
    severity: Severity
    sentence: str
    remedy: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """Everything found about one host, for one plan."""

    target: str
    stack: str
    headline: str
    guess: str
    findings: tuple[Finding, ...]
    environment: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0 without an error; the table's code where Docker or Compose is missing or too old."""
        broken = {finding.id for finding in self.findings if finding.severity == "error"}
        if broken & set(TOOLS):
            return ToolMissing.exit_code
        return KitError.exit_code if broken else 0


def ok(identity: str, sentence: str) -> Finding:
    """Nothing to do."""
    return Finding(identity, "ok", sentence)


def warning(identity: str, sentence: str, remedy: str) -> Finding:
    """It will run, though not well or not safely."""
    return Finding(identity, "warning", sentence, remedy)


def error(identity: str, sentence: str, remedy: str) -> Finding:
    """It will not run."""
    return Finding(identity, "error", sentence, remedy)


def unknown(identity: str, sentence: str, remedy: str = "") -> Finding:
    """It could not be seen from here."""
    return Finding(identity, "unknown", sentence, remedy)


def as_text(report: Report) -> str:
    """One line a finding, its remedy below."""
    head = [line for line in (report.guess, report.headline) if line]
    width = max(len(finding.id) for finding in report.findings)
    body = [line for finding in report.findings for line in _lines(finding, width)]
    return "\n".join([*head, *body, summary(report.findings)])


def _lines(finding: Finding, width: int) -> list[str]:
    from ernie_deploy.render.yaml import comment

    # A process names itself, and may do so with control characters.
    lines = [f"{WORDS[finding.severity]:<4}  {finding.id:<{width}}  {comment(finding.sentence)}"]
    return [*lines, f"      {'':<{width}}  next: {comment(finding.remedy)}"] if finding.remedy else lines


def summary(findings: Sequence[Finding]) -> str:
    """`18 checks: 16 ok, 1 warning, 1 error`."""
    counts = Counter(finding.severity for finding in findings)
    parts = [
        f"{counts[kind]} {noun}{_plural(kind, counts[kind])}"
        for kind, noun in COUNTED.items()
        if counts[kind]
    ]
    fine = f"{counts['ok']} ok"
    return f"{len(findings)} checks: {', '.join([fine, *parts])}"


def _plural(kind: Severity, count: int) -> str:
    return "s" if count > 1 and kind != "unknown" else ""


def as_json(report: Report) -> str:
    """The report as one object."""
    return json.dumps({**to_builtins(report), "exit_code": report.exit_code}, indent=2, ensure_ascii=False)
