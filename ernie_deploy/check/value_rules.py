"""ED1xx, second part: values and words that vLLM's parser refuses."""

import difflib
import json
from collections.abc import Callable, Iterator

from ernie_deploy.check.argv import Argument, Tool, unknown_words
from ernie_deploy.check.caveat import caveat
from ernie_deploy.check.engine_rules import PARSER
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import human, shown
from ernie_deploy.check.versions import exact, judges, read_by_table
from ernie_deploy.plan.words import Flag, table, tabled

# Open below, closed above: as vllm/config/cache.py has it.
SHARES = ("gpu-memory-utilization",)


@rule(
    "ED104",
    "error",
    "vLLM rejects this value of the flag.",
    remedy="see `vllm serve --help=FLAG` of this version",
    source=f"{PARSER}; a refused value ends the container with exit 2",
)
def refused_value(service: Service) -> Iterator[Spot]:
    """Values that are none of the choices, no number, no JSON, out of range, or still in quotes."""
    argv, sure = service.argv, exact(service.engine)
    for argument in argv.arguments if argv else ():
        for value in () if argument.dotted else argument.values:
            sentence = f"{shown(argument.typed)} {shown(value)}: "
            if not known(value):
                continue
            if fault := _fault(argument, value, sure=sure):
                yield Spot(argument.line, sentence + fault, _quoting(value))
            elif argv and not sure and (fault := _unheard_of(argument, value, argv.tool)):
                hedge = f"unknown to vLLM {judges(service.engine)}; {caveat(service)}"
                yield Spot(argument.line, f"{sentence}{hedge}; {fault}", severity="warning")


def _unheard_of(argument: Argument, value: str, tool: Tool) -> str:
    """Why no table takes the value, where a version without a table might; empty where one does."""
    flags = [table(version, tool).get(argument.name) for version in tabled()]
    choices = [str(choice) for flag in flags if flag for choice in flag.choices]
    return (
        _choice_fault(value, sorted({*choices}))
        if choices and argument.flag and argument.flag.choices
        else ""
    )


def _fault(argument: Argument, value: str, *, sure: bool) -> str:
    """Why vLLM refuses the value; empty where it does not, or where only vLLM can tell.

    Where the table is not that of the version itself (not `sure`), only what no version takes counts.
    """
    flag = argument.flag
    if _quoted(value) and (flag is None or flag.type != "json"):
        return "the quotes are part of the value"
    if flag is None or flag.kind in ("switch", "boolean") or value in ("", "--"):
        return ""
    if flag.choices:
        return _choice_fault(value, [str(choice) for choice in flag.choices]) if sure else ""
    if argument.name in SHARES:
        return _share_fault(value)
    return "" if _left_to_vllm(flag, value, sure=sure) else _type_fault(flag.type, value)


def _left_to_vllm(flag: Flag, value: str, *, sure: bool) -> bool:
    """Whether only vLLM can tell: None is some flags' default, and older parsers took `image=4` for a table."""
    return value == "None" or (
        flag.type == "json" and not sure and not value.startswith(("{", "[", "'", '"'))
    )


def _quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _choice_fault(value: str, choices: list[str]) -> str:
    if value in choices:
        return ""
    near = difflib.get_close_matches(value[:60], choices, n=3) or choices[:8]
    return f"it takes {', '.join(near)}{', ...' if len(choices) > len(near) else ''}"


def _type_fault(kind: str, value: str) -> str:
    if kind == "human-int":
        return "" if value.strip() == "auto" or human(value.strip()) is not None else "it is not a number"
    readers: dict[str, Callable[[str], object]] = {"int": int, "float": float, "json": json.loads}
    if kind == "json-or-str" and value.strip().startswith("{") and value.strip().endswith("}"):
        kind = "json"
    if kind not in readers:
        return ""
    try:
        readers[kind](value)
    except (ValueError, RecursionError):
        return "it is not JSON" if kind == "json" else "it is not a number"
    return ""


def _share_fault(value: str) -> str:
    try:
        share = float(value)
    except ValueError:
        return "it is not a number"
    return "" if 0 < share <= 1 else "it must lie above 0 and at most 1"


def _quoting(value: str) -> str:
    """The commonest cause: in a list no shell takes the quotes away."""
    return "drop the inner quotes: in a list no shell removes them" if value.startswith(("'", '"')) else ""


@rule(
    "ED105",
    "error",
    "vLLM's parser rejects the command: a value is missing, or there is one too many.",
    remedy="write --flag=VALUE, and switches without a value",
    source=f"{PARSER}; run with 0.32.0: `unrecognized arguments`, exit 2",
)
def refused_word(service: Service) -> Iterator[Spot]:
    """Flags without their value, switches with one, words that belong to nothing."""
    argv, judged = service.argv, read_by_table(service.engine)
    if argv is None or service.process.guessed:
        return
    for argument in argv.arguments:
        kind = argument.flag.kind if argument.flag else "optional"
        if kind == "value" and not argument.values:
            yield Spot(argument.line, f"{shown(argument.typed)} has no value")
        if judged and kind in ("switch", "boolean") and argument.equals:
            yield Spot(argument.line, f"{shown(argument.typed)} is a switch and takes no value")
    expected = 1 if argv.tool == "serve" else 0
    for word in () if unknown_words(argv) or not judged else argv.positionals[expected:]:
        yield Spot(word.line, f"{shown(word.text)} belongs to no flag")
