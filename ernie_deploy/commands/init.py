"""`init`: a folder that holds a stack, ready for `docker compose up`."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.options import (
    request_of,
    request_options,
    with_baseline_beside,
    with_lock_beside,
)
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.request import command_words
from ernie_deploy.safe_io.columns import width_of
from ernie_deploy.safe_io.redaction import redacted
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.plan.plan import Plan

EXAMPLE = """\b
Examples:
  ernie-deploy init my-ernie mi300x
  ernie-deploy init my-ernie h100 --model 300b --env PORT=9000"""
# The file that a host's operator edits: it is written once and never replaced.
ENV = ".env"
COMPOSE = "compose.yml"


@click.command(epilog=EXAMPLE)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--env", "values", multiple=True, metavar="NAME=VALUE", help="Set a variable in .env.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace files that differ; `ernie-deploy rollback` brings the old ones back.",
)
@request_options
def init(folder: Path, values: tuple[str, ...], force: bool, **options: Any) -> None:
    """Make a folder with compose.yml, .env, scripts and a README.

    In a folder that has a stack, it keeps `.env` and shows what would change in compose.yml.
    """
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.paths import write_all
    from ernie_deploy.plan.exposure import refuse_open_routes
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.folder import files
    from ernie_deploy.upgrade.history import RENDERED

    catalog = Catalog()
    request = with_lock_beside(request_of(options), folder / COMPOSE)
    plan = resolve(catalog, with_baseline_beside(request, folder))
    variables = dict(_pair(value) for value in values)
    refuse_open_routes(plan, catalog, variables.get("BIND_ADDR", ""))
    for sentence in plan.warnings:
        say(f"warning: {sentence}", err=True)
    grafana_user = _grafana_user(folder, plan, variables)
    made = files(plan, catalog, {**grafana_user, **variables})
    if kept := _keep_env(folder, made, values):
        say(kept, err=True)
    kept_for_upgrade = {f"{RENDERED}/{name}": text for name, text in files(plan, catalog, {}).items()}
    old = _replaced(folder, made, plan, force=force)
    if old:
        _replace(folder, {**made, **kept_for_upgrade})
    else:
        every = {folder / name: text for name, text in {**made, **kept_for_upgrade}.items()}
        write_all(every, force=True, private=[folder / ENV])
    _let_the_server_read(folder / "scripts")
    if plan.monitoring:
        _prepare_monitoring(folder, plan, grafana_user, env_is_new=ENV in made)
    say(f"wrote {', '.join(made)} to {folder}", err=True)
    if old:
        say(f"undo: {shlex.join(['ernie-deploy', 'rollback', str(folder)])}", err=True)
    _tell_errors(folder)
    _make_certificate(folder, plan)
    say(f"next: cd {shlex.quote(str(folder))} && {_next(plan)}", err=True)


def _make_certificate(folder: Path, plan: "Plan") -> None:
    """With --tls self-signed, make a certificate for testing; one that is there stays."""
    if plan.request.tls != "self-signed":
        return
    from ernie_deploy.commands.stack_of import stack_of
    from ernie_deploy.commands.tls import has_certificate, make_self_signed

    stack = stack_of([folder / COMPOSE])
    if not has_certificate(stack):
        make_self_signed(stack, (), {"dry_run": False, "no_reload": True, "as_json": False})


def _tell_errors(folder: Path) -> None:
    """Print what `check` calls an error in the folder, with the values of its .env."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.check import judge_project, report
    from ernie_deploy.check.project import of_file

    path = str(folder / COMPOSE)
    errors = [
        found for found in judge_project(of_file(path), Catalog()).findings if found.severity == "error"
    ]
    if errors:
        say("`ernie-deploy check` says of this folder:", err=True)
        say(report.as_text(errors, [path], width=width_of(sys.stderr) or 80), err=True)


def _let_the_server_read(scripts: Path) -> None:
    """Open the scripts to the serving user, which is another than this one, whatever the umask was."""
    scripts.chmod(0o755)
    for path in scripts.iterdir():
        path.chmod(0o644)


def _grafana_user(folder: Path, plan: "Plan", chosen: dict[str, str]) -> dict[str, str]:
    """The variable of .env that says who reads Grafana's password, where that is not the image's user."""
    from ernie_deploy.host.grafana_password import USER, user_of

    if not plan.monitoring:
        return {}
    user = chosen.get(USER) or user_of(folder, _image_user(plan))
    return {USER: user} if user != _image_user(plan) else {}


def _image_user(plan: "Plan") -> str:
    return next(one.user for one in plan.monitoring if one.id == "grafana")


def _prepare_monitoring(folder: Path, plan: "Plan", user: dict[str, str], *, env_is_new: bool) -> None:
    """Make Grafana's password, and open what Prometheus and Grafana read to their users."""
    from ernie_deploy.host.grafana_password import FILE, USER, make
    from ernie_deploy.render.monitoring import FOLDER

    for path in (folder / FOLDER, *(folder / FOLDER).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if make(folder, user.get(USER, _image_user(plan))):
        say(f"made {folder / FILE}: the password of Grafana's user admin", err=True)
    if user and not env_is_new:
        say(f"write {USER}={user[USER]} into {folder / ENV}: Grafana runs as who owns its password", err=True)


def _next(plan: "Plan") -> str:
    """The command that goes on from here."""
    from ernie_deploy.plan.gateway import first_steps

    if not plan.several_nodes:
        # A self-signed certificate is made already.
        steps = [step for step in first_steps(plan.request) if "self-signed" not in step]
        return " && ".join(map(shlex.join, [*steps, ["docker", "compose", "up", "-d", "--wait"]]))
    words = shlex.join(command_words(plan.request))
    return f"ernie-deploy doctor --write-env --node-rank 0 --head ADDR {words}"


def _keep_env(folder: Path, made: dict[str, str], values: tuple[str, ...]) -> str:
    """Leave a `.env` that is there out of what is written; returns the sentence about it, '' where there is none."""
    path = folder / ENV
    if not os.path.lexists(path):
        return ""
    if values:
        raise UsageError(
            f"--env cannot change {path}, which is there.",
            cause="`.env` belongs to the host: only `doctor --write-env` and `tls` set variables of this host in it",
            next_step=f"write the line into {path}, and leave out --env",
        )
    del made[ENV]
    return f"kept {path} as it is"


def _replaced(folder: Path, made: dict[str, str], plan: "Plan", *, force: bool) -> list[str]:
    """The files that are there and say something else; raises `UsageError` unless they may be replaced."""
    from ernie_deploy.paths import says
    from ernie_deploy.upgrade.history import bytes_of
    from ernie_deploy.upgrade.report import difference

    changed = [
        name
        for name, text in made.items()
        if os.path.lexists(folder / name) and not says(folder / name, text)
    ]
    old = {name: bytes_of(folder / name) for name in changed}
    if changed and not force:
        if stack := old.get(COMPOSE):
            say(difference(COMPOSE, stack, made[COMPOSE].encode()), err=True)
        raise UsageError(
            "\n".join(f"{folder / name} exists and was not overwritten." for name in changed),
            cause="the kit never replaces your files unasked, and has written none of the others either",
            next_step=f"{_upgrade(folder, plan)} keeps your edits; --force replaces them, and `rollback` brings them back",
        )
    return changed


def _upgrade(folder: Path, plan: "Plan") -> str:
    """The command that renders the same over the user's edits."""
    words = shlex.join(command_words(plan.request))
    return shlex.join(["ernie-deploy", "upgrade", str(folder), "--as", words])


def _replace(folder: Path, texts: dict[str, str]) -> None:
    """Write the files over those that are there, which stay for `rollback`."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.upgrade.history import Cause, bytes_of
    from ernie_deploy.upgrade.proposal import engine_of
    from ernie_deploy.upgrade.transaction import alone, finish, replace_files

    engine = engine_of(bytes_of(folder / COMPOSE) or b"", COMPOSE, Catalog())
    cause = Cause(kind="init", command=_command(), engine=engine or "unknown")
    with alone(folder):
        finish(folder)
        replace_files(folder, {name: text.encode() for name, text in texts.items()}, cause)


def _command() -> str:
    """The command line as it was typed, without what may hold a password."""
    from ernie_deploy.safe_io.secret_masks import masked

    return masked(shlex.join(["ernie-deploy", *sys.argv[1:]]))


def _pair(value: str) -> tuple[str, str]:
    name, equals, given = value.partition("=")
    if not equals:
        raise UsageError(f"--env {redacted(value)[:40]!r} is not NAME=VALUE.")
    return name, given
