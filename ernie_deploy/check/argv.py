"""vLLM's words as its own parser takes them: flags with their values, by the flag table of a version."""

import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Literal, TypeAlias

from msgspec import Struct

from ernie_deploy.check.interpolate import known
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import human
from ernie_deploy.plan.flag_history import history
from ernie_deploy.plan.words import Flag, find, names

Tool: TypeAlias = Literal["serve", "bench"]

MOST_VALUES = {"switch": 0, "boolean": 0, "value": 1, "optional": 1}
_NUMBER = re.compile(r"-(?:\d+|\d*\.\d+)")
_BLANK = re.compile(r"\s")
_FLAG_INSIDE = re.compile(r"\s--?[A-Za-z]")
# First words of a command of vLLM's; no model and no value is called so.
_STARTS = {"vllm", "serve", "python", "python3"}
# A table, a list or a quoted text may hold anything.
_ENCLOSED = ("{", "[", "'", '"')


class Argument(Struct, frozen=True):
    """One flag as given; `flag` is None where the table has none of that name.

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
    def spelling(self) -> str:
        """The name as the history of flags has it: a name of its own before the one that it now stands for."""
        name = self.typed.lstrip("-").replace("_", "-")
        return name if history().run(name) else self.name

    @property
    def value(self) -> str:
        """The first value; empty where there is none."""
        return self.values[0] if self.values else ""


class Argv(Struct, frozen=True):
    """The arguments of one `vllm serve` or `vllm bench serve`, read by the flags of vLLM `table`.

    `joined` are the items that hold more than one word; they are taken apart here as they were meant.
    """

    tool: Tool
    positionals: tuple[Word, ...] = ()
    arguments: tuple[Argument, ...] = ()
    joined: tuple[Word, ...] = ()
    table: str = ""

    def last(self, name: str) -> Argument | None:
        """The last argument called `name` or `no-name`: vLLM's parser lets the last one hold."""
        wanted = (name, f"no-{name}")
        return next((a for a in reversed(self.arguments) if a.name in wanted and not a.dotted), None)

    def has(self, name: str) -> bool:
        """Whether the flag is given and not switched off."""
        argument = self.last(name)
        return argument is not None and argument.name == name

    def text(self, name: str, default: str = "") -> str:
        """The first value of a flag."""
        argument = self.last(name)
        return argument.value if argument else default

    def number(self, name: str, default: int | None = None) -> int | None:
        """The whole number a flag has; None where only the host or a `--config` file knows it."""
        argument = self.last(name)
        if argument:
            return human(argument.value)
        return None if self.has("config") else default

    def line_of(self, name: str, default: int = 1) -> int:
        """Where a flag stands."""
        argument = self.last(name)
        return argument.line if argument else default


def parse(words: Iterable[Word], tool: Tool, table: str) -> Argv:
    """Take the words apart by the flags of vLLM `table`; what it would refuse is kept for the rules to name."""
    given = [*words]
    rest, positionals, arguments = separated(given)[::-1], [], []
    while rest:
        word = rest.pop()
        if is_flag(word.text):
            arguments.append(_argument(word, rest, tool, table))
        else:
            positionals.append(word)
    joined = tuple(word for word in given if is_joined(word.text))
    return Argv(tool, tuple(positionals), tuple(arguments), joined, table)


def separated(words: Iterable[Word]) -> list[Word]:
    """The words with those taken apart that hold several."""
    return [part for word in words for part in (_parts(word) if is_joined(word.text) else [word])]


def is_joined(text: str) -> bool:
    """Whether one word holds several: `--dtype auto`, or a whole command."""
    name, _, value = text.strip().partition("=") if text.startswith("-") else ("", "", text)
    if not _BLANK.search(text.strip()) or value.lstrip().startswith(_ENCLOSED):
        return bool(_BLANK.search(name.strip()))
    starts = text.split(maxsplit=1)[0].rpartition("/")[2] in _STARTS
    return bool(starts or _BLANK.search(name) or _FLAG_INSIDE.search(value))


def _parts(word: Word) -> list[Word]:
    texts = word.raw.split(maxsplit=1)
    if not texts[1].startswith(("{", "[")):
        try:
            texts = shlex.split(word.raw)
        except ValueError:
            texts = word.raw.split()
    return [Word(raw=text, line=word.line) for text in texts]


def is_flag(text: str) -> bool:
    """Whether argparse takes the word for a flag."""
    return len(text) > 1 and text.startswith("-") and not _NUMBER.fullmatch(text)


def _argument(word: Word, rest: list[Word], tool: Tool, table: str) -> Argument:
    typed, equals, value = word.text.partition("=")
    if match := re.fullmatch(r"-O(\w*)", typed):
        # vLLM turns `-O3`, `-O=3` and `-O 3` into this flag before it parses.
        typed, equals, value = "--optimization-level", match[1] or equals, match[1] or value
    key, _, dotted = typed.partition(".")
    name, flag = _flag(key, tool, table)
    most = 1 if dotted else _most_values(name, flag, len(rest))
    values = (value,) if equals else tuple(_values(rest, most))
    return Argument(name, typed, word.line, values, flag, bool(equals), dotted)


def _most_values(name: str, flag: Flag | None, rest: int) -> int:
    """How many values a flag takes at most; one that only older versions have, as they took it."""
    if flag:
        return MOST_VALUES.get(flag.kind, rest)
    run = history().run(name)
    return (0 if run.switch else 1) if run else rest


def _values(rest: list[Word], most: int) -> Iterator[str]:
    taken = 0
    while rest and taken < most and not is_flag(rest[-1].text):
        taken += 1
        yield rest.pop().text


def _flag(spelling: str, tool: Tool, table: str) -> tuple[str, Flag | None]:
    """Long name and flag of a spelling; a prefix that only one flag has is that flag."""
    flag = find(spelling, table, tool)
    name = spelling.lstrip("-").replace("_", "-")
    if flag is None and spelling.startswith("--") and len(spelling) > len("--x") and not history().run(name):
        begun = _beginning(f"--{name}", tool, table)
        flag = find(begun[0], table, tool) if len(begun) == 1 else None
    return flag or (name, None)


@cache
def _spellings(tool: Tool, table: str) -> tuple[str, ...]:
    return tuple(sorted(names(table, tool)))


def _beginning(prefix: str, tool: Tool, table: str) -> list[str]:
    return [spelling for spelling in _spellings(tool, table) if spelling.startswith(prefix)]


def unknown_words(argv: Argv) -> bool:
    """Whether a variable may bring further words along."""
    return any(not known(word.text) for word in argv.positionals)
