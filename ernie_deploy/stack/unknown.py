"""What to search for where no failure of the table stands in a text: its last exception, and where it was raised."""

import re
from collections.abc import Sequence

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.safe_io.secret_masks import masked
from ernie_deploy.stack.evidence import Line
from ernie_deploy.stack.failures import is_generic

EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w{0,60}\.){0,8}[A-Z]\w{0,80}(?:Error|Exception|Exit|Interrupt|Timeout|NotFound|Denied|Failure|Failed)(?:: |$)"
    # What C++ says of an exception that nothing catches.
    r"|^terminate called (?:after throwing an instance of|without an active exception)"
)
OTHERS = re.compile(
    r"^(?:what\(\): {1,4}\S|(?:Error|ERROR|error|fatal|FATAL|panic|Fatal)\b.{0,40}[: ]\S|\S{1,60}: (?:error|fatal): )"
)
# A place in an installed package, or in vllm's tree.
FRAME = re.compile(
    r'^File "[^"]{0,400}?(?:(?:site|dist)-packages/|(?=vllm/))(?P<file>[\w./-]{1,200}\.py)", line \d{1,6}, in (?P<name>[\w<>]{1,80})'
)
ANY_FRAME = 'File "'
# What differs between two reports of the same fault.
OWN = re.compile(r"0x[0-9a-f]{4,16}|(?<![\w.:/])/[\w./-]{3,200}|\b\d{4,20}\b|\b[0-9a-f]{16,64}\b")
MOST_LINES = 3
MOST_CHARACTERS = 240


class Unknown(Struct, frozen=True):
    """The last exception, and up to three lines that others may have written about."""

    exception: Line | None
    search: tuple[str, ...]


def unknown(lines: Sequence[Line], catalog: Catalog) -> Unknown:
    """What an unknown failure can be looked for by."""
    errors = [
        line for line in lines if _is_error(line) and not line.survived and not is_generic(line, catalog)
    ]
    raised = [line for line in errors if EXCEPTION.match(line.text)] or errors
    last = raised[-1] if raised else None
    # The exception itself, where it was raised, then what else was said.
    words = [
        *map(searchable, raised[-1:]),
        *_frame(lines, last),
        *map(searchable, [*raised[-2:-4:-1], *errors[:-4:-1]]),
    ]
    return Unknown(exception=last, search=tuple(dict.fromkeys(filter(None, words)))[:MOST_LINES])


def _is_error(line: Line) -> bool:
    if line.quiet or line.level in ("WARNING", "WARN") or line.text.startswith(ANY_FRAME):
        return False
    return bool(
        EXCEPTION.match(line.text)
        or OTHERS.match(line.text)
        or (line.level in ("ERROR", "CRITICAL", "FATAL") and line.text[:1].isalpha())
    )


def _frame(lines: Sequence[Line], last: Line | None) -> list[str]:
    """Where the traceback before an exception was raised: its last place in an installed package, and in vllm's code."""
    if last is None:
        return []
    before = lines[: lines.index(last)]
    matches = [match for line in reversed(before) if (match := FRAME.match(line.text))]
    of_vllm = [match for match in matches if match["file"].startswith("vllm/")]
    return [f"{match['file']} {match['name']}" for match in (*matches[:1], *of_vllm[:1])]


def searchable(line: Line) -> str:
    """A message without what is this machine's own, and without secrets."""
    return OWN.sub("...", masked(line.text))[:MOST_CHARACTERS].strip()
