"""How a benchmark speaks: a live table on a terminal, elsewhere a line every ten seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ernie_deploy.bench.journal.record import Attempt, Cell
from ernie_deploy.bench.measure.run import Reporter
from ernie_deploy.bench.measure.server import ServerMetrics
from ernie_deploy.safe_io.terminal import console, in_colour, say

QUIET_S = 10.0


@contextmanager
def reporting(out: TextIO) -> Iterator[Reporter]:
    """Yield what a run speaks through; the terminal is left clean."""
    if not in_colour(out):
        lines = _Lines(out)
        yield Reporter(say=lines.say, ended=lines.ended, progress=lines.progress)
        return
    from rich.live import Live

    with Live("", console=console(out), refresh_per_second=4, transient=True) as live:
        table = _Terminal(live)
        yield Reporter(say=table.say, ended=table.ended, progress=table.progress)


def done_line(done: Attempt, number: int, of: int) -> str:
    """One cell that ended, with the figures that matter."""
    place = f"{number:>3}/{of}" if of else "      "
    line = f"{place} {done.status:<9} {done.cell.name:<22}"
    if done.result.get("completed"):
        line += (
            f" {done.result['output_throughput']:8.1f} tok/s"
            f"  TTFT {done.result['median_ttft_ms']:7.0f} ms  TPOT {done.result['mean_tpot_ms']:6.2f} ms"
        )
    return (
        line if done.status in ("valid", "suspect") else f"{line}  {'; '.join(done.reasons)[:160]}".rstrip()
    )


def facts(
    cell: Cell, elapsed_s: float, before: ServerMetrics | None, now: ServerMetrics | None
) -> dict[str, str]:
    """What is known of a running cell, as words."""
    shown = {"cell": cell.name, "elapsed": f"{elapsed_s:.0f} s"}
    if before is None or now is None:
        return shown | {"server": "does not answer"}
    made = now.counters.get("generation_tokens", 0.0) - before.counters.get("generation_tokens", 0.0)
    share = min(1.0, made / (cell.num_prompts * cell.output_len))
    shown |= {"tokens": f"{share:.0%}", "running": f"{now.running:.0f}", "waiting": f"{now.waiting:.0f}"}
    shown["KV cache"] = f"{now.kv_cache_use:.0%}"
    shown["left"] = f"{elapsed_s * (1 - share) / share:.0f} s" if share else "-"
    return shown


class _Lines:
    """A line when a cell ends, and one every ten seconds in between."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.said_at = out, time.monotonic()

    def say(self, text: str) -> None:
        say(text, stream=self.out)
        self.said_at = time.monotonic()

    def ended(self, done: Attempt, number: int, of: int) -> None:
        self.say(done_line(done, number, of))

    def progress(
        self, cell: Cell, elapsed_s: float, before: ServerMetrics | None, now: ServerMetrics | None
    ) -> None:
        if time.monotonic() - self.said_at >= QUIET_S:
            shown = facts(cell, elapsed_s, before, now)
            self.say("         " + "  ".join(f"{name} {value}" for name, value in shown.items()))


class _Terminal:
    """One row that changes below the lines of the cells that ended."""

    def __init__(self, live: Any) -> None:
        self.live = live

    def say(self, text: str) -> None:
        from rich.markup import escape

        self.live.console.print(f"[dim]{escape(text)}[/]", highlight=False, soft_wrap=True)

    def ended(self, done: Attempt, number: int, of: int) -> None:
        from rich.markup import escape

        colour = {"valid": "green", "suspect": "yellow"}.get(done.status, "red")
        line = escape(done_line(done, number, of))
        self.live.console.print(
            line.replace(done.status, f"[{colour}]{done.status}[/]", 1), highlight=False, soft_wrap=True
        )

    def progress(
        self, cell: Cell, elapsed_s: float, before: ServerMetrics | None, now: ServerMetrics | None
    ) -> None:
        from rich.table import Table

        shown = facts(cell, elapsed_s, before, now)
        table = Table(box=None, pad_edge=False)
        for name in shown:
            table.add_column(name, justify="left" if name == "cell" else "right", header_style="dim")
        table.add_row(*shown.values())
        self.live.update(table)
