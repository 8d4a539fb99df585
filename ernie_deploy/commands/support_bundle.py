"""`support-bundle`: what a ticket needs in one archive, without secrets and prompts."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack
    from ernie_deploy.stack.support_bundle import Make

EXAMPLE = """\b
Examples:
  ernie-deploy support-bundle
  ernie-deploy support-bundle -o ticket-4711.tar.gz --lines 500

Secrets and prompts are taken out, and searched for before anything is
written: the archive is written whole or not at all. Look into it before
you send it: tar tzf FILE."""

LINES = 2_000
JOURNAL = Path("bench-results/journal.jsonl")


@click.command(name="support-bundle", epilog=EXAMPLE)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.tar.gz",
              help="The archive.  [default: ernie-support-TIME.tar.gz]")  # fmt: skip
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path),
    help="The stack's compose file.  [default: this folder's]",
)
@click.option("--lines", type=click.IntRange(1, 200_000), default=LINES, show_default=True, metavar="N",
              help="The last lines of each container's log.")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the archive.")
@click.option("--dry-run", is_flag=True, help="List what would be gathered, and gather nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def support_bundle(  # noqa: PLR0913, PLR0917 - its options
    output: Path | None, file: Path | None, lines: int, force: bool, dry_run: bool, as_json: bool
) -> None:
    """Gather what a ticket needs in one archive, without secrets and prompts."""
    from ernie_deploy.stack.support_bundle import collect, write

    stack = _stack(file)
    parts = _parts(stack, lines)
    if dry_run:
        say(json.dumps({"parts": list(parts)}) if as_json else "\n".join(parts), as_json=as_json)
        return
    secrets = _secrets(stack)
    texts = collect(parts, secrets)
    path = output or Path(f"ernie-support-{_now()}.tar.gz")
    write(path, texts, secrets, force=force)
    missing = sorted(set(parts) - set(texts))
    if as_json:
        say(
            json.dumps({"file": str(path), "parts": sorted(texts), "missing": missing}, indent=2),
            as_json=True,
        )
        return
    say(f"wrote {path}: {len(texts)} parts" + (f", without {', '.join(missing)}" if missing else ""))


def _stack(file: Path | None) -> "Stack":
    """The stack of a file, or of this folder; where neither is there, the archive says so part by part."""
    from ernie_deploy.commands.stack_of import stack_of
    from ernie_deploy.errors import UsageError
    from ernie_deploy.stack.compose import Stack

    try:
        return stack_of((file,) if file else ())
    except UsageError:
        return Stack(files=(file or Path("compose.yml"),))


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def _secrets(stack: "Stack") -> set[str]:
    """The secrets of the stack and of this shell."""
    from ernie_deploy.errors import KitError
    from ernie_deploy.host.examine import read_env
    from ernie_deploy.host.settings import decided
    from ernie_deploy.stack.lifecycle import resolve
    from ernie_deploy.stack.support_bundle import in_secret_files, in_services, secrets_of

    folder = stack.files[0].parent
    known = secrets_of(decided(read_env(folder / ".env"), os.environ), folder)
    try:
        resolved = resolve(stack)
        return known | in_services(resolved["services"]) | in_secret_files(resolved.get("secrets") or {})
    except KitError:  # then the file is in no part either
        return known


def _parts(stack: "Stack", lines: int) -> "dict[str, Make]":
    """The name of each part, and what makes it."""
    from ernie_deploy.stack.compose import demand

    file = stack.files[0]
    return {
        "versions.txt": _versions,
        "compose-config.yml": lambda: demand(stack.words("--profile", "*", "config")),
        "env.txt": lambda: _env(file.parent / ".env"),
        "plan.txt": lambda: _plan(file),
        "doctor.txt": lambda: _doctor(file),
        "containers.json": lambda: json.dumps(_containers(stack), indent=2, default=str),
        "logs.txt": lambda: _logs(stack, lines),
        "metrics.txt": lambda: _metrics(stack),
        "journal.txt": lambda: _journal(file.parent / JOURNAL),
        "explain.txt": lambda: _explained(stack, file),
    }


def _versions() -> str:
    import platform

    from ernie_deploy import __version__
    from ernie_deploy.errors import KitError
    from ernie_deploy.stack.compose import ask

    lines = [f"ernie-deploy {__version__}", f"Python {sys.version.split()[0]}", platform.platform()]
    for words in (["docker", "version"], ["docker", "compose", "version"], ["docker", "info"]):
        try:
            done = ask(words)
            lines.append(f"$ {' '.join(words)}\n{(done.stdout or done.stderr).strip()}")
        except KitError as fault:
            lines.append(f"$ {' '.join(words)}\n{fault}")
    return "\n".join(lines)


def _env(path: Path) -> str:
    from ernie_deploy.safe_io.reading import read_bounded

    return read_bounded(path).decode("utf-8", "replace")


def _plan(file: Path) -> str:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.explain import as_text

    return as_text(resolve(Catalog(), _request(file)))


def _request(file: Path) -> Any:
    from ernie_deploy.commands.preflight import request_of_file
    from ernie_deploy.errors import UsageError

    if request := request_of_file(file):
        return request
    raise UsageError(f"{file} was not rendered by the kit, or its first line was changed.")


def _doctor(file: Path) -> str:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.host import examine, findings
    from ernie_deploy.host.probes import LocalHost

    subject = examine.inspect(LocalHost(), Catalog(), _request(file))
    text = examine.read_env(file.parent / ".env")
    return findings.as_text(examine.judge(subject, text, os.environ, file.parent))


def _containers(stack: "Stack") -> list[dict[str, Any]]:
    from ernie_deploy.stack import containers

    engine, states = _states(stack)
    return [containers.described(engine, state) for state in states]


def _states(stack: "Stack") -> tuple[Any, list[Any]]:
    from ernie_deploy.errors import UsageError
    from ernie_deploy.stack import containers
    from ernie_deploy.stack.lifecycle import resolve

    project = resolve(stack)["name"]
    engine = containers.client()
    if not (states := containers.states(engine, project)):
        raise UsageError(f"There are no containers of {project}.")
    return engine, states


def _logs(stack: "Stack", lines: int) -> str:
    from ernie_deploy.stack import containers
    from ernie_deploy.stack.support_bundle import without_prompts

    engine, states = _states(stack)
    return "\n".join(
        f"===== {state.service}\n{without_prompts(containers.log(engine, state.id, lines))}"
        for state in states
    )


def _metrics(stack: "Stack") -> str:
    from ernie_deploy.errors import ToolFailed
    from ernie_deploy.stack.lifecycle import resolve
    from ernie_deploy.stack.metrics import texts
    from ernie_deploy.stack.servers import servers

    engine, states = _states(stack)
    printed = texts(servers(engine, resolve(stack)["services"], states))
    if not printed:
        raise ToolFailed("No server of the stack prints its counters.")
    return "\n".join(f"# ===== {service}\n{text}" for service, text in printed.items())


def _journal(path: Path) -> str:
    from ernie_deploy.bench.journal import store
    from ernie_deploy.bench.report.text import text
    from ernie_deploy.bench.report.view import view

    return text(view(store.read(path), None))


def _explained(stack: "Stack", file: Path) -> str:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.stack.inspection import of_containers
    from ernie_deploy.stack.rendered import rendered
    from ernie_deploy.stack.verdict import as_text, judge

    return as_text(judge(of_containers(*_states(stack)), Catalog(), rendered(file)))
