"""The options of `bench plan`, `bench run` and `bench search`, and what they mean."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ernie_deploy.commands.options import id_of, ids

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])
# No rate of anybody's: the stack's own is meant.
OF_STACK = 0.0
SLOS = ("ttft", "tpot", "e2el")


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    if not value:
        return ()
    if not all(re.fullmatch(r"[1-9][0-9]{0,5}", part) for part in value.split(",")):
        raise click.BadParameter("write whole numbers with commas between them, such as 1,16,32")
    return tuple(int(part) for part in value.split(","))


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value else ()


def rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Requests per second, None for all at once, or OF_STACK where none was given."""
    if value is None:
        return OF_STACK
    if value == "inf":
        return None
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise click.BadParameter("write requests per second, such as 10, or inf")
    return number


def slo(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, float]:
    """`ttft:1000,tpot:50` in ms."""
    pairs = dict(part.split(":", 1) for part in (value or "").split(",") if ":" in part)
    if value and (len(pairs) != len(value.split(",")) or not pairs.keys() <= set(SLOS)):
        raise click.BadParameter("write milliseconds such as ttft:1000,tpot:50,e2el:60000")
    try:
        limits = {name: float(number) for name, number in pairs.items()}
    except ValueError:
        limits = {"": 0.0}
    if not all(0 < limit < float("inf") for limit in limits.values()):
        raise click.BadParameter("a limit is a number of milliseconds above 0")
    return limits


WHERE = [
    click.option("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
                 help="The stack's compose file; repeat for overrides.  [default: those that Compose takes here]"),
    click.option("-p", "--name", "--project", "project", default="", metavar="NAME", help="Compose's project name, if not the file's own."),
    click.option("--env-file", type=click.Path(path_type=Path), metavar="FILE", help="File with Compose's variables."),
    click.option("--attach", default="", metavar="URL",
                 help="Measure a server that runs elsewhere, with the vllm of this machine."),
    click.option("--gpu-count", type=click.IntRange(min=0), default=0, metavar="N",
                 help="With --attach: how many GPUs serve, for figures per GPU."),
    click.option("--tokenizer", default="", metavar="ID|DIR",
                 help="With --attach: the model's tokenizer.  [default: that of --model]"),
    click.option("--api-key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                 help="With --attach: vLLM's configuration file that holds the server's key."),
    click.option("--model", default="", metavar="MODEL", callback=id_of("models"), shell_complete=ids("models"),
                 help="Catalog id, if no rendered file names it."),
    click.option("--target", default="", metavar="TARGET", callback=id_of("targets"), shell_complete=ids("targets"),
                 help="Catalog id, if no rendered file names it."),
]  # fmt: skip
WHAT = [
    click.option("--shapes", callback=_words, metavar="A,B",
                 help="prompt-heavy, decode-heavy, balanced, or tokens in and out: 2000/500.  [default: the recipe's three]"),
    click.option("--num-prompts", callback=_numbers, metavar="1,16",
                 help="Requests per cell.  [default: 1,16,32,64,128,256,512]"),
    click.option("--rate", "request_rate", callback=rate, metavar="R",
                 help="Requests per second, or inf.  [default: the stack's, as `docker compose run bench` has it]"),
    click.option("--max-concurrency", type=click.IntRange(min=1), metavar="N", help="Most requests in flight."),
    click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
                 help="Measure each cell N times; intervals need 2, comparisons 3."),
    click.option("--cold", type=click.Choice(["seed", "reset", "restart"]), default="seed", show_default=True,
                 help="How a cell's prompts are kept out of the prefix cache."),
    click.option("--dataset", type=click.Choice(["random", "random-mm", "sharegpt", "custom"]), default="random",
                 show_default=True, help="random-mm sends an image with each prompt (VL models)."),
    click.option("--dataset-path", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                 help="File for sharegpt or custom."),
    click.option("--preset", type=click.Choice(["published", "amd"]), default=None,
                 help="published: seed 0, a fresh server for each cell, no warm-up. amd: rate 10000."),
    click.option("--seed", type=click.IntRange(min=0), metavar="N",
                 help="One seed for every cell, as in the recipe's loop; the second cell then finds a warm cache."),
    click.option("--goodput", callback=slo, metavar="ttft:MS,tpot:MS", help="SLOs; count the requests that meet them."),
]  # fmt: skip
HOW = [
    click.option("--results", type=click.Path(path_type=Path), default=Path("bench-results"), show_default=True,
                 metavar="DIR", help="Folder of the journal; a rerun continues it."),
    click.option("--skip-coherence", is_flag=True, help="Measure even if the answers make no sense."),
    click.option("--no-warm-up", is_flag=True, help="Send nothing before the first cell."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first cell that is not valid."),
]  # fmt: skip


def with_options(*groups: list[Any]) -> Callable[[AnyCommand], AnyCommand]:
    """Add groups of options to a command."""

    def add(command: AnyCommand) -> AnyCommand:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add
