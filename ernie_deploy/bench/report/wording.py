"""How numbers and times are written, the same in every format."""

from datetime import UTC, datetime

from ernie_deploy.bench.journal.figures import METRICS, Figure

ABSENT = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float | None, decimals: int = 1) -> str:
    """`9,812.4`; a dash where there is none."""
    return ABSENT if value is None else f"{value:,.{decimals}f}"


def figure(measured: Figure | None, key: str) -> str:
    """The median of a figure with its metric's decimals."""
    return number(measured.median if measured else None, METRICS[key].decimals)


def spread(measured: Figure | None) -> str:
    """`±1.2 %`: half of the 95 % interval of the mean; empty where one repeat gives none."""
    half = measured.half_width_percent if measured else None
    return "" if half is None else f"±{half:.1f} %"


def ratio(value: float | None) -> str:
    """How many times something is something else: `1.21` and a multiplication sign."""
    return ABSENT if value is None else f"{value:.2f}{TIMES}"


def percent(value: float | None) -> str:
    """`+3.4 %`, always with its sign."""
    return ABSENT if value is None else f"{value:+.1f} %"


def moment(unix_s: float) -> str:
    """`2026-11-21 14:03 UTC`; a dash for what no calendar has."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return ABSENT


def counted(count: int, noun: str) -> str:
    """`1 cell`, `3 cells`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(words: list[str], most: int = 4) -> str:
    """`a, b and c`; what goes beyond `most` is counted."""
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
