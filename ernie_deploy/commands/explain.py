"""`explain`: the cause of a failure in any output of vLLM, Docker, Compose, Kubernetes or the kit."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack
    from ernie_deploy.stack.evidence import Evidence

EXAMPLE = """\b
Examples:
  ernie-deploy explain                     # the stack of this folder
  ernie-deploy explain serve.log
  docker logs my-vllm 2>&1 | ernie-deploy explain -
  kubectl describe pod my-vllm-0 | ernie-deploy explain - --json

Exits 0 if the cause is recognised, and 1 if it is not."""

STDIN = "-"
UNRECOGNISED = 1
HANDED_OVER = "name a log (ernie-deploy explain FILE), or hand it over: docker logs CONTAINER 2>&1 | ernie-deploy explain -"
# Of a larger input, its end is read.
MOST_BYTES = 8 << 20
STACK_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


@click.command(epilog=EXAMPLE)
@click.argument("source", default="", metavar="[FILE|-|STACK]", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@click.option(
    "--list", "list_failures", is_flag=True, help="Print every known failure with its next step instead."
)
def explain(source: str, as_json: bool, list_failures: bool) -> int:
    """Name the cause in a log or a stack, with its evidence and the next step."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.stack import verdict
    from ernie_deploy.stack.rendered import rendered

    if list_failures:
        return _list(as_json=as_json)
    evidence, file = _evidence(source)
    made = verdict.judge(evidence, Catalog(), rendered(file) if file else None)
    say(json.dumps(verdict.as_data(made), indent=2) if as_json else verdict.as_text(made), as_json=as_json)
    return 0 if made.known else UNRECOGNISED


def _list(*, as_json: bool) -> int:
    import msgspec

    from ernie_deploy.catalog import Catalog

    known = [failure for failure in Catalog().failures if failure.weight != "generic"]
    if as_json:
        say(msgspec.json.encode(known).decode(), as_json=True)
        return 0
    say("\n".join(f"{one.id}: {one.what}\n  next: {one.next}\n  source: {one.source}" for one in known))
    return 0


def _evidence(source: str) -> "tuple[Evidence, Path | None]":
    """The lines to judge, and the compose file that they are about or lie beside."""
    from ernie_deploy.stack.evidence import of_text

    if source == STDIN:
        return of_text(decoded(_end(sys.stdin.buffer))), stack_file(Path())
    path = Path(source)
    if source and _is_file(path) and not _is_stack_file(path):
        return of_text(decoded(_read(path))), stack_file(path.parent)
    return _of_stack(source)


def _of_stack(source: str) -> "tuple[Evidence, Path | None]":
    from ernie_deploy.stack.inspection import evidence_of, evidence_of_project

    path = Path(source)
    if not source or _is_file(path) or path.is_dir():
        stack = _stack(source)
        return evidence_of(stack), stack.files[0]
    if "/" in source:
        raise UsageError(f"There is no {source}.", next_step=HANDED_OVER)
    return evidence_of_project(source), None


def _stack(source: str) -> "Stack":
    """The stack of this folder, of another, or of a compose file; raises `UsageError`."""
    from ernie_deploy.commands.stack_of import stack_of
    from ernie_deploy.stack.compose import Stack

    try:
        if not source:
            return stack_of(())
        path = Path(source)
        file = stack_file(path) if path.is_dir() else path
    except UsageError as fault:
        raise UsageError(fault.what, cause=fault.cause, next_step=HANDED_OVER) from fault
    if file is None:
        raise UsageError(f"There is no compose file in {source}.", next_step=HANDED_OVER)
    return Stack(files=(file,))


def stack_file(folder: Path) -> Path | None:
    """The file that Compose would take in a folder; None where there is none."""
    return next((folder / name for name in STACK_FILES if (folder / name).is_file()), None)


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # longer than any path, or with a NUL
        return False


def _is_stack_file(path: Path) -> bool:
    """Whether a file is a stack's, and no log."""
    return path.suffix in {".yml", ".yaml"} and b"\nservices:" in b"\n" + _read(path)


def _read(path: Path) -> bytes:
    from ernie_deploy.safe_io.reading import opened

    try:
        with opened(path) as file:
            if file.seekable() and (size := file.seek(0, 2)) > MOST_BYTES:
                file.seek(size - MOST_BYTES)
            elif file.seekable():
                file.seek(0)
            return _end(file)
    except OSError as fault:
        raise UsageError(f"{path} cannot be read: {fault.strerror}.") from fault


def _end(file: BinaryIO) -> bytes:
    """The last MOST_BYTES of what can only be read once."""
    kept = bytearray()
    while part := file.read(1 << 20):
        kept += part
        if len(kept) > 2 * MOST_BYTES:
            del kept[:-MOST_BYTES]
    return bytes(kept[-MOST_BYTES:])


def decoded(data: bytes) -> str:
    """Bytes as text, in UTF-16 too: PowerShell's `>` writes it."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "replace").removeprefix("\ufeff")
