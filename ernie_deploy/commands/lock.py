"""`lock`: writes down what the tags and branches of a stack are today, and says what moved since."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ernie_deploy.errors import KitError, OutOfDate, ToolFailed, UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.plan.lock import Lock
    from ernie_deploy.plan.plan import Plan
    from ernie_deploy.stack.locking import Difference, Sources

EXAMPLE = """\b
Examples:
  ernie-deploy lock                 # the stack of this folder
  ernie-deploy lock my/compose.yml --check
  ernie-deploy lock --upgrade

Asks the registries for the digest of each image, through the Docker engine and with your logins, and the hub for the
commit of the model and its files; nothing is pulled. With --check it exits 5 if something moved, 1 if nobody answers."""


@click.command(epilog=EXAMPLE)
@click.argument("source", default="", metavar="[FOLDER|FILE]", type=click.Path())
@click.option("--upgrade", is_flag=True, help="Resolve everything again, and say what moved.")
@click.option("--check", "check_only", is_flag=True, help="Write nothing; say what moved since.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def lock(source: str, upgrade: bool, check_only: bool, as_json: bool) -> None:
    """Pin a stack's images by digest and its model by commit, in ernie.lock beside it."""
    from ernie_deploy.stack.rendered import lock_path

    if upgrade and check_only:
        raise UsageError("--upgrade writes the lock, and --check writes nothing: give either.")
    file = _file_of(source)
    path, plan = lock_path(file), _plan_of(file)
    sources = sources_of(plan.request.registry, file.parent)
    if check_only:
        _check(path, sources, as_json=as_json)
    else:
        _write(path, file, plan, sources, upgrade=upgrade, as_json=as_json)


def _file_of(source: str) -> Path:
    """The compose file that is meant; raises `UsageError` where there is none."""
    from ernie_deploy.commands.explain import stack_file

    path = Path(source or ".")
    file = stack_file(path) if path.is_dir() else path
    if file is None or not file.is_file():
        raise UsageError(
            f"There is no compose file in {path}." if path.is_dir() else f"There is no {path}.",
            next_step="make one with: ernie-deploy render TARGET -o compose.yml",
        )
    return file


def _plan_of(file: Path) -> "Plan":
    """What rendered the file, without a lock; raises `UsageError` where the kit did not."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.commands.header import request_of_header
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.safe_io.reading import first_line
    from ernie_deploy.stack.rendered import RENDERED

    try:
        head = first_line(file)
        request = request_of_header(head, file.parent, locked=False) if head.startswith(RENDERED) else None
    except (OSError, click.ClickException, ValueError) as fault:
        raise _unreadable(file, str(getattr(fault, "strerror", None) or fault)) from fault
    if request is None:
        raise _unreadable(file, "it begins with no command of the kit's")
    return resolve(Catalog(), request)


def _unreadable(file: Path, cause: str) -> UsageError:
    return UsageError(
        f"What rendered {file} cannot be read from its first line.",
        cause=cause[:200],
        next_step="make one of the kit's with: ernie-deploy render TARGET -o compose.yml",
    )


def sources_of(registry: str, folder: Path) -> "Sources":
    """Who is asked about a stack in a folder, with the variables of its .env; raises `KitError`.

    `registry` is the mirror that the stack was rendered for, which IMAGE_REGISTRY moves.
    """
    import os

    from ernie_deploy.host.examine import read_env
    from ernie_deploy.host.settings import decided
    from ernie_deploy.stack.containers import client
    from ernie_deploy.stack.hub import hub_of
    from ernie_deploy.stack.locking import Sources

    values = decided(read_env(folder / ".env"), os.environ)
    here = values.get("IMAGE_REGISTRY")

    def place(image: str) -> str:
        moved = registry and here and image.startswith(f"{registry}/")
        return f"{here}{image.removeprefix(registry)}" if moved else image

    return Sources(engine=client(), hub=hub_of(values, folder), place=place)


def _write(  # noqa: PLR0913 - click's options
    path: Path, file: Path, plan: "Plan", sources: "Sources", *, upgrade: bool, as_json: bool
) -> None:
    from ernie_deploy.paths import write_whole
    from ernie_deploy.plan.lock import text_of
    from ernie_deploy.stack.locking import made, moves

    before = _before(path, forgive=upgrade)
    after = made(plan, sources, None if upgrade else before)
    write_whole(path, text_of(after), force=True)
    moved = moves(before, after) if before else []
    if as_json:
        import msgspec

        say(json.dumps({"lock": msgspec.to_builtins(after), "moved": moved}, indent=2), as_json=True)
        return
    for line in moved if before else _held(after):
        say(f"{'moved ' if before else 'locked'}  {line}")
    unmoved = before is not None and not moved
    say(f"{path} is as it was" if unmoved else f"wrote {path}", err=True)
    if step := _next_step(file, plan, after):
        say(f"next: {step}", err=True)


def _before(path: Path, *, forgive: bool) -> "Lock | None":
    """The lock that is there; one that is damaged is none where it is made anew."""
    from ernie_deploy.plan.lock import read_lock

    if not path.exists():
        return None
    try:
        return read_lock(path)
    except UsageError:
        if forgive:
            return None
        raise


def _held(lock: "Lock") -> list[str]:
    from ernie_deploy.plan.lock import short

    lines = [f"{image} at {short(digest)}" for image, digest in sorted(lock.images.items())]
    for hf_id, model in sorted(lock.models.items()):
        size = sum(file.size for file in model.files.values()) / 1e9
        names = ", ".join(model.revisions)
        lines.append(
            f"{hf_id}{f' {names}' if names else ''} at {short(model.commit)}: {len(model.files)} files, {size:.1f} GB"
        )
    return lines


def _next_step(file: Path, plan: "Plan", lock: "Lock") -> str:
    """The command that brings the lock into the file and keeps its edits; empty where all that it pins stands there."""
    import shlex

    from ernie_deploy.render.folder import is_of_folder
    from ernie_deploy.safe_io.reading import read_bounded

    text = read_bounded(file).decode("utf-8", "replace")
    pins = [*lock.images.values(), *(model.commit for model in lock.models.values())]
    if all(pin in text for pin in pins):
        return ""
    engine = ["--engine", plan.engine] if plan.request.engine else []
    return shlex.join(["ernie-deploy", "upgrade", str(file.parent if is_of_folder(file) else file), *engine])


def _check(path: Path, sources: "Sources", *, as_json: bool) -> None:
    """Say what moved; raises `OutOfDate` where something did, `ToolFailed` where somebody did not answer."""
    import msgspec

    from ernie_deploy.plan.lock import read_lock
    from ernie_deploy.stack.locking import differences

    lock = read_lock(path)
    found = list(differences(lock, sources))
    if as_json:
        say(json.dumps(msgspec.to_builtins(found), indent=2), as_json=True)
    else:
        for one in found:
            say(one.sentence)
    if fault := _fault(path, found):
        raise fault
    say(f"{path} holds: each image and the model are what they were", err=True)


def _fault(path: Path, found: "list[Difference]") -> KitError | None:
    kinds = {one.kind for one in found}
    if kinds & {"moved", "gone"}:
        return OutOfDate(
            f"{path} no longer says what tags and branches are.",
            cause="something else was published under the same name",
            next_step="the locked stack still starts unchanged; ernie-deploy lock --upgrade takes what is there now",
        )
    if "unasked" in kinds:
        return ToolFailed(
            f"{path} could not be compared in whole.",
            cause="a registry or the hub did not answer",
            next_step="repeat it where both can be reached",
        )
    return None
