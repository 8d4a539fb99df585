"""`doctor`: what this host has against what a stack needs, and the command that mends each lack."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.options import AUTO, refuse_path_of_key, request_options
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say, say_coloured

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.request import Request

EXAMPLE = """\b
Examples:
  ernie-deploy doctor
  ernie-deploy doctor mi300x --user 2000:2000 --write-env
  ernie-deploy doctor h100 --model 300b --json
  ernie-deploy doctor h100 --model 300b --nodes 2 --write-env --node-rank 1 --head 10.0.0.4

Without TARGET it describes the host. Exits 0 if there is no error, 6 if
Docker or Compose is missing or too old, and 1 for any other error."""


@click.command(epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--write-env", is_flag=True, help="Write this host's values, such as RENDER_GID, to --env-file."
)
@click.option("--env-file", type=click.Path(path_type=Path, dir_okay=False), default=Path(".env"), show_default=True,
              help="The stack's settings.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what doctor would run and read, and do neither.")
@click.option("--node-rank", type=click.IntRange(min=0), metavar="R",
              help="With --nodes: rank of this node, 0 on the head.")  # fmt: skip
@click.option("--head", default="", metavar="ADDR", help="With --nodes: address of the head.")
@request_options
def doctor(  # noqa: PLR0913, PLR0917 - click's signature
    as_json: bool,
    write_env: bool,
    env_file: Path,
    dry_run: bool,
    node_rank: int | None,
    head: str,
    **options: Any,
) -> int:
    """Compare this host with what a stack needs, and say what to do."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.request import Request

    refuse_path_of_key(options)
    target = "" if options["target"] == AUTO else options["target"]
    catalog, request = Catalog(), Request(**{**options, "target": target})
    place = _place(request, node_rank, head)
    if dry_run:
        say(_dry_run(catalog, request, head or "ADDR", as_json=as_json), as_json=as_json)
        return 0
    return _examine(catalog, request, env_file, place, as_json=as_json, write=write_env)


def _place(request: "Request", node_rank: int | None, head: str) -> dict[str, str]:
    """This node's place among several, as .env names it; what is not said is left to .env."""
    place = {"NODE_RANK": "" if node_rank is None else f"{node_rank}", "HEAD_ADDR": head}
    node_settings = {name: value for name, value in place.items() if value}
    if node_settings and request.nodes == 1:
        raise UsageError(
            "--node-rank and --head are about more than one node.",
            next_step="add --nodes 2, or leave them out",
        )
    return node_settings


def _examine(  # noqa: PLR0913 - the options of the command
    catalog: "Catalog",
    request: "Request",
    env_file: Path,
    place: dict[str, str],
    *,
    as_json: bool,
    write: bool,
) -> int:
    from ernie_deploy.host import examine, findings
    from ernie_deploy.host.probes import LocalHost

    text, environ = examine.read_env(env_file), {**os.environ, **place}
    subject = examine.inspect(LocalHost(), catalog, request)
    if write:
        _tell(examine.write_env(subject, env_file, environ), env_file)
        text = examine.read_env(env_file)
    report = examine.judge(subject, text, environ, env_file.parent)
    if as_json:
        say(findings.as_json(report), as_json=True)
    else:
        say_coloured(findings.as_text(report), findings.COLOURS)
    return report.exit_code


def _tell(written: dict[str, str], env_file: Path) -> None:
    written_pairs = ", ".join(f"{name}={value}" for name, value in written.items())
    say(
        f"wrote {written_pairs} to {env_file}"
        if written_pairs
        else f"{env_file} is already right for this host",
        err=True,
    )


def _dry_run(catalog: "Catalog", request: "Request", head: str, *, as_json: bool) -> str:
    """What would be asked, as a script that can be run by hand."""
    from ernie_deploy.host.probes import ADDRESSES, READS, commands, index_of, route_to
    from ernie_deploy.plan.request import beyond_loopback
    from ernie_deploy.plan.resolve import resolve

    plan = resolve(catalog, request) if request.target else None
    asked = list(commands(plan.target.vendor if plan else None).values())
    if plan and plan.packages:
        asked.append(index_of([package.requirement for package in plan.packages]))
    if request.nodes > 1:
        asked += [route_to(head), ADDRESSES]
    if beyond_loopback(request.bind):
        asked.append(ADDRESSES)
    if as_json:
        return json.dumps({"commands": asked, "reads": READS}, indent=2)
    return "\n".join([*map(shlex.join, asked), *(f"# reads {path}" for path in READS)])
