"""Settings and the words they become on vLLM's command line, and back."""

import json
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ernie_deploy.catalog.schema import Value


class Setting(Struct, frozen=True, kw_only=True):
    """One flag or variable of a plan, with where it comes from.

    `variable` names the `${VAR}` by which a host may change the value; empty for none.
    """

    name: str
    value: Value
    origin: str
    variable: str = ""

    @property
    def is_kit(self) -> bool:
        """Whether the stack itself wants it, and neither the recipe, the hardware nor the user."""
        return self.origin.startswith("kit: ")


def words(settings: Iterable[Setting]) -> list[str]:
    """Command-line words, one a setting, always by the long name: `--tensor-parallel-size=4`."""
    return [word for setting in settings for word in _words_of(setting.name, setting.value)]


def _words_of(name: str, value: Value) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if value is False:
        return []
    if name == "config":
        # vLLM looks for the very word `--config` before it parses.
        return [f"--{name}", text(value)]
    if isinstance(value, list):
        return [f"--{name}", *map(text, value)]
    return [f"--{name}={text(value)}"]


def text(value: Value) -> str:
    """A value as vLLM reads it: numbers in their shortest form, tables as compact JSON."""
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def as_settings(table: Mapping[str, Value], origin: str) -> list[Setting]:
    """A catalog table as settings that share an origin."""
    return [Setting(name=name, value=value, origin=origin) for name, value in table.items()]


def value_of(settings: Sequence[Setting], name: str, default: object) -> object:
    """The value of the setting `name`, or `default`; the first of a list."""
    value = next((s.value for s in settings if s.name == name), default)
    return value[0] if isinstance(value, list) else value


def merge(*layers: Iterable[Setting]) -> tuple[Setting, ...]:
    """Later layers win by name; a name keeps the place where it first stood."""
    merged: dict[str, Setting] = {}
    for layer in layers:
        for setting in layer:
            key = _switch(setting.name)
            if key in merged and merged[key].name != setting.name:
                del merged[key]
            merged[key] = setting
    return tuple(merged.values())


def _switch(name: str) -> str:
    """What all spellings of one switch share: `x` and `no-x`, in newer engines `enable-x` and `disable-x` too."""
    bare = name.removeprefix("no-")
    return f"enable-{bare.removeprefix('disable-')}" if bare.startswith("disable-") else bare
