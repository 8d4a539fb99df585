"""`init`: a folder that holds a stack, ready for `docker compose up`."""

from pathlib import Path
from typing import Any

import click

from ernie_deploy.commands.options import request_of, request_options
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.redaction import redacted
from ernie_deploy.safe_io.terminal import say

EXAMPLE = """\b
Examples:
  ernie-deploy init my-ernie mi300x
  ernie-deploy init my-ernie h100 --model 300b --env PORT=9000"""


@click.command(epilog=EXAMPLE)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--env", "values", multiple=True, metavar="NAME=VALUE", help="Set a variable in .env.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@request_options
def init(folder: Path, values: tuple[str, ...], force: bool, **options: Any) -> None:
    """Make a folder with compose.yml, .env and a README of the stack."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.paths import write_all
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.folder import files

    catalog = Catalog()
    plan = resolve(catalog, request_of(options))
    for sentence in plan.warnings:
        say(f"warning: {sentence}", err=True)
    made = files(plan, catalog, dict(_pair(value) for value in values))
    write_all({folder / name: text for name, text in made.items()}, force=force, private=[folder / ".env"])
    say(f"wrote {', '.join(made)} to {folder}", err=True)
    say(f"next: cd {folder} && docker compose up -d --wait", err=True)


def _pair(value: str) -> tuple[str, str]:
    name, equals, said = value.partition("=")
    if not equals:
        raise UsageError(f"--env {redacted(value)[:40]!r} is not NAME=VALUE.")
    return name, said
