"""`check`: what is wrong with any compose file that serves vLLM, and how to fix it."""

import difflib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ernie_deploy.commands.options import ids
from ernie_deploy.errors import CatalogError, CheckFailed, UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.check import Verdict
    from ernie_deploy.check.project import Project
    from ernie_deploy.plan.lock import Lock
    from ernie_deploy.stack.locking import Difference

EXAMPLE = """\b
Examples:
  ernie-deploy check
  ernie-deploy check -f compose.yml -f compose.gpu.yml --env-file prod.env
  ernie-deploy check compose.yml
  ernie-deploy check h100 mi300x
  ernie-deploy check start.sh README.md deployment.yaml
  ernie-deploy render cpu | ernie-deploy check -
  ernie-deploy check compose.yml --sarif > check.sarif

Without a FILE it judges the stack that `docker compose up` would start in this folder. Each FILE is a
stack of its own, with `.env` beside it; -f merges files as `docker compose -f` does. `docker run` and
`vllm serve` lines are read from scripts and READMEs, containers from Kubernetes manifests. Nothing that
a file names is run or fetched; only --online sends anything.

Exits 10 if there is an error, and 0 if there are only warnings or notes."""

STDIN = "-"
# Below this a line holds no sentence.
NARROWEST = 40


@click.command(epilog=EXAMPLE)
@click.argument("files", nargs=-1, metavar="[FILE|TARGET]...", shell_complete=ids("targets"))
@click.option(
    "-f", "--file", "merged", multiple=True, metavar="FILE", help="Merge this file over those before it."
)
@click.option("--env-file", "env_files", multiple=True, metavar="FILE", help="Read this instead of .env.")
@click.option("--profile", "profiles", multiple=True, metavar="NAME", help="Compose profile that is active.")
@click.option(
    "--online",
    is_flag=True,
    help="Ask the registries and the hub whether ernie.lock beside the stack is still current.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
@click.option("--sarif", is_flag=True, help="Print the findings as a SARIF 2.1.0 log.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Print what each service lacks line by line, with remedies."
)
@click.option("--list", "list_rules", is_flag=True, help="Print every rule with its remedy instead.")
def check(  # noqa: PLR0913, PLR0917 - click's signature
    files: tuple[str, ...],
    merged: tuple[str, ...],
    env_files: tuple[str, ...],
    profiles: tuple[str, ...],
    online: bool,
    as_json: bool,
    sarif: bool,
    verbose: bool,
    list_rules: bool,
) -> int:
    """Find faults in any compose file that serves vLLM; nothing is started."""
    if as_json and sarif:
        raise UsageError("--json and --sarif exclude each other.")
    if files and merged:
        raise UsageError("-f merges files into one stack, FILE is a stack of its own; give either.")
    if list_rules:
        return _list_rules(as_json=as_json)
    given = Given(files=files, merged=merged, env_files=env_files, profiles=profiles, online=online)
    return _judge(given, as_json=as_json, sarif=sarif, verbose=verbose)


def _list_rules(*, as_json: bool) -> int:
    from ernie_deploy.check import report, rules

    say(report.rules_as_json(rules()) if as_json else report.rules_as_text(rules()), as_json=as_json)
    return 0


class Given(NamedTuple):
    """What is to be judged, as the command line names it."""

    files: tuple[str, ...]
    merged: tuple[str, ...]
    env_files: tuple[str, ...]
    profiles: tuple[str, ...]
    online: bool = False


def _judge(given: Given, *, as_json: bool, sarif: bool, verbose: bool) -> int:
    from ernie_deploy import __version__
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.check import report, rules

    verdicts = list(_verdicts(given, Catalog()))
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    files = [file for verdict in verdicts for file in verdict.files]
    for remark in dict.fromkeys(remark for verdict in verdicts for remark in verdict.asides):
        say(remark, err=True)
    if sarif:
        say(report.as_sarif(findings, rules(), __version__), as_json=True)
    elif as_json:
        say(report.as_json(findings), as_json=True)
    else:
        width = max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)
        say(report.as_text(findings, files, verbose=verbose, width=width))
    return CheckFailed.exit_code if any(finding.severity == "error" for finding in findings) else 0


def _verdicts(given: Given, catalog: "Catalog") -> "Iterator[Verdict]":
    """A verdict for each stack; raises `KitError`."""
    from ernie_deploy.check import judge_project, judge_text
    from ernie_deploy.check.assemble import read_file
    from ernie_deploy.check.forms import form_of
    from ernie_deploy.check.project import of_file
    from ernie_deploy.safe_io.reading import HANDED_OVER

    ask = _asked if given.online else None
    if not given.files:
        yield judge_project(_project(given, os.environ), catalog, ask_compose=True, ask=ask)
    for name in dict.fromkeys(given.files):
        if name == STDIN or _is_target(name, catalog):
            yield _of_text(name, catalog)
        elif Path(name).is_dir():
            with chdir(name):
                yield judge_project(_project(given, os.environ), catalog, ask_compose=True, ask=ask)
        # What a shell hands over is gone once it is read.
        elif form_of(data := read_file(name), name) != "compose" or name.startswith(HANDED_OVER):
            yield judge_text(data, name, catalog)
        else:
            yield judge_project(
                of_file(name, given.env_files, given.profiles), catalog, ask_compose=True, ask=ask
            )


def _asked(lock: "Lock", file: Path) -> "Iterator[Difference]":
    """Where a lock no longer holds; raises `KitError` where nobody can be asked."""
    from ernie_deploy.commands.lock_state import sources_of_file
    from ernie_deploy.stack.locking import differences

    return differences(lock, sources_of_file(file))


def _project(given: Given, environ: Mapping[str, str]) -> "Project":
    """The stack of this folder; raises `UsageError` where there is none."""
    from ernie_deploy.check.project import here

    project = here(environ, files=given.merged, env_files=given.env_files, profiles=given.profiles)
    if project is None:
        raise UsageError(
            "There is nothing to check here: no compose.yaml, compose.yml or docker-compose.yml.",
            cause="neither this folder nor one above it has a stack, and COMPOSE_FILE names none",
            next_step="name a file, a target or - for standard input: ernie-deploy check FILE",
        )
    return project


def _of_text(name: str, catalog: "Catalog") -> "Verdict":
    """Standard input, or the default stack of the target `name`."""
    from ernie_deploy.check import judge_text
    from ernie_deploy.check.tree import MAX_BYTES

    data = sys.stdin.buffer.read(MAX_BYTES + 1) if name == STDIN else _rendered(name, catalog)
    return judge_text(data, name, catalog)


def _is_target(name: str, catalog: "Catalog") -> bool:
    """Whether a name that is no file is a target; raises `CatalogError` where it is neither."""
    if _exists(name):
        return False
    if name not in catalog.ids("targets"):
        raise _neither(name, catalog)
    return True


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
