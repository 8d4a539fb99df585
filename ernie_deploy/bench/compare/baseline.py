"""The local baseline: the valid attempts of a benchmark, bound to the image and the arguments they were made with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ernie_deploy.bench.compare.repeats import series
from ernie_deploy.bench.journal.cells import changes
from ernie_deploy.bench.journal.record import Attempt, Environment, Journal, Server
from ernie_deploy.bench.journal.result_types import type_fault
from ernie_deploy.errors import BenchInvalid, UsageError
from ernie_deploy.safe_io.reading import MIB, read_bounded, read_head

SCHEMA = "ernie-bench-baseline/1"


class LocalBaseline(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What this host delivered when somebody called it good."""

    schema: str = SCHEMA
    environment: Environment
    attempts: tuple[Attempt, ...]

    @property
    def journal(self) -> Journal:
        """The same as a journal, so that whatever reads one reads this."""
        return Journal(lines=(self.environment, *self.attempts))


def accept(journal: Journal) -> LocalBaseline:
    """The valid attempts of the configuration measured last; raises `BenchInvalid` where there is none."""
    all_series = series(journal)
    valid = [a for a in (all_series[-1].attempts if all_series else []) if a.status == "valid"]
    if not valid:
        raise BenchInvalid(
            "There is no valid attempt to accept as the baseline.",
            cause="every attempt of the last configuration is suspect, invalid, failed or interrupted",
            next_step="see why with: ernie-deploy bench report",
        )
    environment = all_series[-1].environment
    return LocalBaseline(
        environment=environment, attempts=tuple(_kept(attempt, environment.id) for attempt in valid)
    )


def text(baseline: LocalBaseline) -> str:
    """The baseline as a file: JSON that a person can read and a diff can show."""
    return msgspec.json.format(msgspec.json.encode(baseline), indent=1).decode() + "\n"


MOST_BYTES = 64 * MIB


def load(path: Path) -> LocalBaseline:
    """Read a baseline; raises `UsageError` where it is none."""
    try:
        baseline = msgspec.json.decode(read_bounded(path, MOST_BYTES), type=LocalBaseline)
        for reason in filter(None, (type_fault(attempt.result) for attempt in baseline.attempts)):
            raise msgspec.ValidationError(reason)
    except (OSError, msgspec.DecodeError, RecursionError) as fault:
        raise UsageError(
            f"{path} is no baseline: {fault}",
            next_step=f"make one with: ernie-deploy bench baseline accept JOURNAL -o {path}",
        ) from fault
    return baseline


def stale(baseline: LocalBaseline, environment: Environment) -> list[str]:
    """What changed since the baseline was accepted, a sentence a field; empty where it still holds."""
    return changes(baseline.environment, environment)


def is_baseline(path: Path) -> bool:
    """Whether a file is a baseline and not a journal: its text begins with an object of many lines."""
    try:
        return SCHEMA.encode() in read_head(path, 200)
    except OSError:
        return False


def _kept(attempt: Attempt, environment: str) -> Attempt:
    """An attempt without what only its own report shows: lists a request long, samples and the log."""
    return msgspec.structs.replace(
        attempt,
        environment=environment,
        result=_flat(attempt),
        itl=None,
        server=_ends(attempt.server),
        checks=tuple(check for check in attempt.checks if not check.ok),
        log_tail=(),
    )


def _flat(attempt: Attempt) -> Mapping[str, Any] | dict[str, Any]:
    return {key: figure for key, figure in attempt.result.items() if not isinstance(figure, list)}


def _ends(server: Server | None) -> Server | None:
    return None if server is None else msgspec.structs.replace(server, samples=())
