"""Names the cause of a failed start from what Docker, the kit's scripts and the engine printed."""

import re
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Failure
from ernie_deploy.stack.evidence import Evidence


def recognise(evidence: Evidence, catalog: Catalog) -> Failure | None:
    """The first known failure that these lines prove, its sentence filled in; None for an unknown one."""
    for failure in catalog.failures:
        match = next(_matches(failure, evidence), None)
        if match and _confirmed(failure, evidence):
            return _filled(failure, match)
    return None


def _matches(failure: Failure, evidence: Evidence) -> "Iterator[re.Match[str]]":
    sources = (
        (failure.docker, evidence.docker),
        (failure.script, evidence.scripts),
        (failure.engine, evidence.engine),
    )
    for pattern, lines in sources:
        if pattern:
            yield from _in(pattern, lines)


def _in(pattern: str, lines: Sequence[str]) -> "Iterator[re.Match[str]]":
    return (match for line in lines if (match := re.search(pattern, line)))


def _confirmed(failure: Failure, evidence: Evidence) -> bool:
    return not failure.confirmed_by or any(_in(failure.confirmed_by, evidence.engine))


def _filled(failure: Failure, match: "re.Match[str]") -> Failure:
    detail = next(filter(None, match.groupdict().values()), "(unnamed)")
    return replace(failure, what=failure.what.replace("{detail}", detail.strip()[:200]))
