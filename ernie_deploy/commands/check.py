"""`check`: what is wrong with any compose file that serves vLLM, and how to fix it."""

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ernie_deploy.commands.options import ids
from ernie_deploy.errors import CatalogError, CheckFailed, UsageError
from ernie_deploy.safe_io.reading import read_head
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog

EXAMPLE = """\b
Examples:
  ernie-deploy check compose.yml
  ernie-deploy check h100 mi300x
  ernie-deploy render cpu | ernie-deploy check -
  ernie-deploy check compose.yml --sarif > check.sarif

Exits 10 if there is an error, and 0 if there are only warnings or notes."""

STDIN = "-"


@click.command(epilog=EXAMPLE)
@click.argument("files", nargs=-1, metavar="FILE|TARGET...", shell_complete=ids("targets"))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
@click.option("--sarif", is_flag=True, help="Print the findings as a SARIF 2.1.0 log.")
@click.option("--list", "list_rules", is_flag=True, help="Print every rule with its remedy instead.")
def check(files: tuple[str, ...], as_json: bool, sarif: bool, list_rules: bool) -> int:
    """Find faults in any compose file that serves vLLM; nothing is started."""
    if as_json and sarif:
        raise UsageError("--json and --sarif exclude each other.")
    if list_rules:
        return _list_rules(as_json=as_json)
    if not files:
        raise UsageError(
            "Nothing to check.", next_step="name compose files or targets, or - for standard input"
        )
    return _judge(files, as_json=as_json, sarif=sarif)


def _list_rules(*, as_json: bool) -> int:
    from ernie_deploy.check import report, rules

    say(report.rules_as_json(rules()) if as_json else report.rules_as_text(rules()), as_json=as_json)
    return 0


def _judge(files: tuple[str, ...], *, as_json: bool, sarif: bool) -> int:
    from ernie_deploy import __version__
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.check import judge, report, rules

    catalog = Catalog()
    texts = {name: _read(name, catalog) for name in files}
    findings = [finding for name, data in texts.items() for finding in judge(data, name, catalog)]
    if sarif:
        say(report.as_sarif(findings, rules(), __version__), as_json=True)
    else:
        say(report.as_json(findings) if as_json else report.as_text(findings, files), as_json=as_json)
    return CheckFailed.exit_code if any(finding.severity == "error" for finding in findings) else 0


def _read(name: str, catalog: "Catalog") -> bytes:
    """The file `name`, or the default stack of the target `name`; raises `KitError`."""
    from ernie_deploy.check.tree import MAX_BYTES

    if name == STDIN:
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    if not _exists(name):
        if name not in catalog.ids("targets"):
            raise _neither(name, catalog)
        return _rendered(name, catalog)
    try:
        return read_head(Path(name), MAX_BYTES + 1)
    except OSError as fault:
        raise UsageError(f"{name}:1: the file cannot be read: {fault.strerror}.") from fault


def _exists(name: str) -> bool:
    try:
        return Path(name).exists() or Path(name).is_symlink()
    except (OSError, ValueError):  # longer than any path, or with a NUL
        return False


def _rendered(target: str, catalog: "Catalog") -> bytes:
    from ernie_deploy.plan.request import Request
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.compose import compose_file

    return compose_file(resolve(catalog, Request(target=target)), catalog.defaults).encode()


def _neither(name: str, catalog: "Catalog") -> CatalogError:
    from ernie_deploy.check.values import shown

    known = [*catalog.ids("targets"), *(path.name for path in sorted(Path().glob("*.y*ml")))]
    near = difflib.get_close_matches(name[:200], known, n=3)
    return CatalogError(
        f"There is no file and no target {shown(name)!r}.",
        cause=f"did you mean {' or '.join(near)}?" if near else "the path is wrong, or the target's name",
        next_step="list the targets with: ernie-deploy targets",
    )
