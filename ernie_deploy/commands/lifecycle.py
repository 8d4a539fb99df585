"""`up` and `status`: Docker Compose with a live view, and causes instead of stack traces."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.logs_and_down import compose_words, print_commands
from ernie_deploy.commands.options import (
    COMPOSE_FILES,
    DRY_RUN,
    JSON,
    NAME,
    REMOVE_ORPHANS,
    given_request_options,
    refuse_path_of_key,
    request_of,
    request_options,
    with_lock_beside,
)
from ernie_deploy.commands.rollback_hint import refuse_half_of_an_upgrade, rollback_hint
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.plan.request import Request
    from ernie_deploy.stack.compose import Stack

# A download may take hours; loading has its own limit, which the health check knows.
WAIT_TIMEOUT_S = 6 * 3600
# Options of Compose's `up` that are passed on.
COMPOSE_UP = ("build", "force_recreate", "pull", "remove_orphans")

UP_EXAMPLE = """\b
Examples:
  ernie-deploy up                     # the stack of this folder, as `docker compose up` takes it
  ernie-deploy up mi300x              # render it here first
  ernie-deploy up my/compose.yml --dry-run"""


@click.command(epilog=UP_EXAMPLE)
@click.option("--wait-timeout", type=click.IntRange(min=1), default=WAIT_TIMEOUT_S, show_default=True, metavar="S",
              help="Give up after this many seconds, including the download.")  # fmt: skip
@click.option("--no-preflight", is_flag=True, help="Start without doctor's checks of this host.")
@COMPOSE_FILES
@click.option(
    "-d",
    "--detach",
    is_flag=True,
    expose_value=False,
    help="Accepted as in Compose; `up` always leaves the stack running.",
)
@click.option("--build", is_flag=True, help="Build images before starting.")
@click.option("--force-recreate", is_flag=True, help="Recreate every container, changed or not.")
@click.option("--pull", type=click.Choice(["always", "missing", "never"]), help="When to pull images.")
@REMOVE_ORPHANS
@DRY_RUN
@JSON
@request_options
def up(wait_timeout: int, no_preflight: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Start a stack with a live view, and name the cause if it fails."""
    from msgspec.structs import replace

    from ernie_deploy.commands.node import profiles
    from ernie_deploy.plan.request import command_words

    own = compose_words({name: options.pop(name) for name in COMPOSE_UP})
    stack, request = _asked_for(options)
    file, renders = stack.files[0], bool(request and not _is_file(options["target"]))
    refuse_half_of_an_upgrade(file.parent)
    request = _named(request, stack.project)
    _refuse_open_stack(file, request, renders=renders)
    stack = replace(stack, profiles=profiles(request, file.parent))
    if dry_run:
        words = command_words(request) if request else []
        print_commands(
            ["ernie-deploy", "doctor", *words] if request and not no_preflight else [],
            ["ernie-deploy", "render", "-o", str(file), *words] if renders else [],
            stack.up(wait_timeout, *own),
        )
        return
    if not no_preflight:
        _check_host(file, request)
    if request and renders:
        _render(file, request)
    _tell_of_lock(stack)
    with rollback_hint(file.parent):
        _start(stack, wait_timeout, own, as_json=as_json)


def _named(request: "Request | None", name: str) -> "Request | None":
    from msgspec.structs import replace

    return replace(request, name=name) if request and name else request


def _is_file(named: str) -> bool:
    return not named or "/" in named or named.endswith((".yml", ".yaml"))


def _asked_for(options: dict[str, Any]) -> tuple["Stack", "Request | None"]:
    """The stack to start, and the request behind it where one is known: TARGET's own, or the one a file names."""
    from ernie_deploy.commands.preflight import request_of_file
    from ernie_deploy.commands.stack_of import stack_of, stack_to_render

    refuse_path_of_key(options)
    files = options.pop("files")
    if not _is_file(options["target"]):
        if files:
            raise UsageError("TARGET is rendered into compose.yml, and --file names another.",
                             next_step="leave out one of them")  # fmt: skip
        stack = stack_to_render()
        return stack, with_lock_beside(request_of(options), stack.files[0])
    named = [Path(options["target"])] if options["target"] else []
    stack = stack_of([*named, *files], options["name"])
    path = stack.files[0]
    request = request_of_file(path)
    given = given_request_options(click.get_current_context())
    # A file's stack may be started under another name, as with Compose's own --project-name.
    given.pop("name", None)
    if given:
        raise _rendered_already(path, request, given)
    return stack, request


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


def _refuse_open_stack(file: Path, request: "Request | None", *, renders: bool) -> None:
    from ernie_deploy.commands.preflight import refuse_open_stack

    if request:
        refuse_open_stack(request, file.parent / ".env", renders=renders)


def _check_host(file: Path, request: "Request | None") -> None:
    from ernie_deploy.commands.preflight import preflight

    if request:
        preflight(request, file.parent / ".env")
    else:
        say(f"no preflight: {file} does not name the command that rendered it", err=True)


def _render(path: Path, request: "Request") -> None:
    from ernie_deploy.commands.preflight import request_of_file
    from ernie_deploy.commands.render import put, tell_errors, text_of
    from ernie_deploy.render.folder import is_of_folder

    # What `init` made of the very request is started as it is.
    if not (is_of_folder(path) and request_of_file(path) == request):
        text = text_of(request)
        put(path, text, request)
        tell_errors(request, path, text)


def _tell_of_lock(stack: "Stack") -> None:
    """Warn where a lock and what is about to start differ; without a lock nothing is asked."""
    from ernie_deploy.commands.lock_state import tell
    from ernie_deploy.stack.compose import require_compose
    from ernie_deploy.stack.lifecycle import resolve
    from ernie_deploy.stack.rendered import lock_path, names_lock

    file = stack.files[0]
    if lock_path(file).is_file() or names_lock(file):
        require_compose()
        tell(file, resolve(stack)["services"])


def _start(stack: Any, wait_timeout: int, own: Sequence[str] = (), *, as_json: bool) -> None:
    from ernie_deploy.stack.lifecycle import up as bring_up
    from ernie_deploy.stack.live import shower

    with shower(sys.stderr) as show:
        started = bring_up(stack, wait_timeout, show, own)
    if as_json:
        import msgspec

        say(msgspec.json.encode(started).decode(), as_json=True)
        return
    say(f"{started.project} {_what_is_up(started)} after {started.elapsed_s:.0f} s")
    if started.keyless:
        say(
            "the gateway has no key yet and lets nobody in; make one with: ernie-deploy key add NAME",
            err=True,
        )


def _what_is_up(started: Any) -> str:
    if started.url:
        return f"serves on {started.url}"
    from ernie_deploy.stack.containers import of_service

    return "has joined its head" if of_service(started.states, "worker") else "is up"


@click.command(epilog="Examples: ernie-deploy status --json; ernie-deploy status --watch")
@COMPOSE_FILES
@NAME
@click.option("-w", "--watch", is_flag=True,
              help="Show latencies, load and clients repeatedly, until Ctrl-C; with --json one line each time.")  # fmt: skip
@click.option("--interval", type=click.FloatRange(min=0.5), default=5.0, show_default=True, metavar="S",
              help="With --watch: the seconds that each figure covers.")  # fmt: skip
@JSON
@DRY_RUN
def status(  # noqa: PLR0913, PLR0917 - its options
    files: tuple[Path, ...], name: str, watch: bool, interval: float, as_json: bool, dry_run: bool
) -> None:
    """Show the containers, and what the server is doing."""
    from ernie_deploy.commands.stack_of import stack_of

    stack = stack_of(files, name)
    if dry_run:
        print_commands(stack.resolved())
        return
    if watch:
        from ernie_deploy.commands.status_watch import watch_stack

        watch_stack(stack, interval, as_json=as_json)
        return
    from ernie_deploy.stack.status import as_text, status_of

    seen = status_of(stack)
    say(json.dumps(seen, indent=2) if as_json else as_text(seen), as_json=as_json)
