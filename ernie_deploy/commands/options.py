"""The options that `plan`, `render` and `init` share, and the request they make."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ernie_deploy.errors import UsageError
from ernie_deploy.plan.lock import NAME as LOCK
from ernie_deploy.plan.lock import LockFile, read_lock
from ernie_deploy.plan.request import LOOPBACK, Baseline, Request, bind_address

# The word that stands for the target of this host.
AUTO = "auto"
# The file that no lock is in.
NO_LOCK = "none"
AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])


def ids(noun: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A shell completion from the catalog's ids."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from ernie_deploy.catalog import Catalog

        return [name for name in Catalog().ids(noun) if name.startswith(incomplete)]

    return complete


def id_of(noun: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """A callback that turns any known name of a model or target into the catalog's id; others stay as they are."""

    def known(ctx: click.Context, param: click.Parameter, value: str) -> str:
        from ernie_deploy.catalog import Catalog

        return Catalog().id_of(noun, value) if value else value

    return known


def _gpu_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    if not value:
        return ()
    if not all(re.fullmatch(r"[0-9]{1,4}", part) for part in value.split(",")):
        raise click.BadParameter("write GPU numbers with commas between them, such as 0,1,2,3")
    return tuple(int(part) for part in value.split(","))


def _address(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return bind_address(value)
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from None


def _upstreams(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    from ernie_deploy.plan.replicas import upstream

    try:
        found = tuple(upstream(part) for part in value.split(",")) if value else ()
    except ValueError as fault:
        raise click.BadParameter(str(fault)) from None
    if len(set(found)) != len(found):
        raise click.BadParameter("a server is named twice")
    return found


def _names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(value.split(",")) if value else ()


def _slo(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    if not value:
        return ()
    from ernie_deploy.plan.objectives import parse

    return tuple(objective.text for objective in parse(_names(ctx, param, value)))


def _baseline(ctx: click.Context, param: click.Parameter, value: str | None) -> Baseline | None:
    if value is None:
        return None
    from ernie_deploy.bench.compare.bounds import bound_of

    try:
        return bound_of(ctx.find_object(Path) or Path(), value)
    except ValueError:
        # NUL, or half of a surrogate pair.
        raise click.BadParameter(f"{value[:40]!r} has a character that no path has") from None


def _lock(ctx: click.Context, param: click.Parameter, value: str | None) -> LockFile | None:
    """The lock in a file: of this folder, or of that of the rendered file whose first line is read."""
    if value in (None, NO_LOCK):
        return None
    return LockFile(value, read_lock((ctx.find_object(Path) or Path()) / value))


OPTIONS = [
    click.argument("target", default="", metavar="TARGET", callback=id_of("targets"), shell_complete=ids("targets")),
    click.option("--model", default="", metavar="MODEL", callback=id_of("models"), shell_complete=ids("models"),
                 help="Checkpoint to serve; `ernie-deploy models` lists them.  [default: 21b, on cpu 0.3b]"),
    click.option("--engine", default="", metavar="VERSION", callback=id_of("engines"), shell_complete=ids("engines"),
                 help="vLLM version; `ernie-deploy engines` lists them.  [default: the newest that was served]"),
    click.option("-p", "--name", default="", metavar="NAME",
                 help="Name of the stack; two of one model need two names.  [default: ernie-MODEL]"),
    click.option("--profile", "profiles", multiple=True, metavar="PROFILE", shell_complete=ids("profiles"),
                 help="Opt-in change; repeatable."),
    click.option("--tp", type=click.IntRange(min=1), metavar="N", help="tensor_parallel_size."),
    click.option("--pp", type=click.IntRange(min=1), metavar="N",
                 help="pipeline_parallel_size.  [default: one stage per node]"),
    click.option("--dp", type=click.IntRange(min=1), metavar="N", help="data_parallel_size: replicas in one server."),
    click.option("--nodes", type=click.IntRange(1, 1024), default=1, show_default=True, metavar="N",
                 help="Run one server over N nodes, all from one file."),
    click.option("--multi-node", type=click.Choice(["native", "ray"]), default="native", show_default=True,
                 help="What starts the ranks on the other nodes: vLLM itself, or Ray."),
    click.option("--rdma", is_flag=True, help="Give the servers /dev/infiniband and locked memory."),
    click.option("--gpus", callback=_gpu_ids, metavar="0,1", help="Which of the node's GPUs to use."),
    click.option("--max-model-len", type=click.IntRange(min=1), metavar="N", help="Context length in tokens."),
    click.option("--gpu-memory-utilization", type=click.FloatRange(0, 1, min_open=True), metavar="F",
                 help="Share of each GPU's memory that vLLM may take."),
    click.option("--cuda", default="", metavar="12.9", help="CUDA version of the image, for a driver too old for the default."),
    click.option("--rocm", default="", metavar="7.2", help="ROCm version of the image, likewise."),
    click.option("--weights", default="", metavar="DIR", help="Serve this directory and download nothing."),
    click.option("--user", default="", metavar="UID:GID", help="Numeric user and group of the server."),
    click.option("--gpus-cdi", is_flag=True, help="Request the GPUs through CDI instead of the driver or /dev."),
    click.option("--security", type=click.Choice(["", "strict", "recipe", "vendor"]), default="",
                 metavar="strict|recipe|vendor",
                 help="How far the server is confined; `plan` says what each set gives up.  [default: recipe on AMD, else strict]"),
    click.option("--api-key-file", is_flag=True, help="Require the key in API_KEY_FILE from clients."),
    click.option("--gateway", is_flag=True,
                 help="Publish HAProxy in front of the server: keys, limits, and only the routes that clients need."),
    click.option("--route", "routes", multiple=True, metavar="ROUTE", help="Also let this route through the gateway: tokenize."),
    click.option("--tls", type=click.Choice(["", "files", "self-signed"]), default="", metavar="files|self-signed",
                 help="Have the gateway speak TLS, with your own certificate or a self-signed one for testing."),
    click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
                 help="Servers behind the gateway on this node, each with GPUs of its own."),
    click.option("--upstreams", default="", callback=_upstreams, metavar="ADDR:PORT,ADDR:PORT",
                 help="Render only the gateway, in front of these servers."),
    click.option("--balance", type=click.Choice(["leastconn", "sticky"]), default="leastconn", show_default=True,
                 help="Which server gets a request: the least busy one, or the one its key used before, unless that is overloaded."),
    click.option("--bind", default=LOOPBACK, show_default=True, callback=_address, metavar="ADDR",
                 help="Host address to publish the API on."),
    click.option("--accept-open-routes", is_flag=True,
                 help="Publish vLLM beyond this host without a gateway: some of its routes require no key."),
    click.option("--media-domains", default="", callback=_names, metavar="HOST,HOST",
                 help="Hosts that a VL server may fetch images from.  [default: none, data: URLs only]"),
    click.option("--extra-packages", type=click.Choice(["fetch", "none"]), default="fetch", show_default=True,
                 help="Whether `fetch` downloads the packages that a VL model's code imports."),
    click.option("--monitoring", is_flag=True,
                 help="With `init`: Prometheus, Grafana and the vendor's GPU exporter beside the stack."),
    click.option("--node-exporter", is_flag=True, help="With --monitoring: the host's own metrics, such as disks."),
    click.option("--registry", default="", metavar="HOST:PORT/PATH",
                 help="Take every published image from this mirror; IMAGE_REGISTRY in .env moves it."),
    click.option("--image", default="", metavar="REF",
                 help="Serve with this image, such as your own build; ENGINE_IMAGE in .env names another."),
    click.option("--slo", default="", callback=_slo, metavar="ttft_p95=2s,tpot_p95=50ms",
                 help="Latency objectives for the alerts of `init --monitoring`.  [default: derived from the plan]"),
    click.option("--gpu-price", type=float, metavar="USD_PER_HOUR",
                 help="Price of one GPU for an hour, for the dashboard's cost per million tokens."),
    click.option("--baseline", callback=_baseline, metavar="FILE",
                 help="Benchmark that an alert compares the server with.  [default: baseline.json in the folder of `init`]"),
    click.option("--runbooks", default="", metavar="URL",
                 help="Where you keep docs/alerts, for an alert's runbook_url.  [default: the path in the kit]"),
    click.option("--lock", is_flag=False, flag_value=LOCK, default=None, callback=_lock, metavar="[FILE]",
                 help=f"Pin images and revisions as in this lock, `{NO_LOCK}` for none.  [default: ernie.lock next to the output]"),
    click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A vLLM flag and its value."),
    click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- EXTRA VLLM ARGS]"),
]  # fmt: skip


# What the commands share that go through Docker Compose.
COMPOSE_FILES = click.option(
    "-f", "--file", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="The stack's compose file; repeat for overrides.  [default: those that Compose takes here]",
)  # fmt: skip
REMOVE_ORPHANS = click.option(
    "--remove-orphans", is_flag=True, help="Remove containers of services that the file no longer has."
)
NAME = click.option(
    "-p",
    "--name",
    "--project-name",
    default="",
    metavar="NAME",
    help="The stack's name, if not the one in the file.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the exact commands and run none.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def request_options(command: AnyCommand) -> AnyCommand:
    """Add every option of a request to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given_request_options(context: click.Context) -> dict[str, click.Parameter]:
    """The options of a request that stand on the command line, TARGET left out, even where they say a default."""
    given = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return {
        name: param
        for param in context.command.params
        if (name := param.name or "") in Request.__struct_fields__
        and name != "target"
        and context.get_parameter_source(name) in given
        # An argument that may be empty always counts as given.
        and (isinstance(param, click.Option) or context.params[name])
    }


def refuse_path_of_key(options: dict[str, Any]) -> None:
    """Raise `UsageError` where a path stands behind --api-key-file, which takes none."""
    extra = options["extra"]
    if not options["api_key_file"] or not extra or extra[0].startswith("-"):
        return
    from ernie_deploy.catalog import Catalog

    path = extra[0] if options["target"] in Catalog().ids("targets") else options["target"]
    raise UsageError(
        f"--api-key-file takes no path, and {path[:80]!r} follows it.",
        cause="it is a switch: the host names the key's file in .env",
        next_step=f"leave the path out, and write API_KEY_FILE={path[:80]} to .env beside the compose file",
    )


def request_of(options: dict[str, Any]) -> Request:
    """The request that parsed options make; raises `UsageError` where the target is missing."""
    refuse_path_of_key(options)
    if not options["target"]:
        raise UsageError(
            "TARGET is missing.",
            next_step="list the targets with: ernie-deploy targets; `auto` is the one of this host",
        )
    request = Request(**options)
    return _of_this_host(request) if request.target == AUTO else request


def _of_this_host(request: Request) -> Request:
    """The request for the GPUs and the driver of this host; says which target that is."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.host import auto
    from ernie_deploy.host.probes import LocalHost
    from ernie_deploy.safe_io.terminal import say

    own, sentence = auto.of_host(LocalHost(), Catalog(), request)
    say(f"this host {sentence}", err=True)
    return own


def with_lock_beside(request: Request, output: Path | None) -> Request:
    """The request for a file at `output`: with the lock that lies beside it, unless --lock says otherwise.

    The file names its lock from its own folder, so that its first line holds wherever the folder is taken.
    """
    from msgspec.structs import replace

    if output is None:
        return request
    folder = output.parent
    if request.lock:
        path = os.path.relpath(request.lock.path, folder)
        return replace(request, lock=replace(request.lock, path=path))
    source = click.get_current_context().get_parameter_source("lock")
    if source == ParameterSource.COMMANDLINE or not (folder / LOCK).is_file():
        return request
    return replace(request, lock=LockFile(LOCK, read_lock(folder / LOCK)))


def with_baseline_beside(request: Request, folder: Path) -> Request:
    """The request for a stack in `folder`: with the baseline that lies there, unless --baseline names another."""
    from msgspec.structs import replace

    from ernie_deploy.bench.compare.bounds import NAME, bound_of

    if request.baseline:
        path = os.path.relpath(request.baseline.path, folder)
        return replace(request, baseline=replace(request.baseline, path=path))
    if request.monitoring and (folder / NAME).is_file():
        return replace(request, baseline=bound_of(folder, NAME))
    return request
