"""vLLM's words as its own parser takes them: flags with their values, by the pinned flag table."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal, TypeAlias

from msgspec import Struct

from ernie_deploy.catalog import ENGINE
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import human
from ernie_deploy.plan.words import Flag, find, names

Tool: TypeAlias = Literal["serve", "bench"]

MOST_VALUES = {"switch": 0, "boolean": 0, "value": 1, "optional": 1}
_NUMBER = re.compile(r"-(?:\d+|\d*\.\d+)")


class Argument(Struct, frozen=True):
    """One flag as given; `flag` is None where the pinned vLLM has none of that name.

    `dotted` is the key of `--speculative-config.method mtp`; `equals` whether the value came with `=`.
    """

    name: str
    typed: str
    line: int
    values: tuple[str, ...] = ()
    flag: Flag | None = None
    equals: bool = False
    dotted: str = ""

    @property
    def value(self) -> str:
        """The first value; empty where there is none."""
        return self.values[0] if self.values else ""


class Argv(Struct, frozen=True):
    """The arguments of one `vllm serve` or `vllm bench serve`."""

    tool: Tool
    positionals: tuple[Word, ...] = ()
    arguments: tuple[Argument, ...] = ()

    def last(self, name: str) -> Argument | None:
        """The last argument called `name` or `no-name`: vLLM's parser lets the last one hold."""
        wanted = (name, f"no-{name}")
        return next((a for a in reversed(self.arguments) if a.name in wanted and not a.dotted), None)

    def has(self, name: str) -> bool:
        """Whether the flag is given and not switched off."""
        found = self.last(name)
        return found is not None and found.name == name

    def text(self, name: str, default: str = "") -> str:
        """The first value of a flag."""
        found = self.last(name)
        return found.value if found else default

    def number(self, name: str, default: int | None = None) -> int | None:
        """The whole number a flag has; None where only the host or a `--config` file knows it."""
        found = self.last(name)
        if found:
            return human(found.value)
        return None if self.has("config") else default

    def line_of(self, name: str, default: int = 1) -> int:
        """Where a flag stands."""
        found = self.last(name)
        return found.line if found else default


def parse(words: Iterable[Word], tool: Tool) -> Argv:
    """Take the words apart; what vLLM would refuse is kept for the rules to name."""
    rest, positionals, arguments = [*words][::-1], [], []
    while rest:
        word = rest.pop()
        if is_flag(word.text):
            arguments.append(_argument(word, rest, tool))
        else:
            positionals.append(word)
    return Argv(tool=tool, positionals=tuple(positionals), arguments=tuple(arguments))


def is_flag(text: str) -> bool:
    """Whether argparse takes the word for a flag."""
    return len(text) > 1 and text.startswith("-") and not _NUMBER.fullmatch(text)


def _argument(word: Word, rest: list[Word], tool: Tool) -> Argument:
    typed, equals, value = word.text.partition("=")
    if match := re.fullmatch(r"-O(\w*)", typed):
        # vLLM turns `-O3`, `-O=3` and `-O 3` into this flag before it parses.
        typed, equals, value = "--optimization-level", match[1] or equals, match[1] or value
    key, _, dotted = typed.partition(".")
    name, flag = _flag(key, tool)
    most = 1 if dotted else MOST_VALUES.get(flag.kind if flag else "", len(rest))
    values = (value,) if equals else tuple(_values(rest, most))
    return Argument(name, typed, word.line, values, flag, bool(equals), dotted)


def _values(rest: list[Word], most: int) -> Iterator[str]:
    taken = 0
    while rest and taken < most and not is_flag(rest[-1].text):
        taken += 1
        yield rest.pop().text


def _flag(spelling: str, tool: Tool) -> tuple[str, Flag | None]:
    """Long name and flag of a spelling; a prefix that only one flag has is that flag."""
    found = find(spelling, ENGINE, tool)
    if found is None and spelling.startswith("--") and len(spelling) > len("--x"):
        begun = _beginning(spelling.replace("_", "-"), tool)
        found = find(begun[0], ENGINE, tool) if len(begun) == 1 else None
    return found or (spelling.lstrip("-").replace("_", "-"), None)


@cache
def _spellings(tool: Tool) -> tuple[str, ...]:
    return tuple(sorted(names(ENGINE, tool)))


def _beginning(prefix: str, tool: Tool) -> list[str]:
    return [spelling for spelling in _spellings(tool) if spelling.startswith(prefix)]


def unknown_words(argv: Argv) -> bool:
    """Whether a variable may bring further words along."""
    return any(not known(word.text) for word in argv.positionals)
