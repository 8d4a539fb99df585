"""The committed set: one compose file a supported pair, their scripts and the .env.example, kept in step."""

import os
import shlex
from pathlib import Path

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import OutOfDate
from ernie_deploy.paths import says, write_all
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.render.checksum import MOST_BYTES, digest, is_unedited, with_checksum
from ernie_deploy.render.compose import compose_file
from ernie_deploy.render.folder import env_example
from ernie_deploy.render.scripts import scripts_of
from ernie_deploy.safe_io.reading import first_line, read_bounded

# What the scripts of the set were when they were written, in the form of sha256sum.
SUMS = "SHA256SUMS"


def requests(catalog: Catalog) -> list[Request]:
    """Each supported pair in its default form."""
    return [
        Request(target=target.id, model=model.id)
        for target in catalog.targets()
        for model in catalog.models()
        if catalog.support(model.id, target.id).state != "refused"
    ]


def files(catalog: Catalog) -> dict[str, str]:
    """File name -> text of every committed stack, and of the scripts that they share."""
    plans = [resolve(catalog, request) for request in requests(catalog)]
    stacks = {f"{plan.variant}.yml": compose_file(plan, catalog.defaults, "folder") for plan in plans}
    scripts = {name: text for plan in plans for name, text in scripts_of(plan).texts.items()}
    sums = "".join(f"{digest(text)}  {name}\n" for name, text in sorted(scripts.items()))
    return (
        stacks
        | {f"scripts/{name}": text for name, text in sorted(scripts.items())}
        | {f"scripts/{SUMS}": with_checksum(sums)}
    )


def is_ours(path: Path) -> bool:
    """Whether the kit wrote this file of the set and nobody edited it since; scripts are listed with their hash."""
    if path.suffix != ".py":
        return is_unedited(path)
    sums = path.with_name(SUMS)
    try:
        line = f"{digest(read_bounded(path, MOST_BYTES).decode())}  {path.name}\n"
        return is_unedited(sums) and line in read_bounded(sums, MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return False


class Place(Struct, frozen=True):
    """Where the set is: a folder of stacks, and the example of .env where one is kept too."""

    folder: Path
    env_example: Path | None = None

    def wanted(self, catalog: Catalog) -> dict[Path, str]:
        """Path -> text of each file of the set."""
        stacks = {self.folder / name: text for name, text in files(catalog).items()}
        return stacks | ({self.env_example: env_example(catalog)} if self.env_example else {})

    @property
    def command(self) -> str:
        """What renders the set again."""
        example = ["--env-example", str(self.env_example)] if self.env_example else []
        return shlex.join(["ernie-deploy", "render", "--all", "--out-dir", str(self.folder), *example])


def write(place: Place, wanted: dict[Path, str], *, force: bool = False) -> list[Path]:
    """Write the set and delete what no pair stands behind any more; return the edited ones of these, which are kept.

    Nothing is written where a file is in the way that the kit did not write, or that was edited since: that
    takes `force`, which deletes the edited ones too.
    """
    gone = [(orphan, is_ours(orphan)) for orphan in orphans(place.folder, wanted)]
    write_all(wanted, force=force, ours=is_ours)
    kept = []
    for orphan, ours in gone:
        if force or ours:
            orphan.unlink()
        else:
            kept.append(orphan)
    return kept


def differences(place: Place, wanted: dict[Path, str]) -> None:
    """Raise `OutOfDate` naming every file that is stale, missing or orphaned."""
    lines = [f"missing: {path}" for path in wanted if not os.path.lexists(path)]
    lines += [
        f"stale: {path}" for path, text in wanted.items() if os.path.lexists(path) and not says(path, text)
    ]
    lines += [f"orphaned: {path}" for path in orphans(place.folder, wanted)]
    if lines:
        raise OutOfDate(
            "\n".join(lines),
            cause="the catalog or a template changed and the files were not rendered again",
            next_step=place.command,
        )


def orphans(folder: Path, wanted: dict[Path, str]) -> list[Path]:
    """Files that an earlier set had: line 1 renders a pair's default form, and the name is that pair's; and scripts."""
    scripts = [path for path in sorted(folder.glob("scripts/*.py")) if path not in wanted and path.is_file()]
    paths = (path for path in sorted(folder.glob("*.yml")) if path not in wanted and path.is_file())
    return [*(path for path in paths if _name_of_pair(path) == path.name), *scripts]


def _name_of_pair(path: Path) -> str:
    try:
        words = first_line(path).split()
    except OSError:
        return ""
    # Its pair may be unknown by now, so the line is not parsed as a request.
    match words:
        case ["#", "ernie-deploy", "render", target, "--model", model]:
            return f"{model}-{target}.yml"
    return ""
