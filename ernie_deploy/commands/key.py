"""`key`: who may use the API behind a gateway; a key is shown once, and its SHA-256 alone is kept."""

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.gateway_of import gateway_folder, reload_words, take_up, utc_text
from ernie_deploy.commands.options import COMPOSE_FILES, DRY_RUN, JSON
from ernie_deploy.commands.stack_of import stack_of
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.gateway.keys import Key
    from ernie_deploy.stack.compose import Stack

EXAMPLE = """\b
Examples:
  ernie-deploy key add team-a --rate 60/m --concurrency 8 --expires 90d > team-a.key
  ernie-deploy key list
  ernie-deploy key limit team-a --rate 120/m --concurrency 16
  ernie-deploy key revoke team-a"""
# What `key limit` takes for a limit that a key no longer has of its own, and for a key without an end.
DEFAULT, NEVER = "default", "never"
CONCURRENCY = click.IntRange(1, 100_000)
# NAME is the key's here.
PROJECT = click.option(
    "-p", "--project-name", "project", default="", metavar="NAME",
    help="The stack's name, if not the one in the file.",
)  # fmt: skip
NO_RELOAD = click.option(
    "--no-reload",
    is_flag=True,
    help="Do not reload the gateway; run `ernie-deploy reload` later.",
)


@click.group(epilog=EXAMPLE)
def key() -> None:
    """Add, list, limit and revoke the keys of a gateway's clients."""


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    from ernie_deploy.gateway.keys import rate_per_minute

    return rate_per_minute(value) if value is not None else 0


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    from ernie_deploy.gateway.keys import duration_s

    return duration_s(value) if value is not None else 0


def _own_rate(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return 0 if value == DEFAULT else None if value is None else _rate(ctx, param, value)


def _own_concurrency(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return 0 if value == DEFAULT else None if value is None else CONCURRENCY(value, param, ctx)


def _end(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """When a key ends, in seconds since 1970."""
    if value is None or value == NEVER:
        return None if value is None else 0
    return int(time.time()) + _duration(ctx, param, value)


def _named(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from ernie_deploy.gateway.keys import named

    return named(value)


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of the keys of this folder's stack, for a shell's completion."""
    from ernie_deploy.errors import KitError
    from ernie_deploy.gateway import key_file

    try:
        folder = gateway_folder(stack_of(ctx.params.get("files") or ()))
        return [key.name for key in key_file.read(folder).keys if key.name.startswith(incomplete)]
    except KitError:
        return []


@key.command(
    epilog="Example: ernie-deploy key add team-a --rate 60/m --concurrency 8 --expires 90d > team-a.key"
)
@click.argument("name", callback=_named)
@click.option("--rate", callback=_rate, metavar="N/m", help="Requests a minute (60/m) or a second (1/s).  [default: the gateway's]")  # fmt: skip
@click.option("--concurrency", type=CONCURRENCY, metavar="N", help="Requests at a time.  [default: the gateway's]")  # fmt: skip
@click.option("--expires", callback=_duration, metavar="90d", help="When the key expires: minutes, hours, days or weeks from now (30m, 12h, 90d, 4w).  [default: never]")  # fmt: skip
@COMPOSE_FILES
@PROJECT
@NO_RELOAD
@DRY_RUN
@JSON
def add(name: str, rate: int, concurrency: int | None, expires: int, **options: Any) -> None:
    """Make a key and print it once; only its SHA-256 is kept."""
    from ernie_deploy.gateway import key_file, keys

    now, secret = int(time.time()), keys.new_key()
    made = keys.Key(
        digest=keys.hashed(secret), name=name, rate_per_minute=rate, concurrency=concurrency or 0,
        expires=now + expires if expires else 0, added=now,
    )  # fmt: skip
    stack = stack_of(options["files"], options["project"])
    if options["dry_run"]:
        say(f"add {_in_words(made)} to {gateway_folder(stack) / key_file.NAME}")
        _say_reload(stack, skipped=options["no_reload"])
        return
    _store(gateway_folder(stack), made, secret, as_json=options["as_json"])
    say(f"added {_in_words(made)}; the key is shown this once", err=True)
    if not options["no_reload"]:
        _take_up(stack, f"{name} is added.", must=False)


def _store(folder: Path, made: "Key", secret: str, *, as_json: bool) -> None:
    """Keep the hash and print the key; one that nobody could be told is not kept."""
    from ernie_deploy.gateway import key_file

    with key_file.locked(folder):
        key_file.add(folder, made)
        try:
            say(json.dumps({"key": secret, **row(made)}) if as_json else secret, as_json=as_json)
        except OSError:
            key_file.revoke(folder, made.name)
            raise


@key.command(name="list", epilog="Example: ernie-deploy key list --json")
@COMPOSE_FILES
@DRY_RUN
@JSON
def list_keys(files: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """List the keys: names, limits, when they were added and when they expire."""
    from ernie_deploy.commands.show import show
    from ernie_deploy.gateway import key_file

    folder = gateway_folder(stack_of(files))
    if dry_run:
        say(f"read {folder / key_file.NAME}")
        return
    kept = key_file.read(folder)
    if not kept.keys and not as_json:
        say(f"{kept.path} has no key: the gateway lets nobody in.")
        return
    rows = [row(one) if as_json else _cells(one) for one in kept.keys]
    show(rows, as_json=as_json, drop=("added", "concurrency"))


@key.command(epilog="Example: ernie-deploy key limit team-a --rate 120/m --concurrency 16")
@click.argument("name", shell_complete=_names)
@click.option("--rate", "rate_per_minute", callback=_own_rate, metavar="N/m", help="Requests a minute (60/m) or a second (1/s); `default` is the gateway's.")  # fmt: skip
@click.option("--concurrency", callback=_own_concurrency, metavar="N", help="Requests at a time; `default` is the gateway's.")  # fmt: skip
@click.option("--expires", callback=_end, metavar="90d", help="When the key expires: minutes, hours, days or weeks from now (30m, 12h, 90d, 4w), or `never`.")  # fmt: skip
@COMPOSE_FILES
@PROJECT
@NO_RELOAD
@DRY_RUN
@JSON
def limit(name: str, rate_per_minute: int | None, concurrency: int | None, expires: int | None, **options: Any) -> None:  # fmt: skip
    """Change what a key may do: the limits that are given, and nothing else of it."""
    from ernie_deploy.gateway import key_file

    given = {"rate_per_minute": rate_per_minute, "concurrency": concurrency, "expires": expires}
    limits = _some({field: value for field, value in given.items() if value is not None}, name)
    stack = stack_of(options["files"], options["project"])
    folder = gateway_folder(stack)
    if options["dry_run"]:
        say(f"change {name[:80]} in {folder / key_file.NAME}: {_changes(limits)}")
        _say_reload(stack, skipped=options["no_reload"])
        return
    with key_file.locked(folder):
        changed = key_file.limit(folder, name, limits)
    say(f"changed {changed.name}: {_changes(limits)}", err=True)
    _enforce(stack, changed, "changed", options)


def _some(limits: dict[str, int], name: str) -> dict[str, int]:
    """The limits, which are one or more; raises `UsageError`."""
    from ernie_deploy.errors import UsageError

    if limits:
        return limits
    raise UsageError(
        "No limit is given.",
        cause="of a key --rate, --concurrency and --expires can be changed",
        next_step=f"ernie-deploy key limit {shlex.quote(name[:80])} --rate 60/m",
    )


@key.command(epilog="Example: ernie-deploy key revoke team-a")
@click.argument("name", shell_complete=_names)
@COMPOSE_FILES
@PROJECT
@NO_RELOAD
@DRY_RUN
@JSON
def revoke(name: str, **options: Any) -> None:
    """Revoke a key: its open streams finish, and its next request is refused."""
    from ernie_deploy.gateway import key_file

    stack = stack_of(options["files"], options["project"])
    folder = gateway_folder(stack)
    if options["dry_run"]:
        say(f"revoke {name[:80]} in {folder / key_file.NAME}")
        _say_reload(stack, skipped=options["no_reload"])
        return
    with key_file.locked(folder):
        gone = key_file.revoke(folder, name)
    say(f"revoked {gone.name}", err=True)
    _enforce(stack, gone, "revoked", options)


def row(key: "Key") -> dict[str, Any]:
    """What is told of a key: no hash, and null for a limit that is not its own."""
    return {
        "name": key.name,
        "rate_per_minute": key.rate_per_minute or None,
        "concurrency": key.concurrency or None,
        "added": utc_text(key.added),
        "expires": utc_text(key.expires),
        "expired": key.is_expired(time.time()),
    }


def _cells(key: "Key") -> dict[str, Any]:
    data = row(key)
    ends = f"{data['expires'] or 'never'}{' (expired)' if data['expired'] else ''}"
    return {
        "name": key.name,
        "rate": f"{key.rate_per_minute}/m" if key.rate_per_minute else "default",
        "concurrency": str(key.concurrency or "default"),
        "added": data["added"] or "-",
        "expires": ends,
    }


def _in_words(key: "Key") -> str:
    limits = [
        f"{key.rate_per_minute} requests a minute" if key.rate_per_minute else "",
        f"{key.concurrency} at a time" if key.concurrency else "",
        f"until {utc_text(key.expires)}" if key.expires else "",
    ]
    return ", ".join([key.name, *filter(None, limits)])


def _changes(limits: dict[str, int]) -> str:
    """What is changed of a key, by the names of its fields."""
    return ", ".join(_change(field, value) for field, value in limits.items())


def _change(field: str, value: int) -> str:
    if field == "expires":
        return f"expires {utc_text(value) or NEVER}"
    if field == "rate_per_minute":
        return f"rate {f'{value}/m' if value else DEFAULT}"
    return f"{field} {value or DEFAULT}"


def _take_up(stack: "Stack", done: str, *, must: bool) -> bool:
    """Have the gateway read the file; a fault of that says first what is `done` all the same."""
    from ernie_deploy.errors import ToolFailed, ToolMissing

    try:
        return take_up(stack, "keys", must=must)
    except (ToolFailed, ToolMissing) as fault:
        raise type(fault)(
            f"{done} But: {fault.what}", cause=fault.cause, next_step=fault.next_step
        ) from fault


def _enforce(stack: "Stack", key: "Key", done: str, options: dict[str, Any]) -> None:
    """Have the gateway read what is `done` to a key in the file, and print the key as it was asked for."""
    taken = not options["no_reload"] and _take_up(stack, f"{key.name} is {done} in the file.", must=True)
    if options["as_json"]:
        say(json.dumps({**row(key), "reloaded": taken}), as_json=True)


def _say_reload(stack: "Stack", *, skipped: bool) -> None:
    if not skipped:
        say(reload_words(stack, "keys"))
