"""Findings as text for people, JSON for programs and SARIF for code hosts."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import to_builtins

from ernie_deploy.check.findings import SEVERITIES, Finding, Rule
from ernie_deploy.check.values import shown

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(findings: Sequence[Finding], files: Sequence[str]) -> str:
    """Findings by file, then one line that counts them."""
    blocks = ["\n".join(_of_file(findings, file)) for file in dict.fromkeys(files)]
    return "\n\n".join([block for block in blocks if block] + [summary(findings, len(set(files)))])


def _of_file(findings: Sequence[Finding], file: str) -> Iterator[str]:
    for finding in findings:
        if finding.file == file:
            where = f"{shown(file, 200)}:{finding.line}"
            yield f"{where}: {finding.severity} {finding.id} {shown(finding.service)}: {finding.sentence}"
            yield f"    {finding.remedy}"


def summary(findings: Sequence[Finding], files: int) -> str:
    """`2 files: 1 error, 3 warnings`."""
    counts = Counter(finding.severity for finding in findings)
    said = [_counted(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    return f"{_counted(files, 'file')}: {', '.join(said) or 'nothing found'}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_json(findings: Sequence[Finding]) -> str:
    """A list of findings."""
    return json.dumps([to_builtins(finding) for finding in findings], indent=2)


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
