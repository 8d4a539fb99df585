"""Every failure the kit foresees: a sentence, a likely cause, the next command and an exit code.

Anything that is not a `KitError` is a bug and keeps its traceback.
"""


class KitError(Exception):
    """Base of the family; `exit_code` follows the table in docs/exit-codes.md."""

    exit_code = 1

    def __init__(self, what: str, *, cause: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.next_step:
            lines.append(f"  next:  {self.next_step}")
        return "\n".join(lines)


class ToolFailed(KitError):
    """A wrapped tool (docker, vLLM) ended with an error."""

    exit_code = 1


class UsageError(KitError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class CatalogError(KitError):
    """An unknown id, or a fault in a catalog file."""

    exit_code = 3


class Refused(KitError):
    """The pairing is refused or does not fit."""

    exit_code = 4


class OutOfDate(KitError):
    """Committed files differ from what the catalog renders."""

    exit_code = 5


class ToolMissing(KitError):
    """Docker or Compose is missing or too old."""

    exit_code = 6


class ExtraMissing(KitError):
    """A package or program that only one option needs is not installed."""

    exit_code = 14


class NotReady(KitError):
    """A server was not ready in time."""

    exit_code = 7


class CheckFailed(KitError):
    """`check` found at least one error."""

    exit_code = 10


class BenchInvalid(KitError):
    """A benchmark ended, but its figures prove nothing."""

    exit_code = 11


class ServerDied(KitError):
    """The server under test is not there, or went away during a benchmark."""

    exit_code = 12


class NotComparable(KitError):
    """Two benchmark results answer different questions."""

    exit_code = 13


class Interrupted(KitError):
    """Stopped by the user; completed work is kept, and the same command continues from there."""

    exit_code = 130
