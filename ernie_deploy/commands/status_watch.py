"""`status --watch`: refreshed in place on a terminal, a line each tick elsewhere."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ernie_deploy.safe_io.terminal import console, say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack
    from ernie_deploy.stack.watch import Aims

Shown = Callable[[dict[str, Any]], None]


def watch_stack(stack: "Stack", interval_s: float, *, as_json: bool) -> None:
    """Show the figures of each interval until Ctrl-C."""
    from ernie_deploy.stack import containers
    from ernie_deploy.stack.watch import as_line, show, ticks

    watched = _watched(stack)
    seen = ticks(containers.client(), watched, interval_s)
    if as_json:
        show(seen, lambda tick: say(json.dumps(tick), as_json=True))
    elif sys.stdout.isatty():
        with _in_place() as shown:
            show(seen, shown)
    else:
        show(seen, lambda tick: say(as_line(tick)))


def _watched(stack: "Stack") -> Any:
    from ernie_deploy.stack import containers
    from ernie_deploy.stack.compose import require_compose
    from ernie_deploy.stack.lifecycle import resolve, url_of_api
    from ernie_deploy.stack.watch import Watched

    require_compose()
    resolved = resolve(stack)
    states = containers.states(containers.client(), resolved["name"])
    return Watched(
        project=resolved["name"],
        services=resolved["services"],
        url=url_of_api(stack, resolved["services"], states),
        aims=_aims(stack),
    )


def _aims(stack: "Stack") -> "Aims":
    """What the plan behind the stack's file says; nothing where no plan is known."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.commands.preflight import request_of_file
    from ernie_deploy.errors import KitError
    from ernie_deploy.plan.objectives import most_tokens_per_s, objectives
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.stack.watch import Aims

    try:
        request = request_of_file(stack.files[0])
        plan = resolve(Catalog(), request) if request else None
    except KitError:
        plan = None
    if plan is None:
        return Aims()
    return Aims(
        objectives=objectives(plan),
        most_tokens_per_s=most_tokens_per_s(plan) or None,
        usd_per_hour=(plan.request.gpu_price or 0.0) * len(plan.gpu_ids) or None,
    )


@contextmanager
def _in_place() -> Iterator[Shown]:
    from rich.live import Live
    from rich.text import Text

    from ernie_deploy.stack.watch import as_page

    with Live(console=console(sys.stdout), auto_refresh=False) as live:
        yield lambda tick: live.update(Text(as_page(tick)), refresh=True)
