"""What the words of `diff` name: a file, a folder, standard input, or a plan in the words of `render`."""

import shlex
import sys
from contextlib import chdir, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.plan.request import Request, command_words
from ernie_deploy.stack.rendered import RENDERED

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.diff.side import Side
    from ernie_deploy.plan.plan import Plan

STDIN = "-"
PROGRAM = (["ernie-deploy", "render"], ["ernie-deploy", "plan"], ["render"], ["plan"])


class Operand(Struct, frozen=True):
    """One side as it was named; `request` is that of a plan, or of a file's first line.

    `data` is the text of the first file, or of standard input; a plan has neither files nor data.
    """

    label: str
    files: tuple[str, ...] = ()
    data: bytes | None = None
    request: Request | None = None
    env: dict[str, str] = {}

    @property
    def text(self) -> str:
        """The first file's text."""
        return (self.data or b"").decode(errors="replace")

    @property
    def folder(self) -> Path:
        """Where its first file lies; this folder for standard input and for a plan."""
        return Path(self.files[0]).parent if self.files else Path()

    @property
    def head(self) -> str:
        """Its first line, where that is the kit's; else empty."""
        line = self.text.partition("\n")[0].rstrip("\r")
        return line if line.startswith(RENDERED) else ""

    @property
    def in_folder(self) -> bool:
        """Whether its scripts lie beside it, as `init` makes it."""
        return "./scripts:/scripts/" in self.text

    @property
    def is_manifests(self) -> bool:
        """Whether it is for Kubernetes."""
        from ernie_deploy.check.forms import form_of

        return form_of(self.data or b"", self.files[0] if self.files else STDIN) == "kubernetes"

    @property
    def is_plan(self) -> bool:
        """Whether it is a target with options."""
        return self.data is None


def operand_of(word: str, catalog: "Catalog") -> Operand:
    """The file, folder or plan that a word names; raises `KitError`, and click's errors for a plan's options."""
    if word == STDIN:
        return _of_data(sys.stdin.buffer.read(_most() + 1), "standard input")
    if _exists(word):
        return _of_folder(word) if Path(word).is_dir() else _of_file(word)
    words = _plan_words(word)
    if not words or catalog.id_of("targets", words[0]) not in catalog.ids("targets"):
        raise _neither(word, catalog)
    return Operand(label=word, request=request_of_words(words))


def request_of_words(words: list[str]) -> Request:
    """The request in the words of `render`."""
    from ernie_deploy.commands.header import request_of_header

    return request_of_header(RENDERED + shlex.join(words))


def label_of(request: Request) -> str:
    """The words that ask for it."""
    return shlex.join(command_words(request))


def side_of_operand(operand: Operand, catalog: "Catalog", other_side: Operand | None = None) -> "Side":
    """The operand by meaning; a plan is rendered as the other side is, and read under its `.env`."""
    from ernie_deploy.diff import scripts
    from ernie_deploy.diff.side import of_files, side_of

    plan = plan_of(operand.request, catalog) if operand.request else None
    if operand.is_plan and operand.request:
        return rendered_side(operand.request, operand.label, catalog, other_side or operand)
    if operand.files and not _is_other_form(operand):
        side = of_files(operand.files, operand.label, catalog, operand.env, plan)
        return side.with_facts(scripts.of_folder(operand.folder)) if operand.in_folder else side
    name = operand.files[0] if operand.files else STDIN
    return side_of(operand.data or b"", operand.label, catalog, name=name, env=operand.env, plan=plan)


def rendered_side(request: Request, label: str, catalog: "Catalog", other_side: Operand) -> "Side":
    """What the kit writes for a request today, in the form and under the `.env` of another side."""
    from ernie_deploy.plan.resolve import resolve

    plan = resolve(catalog, request)
    return written(plan, text_of(plan, catalog, other_side), label, catalog, other_side)


def written(plan: "Plan", text: str, label: str, catalog: "Catalog", other_side: Operand) -> "Side":
    """A plan by its text, with the scripts that belong to it in a folder."""
    from ernie_deploy.diff import scripts
    from ernie_deploy.diff.side import side_of

    side = side_of(text, label, catalog, env=other_side.env, plan=plan)
    return side.with_facts(scripts.of_plan(plan)) if other_side.in_folder else side


def text_of(plan: "Plan", catalog: "Catalog", other_side: Operand) -> str:
    """A plan written down as another side is: as manifests, or as a compose file, alone or with its scripts beside it."""
    from ernie_deploy.render.compose import compose_file

    if not other_side.is_plan and other_side.is_manifests:
        from ernie_deploy.render.kubernetes import manifests

        return manifests(plan, catalog.defaults)
    return compose_file(plan, catalog.defaults, "folder" if other_side.in_folder else "fetch")


def plan_of(request: Request, catalog: "Catalog") -> "Plan | None":
    """The plan of a file's first line; None where today's kit refuses it."""
    from ernie_deploy.plan.resolve import resolve

    with suppress(KitError):
        return resolve(catalog, request)
    return None


def _is_other_form(operand: Operand) -> bool:
    from ernie_deploy.check.forms import form_of

    return form_of(operand.data or b"", operand.files[0]) != "compose"


def _most() -> int:
    from ernie_deploy.check.tree import MAX_BYTES

    return MAX_BYTES


def _exists(word: str) -> bool:
    try:
        return Path(word).exists() or Path(word).is_symlink()
    except (OSError, ValueError):  # longer than any path, or with a NUL
        return False


def _of_file(word: str) -> Operand:
    from ernie_deploy.check.assemble import read_file
    from ernie_deploy.check.project import of_file

    project = of_file(word)
    data = read_file(word)
    return _of_data(data, word, project.files, dict(project.variables.values))


def _of_folder(word: str) -> Operand:
    """The stack that Compose takes in a folder: an override beside it too, or COMPOSE_FILE of its `.env`."""
    from ernie_deploy.check.assemble import read_file
    from ernie_deploy.check.project import here

    with chdir(word):
        project = here({})
    if project is None or project.files[0].startswith(".."):
        raise UsageError(
            f"There is no compose file in {word}.",
            next_step="name a file, or make a stack with: ernie-deploy init FOLDER TARGET",
        )
    files = tuple(str(Path(word, name)) for name in project.files)
    label = files[0] if word == "." else word
    return _of_data(read_file(files[0]), label, files, dict(project.variables.values))


def _of_data(
    data: bytes, label: str, files: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> Operand:
    operand = Operand(label=label, files=files, data=data, env=env or {})
    with suppress(click.ClickException, KitError, ValueError):
        return replace(operand, request=request_of_head(operand))
    return operand


def request_of_head(operand: Operand) -> Request | None:
    """What the first line of a file asks for, with the lock that it names; raises what is wrong with either."""
    from ernie_deploy.commands.header import request_of_header

    return request_of_header(operand.head, operand.folder) if operand.head else None


def _plan_words(word: str) -> list[str]:
    try:
        words = shlex.split(word)
    except ValueError:
        return []
    start = next((len(begun) for begun in PROGRAM if words[: len(begun)] == begun), 0)
    return words[start:]


def _neither(word: str, catalog: "Catalog") -> KitError:
    from ernie_deploy.check.values import shown
    from ernie_deploy.errors import CatalogError

    return CatalogError(
        f"There is no file, no folder, no target and no engine {shown(word)!r}.",
        cause=f"targets are {', '.join(catalog.ids('targets'))}; engines are {', '.join(catalog.ids('engines'))}",
        next_step='name a file, or a target with its options in quotes: ernie-deploy diff h100 "h100 --profile mtp"',
    )
