"""`diff`: two stacks, or two vLLM versions, compared by what they mean."""

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ernie_deploy.commands.options import JSON, id_of, ids
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say, say_coloured

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.commands.diff_operand import Operand
    from ernie_deploy.diff import Differences

EXAMPLE = """\b
Examples:
  ernie-deploy diff compose.yml            # with what its first line renders today
  ernie-deploy diff h100 "h100 --profile mtp"
  ernie-deploy diff my-ernie other-ernie
  ernie-deploy diff compose.yml --engine VERSION
  ernie-deploy diff VERSION VERSION        # two engines, for every stack

A and B are files, folders, - for standard input, targets with their options in quotes, or engines. Values
of .env beside a file count, those of the shell do not. Nothing is started or fetched.

Exits 0 if both mean the same, and 1 if they differ."""

DIFFERENT = 1


def _operands(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Targets and engines that begin so, else files."""
    from ernie_deploy.catalog import Catalog

    catalog = Catalog()
    names = [
        name for noun in ("targets", "engines") for name in catalog.ids(noun) if name.startswith(incomplete)
    ]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


@click.command(epilog=EXAMPLE)
@click.argument("old", default=".", metavar="[A]", shell_complete=_operands)
@click.argument("new", default="", metavar="[B]", shell_complete=_operands)
@click.option(
    "--engine", default="", metavar="VERSION", callback=id_of("engines"), shell_complete=ids("engines"),
    help="Compare A with the same stack on this vLLM.",
)  # fmt: skip
@JSON
def diff(old: str, new: str, engine: str, as_json: bool) -> int:
    """Compare two stacks, plans or engines by what they mean."""
    from ernie_deploy.catalog import Catalog

    catalog = Catalog()
    if new and engine:
        raise UsageError("--engine goes with one operand: B is then A on that vLLM.", next_step="leave out B")
    return _show(_differences(old, new, engine, catalog), as_json=as_json)


def _differences(old: str, new: str, engine: str, catalog: "Catalog") -> "Differences":
    from ernie_deploy.commands.diff_operand import operand_of

    versions = [catalog.id_of("engines", word) in catalog.ids("engines") for word in (old, new)]
    if all(versions):
        from ernie_deploy.diff.engines import compare_engines

        return compare_engines(catalog, catalog.id_of("engines", old), catalog.id_of("engines", new))
    one = operand_of(old, catalog)
    if not new or versions[1]:
        return _with_itself(one, engine or catalog.id_of("engines", new), catalog)
    return _of_two(one, operand_of(new, catalog), catalog)


def _of_two(one: "Operand", other: "Operand", catalog: "Catalog") -> "Differences":
    from ernie_deploy.commands.diff_operand import side_of_operand
    from ernie_deploy.diff.compare import compare

    return compare(side_of_operand(one, catalog, other), side_of_operand(other, catalog, one))


def _with_itself(one: "Operand", engine: str, catalog: "Catalog") -> "Differences":
    """A file against what its first line renders today, or a plan against itself on another vLLM."""
    from msgspec.structs import replace

    from ernie_deploy.commands.diff_operand import Operand, label_of, request_of_head
    from ernie_deploy.commands.diff_own import own_differences

    if (asked := one.request or request_of_head(one)) is None:
        raise UsageError(
            f"{one.label} does not begin with a line `# ernie-deploy render ...`.",
            cause="with one operand, a file is compared with what that line renders today",
            next_step=f'name what to compare with: ernie-deploy diff {one.label} "TARGET --model MODEL"',
        )
    another = engine and engine != catalog.engine(asked.engine).version
    # A lock holds the images of its own engine.
    request = replace(asked, engine=engine, lock=None) if another else asked
    if one.is_plan:
        if not engine:
            raise UsageError(
                f"diff needs something to compare {one.label} with.",
                next_step=f"name a second operand, or --engine: ernie-deploy diff {one.label} --engine VERSION",
            )
        return _of_two(one, Operand(label=label_of(request), request=request), catalog)
    return own_differences(one, request, catalog)


def _show(differences: "Differences", *, as_json: bool) -> int:
    from ernie_deploy.diff import report

    if as_json:
        say(report.as_json(differences), as_json=True)
    else:
        say_coloured(report.as_text(differences), report.COLOURS)
    return 0 if differences.equal else DIFFERENT
