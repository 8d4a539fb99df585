"""`doctor`: what this host has against what a stack needs, and the command that mends each lack."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.options import request_options

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.request import Request

EXAMPLE = """\b
Examples:
  ernie-deploy doctor
  ernie-deploy doctor mi300x --user 2000:2000 --write-env
  ernie-deploy doctor h100 --model 300b --json

Without TARGET it says what the host looks like. Exits 0 without an error, 6 where Docker or
Compose is missing or too old, 1 with any other error."""


@click.command(epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--write-env", is_flag=True, help="Put the host's own values, such as RENDER_GID, into --env-file."
)
@click.option("--env-file", type=click.Path(path_type=Path, dir_okay=False), default=Path(".env"), show_default=True,
              help="The stack's settings.")  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="Print the commands and files that tell about a host, and ask none."
)
@request_options
def doctor(as_json: bool, write_env: bool, env_file: Path, dry_run: bool, **options: Any) -> int:
    """Compare this host with what a stack needs, and say what to do."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.request import Request

    catalog, request = Catalog(), Request(**options)
    if dry_run:
        click.echo(_dry_run(catalog, request, as_json=as_json))
        return 0
    return _examine(catalog, request, env_file, as_json=as_json, write=write_env)


def _examine(catalog: "Catalog", request: "Request", env_file: Path, *, as_json: bool, write: bool) -> int:
    from ernie_deploy.host import examine, findings
    from ernie_deploy.host.probes import LocalHost

    text = examine.read_env(env_file)
    subject = examine.meet(LocalHost(), catalog, request)
    if write:
        _tell(examine.write_env(subject, env_file, os.environ), env_file)
        text = examine.read_env(env_file)
    report = examine.judge(subject, text, os.environ)
    click.echo(findings.as_json(report) if as_json else findings.as_text(report))
    return report.exit_code


def _tell(written: dict[str, str], env_file: Path) -> None:
    said = ", ".join(f"{name}={value}" for name, value in written.items())
    click.echo(f"wrote {said} to {env_file}" if said else f"{env_file} needs nothing of this host", err=True)


def _dry_run(catalog: "Catalog", request: "Request", *, as_json: bool) -> str:
    """What would be asked, as a script that can be run by hand."""
    from ernie_deploy.host.probes import READS, commands
    from ernie_deploy.plan import resolve

    vendor = resolve(catalog, request).target.vendor if request.target else None
    asked = list(commands(vendor).values())
    if as_json:
        return json.dumps({"commands": asked, "reads": READS}, indent=2)
    return "\n".join([*map(shlex.join, asked), *(f"# reads {path}" for path in READS)])
