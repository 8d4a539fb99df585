"""`logs` and `down`: Docker Compose's own, with its options; volumes that stacks share are spared."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.options import COMPOSE_FILES, DRY_RUN, JSON, NAME, REMOVE_ORPHANS
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack

# A server may drain for an hour before it ends.
DOWN_S = 2 * 3600


@click.command(epilog="Example: ernie-deploy down --volumes")
@COMPOSE_FILES
@NAME
@click.option(
    "-v",
    "--volumes",
    is_flag=True,
    help="Remove the stack's own volumes too; for shared ones see `ernie-deploy volumes`.",
)
@click.option(
    "-t",
    "--timeout",
    type=click.IntRange(min=0),
    metavar="S",
    help="Kill containers that have not stopped after this many seconds.",
)
@REMOVE_ORPHANS
@DRY_RUN
@JSON
def down(
    files: tuple[Path, ...], name: str, volumes: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Stop a stack; its weights stay on their volume."""
    from ernie_deploy.commands.stack_of import stack_of
    from ernie_deploy.stack.compose import demand, require_compose

    stack = stack_of(files, name)
    own = _own_volumes(stack) if volumes else []
    # With --force none is missed: a stack that never started has made none.
    commands = [
        stack.down(*compose_words(options)),
        *([["docker", "volume", "rm", "--force", *own]] if own else []),
    ]
    if not as_json or dry_run:
        for words in commands:
            _run(words, dry_run=dry_run)
        return
    require_compose()
    for words in commands:
        demand(words, timeout_s=DOWN_S)
    say(json.dumps({"file": str(stack.files[0]), "down": True, "volumes_removed": own}), as_json=True)


def _own_volumes(stack: "Stack") -> list[str]:
    from ernie_deploy.stack.lifecycle import own_volumes, resolve

    return own_volumes(resolve(stack))


@click.command(epilog="Example: ernie-deploy logs -f serve")
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="The stack's compose file.  [default: those that Compose takes here]")  # fmt: skip
@NAME
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n", "--tail", default="all", show_default=True, metavar="N", help="Print only the last N lines."
)
@click.option("-t", "--timestamps", is_flag=True, help="Print the time of each line.")
@click.option("--since", metavar="TIME", help="Print newer lines only, such as 10m or 2026-01-02T13:23:37Z.")
@click.option("--until", metavar="TIME", help="Print older lines only.")
@click.option("--no-log-prefix", is_flag=True, help="Print lines without the container's name.")
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.argument("services", nargs=-1)
def logs(  # noqa: PLR0913, PLR0917 - its options
    files: tuple[Path, ...],
    name: str,
    follow: bool,
    tail: str,
    dry_run: bool,
    as_json: bool,
    services: tuple[str, ...],
    **options: Any,
) -> None:
    """Print the logs of a stack's containers."""
    from ernie_deploy.commands.stack_of import stack_of

    words = stack_of(files, name).logs(*services, follow=follow, tail=tail, options=compose_words(options))
    if dry_run:
        print_commands(words)
    else:
        _print_log(words, as_json=as_json)


def compose_words(options: Mapping[str, Any]) -> list[str]:
    """Options of Compose's own as it takes them; those that were not given are left out."""
    named = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    given = [(name, value) for name, value in named if value is not None and value is not False]
    return [word for name, value in given for word in ([name] if value is True else [name, str(value)])]


def _print_log(words: list[str], *, as_json: bool) -> None:
    """Compose's `serve-1  | text` line by line, cleaned: a container prints what its clients wrote."""
    from ernie_deploy.errors import ToolFailed
    from ernie_deploy.stack.compose import lines_of, require_compose, started

    require_compose()
    with started(words) as process:
        for line in lines_of(process):
            say(_log_object(line) if as_json else line, as_json=as_json)
    if process.returncode:
        raise ToolFailed(f"docker compose ended with {process.returncode}.")


def _log_object(line: str) -> str:
    name, bar, text = line.partition("|")
    entry = {"container": name.strip(), "line": text.removeprefix(" ")} if bar else {"line": name}
    return json.dumps(entry, ensure_ascii=False)


def _run(words: list[str], *, dry_run: bool) -> None:
    if dry_run:
        print_commands(words)
        return
    from ernie_deploy.errors import ToolFailed
    from ernie_deploy.stack.compose import relay, require_compose

    require_compose()
    if code := relay(words):
        raise ToolFailed(f"docker compose ended with {code}.")


def print_commands(*commands: list[str]) -> None:
    """Each command on a line of its own, as a shell takes it; an empty one is none."""
    import shlex

    for words in filter(None, commands):
        say(shlex.join(words))
