"""`reload`: a running gateway takes up its keys, certificate and configuration, and open streams go on."""

import json
from pathlib import Path

import click

from ernie_deploy.commands.options import COMPOSE_FILES, DRY_RUN, JSON, NAME
from ernie_deploy.safe_io.terminal import say

EXAMPLE = """\b
Example:
  ernie-deploy reload     # after an edit of gateway/keys.map, or a new certificate"""


@click.command(epilog=EXAMPLE)
@COMPOSE_FILES
@NAME
@DRY_RUN
@JSON
def reload(files: tuple[Path, ...], name: str, dry_run: bool, as_json: bool) -> None:
    """Make a running gateway load its keys and certificate; open streams continue."""
    from ernie_deploy.commands.gateway_of import every_kind, gateway_folder, reload_words, take_up
    from ernie_deploy.commands.stack_of import stack_of
    from ernie_deploy.gateway import key_file

    stack = stack_of(files, name)
    # Of a faulty line HAProxy would make a client less, and say nothing.
    key_file.read(gateway_folder(stack))
    if dry_run:
        say(reload_words(stack, *every_kind(stack)))
        return
    taken = take_up(stack, *every_kind(stack), must=True)
    if as_json:
        say(json.dumps({"file": str(stack.files[0]), "reloaded": taken}), as_json=True)
