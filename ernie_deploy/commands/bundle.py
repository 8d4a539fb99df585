"""`bundle`: stacks with their images, weights and the kit in one folder, for a site without internet."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ernie_deploy.commands.options import DRY_RUN, JSON
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.bundle.make import Made
    from ernie_deploy.bundle.manifest import Verdict
    from ernie_deploy.bundle.parts import Show
    from ernie_deploy.stack.compose import Stack

EXAMPLE = """\b
Examples:
  ernie-deploy bundle -o ernie-21b
  ernie-deploy bundle -o /mnt/stick/ernie --stack 21b/ --stack vl/compose.yml --split 4G
  ernie-deploy bundle verify ernie-21b

On the other side, with Docker and without a network: sh ernie-21b/load.sh
To continue an interrupted bundle, repeat the same command."""

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# Thousands of files otherwise.
LEAST_SPLIT_BYTES = 1_000_000


def _bytes(ctx: click.Context, param: click.Parameter, value: str) -> int:
    if not value:
        return 0
    match = re.fullmatch(r"([0-9]{1,9})([KMGT])B?", value)
    size = int(match[1]) * UNITS[match[2]] if match else 0
    if size < LEAST_SPLIT_BYTES:
        raise click.BadParameter("write a number and M, G or T, such as 4G; no less than 1M")
    return size


@click.group(invoke_without_command=True, epilog=EXAMPLE)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A new folder, or the folder of an existing bundle.",
)
@click.option(
    "--stack",
    "named",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER_OR_FILE",
    help="A stack's folder or compose file; repeatable.  [default: the stack of this folder]",
)
@click.option(
    "--split",
    "split_bytes",
    default="",
    metavar="SIZE",
    callback=_bytes,
    help="Largest file, such as 4G: 4,000,000,000 bytes, which fits on FAT32.",
)
@click.option("--no-wheels", is_flag=True, help="Leave out the kit and its dependencies.")
@DRY_RUN
@JSON
@click.pass_context
def bundle(  # noqa: PLR0913, PLR0917 - its options
    ctx: click.Context,
    output: Path | None,
    named: tuple[Path, ...],
    split_bytes: int,
    no_wheels: bool,
    dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Gather stacks, images and weights in one folder, for a site without internet."""
    if ctx.invoked_subcommand:
        return
    if output is None:
        raise UsageError(
            "Into which folder?", cause="a bundle needs one", next_step="ernie-deploy bundle -o DIR"
        )
    from ernie_deploy.bundle.make import commands, make

    stacks = [_stack(path) for path in named] or [_stack(None)]
    if dry_run:
        for line in commands(stacks, output, with_wheels=not no_wheels):
            say(line)
        return
    with _progress() as show:
        made = make(stacks, output, split_bytes=split_bytes, with_wheels=not no_wheels, show=show)
    if as_json:
        import msgspec

        say(msgspec.json.encode(made).decode(), as_json=True)
        return
    say(_as_text(made))


def _stack(path: Path | None) -> "Stack":
    """The stack of a folder or a file, with the override that Compose would take beside it."""
    from ernie_deploy.check.project import DEFAULT_NAMES, of_file
    from ernie_deploy.commands.stack_of import stack_of
    from ernie_deploy.stack.compose import Stack

    if path is None:
        return stack_of(())
    inside = [path / name for name in DEFAULT_NAMES if (path / name).is_file()] if path.is_dir() else [path]
    if not inside or not inside[0].is_file():
        raise UsageError(
            f"There is no stack at {path}.",
            cause="--stack names a compose file, or a folder with a compose.yml",
            next_step="make one with: ernie-deploy init FOLDER TARGET",
        )
    return Stack(files=tuple(Path(file) for file in of_file(str(inside[0])).files))


@contextmanager
def _progress() -> Iterator["Show"]:
    """What shows a part under way: a line that changes on a terminal, nothing elsewhere."""
    from ernie_deploy.safe_io.terminal import console, in_colour

    if not in_colour(sys.stderr):
        yield lambda *_: None
        return
    from rich.markup import escape
    from rich.status import Status

    screen = console(sys.stderr)
    with Status("", console=screen) as status:

        def show(name: str, done: int, total: int) -> None:
            room = max(20, screen.width - 40)
            status.update(
                f"{done / 1e9:8.2f} of {max(done, total) / 1e9:.2f} GB  [dim]{escape(name[-room:])}[/]"
            )

        yield show


def _as_text(made: "Made") -> str:
    left = [f"left out of {name}'s .env: {', '.join(names)}" for name, names in made.left_out.items()]
    removed = [f"removed, as no stack needs it any more: {name}" for name in made.removed]
    size = f"{made.files} files, {made.size_bytes / 1e9:,.2f} GB"
    return "\n".join([
        f"{made.folder}: {size}; {len(made.written)} parts written, {len(made.kept)} kept",
        *left,
        *removed,
        f"SHA-256 of its SHA256SUMS: {made.sha256}",
        f"on the other side: sh {made.folder.rstrip('/').rpartition('/')[2]}/load.sh",
    ])  # fmt: skip


@bundle.command(epilog="Example: ernie-deploy bundle verify ernie-21b")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@JSON
@DRY_RUN
def verify(folder: Path, as_json: bool, dry_run: bool) -> None:
    """Hold every file of a bundle against its manifest: what is missing, extra or wrong."""
    if dry_run:
        import shlex

        say(f"cd {shlex.quote(str(folder))} && sha256sum --check --quiet SHA256SUMS")
        return
    from ernie_deploy.bundle.manifest import verify as held
    from ernie_deploy.errors import ToolFailed

    with _progress() as show:
        verdict = held(folder, show)
    if as_json:
        import msgspec

        say(msgspec.json.encode(verdict).decode(), as_json=True)
    else:
        say(_verdict_text(folder, verdict))
    if not verdict.whole:
        raise ToolFailed(
            f"{folder} is not as it was written.",
            cause="files were changed, lost or added after the bundle was complete",
            next_step="copy the files named above again, and remove the extra ones",
        )


def _verdict_text(folder: Path, verdict: "Verdict") -> str:
    rows = {"missing": verdict.missing, "extra": verdict.extra, "wrong": verdict.wrong}
    faults = [f"{kind:<8} {name}" for kind, names in rows.items() for name in names]
    whole = [f"{folder}: {verdict.files} files, {verdict.size_bytes / 1e9:,.2f} GB, as they were written"]
    return "\n".join([*(faults or whole), f"SHA-256 of its SHA256SUMS: {verdict.sha256}"])
