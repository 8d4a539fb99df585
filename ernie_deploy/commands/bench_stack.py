"""Which stack a benchmark is about: its place, and the plan that its file was rendered from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_deploy.commands.header import RENDERED, request_of_header
from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.safe_io.reading import first_line

if TYPE_CHECKING:
    from ernie_deploy.bench.measure.site import Site
    from ernie_deploy.plan.request import Request
    from ernie_deploy.plan.resolve import Plan


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
    first = _first_line(_files(options)[0])
    return resolve(Catalog(), _request_of(first)) if first.startswith(RENDERED) else None


def site_of(options: dict[str, Any]) -> "Site":
    """The server to measure; raises `ServerDied` where it is not up."""
    if options["attach"]:
        from ernie_deploy.commands.bench_attach import attached

        return attached(options, plan_of(options))
    from ernie_deploy.bench.measure.site_compose import ComposeSite
    from ernie_deploy.stack.compose import Stack, require_compose

    require_compose()
    files = tuple(_existing(file) for file in _files(options))
    return ComposeSite(Stack(files=files, project=options["project"], env_file=options["env_file"]))


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


def _request_of(header: str) -> "Request":
    """The request that a rendered file's first line names; raises `UsageError` where it is none."""
    import click

    try:
        return request_of_header(header)
    except (click.ClickException, KitError, ValueError) as fault:
        raise UsageError(
            f"The file's first line is no command of this version: {header[:LONGEST_QUOTE]}",
            cause=str(fault),
            next_step="render the file again, or name --target and --model",
        ) from fault


def _files(options: dict[str, Any]) -> tuple[Path, ...]:
    return options["files"] or (Path("compose.yml"),)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise UsageError(
            f"There is no {file} here.",
            cause="a benchmark needs the stack's compose file, or a server's address",
            next_step="name them with -f FILE, or with --attach URL",
        )
    return file


def _first_line(file: Path) -> str:
    try:
        return first_line(_existing(file))
    except OSError as fault:
        raise UsageError(f"{file} cannot be read: {fault.strerror}.") from fault
