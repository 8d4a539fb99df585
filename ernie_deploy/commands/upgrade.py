"""`upgrade` and `rollback`: a stack's folder brought to another vLLM with the user's edits, and back byte for byte."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ernie_deploy.commands.header import request_of_header
from ernie_deploy.commands.options import ids
from ernie_deploy.commands.rollback_hint import refuse_half_of_an_upgrade
from ernie_deploy.errors import OutOfDate, Refused, UsageError
from ernie_deploy.safe_io.terminal import say, say_coloured

if TYPE_CHECKING:
    from ernie_deploy.plan.lock import Lock
    from ernie_deploy.plan.plan import Plan
    from ernie_deploy.plan.request import Request
    from ernie_deploy.upgrade.proposal import Proposal, Relock

EXAMPLE = """\b
Examples:
  ernie-deploy upgrade --check                  # exits 5 where there is something to do
  ernie-deploy upgrade my-ernie --engine VERSION
  ernie-deploy rollback my-ernie"""
AS = "--as 'TARGET OPTIONS'"
FOLDER = click.argument("folder", default=Path(), metavar="[FOLDER]", type=click.Path(path_type=Path))


@click.command(epilog=EXAMPLE)
@FOLDER
@click.option("--engine", default="", metavar="VERSION", shell_complete=ids("engines"),
              help="vLLM version to go to.  [default: the newest that was served, or the stack's own if that is newer]")  # fmt: skip
@click.option("--as", "words", default="", metavar="'TARGET OPTIONS'",
              help="What to render it as, where its first line does not say it or is to say something else.")  # fmt: skip
@click.option(
    "--check", "check_only", is_flag=True, help="Write nothing; exit 5 where there is something to do."
)
@click.option("--dry-run", is_flag=True, help="Show what would change and write nothing.")
@click.option("--force", is_flag=True, help="Write even what `check` calls an error.")
def upgrade(folder: Path, engine: str, words: str, force: bool, **options: Any) -> None:
    """Render a stack for another vLLM, keep your edits, and keep the old files for `rollback`."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.upgrade.proposal import propose
    from ernie_deploy.upgrade.transaction import alone, finish

    path, command, catalog = stack_file(folder), _command(folder, engine, words), Catalog()
    engine = catalog.id_of("engines", engine) if engine else ""
    if options["check_only"] or options["dry_run"]:
        refuse_half_of_an_upgrade(path.parent)
        proposal = propose(path, _requests(path, words), engine, _relock(path))
        _tell(proposal)
        if options["check_only"]:
            _end_of_check(proposal, command)
        else:
            _refuse(proposal, force=force)
            _refuse_driver(proposal, folder)
        return
    with alone(path.parent):
        if finished := finish(path.parent):
            say(f"finished what was interrupted: {finished.cause.command}", err=True)
        proposal = propose(path, _requests(path, words), engine, _relock(path))
        _tell(proposal)
        _refuse(proposal, force=force)
        if not force:
            _refuse_driver(proposal, folder)
        if proposal.changed:
            _write(proposal, command)


def stack_file(folder: Path) -> Path:
    """The compose file of a folder, or the one that is named; raises `UsageError` where there is none."""
    from ernie_deploy.check.project import DEFAULT_NAMES

    if folder.is_file():
        return folder
    found = next((folder / name for name in DEFAULT_NAMES if (folder / name).exists()), None)
    if found is None:
        raise UsageError(
            f"There is no compose file in {folder}.",
            cause=f"it would be called one of {', '.join(DEFAULT_NAMES)}",
            next_step="name the folder of a stack, or the file: ernie-deploy upgrade FOLDER",
        )
    return found


def _requests(path: Path, words: str) -> "tuple[Request, Request]":
    """What the file was rendered with, and what it is to be rendered as; raises `UsageError` that names --as."""
    from ernie_deploy.safe_io.reading import first_line
    from ernie_deploy.stack.rendered import RENDERED

    head = first_line(path)
    if not (words or head.startswith(RENDERED)):
        raise UsageError(
            f"{path} does not say what it was rendered with.",
            cause=f"its first line is not `{RENDERED}...`",
            next_step=f"ernie-deploy upgrade {shlex.quote(str(path))} {AS}, as in --as 'h100 --model 21b'",
        )
    wanted = _request(
        f"{RENDERED}{words}" if words else head, path, "--as" if words else f"The first line of {path}"
    )
    if words and head.startswith(RENDERED):
        with suppress(UsageError):
            return _request(head, path, ""), wanted
    return wanted, wanted


def _request(head: str, path: Path, what: str) -> "Request":
    try:
        return request_of_header(head, path.parent)
    except (click.ClickException, ValueError) as fault:
        raise UsageError(
            f"{what} asks for nothing that can be rendered.",
            cause=fault.format_message() if isinstance(fault, click.ClickException) else str(fault),
            next_step=f"say what it was rendered with: {AS}",
        ) from fault


def _relock(path: Path) -> "Relock":
    """Asks the registries and the hub as `lock` does, and only where the lock lacks something."""

    def relock(plan: "Plan", before: "Lock") -> "Lock":
        from ernie_deploy.commands.lock import sources_of
        from ernie_deploy.stack.locking import made

        say("the lock does not hold the new images: asking the registries for their digests", err=True)
        return made(plan, sources_of(plan.request.registry, path.parent), before)

    return relock


def _command(folder: Path, engine: str, words: str) -> str:
    options = [*(["--engine", engine] if engine else []), *(["--as", words] if words else [])]
    return shlex.join(["ernie-deploy", "upgrade", *([str(folder)] if folder != Path() else []), *options])


def _tell(proposal: "Proposal") -> None:
    """Print what would change, the compose file by meaning and the others by line, and what is to be known."""
    from ernie_deploy.diff.report import COLOURS
    from ernie_deploy.upgrade import report

    if not proposal.changed:
        say(f"{proposal.path} is up to date: vLLM {proposal.engine}")
        return
    say(f"{proposal.path}: vLLM {proposal.old_engine or '(unknown)'} -> {proposal.engine}")
    say_coloured(report.by_meaning(proposal), COLOURS)
    if others := report.differences(one for one in proposal.changed if one is not proposal.stack):
        say(others)
    for line in report.notes(proposal):
        say(f"note: {line}")


def _refuse(proposal: "Proposal", *, force: bool) -> None:
    """Raise `Refused` where edits cannot be merged, or `check` finds errors in the result and `force` is not given."""
    if proposal.conflicting:
        _refuse_conflicts(proposal)
    if proposal.errors and not force:
        from ernie_deploy.check import report
        from ernie_deploy.safe_io.columns import width_of

        say(report.as_text(proposal.errors, [str(proposal.path)], width=width_of(sys.stderr) or 80), err=True)
        raise Refused(
            "`ernie-deploy check` would say that of the new files; nothing was written.",
            cause=f"vLLM {proposal.engine} no longer accepts one of your settings, or another setting contradicts it",
            next_step="correct it and repeat the command, or write it anyway with --force",
        )


def _refuse_driver(proposal: "Proposal", folder: Path) -> None:
    """Raise `Refused` where this host's driver runs the images of before and not the new ones."""
    from msgspec.structs import replace

    from ernie_deploy.catalog import Catalog
    from ernie_deploy.host.facts import collect
    from ernie_deploy.host.probes import LocalHost
    from ernie_deploy.plan.request import command_words
    from ernie_deploy.upgrade.driver import another_image

    old, new = proposal.plans
    if old is None or old.engine == new.engine:
        return
    fitting = another_image(collect(LocalHost(), new.target.vendor), old, new, Catalog())
    if fitting is None:
        return
    words = shlex.join(command_words(replace(fitting, engine="", lock=None)))
    raise Refused(
        f"The driver of this host is too old for {new.image}; nothing was written.",
        cause=f"it runs {old.image}, and another image of vLLM {new.engine}",
        next_step=f"{_command(folder, new.engine, words)}; use --force if another host will serve",
    )


def _refuse_conflicts(proposal: "Proposal") -> NoReturn:
    from ernie_deploy.upgrade import report

    for line in report.conflicts(proposal.conflicting):
        say(line, err=True)
    names = ", ".join(outcome.name for outcome in proposal.conflicting)
    raise Refused(
        f"Your edits in {names} cannot be merged with the new version; nothing was written.",
        cause="you and the new version changed the same lines, and only you know what yours are for",
        next_step="restore those lines as rendered and upgrade; then edit the new ones, or use an option of "
        f"`render`: {AS}",
    )


def _end_of_check(proposal: "Proposal", command: str) -> None:
    if not proposal.changed:
        return
    from ernie_deploy.upgrade import report

    for line in report.conflicts(proposal.conflicting):
        say(line, err=True)
    raise OutOfDate(
        f"{proposal.path} is not what is rendered for vLLM {proposal.engine} today.",
        cause="a newer version is there"
        + (", and edits of yours contradict it" if proposal.conflicting else ""),
        next_step=command,
    )


def _write(proposal: "Proposal", command: str) -> None:
    from ernie_deploy.upgrade.history import Cause
    from ernie_deploy.upgrade.transaction import replace_files

    folder = proposal.path.parent
    cause = Cause(kind="upgrade", command=command, engine=proposal.old_engine or "unknown")
    replace_files(folder, proposal.files, cause)
    say(f"wrote {', '.join(outcome.name for outcome in proposal.changed)} to {folder}", err=True)
    say(f"next: {_in(folder, 'docker compose up -d --wait')}", err=True)
    say(f"undo: {shlex.join(['ernie-deploy', 'rollback', *_named(folder)])}", err=True)


def _named(folder: Path) -> Sequence[str]:
    return [str(folder)] if folder != Path() else []


def _in(folder: Path, command: str) -> str:
    return f"cd {shlex.quote(str(folder))} && {command}" if folder != Path() else command
