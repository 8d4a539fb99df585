"""The live view of a start: one line that changes on a terminal, a line a phase elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ernie_deploy.safe_io.terminal import console, in_colour, say
from ernie_deploy.stack.lifecycle import Show
from ernie_deploy.stack.progress import Phase

QUIET_S = 10.0


@contextmanager
def shower(out: TextIO) -> Iterator[Show]:
    """Yield the function that shows a phase; the terminal is left clean."""
    if in_colour(out):
        with _terminal(out) as show:
            yield show
    else:
        yield _Lines(out)


@contextmanager
def _terminal(out: TextIO) -> Iterator[Show]:
    from rich.status import Status

    screen = console(out)
    with Status("", console=screen) as status:

        def show(elapsed_s: float, phase: Phase) -> None:
            from rich.markup import escape

            room = max(20, screen.width - 30)
            status.update(f"[bold]{phase.name}[/] {elapsed_s:5.0f} s  [dim]{escape(phase.detail[:room])}[/]")

        yield show


class _Lines:
    """A line when the phase changes, and one every ten seconds in between."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.name = ""
        self.said_s = 0.0

    def __call__(self, elapsed_s: float, phase: Phase) -> None:
        if phase.name == self.name and elapsed_s - self.said_s < QUIET_S:
            return
        self.name, self.said_s = phase.name, elapsed_s
        say(f"{elapsed_s:5.0f} s  {phase.name:<10}  {phase.detail[:160]}".rstrip(), stream=self.out)
