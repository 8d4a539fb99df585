"""`explain`: the cause of a failure in any output of vLLM, Docker, Compose, Kubernetes or the kit."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
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
# Of a larger input, its end is read.
MOST_BYTES = 32 << 20
STACK_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


@click.command(epilog=EXAMPLE)
@click.argument("source", default="", metavar="[FILE|-|STACK]", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def explain(source: str, as_json: bool) -> int:
    """Name the cause in a log or a stack, with its evidence and the next step."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.stack import verdict

    evidence, folder = _evidence(source)
    made = verdict.judge(evidence, Catalog(), _rendered(folder))
    say(json.dumps(verdict.as_data(made), indent=2) if as_json else verdict.as_text(made), as_json=as_json)
    return 0 if made.known else UNRECOGNISED


def _evidence(source: str) -> "tuple[Evidence, Path]":
    """The lines to judge, and the folder whose compose file they are about."""
    from ernie_deploy.stack.evidence import of_text

    if source == STDIN:
        return of_text(decoded(_end(sys.stdin.buffer))), Path()
    path = Path(source)
    if source and _is_file(path) and not _is_stack_file(path):
        return of_text(decoded(_read(path))), path.parent
    return _of_stack(source)


def _of_stack(source: str) -> "tuple[Evidence, Path]":
    from ernie_deploy.stack.inspection import evidence_of

    path = Path(source)
    file = path if _is_file(path) and source else stack_file(path) if path.is_dir() else None
    if file is None and (not source or path.is_dir() or "/" in source):
        raise UsageError(
            f"There is no compose file in {path}." if path.is_dir() else f"There is no {source}.",
            cause="without an argument, explain looks at the stack of this folder",
            next_step="name a log, or hand it over: docker logs CONTAINER 2>&1 | ernie-deploy explain -",
        )
    return evidence_of(file, source), file.parent if file else Path()


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


def _rendered(folder: Path) -> list[str] | None:
    """The words that rendered the compose file there; None where the kit did not."""
    from ernie_deploy.stack.rendered import words_of

    file = stack_file(folder)
    return words_of(file) if file else None
