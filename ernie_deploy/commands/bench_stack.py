"""Which stack a benchmark is about: its place, and the plan that its file was rendered from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_deploy.commands.header import request_of_header
from ernie_deploy.commands.stack_of import stack_of
from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.safe_io.reading import first_line
from ernie_deploy.stack.rendered import RENDERED

if TYPE_CHECKING:
    from ernie_deploy.bench.measure.deployment import Deployment
    from ernie_deploy.plan.plan import Plan
    from ernie_deploy.plan.request import Request


LONGEST_QUOTE = 200


def plan_of(options: dict[str, Any]) -> "Plan | None":
    """The plan behind the compose file, or of --target and --model; None where neither says it."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.request import Request
    from ernie_deploy.plan.resolve import resolve

    if options["target"]:
        return resolve(Catalog(), Request(target=options["target"], model=options["model"]))
    if options["attach"]:
        return None
    file = _files(options)[0]
    first = _first_line(file)
    return resolve(Catalog(), _request_of(first, file.parent)) if first.startswith(RENDERED) else None


def deployment_of(options: dict[str, Any]) -> "Deployment":
    """The server to measure; raises `ServerDied` where it is not up."""
    if options["attach"]:
        from ernie_deploy.commands.bench_attach import attached

        return attached(options, plan_of(options))
    from ernie_deploy.bench.measure.compose_deployment import ComposeDeployment
    from ernie_deploy.stack.compose import require_compose

    require_compose()
    _files(options)
    return ComposeDeployment(stack_of(options["files"], options["project"], env_file=options["env_file"]))


def rate_of(options: dict[str, Any], plan: "Plan | None") -> float | None:
    """Requests per second: those asked for, else the stack's own, which are its .env's or the recipe's for its target.

    None is all at once.
    """
    from ernie_deploy.commands.bench_options import OF_STACK

    if options["request_rate"] != OF_STACK:
        rate: float | None = options["request_rate"]
        return rate
    own = "" if options["attach"] or options["target"] else _variable(options, "BENCH_REQUEST_RATE")
    return _rate(own) if own else recipe_rate(plan)


def recipe_rate(plan: "Plan | None") -> float:
    """Requests per second of the recipe's command for the plan's target; without a plan those of its matrix."""
    from ernie_deploy.catalog import Catalog

    published = [setting.value for setting in plan.bench if setting.name == "request-rate"] if plan else []
    return float(str(published[0])) if published else Catalog().matrix.request_rate


def _rate(text: str) -> float | None:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if rate <= 0:
        raise UsageError(
            f"BENCH_REQUEST_RATE={text[:40]!r} is no rate.",
            cause="`docker compose run bench` would refuse it too",
            next_step="write requests per second, such as 10 or inf, or leave it out",
        )
    return None if rate == float("inf") else rate


def _variable(options: dict[str, Any], name: str) -> str:
    """A variable as Compose fills it into the stack's files; '' where nobody sets it."""
    import os

    from ernie_deploy.check.project import here

    named = [str(options["env_file"])] if options["env_file"] else []
    project = here(os.environ, files=[str(file) for file in options["files"]], env_files=named)
    return project.variables.values.get(name, "") if project else ""


def known_of(plan: "Plan | None", options: dict[str, Any]) -> dict[str, Any]:
    """What the plan knows of an environment."""
    if plan is None:
        return {"model": options["model"], "gpu_count": options["gpu_count"]}
    layout = plan.topology
    used = layout.tensor_parallel_size * layout.pipeline_parallel_size * layout.data_parallel_size
    return {
        "model": plan.model.id,
        "target": plan.target.id,
        "revision": plan.revision,
        # What serves elsewhere may be laid out otherwise.
        "gpu_count": options["gpu_count"] if options["attach"] else used if plan.target.gpus else 0,
    }


def _request_of(header: str, folder: Path) -> "Request":
    """The request that the first line of a rendered file in `folder` names; raises `UsageError` where it is none."""
    import click

    try:
        return request_of_header(header, folder)
    except (click.ClickException, KitError, ValueError) as fault:
        raise UsageError(
            f"The file's first line is no command of this version: {header[:LONGEST_QUOTE]}",
            cause=str(fault),
            next_step="render the file again, or name --target and --model",
        ) from fault


def _files(options: dict[str, Any]) -> tuple[Path, ...]:
    """The stack's files; raises `UsageError` where one is missing."""
    try:
        return stack_of(options["files"]).files
    except UsageError as fault:
        raise UsageError(
            fault.what,
            cause="a benchmark needs the stack's compose file, or a server's address",
            next_step="name them with -f FILE, or with --attach URL",
        ) from None


def _first_line(file: Path) -> str:
    try:
        return first_line(file)
    except OSError as fault:
        raise UsageError(f"{file} cannot be read: {fault.strerror}.") from fault
