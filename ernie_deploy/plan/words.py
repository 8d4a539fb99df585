"""The pinned vLLM's own flag table: which flags it has, and what a user's words mean to it."""

import json
import tomllib
from functools import cache

from msgspec import Struct, convert

from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.schema import Value
from ernie_deploy.errors import UsageError
from ernie_deploy.paths import CATALOG
from ernie_deploy.plan.settings import Setting

LONGEST_QUOTE = 60


class Flag(Struct, frozen=True, forbid_unknown_fields=True):
    """One flag of vLLM's parser; `kind` says how many values it takes, `negatives` switch it off.

    `default` is what holds without it, as it would be written; empty for off, and where vLLM decides later.
    """

    kind: str
    type: str = "str"
    short: list[str] = []
    aliases: list[str] = []
    negatives: list[str] = []
    choices: list[str | int | float | bool | None] = []
    default: str = ""


@cache
def tabled() -> tuple[str, ...]:
    """The versions of vLLM whose flag tables the catalog has, the oldest first."""
    suffix = ".flags.toml"
    versions = (path.name.removesuffix(suffix) for path in (CATALOG / "engines").glob(f"*{suffix}"))
    return tuple(sorted(versions, key=lambda version: [int(part) for part in version.split(".")]))


@cache
def table(version: str, command: str) -> dict[str, Flag]:
    """Long name without dashes -> flag, for `serve` or `bench` of vLLM `version`."""
    path = CATALOG / "engines" / f"{version}.flags.toml"
    rows = tomllib.loads(path.read_text(encoding="utf-8"))[command]
    return {name.removeprefix("--"): convert(row, Flag) for name, row in rows.items()}


@cache
def names(version: str, command: str) -> dict[str, str]:
    """Every spelling vLLM takes -> the long name: aliases, short forms, and `no-` for what switches off."""
    spellings = {}
    for name, flag in table(version, command).items():
        for alias in (f"--{name}", *flag.aliases, *flag.short):
            spellings[alias] = name
        if flag.kind == "boolean":
            spellings |= dict.fromkeys([f"--no-{name}", *flag.negatives], f"no-{name}")
    return spellings


def find(word: str, version: str, command: str = "serve") -> tuple[str, Flag] | None:
    """The long name and flag of one spelling (`-tp`, `--tensor_parallel_size`), or None."""
    spelling = word.replace("_", "-") if word.startswith("--") else word
    name = names(version, command).get(spelling)
    if name is None:
        return None
    return name, table(version, command)[
        name.removeprefix("no-") if _negated(name, version, command) else name
    ]


def _negated(name: str, version: str, command: str) -> bool:
    return name not in table(version, command)


def parse_words(extra: tuple[str, ...], engine: Engine) -> list[Setting]:
    """Settings from vLLM words as typed after `--`; raises `UsageError` on one vLLM would refuse."""
    settings: list[Setting] = []
    rest = list(extra)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name, flag = _known(word, engine)
        if not equals:
            value_words = _take(rest, flag)
            settings.append(_setting(name, flag, value_words))
        else:
            settings.append(_setting(name, flag, [value]))
    return settings


def parse_pair(pair: str, engine: Engine) -> Setting:
    """The setting of one `--set KEY=VALUE`; raises `UsageError`."""
    key, equals, value = pair.partition("=")
    name, flag = _known(f"--{key.removeprefix('--')}", engine)
    if not equals:
        raise UsageError(
            f"--set {_short(pair)} has no value.",
            cause="a setting is KEY=VALUE",
            next_step=f"write it as: --set {key}=VALUE (true or false for a switch)",
        )
    return _setting(name, flag, [value])


def _known(word: str, engine: Engine) -> tuple[str, Flag]:
    entry = find(word, engine.version)
    if entry:
        return entry
    import difflib

    from ernie_deploy.plan.flag_history import history

    name = word.removeprefix("--").replace("_", "-")
    remedy = history().remedy(name)
    # `--tp` is the short `-tp` with a hyphen too many; else only long names come near.
    short = find(f"-{name}", engine.version)
    long = [flag for flag in names(engine.version, "serve") if flag.startswith("--")]
    near = [f"--{short[0]}"] if short else difflib.get_close_matches(word, long, n=1, cutoff=0.75)
    raise UsageError(
        f"vLLM {engine.version} has no flag {_short(word)}.",
        cause=_whose(name, engine),
        next_step=remedy or (f"did you mean {near[0]}?" if near else ""),
    )


def _whose(name: str, engine: Engine) -> str:
    """Which other release has the flag, if one has."""
    from ernie_deploy.plan.flag_history import history, numbers

    here = numbers(engine.version)
    if gone := history().end(name, here):
        return f"it was removed in {gone}"
    if (first := history().first(name)) and numbers(first) > here:
        return f"it came with {first}"
    return "it is misspelt, or not a flag of `vllm serve`"


def _take(rest: list[str], flag: Flag) -> list[str]:
    """Move the values of a flag off the front of `rest`."""
    most = {"switch": 0, "boolean": 0, "list": len(rest)}.get(flag.kind, 1)
    taken: list[str] = []
    while rest and len(taken) < most and not _is_flag(rest[0]):
        taken.append(rest.pop(0))
    return taken


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word.removeprefix("-").replace(".", "", 1).isdigit()


def _setting(name: str, flag: Flag, values: list[str]) -> Setting:
    if flag.kind in ("switch", "boolean"):
        return Setting(name=name, value=_switch(name, values), origin="user")
    if not values and flag.kind != "optional":
        raise UsageError(f"--{name} needs a value.", next_step=f"write it as: --{name}=VALUE")
    if flag.kind == "list":
        if any(map(_is_flag, values)):
            # Each becomes a word of its own; not shown, as it may be a key.
            raise UsageError(
                f"A value of --{name} begins with a dash.", cause="vLLM would take it for a flag"
            )
        return Setting(name=name, value=values, origin="user")
    return Setting(name=name, value=_value(name, flag, values[0]) if values else True, origin="user")


def _switch(name: str, values: list[str]) -> bool:
    value_text = values[0].lower() if values else "true"
    if value_text not in ("true", "false"):
        raise UsageError(
            f"--{name} is a switch and takes no value {_short(value_text)}.",
            next_step=f"write it as: --set {name}=true, or leave it out",
        )
    return value_text == "true"


def _value(name: str, flag: Flag, value_text: str) -> Value:
    """The value as vLLM's parser would type it; what only vLLM can judge stays text."""
    if "\0" in value_text:
        raise UsageError(f"--{name} has a NUL byte in its value.", cause="no program can take a NUL byte")
    if flag.choices and value_text not in map(str, flag.choices):
        raise UsageError(
            f"--{name} does not take {_short(value_text)}.",
            cause=f"vLLM takes one of {', '.join(map(str, flag.choices))}",
        )
    if value_text.startswith("{"):
        return _table(name, value_text)
    return _number(name, flag, value_text)


def _table(name: str, value_text: str) -> Value:
    try:
        table: Value = json.loads(value_text)
    except (ValueError, RecursionError) as fault:
        raise UsageError(f"--{name}: {_short(value_text)} is not JSON: {fault}.") from fault
    return table


def _number(name: str, flag: Flag, value_text: str) -> Value:
    kinds = {"int": int, "float": float}
    if flag.type == "human-int" and value_text.isascii() and value_text.isdigit():
        return int(value_text)
    if flag.type not in kinds:
        return value_text
    try:
        number: int | float = kinds[flag.type](value_text)
    except ValueError as fault:
        raise UsageError(f"--{name} takes a number, not {_short(value_text)}.") from fault
    return number


def _short(value_text: str) -> str:
    """What a user wrote, on one line and not at length."""
    shown = repr(value_text)
    return shown if len(shown) <= LONGEST_QUOTE else f"{shown[: LONGEST_QUOTE - 4]}...'"
