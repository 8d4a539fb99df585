"""What a text means: durations, numbers, versions, truth; None where it says something else."""

import re

_DURATION = re.compile(r"(?<!\d)(?:\d{1,12}(?:\.\d{1,9})?(?:us|ms|s|m|h))+")
_PART = re.compile(r"(?<![\d.])(\d{1,12}(?:\.\d{1,9})?)(us|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_POWERS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_HUMAN = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([kmgt]?)", re.IGNORECASE)
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?![\d.])")

Version = tuple[int, int, int]
# The longest argument that Linux hands to a program; taking longer texts apart is in vain.
MAX_ARGUMENT = 1 << 17
NEWEST: Version = (1_000_000, 0, 0)


def seconds(text: str) -> float | None:
    """`1m30s` -> 90.0."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def whole(text: str) -> int | None:
    """A whole number of at most twelve digits."""
    return int(text) if re.fullmatch(r"-?[0-9](?:_?[0-9]){0,11}", text) else None


def human(text: str) -> int | None:
    """Read a number as vLLM does: `32k` is 32,000 and `32K` 32,768."""
    match = _HUMAN.fullmatch(text.replace("_", ""))
    if not match:
        return whole(text)
    base = 1024 if match[2].isupper() else 1000
    return int(float(match[1]) * base ** (_POWERS[match[2].lower()] // 10))


def version(tag: str) -> Version | None:
    """`v0.32.0-cu129` -> (0, 32, 0)."""
    match = _VERSION.match(tag)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def shown(text: str, most: int = 60) -> str:
    """Somebody else's text on one line, short, and without what a terminal would obey."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def truth(text: str) -> bool:
    """Whether Compose takes the text for true."""
    return text.strip().lower() in ("true", "yes", "on", "y", "1")
