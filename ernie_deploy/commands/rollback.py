"""`rollback`: the files of a stack's folder as they were before an upgrade, byte for byte."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.rollback_hint import refuse_half_of_an_upgrade
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.upgrade.history import Record

# What the kit keeps below it is not the user's.
OWN = ".ernie/"
START = "docker compose up -d --wait"
EXAMPLE = """\b
Examples:
  ernie-deploy rollback                  # what the last upgrade replaced
  ernie-deploy rollback my-ernie --list"""


@click.command(epilog=EXAMPLE)
@click.argument("folder", default=Path(), metavar="[FOLDER]", type=click.Path(path_type=Path))
@click.option("--list", "list_only", is_flag=True, help="List what is kept, the newest first.")
@click.option("--to", "name", default="", metavar="NAME", help="Go back to before this entry of --list.")
@click.option("--force", is_flag=True, help="Undo later edits too; they are kept as well.")
@click.option("--dry-run", is_flag=True, help="Show what would change and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print the list as JSON.")
def rollback(folder: Path, list_only: bool, name: str, force: bool, **options: Any) -> None:
    """Bring back the files that the last upgrade of a stack replaced."""
    from ernie_deploy.upgrade.transaction import alone, finish

    folder = folder.parent if folder.is_file() else folder
    if list_only:
        _list(folder, as_json=options["as_json"])
        return
    if options["dry_run"]:
        refuse_half_of_an_upgrade(folder)
        _show(folder, _chosen(folder, name))
        return
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.")
    with alone(folder):
        if finished := finish(folder):
            say(f"finished what was interrupted: {finished.cause.command}", err=True)
        _go_back(folder, _chosen(folder, name), force=force)


def _list(folder: Path, *, as_json: bool) -> None:
    from ernie_deploy.commands.show import show
    from ernie_deploy.upgrade.history import records, standing

    every = records(folder)
    if not every and not as_json:
        say(f"Nothing is kept in {_shown(folder)}: it has seen no upgrade.")
        return
    can_be_undone = {record.name for record in standing(folder)}
    show(
        [
            {
                "name": record.name,
                "by": record.cause.kind,
                "can go back": record.name in can_be_undone
                if as_json
                else "yes" * (record.name in can_be_undone),
                "files": [file.name for file in record.files if not file.name.startswith(OWN)],
                "command": record.cause.command,
            }
            for record in every
        ],
        as_json=as_json,
        drop=("files",),
        wraps=("files", "command"),
    )


def _chosen(folder: Path, name: str) -> "list[Record]":
    """The changes to take back, the newest first; raises `UsageError` where there is none of that name."""
    from ernie_deploy.upgrade.history import standing

    kept = standing(folder)
    names = [record.name for record in kept]
    if not kept:
        raise UsageError(
            f"No earlier version is kept in {_shown(folder)}.",
            cause="no upgrade has replaced its files, or each was undone",
            next_step=f"ernie-deploy rollback {shlex.quote(str(folder))} --list",
        )
    if name and name not in names:
        raise UsageError(
            f"{name[:80]!r} is not a version that is kept.",
            cause=f"there are: {', '.join(names)}",
            next_step=f"ernie-deploy rollback {shlex.quote(str(folder))} --list",
        )
    return kept[: names.index(name) + 1] if name else kept[:1]


def _show(folder: Path, chosen: "Sequence[Record]") -> None:
    from ernie_deploy.upgrade import history, report

    for name, data in history.before(folder, chosen).items():
        if not name.startswith(OWN) and data != (now := history.bytes_of(folder / name)):
            say(report.difference(name, now, data))


def _go_back(folder: Path, chosen: "Sequence[Record]", *, force: bool) -> None:
    from ernie_deploy.upgrade import history
    from ernie_deploy.upgrade.history import Cause
    from ernie_deploy.upgrade.transaction import replace_files

    edited = list(history.edited_since(folder, chosen))
    if edited and not force:
        raise UsageError(
            "\n".join(f"{folder / name} was edited since." for name in edited),
            cause=f"going back to before `{chosen[0].cause.command}` would undo those edits too",
            next_step="keep them elsewhere, then repeat the command with --force",
        )
    last = chosen[-1].cause
    replace_files(
        folder,
        history.before(folder, chosen),
        Cause(
            kind="rollback",
            command=shlex.join(["ernie-deploy", "rollback", str(folder)]),
            engine=last.engine,
            undoes=tuple(record.name for record in chosen),
        ),
    )
    names = [file.name for record in chosen for file in record.files if not file.name.startswith(OWN)]
    say(
        f"brought back {', '.join(dict.fromkeys(names))}: vLLM {last.engine}, as before `{last.command}`",
        err=True,
    )
    say(f"next: {START if folder == Path() else f'cd {shlex.quote(str(folder))} && {START}'}", err=True)


def _shown(folder: Path) -> str:
    return "this folder" if folder == Path() else str(folder)
