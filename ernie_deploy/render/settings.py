"""Flags and variables as YAML: what the recipe, the hardware or the user wants names its origin, the stack's own follows."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from ernie_deploy.plan.settings import Setting
from ernie_deploy.render.yaml import comment, lines, packed, pair, word

INDENT = 6
# Where the first word stands behind `    command: [`.
START = 14
OWN = "# The stack's own."
OWN_AND_CACHES = "# The stack's own; what is compiled lies on a volume, because /tmp may not execute."


def command(words: Sequence[str], settings: Sequence[Setting]) -> str:
    """A service's `command`: `words`, then those of each setting; flags of one origin share a row."""
    rows = packed([word(text) for text in words], START, INDENT) if words else []
    for origin, group in groupby(_with_origin(settings), key=lambda setting: setting.origin):
        first, *rest = packed(_words(group), INDENT if rows else START, INDENT)
        rows += [f"{first}  # {comment(origin)}", *rest]
    own = packed(_words(_own(settings)), INDENT, INDENT)
    return "[" + _joined([*rows, OWN, *own]).removesuffix(",") + "]"


def variables(settings: Sequence[Setting], shared: Sequence[Setting]) -> str:
    """The environment of `serve`; `shared` are in the anchor &offline."""
    rows = [f"{pair(setting)}  # {comment(setting.origin)}" for setting in _with_origin(settings)]
    own = [pair(setting) for setting in _own(settings) if setting not in shared]
    merged = packed([f"<<: [*offline, {{{own[0]}", *own[1:]], INDENT, INDENT + 2)
    return _joined([*rows, OWN_AND_CACHES, f"\n{' ' * (INDENT + 2)}".join(merged).removesuffix(",") + "}]"])


def _with_origin(settings: Iterable[Setting]) -> list[Setting]:
    return [setting for setting in settings if not setting.is_kit]


def _own(settings: Iterable[Setting]) -> list[Setting]:
    return [setting for setting in settings if setting.is_kit]


def _words(settings: Iterable[Setting]) -> list[str]:
    return [text for setting in settings for text in lines(setting)]


def _joined(rows: Iterable[str]) -> str:
    return f"\n{' ' * INDENT}".join(rows)
