"""Attempts put together: the repeats of one cell under one configuration of the server, and the series they make."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ernie_deploy.bench.journal.cells import subject
from ernie_deploy.bench.journal.record import Attempt, Cell, Environment, Journal, Start, Status

RANK: dict[Status, int] = {"valid": 2, "suspect": 1}


class Group(Struct, frozen=True, kw_only=True):
    """The repeats of one cell: of each the attempt that counts."""

    cell: Cell
    attempts: tuple[Attempt, ...]
    # Attempts whose repeat has a better or a newer one.
    superseded: tuple[Attempt, ...] = ()
    # Repeats that began and never ended, whichever run they belong to.
    cut: tuple[int, ...] = ()

    @property
    def usable(self) -> tuple[Attempt, ...]:
        """The valid attempts or, where there is none, the suspect ones: only they have figures."""
        valid = tuple(attempt for attempt in self.attempts if attempt.status == "valid")
        return valid or tuple(attempt for attempt in self.attempts if attempt.status == "suspect")

    @property
    def standing(self) -> Status:
        """The status of the figures shown; where there are none, that of the last repeat."""
        if self.usable:
            return self.usable[0].status
        return self.attempts[-1].status if self.attempts else "interrupted"

    @property
    def name(self) -> str:
        """The cell's name without its repeat."""
        return plain_name(self.cell)


class Series(Struct, frozen=True, kw_only=True):
    """All groups that one configuration of one server was measured with; `environment` is its newest start."""

    environment: Environment
    server_starts: int
    groups: tuple[Group, ...]

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts that count, group by group."""
        return [attempt for group in self.groups for attempt in group.attempts]

    @property
    def usable(self) -> list[Attempt]:
        """The attempts that have figures."""
        return [attempt for group in self.groups for attempt in group.usable]


def plain_name(cell: Cell) -> str:
    """`prompt-heavy n=16`."""
    return msgspec.structs.replace(cell, repeat=1).name


def series(journal: Journal) -> list[Series]:
    """Every configuration in a journal, the one that was measured last at the end."""
    known = journal.environments
    by_configuration: dict[str, list[Attempt | Start]] = {}
    environments: dict[str, list[Environment]] = {}
    lines: list[Attempt | Start] = [*journal.attempts, *journal.cut]
    for line in sorted(lines, key=lambda line: line.start_unix_s):
        environment = known.get(line.environment) or unseen(line.environment)
        key = configuration(environment)
        # Taken out and put back, so that the order is that of the last measurement.
        by_configuration[key] = [*by_configuration.pop(key, []), line]
        environments.setdefault(key, []).append(environment)
    return [
        Series(
            environment=environments[key][-1],
            server_starts=len({e.id for e in environments[key]}),
            groups=_groups(attempts),
        )
        for key, attempts in by_configuration.items()
    ]


def configuration(environment: Environment) -> str:
    """What makes two starts of a server the same thing to measure."""
    return msgspec.json.encode(subject(environment), order="sorted").decode()


def unseen(identifier: str) -> Environment:
    """Stands for an environment whose line was lost."""
    return Environment(id=identifier, taken_unix_s=0.0, hf_id="")


def _groups(lines: Sequence[Attempt | Start]) -> tuple[Group, ...]:
    cells: dict[str, list[Attempt | Start]] = {}
    for line in lines:
        cells.setdefault(_key(line.cell), []).append(line)
    return tuple(sorted((_group(attempts) for attempts in cells.values()), key=_order))


def _group(lines: Sequence[Attempt | Start]) -> Group:
    attempts = [line for line in lines if isinstance(line, Attempt)]
    chosen = _chosen(attempts)
    cut = {line.cell.repeat for line in lines if isinstance(line, Start)} - set(chosen)
    first = min((line.cell for line in lines), key=lambda cell: cell.repeat)
    return Group(
        cell=first,
        attempts=tuple(chosen[repeat] for repeat in sorted(chosen)),
        superseded=tuple(attempt for attempt in attempts if attempt not in chosen.values()),
        cut=tuple(sorted(cut)),
    )


def _chosen(attempts: Iterable[Attempt]) -> dict[int, Attempt]:
    """Of each repeat the newest valid attempt, else the newest suspect, else the newest."""
    chosen: dict[int, Attempt] = {}
    for attempt in attempts:
        known = chosen.get(attempt.cell.repeat)
        if known is None or RANK.get(attempt.status, 0) >= RANK.get(known.status, 0):
            chosen[attempt.cell.repeat] = attempt
    return chosen


def _key(cell: Cell) -> str:
    return msgspec.json.encode(msgspec.structs.replace(cell, repeat=1), order="sorted").decode()


def _order(group: Group) -> tuple[Any, ...]:
    """Shapes by how much they read for each token they write, as the recipe lists them; then by load."""
    cell = group.cell
    return (
        -cell.input_len / max(1, cell.output_len),
        -cell.input_len,
        cell.shape,
        cell.dataset,
        -(cell.request_rate or 0.0),
        cell.max_concurrency or 0,
        cell.num_prompts,
        cell.preset,
    )
