"""`volumes`: what the stacks of this host keep, who uses it, and the safe way to remove it."""

import json
import sys

import click

from ernie_deploy.commands.options import DRY_RUN, JSON
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import confirm, say

EXAMPLE = """\b
Examples:
  ernie-deploy volumes
  ernie-deploy volumes remove ernie-engine-21b-nvidia-VERSION"""


@click.group(invoke_without_command=True, epilog=EXAMPLE)
@JSON
@DRY_RUN
@click.pass_context
def volumes(ctx: click.Context, as_json: bool, dry_run: bool) -> None:
    """List the stacks' volumes and who uses them; `remove` one that is not used."""
    if ctx.invoked_subcommand:
        return
    if dry_run:
        say("docker system df --verbose")
        return
    import msgspec

    from ernie_deploy.stack.containers import client
    from ernie_deploy.stack.volumes import as_text, list_volumes

    listed = list_volumes(client())
    text = as_text(listed) or "No stack of the kit has made a volume here."
    say(msgspec.json.encode(listed).decode() if as_json else text, as_json=as_json)


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from ernie_deploy.errors import KitError
    from ernie_deploy.stack.containers import client
    from ernie_deploy.stack.volumes import names

    try:
        return [name for name in names(client()) if name.startswith(incomplete)]
    except KitError:
        return []


@volumes.command(epilog="Example: ernie-deploy volumes remove ernie-hf-cache --yes")
@click.argument("name", metavar="NAME", shell_complete=_names)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@DRY_RUN
@JSON
def remove(name: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove a volume that no container uses; its contents are downloaded or compiled again."""
    if dry_run:
        import shlex

        say(shlex.join(["docker", "volume", "rm", name]))
        return
    from ernie_deploy.stack.containers import client
    from ernie_deploy.stack.volumes import remove as remove_volume
    from ernie_deploy.stack.volumes import require_free

    engine = client()
    require_free(engine, name)
    if not yes:
        _ask(name)
    remove_volume(engine, name)
    say(json.dumps({"name": name, "removed": True}) if as_json else f"{name} is removed", as_json=as_json)


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"{name} was not removed: there is no terminal to confirm on.",
            cause="standard input is not a terminal",
            next_step=f"ernie-deploy volumes remove {name} --yes",
        )
    confirm(f"Remove {name} and all it holds?")
