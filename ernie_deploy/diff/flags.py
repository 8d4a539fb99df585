"""vLLM's arguments by meaning: the long name of each flag and its value in one spelling."""

import json
from typing import Any

from ernie_deploy.check.argv import Argument, Argv
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.values import human
from ernie_deploy.plan.words import Flag

ON, OFF = "on", "off"
SWITCHES = ("switch", "boolean")


def meanings(argv: Argv) -> dict[str, str]:
    """Long name with dashes -> value; the last of several holds, as for vLLM's parser."""
    found: dict[str, str] = {}
    dotted: dict[str, dict[str, Any]] = {}
    for argument in argv.arguments:
        name, value = _meaning(argument)
        if argument.dotted:
            table = dotted.setdefault(name, {})
            _put(table, argument.dotted.split("."), _json(argument.value))
            value = compact(table)
        found[name] = value
    return found


def _meaning(argument: Argument) -> tuple[str, str]:
    """Name and value of one argument; `--no-x` and a table's negatives are x, switched off."""
    flag, name = argument.flag, argument.name
    if flag and flag.kind == "boolean" and name.startswith("no-") and not argument.dotted:
        return f"--{name.removeprefix('no-')}", OFF
    return f"--{name}", value_of(argument.values, flag)


def value_of(values: tuple[str, ...], flag: Flag | None) -> str:
    """Values in one spelling: `32k` is 32000 where vLLM takes it for a number, JSON has no spaces."""
    if flag and flag.kind in SWITCHES:
        return ON
    if not values:
        return ON
    return " ".join(_spelt(value, flag.type if flag else "") for value in values)


def default_of(flag: Flag) -> str:
    """What holds without the flag, in the spelling of `value_of`; a switch is off, others may have none."""
    if flag.kind in SWITCHES:
        return ON if flag.default == "true" else OFF
    return value_of((flag.default,), flag) if flag.default else ""


def _spelt(text: str, kind: str) -> str:
    if not known(text):
        return text
    if kind == "human-int" and (number := human(text)) is not None:
        return str(number)
    if kind in ("int", "float"):
        return _number(text)
    return compact(_json(text)) if text.startswith(("{", "[")) else text


def _number(text: str) -> str:
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text


def compact(value: Any) -> str:
    """JSON without spaces, its keys in order; a text that is no table stays as it is."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _put(table: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = table.get(key)
        table[key] = inner if isinstance(inner, dict) else {}
        table = table[key]
    table[keys[-1]] = value
