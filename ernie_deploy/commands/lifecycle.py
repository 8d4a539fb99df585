"""`up`, `down`, `logs`: Docker Compose with a live view, and causes instead of stack traces."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.options import given_request_options, request_of, request_options
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.plan.request import Request
    from ernie_deploy.stack.compose import Stack

FILE = click.option(
    "-f", "--file", type=click.Path(path_type=Path), default=Path("compose.yml"), show_default=True,
    help="The stack's compose file.",
)  # fmt: skip
NAME = click.option(
    "-p", "--name", default="", metavar="NAME", help="The stack's name, if not the one in the file."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the exact commands and run none.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
# A download may take hours; loading has its own limit, which the health check knows.
WAIT_TIMEOUT_S = 6 * 3600
# A server may drain for an hour before it ends.
DOWN_S = 2 * 3600

UP_EXAMPLE = """\b
Examples:
  ernie-deploy up                     # the compose.yml of this folder
  ernie-deploy up mi300x              # render it here first
  ernie-deploy up my/compose.yml --dry-run"""


@click.command(epilog=UP_EXAMPLE)
@click.option("--wait-timeout", type=click.IntRange(min=1), default=WAIT_TIMEOUT_S, show_default=True, metavar="S",
              help="Give up after this many seconds, including the download.")  # fmt: skip
@click.option("--no-preflight", is_flag=True, help="Start without doctor's checks of this host.")
@DRY_RUN
@JSON
@request_options
def up(wait_timeout: int, no_preflight: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Start a stack with a live view, and name the cause if it fails."""
    from ernie_deploy.commands.node import profiles
    from ernie_deploy.plan.request import command_words
    from ernie_deploy.stack.compose import Stack

    file, request = _asked_for(options)
    renders = bool(request and not _is_file(options["target"]))
    named = options["name"] if not renders else ""
    request = _named(request, named)
    stack = Stack(files=(file,), project=named, profiles=profiles(request, file.parent))
    if dry_run:
        words = command_words(request) if request else []
        _print_commands(
            ["ernie-deploy", "doctor", *words] if request and not no_preflight else [],
            ["ernie-deploy", "render", "-o", str(file), *words] if renders else [],
            stack.up(wait_timeout),
        )
        return
    if not no_preflight:
        _check_host(file, request)
    if request and renders:
        _render(file, request)
    _start(stack, wait_timeout, as_json=as_json)


def _named(request: "Request | None", name: str) -> "Request | None":
    from msgspec.structs import replace

    return replace(request, name=name) if request and name else request


def _is_file(named: str) -> bool:
    return not named or "/" in named or named.endswith((".yml", ".yaml"))


def _asked_for(options: dict[str, Any]) -> tuple[Path, "Request | None"]:
    """The file to start, and the request behind it where one is known: TARGET's own, or the one a file names."""
    if not _is_file(options["target"]):
        return Path("compose.yml"), request_of(options)
    from ernie_deploy.commands.preflight import request_of_file

    path = _existing(Path(options["target"] or "compose.yml"))
    request = request_of_file(path)
    given = given_request_options(click.get_current_context())
    # A file's stack may be started under another name, as with Compose's own --project-name.
    given.pop("name", None)
    if given:
        raise _rendered_already(path, request, given)
    return path, request


def _rendered_already(path: Path, request: "Request | None", given: dict[str, click.Parameter]) -> UsageError:
    """The refusal of options that a file cannot take any more, with the command that renders them into it."""
    import shlex

    from msgspec.structs import replace

    from ernie_deploy.plan.request import command_words

    options = click.get_current_context().params
    names = ", ".join(param.opts[0] if isinstance(param, click.Option) else "--" for param in given.values())
    words = command_words(replace(request, **{name: options[name] for name in given})) if request else []
    return UsageError(
        f"{names} cannot change {path}.",
        cause="`up` starts a file as it is; options are for rendering one",
        next_step=f"ernie-deploy render {shlex.join(words) or 'TARGET OPTIONS'} -o {shlex.quote(str(path))} --force, then up",
    )


def _check_host(file: Path, request: "Request | None") -> None:
    from ernie_deploy.commands.preflight import preflight

    if request:
        preflight(request, file.parent / ".env")
    else:
        say(f"no preflight: {file} does not name the command that rendered it", err=True)


def _render(path: Path, request: "Request") -> None:
    from ernie_deploy.commands.preflight import request_of_file
    from ernie_deploy.commands.render import put, text_of
    from ernie_deploy.render.folder import is_of_folder

    # What `init` made of the very request is started as it is.
    if not (is_of_folder(path) and request_of_file(path) == request):
        put(path, text_of(request), request)


def _existing(path: Path) -> Path:
    if path.is_file():
        return path
    raise UsageError(
        f"There is no {path} here.",
        cause="`up` without a target starts the compose file of this folder",
        next_step="make one with: ernie-deploy render TARGET -o compose.yml",
    )


def _start(stack: Any, wait_timeout: int, *, as_json: bool) -> None:
    from ernie_deploy.stack.lifecycle import up as bring_up
    from ernie_deploy.stack.live import shower

    with shower(sys.stderr) as show:
        started = bring_up(stack, wait_timeout, show)
    if as_json:
        import msgspec

        say(msgspec.json.encode(started).decode(), as_json=True)
        return
    say(f"{started.project} {_what_is_up(started)} after {started.elapsed_s:.0f} s")


def _what_is_up(started: Any) -> str:
    if started.address:
        return f"serves on http://{started.address}"
    from ernie_deploy.stack.containers import of_service

    return "has joined its head" if of_service(started.states, "worker") else "is up"


@click.command(epilog="Example: ernie-deploy down")
@FILE
@NAME
@click.option(
    "--volumes",
    is_flag=True,
    help="Remove the stack's own volumes too; for shared ones see `ernie-deploy volumes`.",
)
@DRY_RUN
@JSON
def down(file: Path, name: str, volumes: bool, dry_run: bool, as_json: bool) -> None:
    """Stop a stack; its weights stay on their volume."""
    from ernie_deploy.stack.compose import Stack, demand, require_compose

    stack = Stack(files=(_existing(file),), project=name)
    own = _own_volumes(stack) if volumes else []
    # With --force none is missed: a stack that never started has made none.
    commands = [stack.down(), *([["docker", "volume", "rm", "--force", *own]] if own else [])]
    if not as_json or dry_run:
        for words in commands:
            _run(words, dry_run=dry_run)
        return
    require_compose()
    for words in commands:
        demand(words, timeout_s=DOWN_S)
    say(json.dumps({"file": str(file), "down": True, "volumes_removed": own}), as_json=True)


def _own_volumes(stack: "Stack") -> list[str]:
    from ernie_deploy.stack.lifecycle import own_volumes, resolve

    return own_volumes(resolve(stack))


@click.command(epilog="Example: ernie-deploy logs --follow serve")
@FILE
@NAME
@click.option("--follow", is_flag=True, help="Keep printing new lines.")
@click.option("--tail", default="all", show_default=True, metavar="N", help="Print only the last N lines.")
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.argument("services", nargs=-1)
def logs(  # noqa: PLR0913, PLR0917 - its options
    file: Path, name: str, follow: bool, tail: str, dry_run: bool, as_json: bool, services: tuple[str, ...]
) -> None:
    """Print the logs of a stack's containers."""
    from ernie_deploy.stack.compose import Stack

    words = Stack(files=(_existing(file),), project=name).logs(*services, follow=follow, tail=tail)
    if dry_run:
        _print_commands([], words)
    else:
        _print_log(words, as_json=as_json)


@click.command(epilog="Example: ernie-deploy status --json")
@FILE
@NAME
@JSON
@DRY_RUN
def status(file: Path, name: str, as_json: bool, dry_run: bool) -> None:
    """Show the containers, and what the server is doing."""
    from ernie_deploy.stack.compose import Stack

    stack = Stack(files=(_existing(file),), project=name)
    if dry_run:
        _print_commands([], stack.resolved())
        return
    from ernie_deploy.stack.status import as_text, look

    seen = look(stack)
    say(json.dumps(seen, indent=2) if as_json else as_text(seen), as_json=as_json)


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
        _print_commands([], words)
        return
    from ernie_deploy.errors import ToolFailed
    from ernie_deploy.stack.compose import relay, require_compose

    require_compose()
    if code := relay(words):
        raise ToolFailed(f"docker compose ended with {code}.")


def _print_commands(*commands: list[str]) -> None:
    import shlex

    for words in filter(None, commands):
        say(shlex.join(words))
