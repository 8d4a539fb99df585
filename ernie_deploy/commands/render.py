"""`render`: one stack to standard output or a file, or every supported pair into a folder."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.options import request_of, request_options, with_lock_beside
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.request import Request
from ernie_deploy.safe_io.columns import width_of
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.plan.plan import Plan

EXAMPLE = """\b
Examples:
  ernie-deploy render mi300x > compose.yml
  ernie-deploy render auto > compose.yml
  ernie-deploy render h100 --model 300b --profile mtp -o compose.yml
  ernie-deploy render h100 --format kubernetes | kubectl apply -f -
  ernie-deploy render cpu | docker compose -f - up -d --wait"""


# What decides a layout, and nothing that `check` judges.
PLAIN = (
    "model",
    "name",
    "profiles",
    "tp",
    "pp",
    "dp",
    "nodes",
    "gpus",
    "max_model_len",
    "gpu_memory_utilization",
)


@click.command(epilog=EXAMPLE)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the whole file or none; a rendered file that nobody edited is replaced.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that was edited or not rendered.")
@click.option("--all", "every", is_flag=True, help="Render every supported pair into --out-dir.")
@click.option("--out-dir", type=click.Path(path_type=Path), help="Folder for --all.")
@click.option(
    "--env-example",
    type=click.Path(path_type=Path),
    help="With --all: write the example of .env to this file.",
)
@click.option(
    "--check", "check_only", is_flag=True, help="With --all: write nothing; list files that are out of date."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["compose", "kubernetes"]),
    default="compose",
    show_default=True,
    help="Compose file, or LeaderWorkerSet manifests for kubectl.",
)
@request_options
def render(output: Path | None, every: bool, check_only: bool, force: bool, **options: Any) -> None:
    """Write a stack as one compose file, or as manifests, to standard output."""
    form, out_dir, env_example = (options.pop(name) for name in ("form", "out_dir", "env_example"))
    if every and form != "compose":
        raise UsageError("--all renders compose files.", next_step="leave out --all or --format")
    if every:
        render_all(out_dir, env_example, check_only=check_only, force=force)
        return
    if check_only or out_dir or env_example:
        raise UsageError("--check, --out-dir and --env-example go with --all.")
    request = with_lock_beside(request_of(options), output)
    refuse_monitoring(request, form)
    text = manifests_of(request) if form == "kubernetes" else text_of(request)
    if output is None:
        say(text, end="")
    else:
        put(output, text, request, force=force)
        say(f"wrote {output}", err=True)
    if form == "compose":
        tell_errors(request, output or Path("compose.yml"), text)
        if request.gateway:
            say(f"next, where the file lies: {_first_start(request, output)}", err=True)


def _first_start(request: Request, output: Path | None) -> str:
    """The commands before a gateway starts for the first time: HAProxy ends at once without its keys and certificate."""
    import shlex

    from ernie_deploy.plan.gateway import first_steps

    file = ["-f", output.name] if output is not None and output.name != "compose.yml" else []
    steps = [[*step, *file] for step in first_steps(request)]
    return " && ".join(
        shlex.join(step) for step in [*steps, ["docker", "compose", *file, "up", "-d", "--wait"]]
    )


def refuse_monitoring(request: Request, form: str) -> None:
    """Raise `UsageError` for --monitoring: what it draws and judges are files, which one file does not hold."""
    if not request.monitoring:
        return
    import shlex

    from msgspec.structs import replace

    from ernie_deploy.plan.request import command_words

    words = shlex.join(["ernie-deploy", "init", "DIR", *command_words(request)])
    plain = shlex.join(command_words(replace(request, monitoring=False, node_exporter=False)))
    if form == "kubernetes":
        raise UsageError(
            "--monitoring is not made for Kubernetes.",
            cause="clusters have a Prometheus and a Grafana of their own: the manifests have a PodMonitor for the "
            "first, and neither rules nor a dashboard",
            next_step=f"ernie-deploy render --format kubernetes {plain}, and take rules and dashboard from: {words}",
        )
    raise UsageError(
        "--monitoring goes with `init`.",
        cause="dashboards, rules and their settings are files beside compose.yml, and `render` writes one file",
        next_step=words,
    )


def tell_errors(request: Request, path: Path, text: str) -> None:
    """Print what `check` calls an error in a rendering, though it was asked for."""
    if not _may_be_judged(request):
        return
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.check import judge, report

    errors = [found for found in judge(text.encode(), str(path), Catalog()) if found.severity == "error"]
    if errors:
        say("`ernie-deploy check` will say of this file:", err=True)
        say(report.as_text(errors, [str(path)], width=width_of(sys.stderr) or 80), err=True)


def _may_be_judged(request: Request) -> bool:
    """Whether more was asked for than a model, a node and a layout: of those no rendering has an error.

    A test holds all of these against `check`; to judge each anew would double the time of a rendering.
    """
    from msgspec.structs import replace

    return request != replace(
        Request(target=request.target), **{name: getattr(request, name) for name in PLAIN}
    )


def put(path: Path, text: str, request: Request, *, force: bool = False) -> None:
    """Write a rendering whole or not at all; one that nobody edited since is replaced, any other needs `force`."""
    from ernie_deploy.paths import write_all
    from ernie_deploy.render.checksum import is_unedited
    from ernie_deploy.render.folder import refuse_folder

    refuse_folder(path, request)
    write_all({path: text}, force=force, ours=is_unedited)


def text_of(request: Request) -> str:
    """The compose file of one request; raises `Refused` where it would be open to others unasked."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.exposure import refuse_open_routes
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.compose import compose_file

    catalog = Catalog()
    plan = resolve(catalog, request)
    refuse_open_routes(plan, catalog)
    return compose_file(_with_warnings(plan), catalog.defaults)


def manifests_of(request: Request) -> str:
    """The Kubernetes manifests of one request; of routes that are open to the cluster it warns."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.exposure import open_in_a_cluster
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.kubernetes import manifests

    catalog = Catalog()
    plan = _with_warnings(resolve(catalog, request))
    text = manifests(plan, catalog.defaults)
    if sentence := open_in_a_cluster(plan, catalog):
        say(f"warning: {sentence}", err=True)
    return text


def _with_warnings(plan: "Plan") -> "Plan":
    """The plan, once what it warns of is said."""
    for sentence in plan.warnings:
        say(f"warning: {sentence}", err=True)
    return plan


def render_all(out_dir: Path | None, env_example: Path | None, *, check_only: bool, force: bool) -> None:
    """Write or compare the committed set; raises `OutOfDate` with each file's fault."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.render.committed import Place, differences, write

    if out_dir is None:
        raise UsageError("--all needs --out-dir.", next_step="ernie-deploy render --all --out-dir compose")
    place = Place(out_dir, env_example)
    wanted = place.wanted(Catalog())
    if check_only:
        differences(place, wanted)
        say(f"{len(wanted)} files in {out_dir} are up to date", err=True)
        return
    for kept in write(place, wanted, force=force):
        say(f"kept {kept}: it is no longer part of the set, but was edited", err=True)
    say(f"wrote {len(wanted)} files to {out_dir}", err=True)
