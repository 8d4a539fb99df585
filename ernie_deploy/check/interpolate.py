"""Compose's `${VAR:-default}`, resolved by the values that `.env` gives, else by the defaults.

A variable with neither stays in the text as `${VAR}`; whoever reads the text takes
whatever holds a `$` (a shell's variable too, written `$$VAR`) for unknown. So does one that is
set to a secret: nothing that a rule prints can then hold it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

MAX_NESTING = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACE = re.compile(r"\$\{|\}")
_OPERATOR = re.compile(r":?[-?+]")
SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|KEY)$")
SECRET_VALUE = re.compile(r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{12,}")


class Unset(Struct, frozen=True):
    """A variable without a value; `message` is that of `${NAME:?message}`, None where it is not required."""

    name: str
    message: str | None = None


class Variables:
    """What `${NAME}` stands for; `blank` whether an unset one is nothing, as Compose has it, or unknown."""

    def __init__(self, values: Mapping[str, str] | None = None, *, blank: bool = False) -> None:
        self.values = values or {}
        self.blank = blank

    def resolve(self, text: str, unset: list[Unset] | None = None) -> str:
        """`text` with its variables filled in and `$$` undoubled; the missing ones are added to `unset`."""
        return _Resolver(self, [] if unset is None else unset).resolve(text)

    def secrets(self) -> dict[str, str]:
        """The variables whose values nobody may print."""
        return {name: value for name, value in self.values.items() if value and is_secret(name, value)}


class _Resolver:
    def __init__(self, variables: Variables, unset: list[Unset]) -> None:
        self.variables = variables
        self.unset = unset

    def resolve(self, text: str, depth: int = 0) -> str:
        if "$" not in text or depth > MAX_NESTING:
            return text
        parts, at = [], 0
        while (dollar := text.find("$", at)) >= 0:
            parts.append(text[at:dollar])
            part, at = self._variable(text, dollar, depth)
            parts.append(part)
        return "".join(parts) + text[at:]

    def _variable(self, text: str, dollar: int, depth: int) -> tuple[str, int]:
        """What stands for the `$` at `dollar`, and where the text goes on."""
        if text.startswith("$$", dollar):
            return "$", dollar + 2
        if text.startswith("${", dollar):
            return self._braced(text, dollar, depth)
        if name := _NAME.match(text, dollar + 1):
            return self._plain(name[0]), name.end()
        return "$", dollar + 1

    def _braced(self, text: str, dollar: int, depth: int) -> tuple[str, int]:
        name = _NAME.match(text, dollar + 2)
        end = _closing(text, dollar + 2)
        if not name or end < 0:
            # Compose refuses the whole text, so none of it is known.
            return text[dollar:], len(text)
        operator = _OPERATOR.match(text, name.end(), end)
        if not operator:
            return self._plain(name[0]), end + 1
        return self._chosen(name[0], operator[0], text[operator.end() : end], depth), end + 1

    def _chosen(self, name: str, operator: str, rest: str, depth: int) -> str:
        """`${NAME:-rest}` and its like; with a colon an empty value is none."""
        value = self.variables.values.get(name)
        there = value is not None and not (operator.startswith(":") and not value)
        if operator.endswith("+"):
            return self.resolve(rest, depth + 1) if there else ""
        if there:
            return self._value(name)
        if operator.endswith("?"):
            self.unset.append(Unset(name, self.resolve(rest, depth + 1)))
            return f"${{{name}}}"
        return self.resolve(rest, depth + 1)

    def _plain(self, name: str) -> str:
        if name in self.variables.values:
            return self._value(name)
        self.unset.append(Unset(name))
        return "" if self.variables.blank else f"${{{name}}}"

    def _value(self, name: str) -> str:
        value = self.variables.values[name]
        return f"${{{name}}}" if value and is_secret(name, value) else value


NOTHING_SET = Variables()


@lru_cache(maxsize=4096)
def resolved(text: str) -> str:
    """`text` as Compose reads it on a host that sets no variable."""
    return NOTHING_SET.resolve(text)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of this name and value is one that nobody may print."""
    return bool(SECRET_NAME.search(name.upper()) or SECRET_VALUE.search(value))


def _closing(text: str, start: int) -> int:
    """Where the brace opened before `start` closes; -1 if nowhere."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "${" else -1
        if not depth:
            return brace.start()
    return -1


def known(text: str) -> bool:
    """Whether the text is the same on every host."""
    return "$" not in text
