"""What `up` knows of upgrades: it starts no folder that is half of one, and says how to go back from one that fails."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_deploy.errors import NotReady, OutOfDate, ToolFailed

if TYPE_CHECKING:
    from ernie_deploy.upgrade.history import Record

# Lies in the record of an upgrade once its stack was healthy: from then on a failure has another cause.
SERVED = "served"


def refuse_half_of_an_upgrade(folder: Path) -> None:
    """Raise `OutOfDate` where some files of a folder are new and some old."""
    from ernie_deploy.upgrade.transaction import is_pending

    if is_pending(folder):
        raise OutOfDate(
            f"An upgrade of {folder.resolve()} was interrupted.",
            cause="some of its files are new and some are old",
            next_step=f"{_command('upgrade', folder)}, or {_command('rollback', folder)}: both finish it first",
        )


@contextmanager
def rollback_hint(folder: Path) -> Iterator[None]:
    """Add to the error of a start that follows an upgrade how to go back; a start that succeeds proves the upgrade."""
    record = _unproven(folder)
    try:
        yield
    except (ToolFailed, NotReady) as fault:
        if record:
            fault.next_step = (
                f"{fault.next_step}; or back to vLLM {record.cause.engine}: {_command('rollback', folder)}"
            )
        raise
    if record:
        with suppress(OSError):
            (_place(folder, record) / SERVED).touch()


def _unproven(folder: Path) -> "Record | None":
    """The last upgrade of a folder, unless its stack was healthy since; None where it cannot be read."""
    from ernie_deploy.errors import UsageError
    from ernie_deploy.upgrade.history import OWN, standing

    if not (folder / OWN).is_dir():
        return None
    with suppress(UsageError):
        for record in standing(folder)[:1]:
            return None if (_place(folder, record) / SERVED).exists() else record
    return None


def _place(folder: Path, record: "Record") -> Path:
    from ernie_deploy.upgrade.history import PREVIOUS

    return folder / PREVIOUS / record.name


def _command(name: str, folder: Path) -> str:
    return shlex.join(["ernie-deploy", name, *([str(folder)] if folder != Path() else [])])
