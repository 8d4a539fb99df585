"""Findings as text for people, JSON for programs and SARIF for code hosts."""

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct, to_builtins

from ernie_deploy.check.findings import SEVERITIES, Finding, Rule, Severity
from ernie_deploy.check.values import shown

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(
    findings: Sequence[Finding], files: Sequence[str], *, verbose: bool = False, width: int = 80
) -> str:
    """Errors, then warnings, then notes, each by file and line and at most `width` columns wide; last, their number.

    What one service lacks is one line, unless `verbose`.
    """
    entries = [_entry(finding) for finding in findings if verbose or not finding.lacks]
    folded = [] if verbose else [_folded(group) for group in _lacking(findings)]
    places = {file: at for at, file in enumerate(dict.fromkeys(files))}
    ordered = sorted(
        [*entries, *folded],
        key=lambda e: (SEVERITIES.index(e.severity), places.get(e.file, len(places)), not e.remedy, e.line),
    )
    groups = ["\n".join(_wrapped(e, width) for e in ordered if e.severity == level) for level in SEVERITIES]
    last = textwrap.fill(summary(findings, len(places)) + _hint(folded), width, break_on_hyphens=False)
    return "\n\n".join([group for group in groups if group] + [last])


class _Entry(Struct, frozen=True):
    """One line of the report, and what to do about it; there is no remedy where several lines are folded."""

    severity: Severity
    file: str
    line: int
    text: str
    remedy: str = ""


def _entry(finding: Finding) -> _Entry:
    owner = f"{finding.id} {shown(finding.service)}".rstrip()
    text = f"{owner}: {finding.sentence}"
    return _Entry(finding.severity, finding.file, finding.line, text, finding.remedy)


def _lacking(findings: Sequence[Finding]) -> list[list[Finding]]:
    """What each service has nothing of, by file and service."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.lacks:
            groups.setdefault((finding.file, finding.service), []).append(finding)
    return list(groups.values())


def _folded(group: Sequence[Finding]) -> _Entry:
    """What one service lacks, in one line; a single thing as any other finding."""
    first = min(group, key=lambda finding: SEVERITIES.index(finding.severity))
    if len(group) == 1:
        return _entry(first)
    names = ", ".join(f"{finding.lacks} ({finding.id})" for finding in group)
    return _Entry(first.severity, first.file, first.line, f"{shown(first.service)} lacks {names}")


def _hint(folded: Sequence[_Entry]) -> str:
    return "; --verbose explains what is missing" if any(not entry.remedy for entry in folded) else ""


def _wrapped(entry: _Entry, width: int) -> str:
    text = f"{shown(entry.file, 200)}:{entry.line}: {entry.severity} {entry.text}"
    lines = _filled(text, width, "", "  ")
    return f"{lines}\n{_filled(entry.remedy, width, '    ', '    ')}" if entry.remedy else lines


def _filled(text: str, width: int, first: str, rest: str) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def summary(findings: Sequence[Finding], files: int) -> str:
    """`2 files: 1 error, 3 warnings`."""
    counts = Counter(finding.severity for finding in findings)
    parts = [_counted(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    return f"{_counted(files, 'file')}: {', '.join(parts) or 'nothing found'}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(findings: Sequence[Finding]) -> str:
    """A list of findings."""
    tables = [to_builtins(finding) for finding in findings]
    return json.dumps([{key: t[key] for key in t if key != "lacks"} for t in tables], indent=2)


def as_sarif(findings: Sequence[Finding], rules: Sequence[Rule], version: str) -> str:
    """A SARIF 2.1.0 log with one run."""
    places = {rule.id: at for at, rule in enumerate(rules)}
    driver = {"name": "ernie-deploy", "version": version, "rules": [_sarif_rule(rule) for rule in rules]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif_result(finding, places[finding.id]) for finding in findings],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": rule.sentence},
        "fullDescription": {"text": f"{rule.sentence} Source: {rule.source}."},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": rule.severity},
    }


def _sarif_result(finding: Finding, place: int) -> dict[str, Any]:
    location = {"uri": uri(finding.file)}
    return {
        "ruleId": finding.id,
        "ruleIndex": place,
        "level": finding.severity,
        "message": {"text": f"{finding.sentence}. Remedy: {finding.remedy}."},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": location, "region": {"startLine": finding.line}},
                "logicalLocations": [{"name": finding.service, "kind": "member"}],
            }
        ],
    }


def uri(file: str) -> str:
    """A file as SARIF names it: relative where it was given so."""
    path = Path(file)
    if path.is_absolute():
        return path.as_uri()
    return quote(path.as_posix(), safe="/", errors="backslashreplace")


def rules_as_text(rules: Sequence[Rule]) -> str:
    """Every rule with what to do about it, and where the fact is from."""
    return "\n".join(
        f"{rule.id} {rule.severity:<7} {rule.sentence}\n"
        f"      remedy: {rule.remedy}\n      source: {rule.source}"
        for rule in rules
    )


def rules_as_json(rules: Sequence[Rule]) -> str:
    """A list of rules."""
    keys = ("id", "name", "severity", "sentence", "remedy", "source")
    return json.dumps([{key: getattr(rule, key) for key in keys} for rule in rules], indent=2)
