"""ED1xx, first part: what vLLM's own parser refuses, or takes with a warning."""

import difflib
import json
from collections.abc import Callable, Iterator

from ernie_deploy.catalog import ENGINE
from ernie_deploy.catalog.engine_schema import Lifetime
from ernie_deploy.check.argv import Argument, Argv, Tool, unknown_words
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import human, shown, version
from ernie_deploy.plan.words import names

PARSER = f"the flag table read from vLLM {ENGINE}'s own parser"
# Comparing takes a millisecond a flag; nobody reads so many.
MOST_SUGGESTED = 20
# Open below, closed above: as vllm/config/cache.py has it.
SHARES = ("gpu-memory-utilization",)


def _pinned(service: Service) -> Argv | None:
    """The arguments, where the image is the engine whose flag table the catalog has."""
    return service.argv if service.engine == version(ENGINE) else None


def _lifetimes(service: Service, state: str) -> list[Lifetime]:
    """What the service's engine has removed or deprecated; empty where its version is unknown."""
    engine = service.engine
    if engine is None or service.serve is None:
        return []
    lifetimes = service.stack.catalog.engine.lifetimes
    return [life for life in lifetimes if life.state == state and engine >= (version(life.since) or engine)]


@rule(
    "ED101",
    "error",
    f"vLLM {ENGINE} has no such flag.",
    remedy="leave it out, or see `vllm serve --help=all` of this version",
    source=f"{PARSER}; an unknown flag ends the container with exit 2",
)
def unknown_flag(service: Service) -> Iterator[Spot]:
    """Flags that the pinned engine's parser does not have."""
    argv = _pinned(service)
    removed = {life.flag for life in _lifetimes(service, "removed")}
    unknown = [a for a in (argv.arguments if argv else ()) if a.flag is None and known(a.typed)]
    for count, argument in enumerate(unknown):
        if argv and argument.name not in removed:
            near = _near(f"--{argument.name}"[:60], argv.tool) if count < MOST_SUGGESTED else ""
            sentence = f"vllm {argv.tool} {ENGINE} has no flag {shown(argument.typed)}"
            yield Spot(argument.line, sentence, near)


def _near(spelling: str, tool: Tool) -> str:
    near = difflib.get_close_matches(spelling, names(ENGINE, tool), n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near else ""


@rule(
    "ED102",
    "error",
    "A flag was removed from vLLM; the server does not start.",
    remedy="leave it out",
    source="lifetimes in catalog/engines, each with its source",
)
def removed_flag(service: Service) -> Iterator[Spot]:
    """Flags that older recipes still name."""
    removed = {life.flag: life for life in _lifetimes(service, "removed")}
    for argument in service.serve.arguments if service.serve else ():
        life = removed.get(argument.name)
        if life:
            yield Spot(argument.line, f"--{life.flag} was removed in vLLM {life.since}", life.remedy)


@rule(
    "ED103",
    "warning",
    "A flag or a value is deprecated in this vLLM.",
    remedy="write the new name",
    source="lifetimes in catalog/engines, each with its source",
)
def deprecated(service: Service) -> Iterator[Spot]:
    """Flags and values that still work, with a warning in vLLM's log."""
    for life in _lifetimes(service, "deprecated"):
        for argument in service.serve.arguments if service.serve else ():
            if argument.name == life.flag and _holds(life, argument, service):
                what = f"--{life.flag} {life.value}".rstrip()
                yield Spot(argument.line, f"{what} is deprecated since vLLM {life.since}", life.remedy)


def _holds(life: Lifetime, argument: Argument, service: Service) -> bool:
    """Whether the deprecation is meant here."""
    if life.flag == "model":
        # `python -m vllm.entrypoints...` has no other way to name it.
        return not service.process.module
    if life.flag == "quantization":
        # A checkpoint that is FP8 already has every right to say so.
        return argument.value == life.value and service.model is not None
    if argument.dotted:
        return argument.value == life.value
    return not life.value or _method(argument.value) == life.value


def _method(value: str) -> object:
    try:
        table = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return table.get("method") if isinstance(table, dict) else None


@rule(
    "ED104",
    "error",
    "vLLM rejects this value of the flag.",
    remedy="see `vllm serve --help=FLAG` of this version",
    source=f"{PARSER}; a refused value ends the container with exit 2",
)
def refused_value(service: Service) -> Iterator[Spot]:
    """Values that are none of the choices, no number, no JSON, or out of range."""
    argv = _pinned(service)
    for argument in argv.arguments if argv else ():
        for value in () if argument.dotted else argument.values:
            if known(value) and (fault := _fault(argument, value)):
                sentence = f"{shown(argument.typed)} {shown(value)}: {fault}"
                yield Spot(argument.line, sentence, _quoting(value))


def _fault(argument: Argument, value: str) -> str:
    """Why vLLM refuses the value; empty where it does not, or where only vLLM can tell."""
    flag = argument.flag
    if flag is None or flag.kind in ("switch", "boolean") or value in ("", "--"):
        return ""
    if flag.choices:
        return _choice_fault(value, [str(choice) for choice in flag.choices])
    if value == "None":
        # Some flags take it for their default.
        return ""
    if argument.name in SHARES:
        return _share_fault(value)
    return _type_fault(flag.type, value)


def _choice_fault(value: str, choices: list[str]) -> str:
    if value in choices:
        return ""
    near = difflib.get_close_matches(value[:60], choices, n=3) or choices[:8]
    return f"it takes {', '.join(near)}{', ...' if len(choices) > len(near) else ''}"


def _type_fault(kind: str, value: str) -> str:
    if kind == "human-int":
        return "" if value.strip() == "auto" or human(value.strip()) is not None else "it is not a number"
    readers: dict[str, Callable[[str], object]] = {"int": int, "float": float, "json": json.loads}
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
    source=f"{PARSER}; run with {ENGINE}: `unrecognized arguments`, exit 2",
)
def refused_word(service: Service) -> Iterator[Spot]:
    """Flags without their value, switches with one, words that belong to nothing."""
    argv = _pinned(service)
    if argv is None:
        return
    for argument in argv.arguments:
        kind = argument.flag.kind if argument.flag else "optional"
        if kind == "value" and not argument.values:
            yield Spot(argument.line, f"{shown(argument.typed)} has no value")
        if kind in ("switch", "boolean") and argument.equals:
            yield Spot(argument.line, f"{shown(argument.typed)} is a switch and takes no value")
    expected = 1 if argv.tool == "serve" and not service.process.module else 0
    for word in () if unknown_words(argv) else argv.positionals[expected:]:
        yield Spot(word.line, f"{shown(word.text)} belongs to no flag")


@rule(
    "ED106",
    "error",
    "The command repeats the program that the image's entrypoint already runs.",
    remedy="begin the command with the model, or set `entrypoint` as well",
    source="vLLM 0.11.1 docker/Dockerfile, 0.14.0 docker/Dockerfile.rocm: ENTRYPOINT [vllm, serve]",
)
def doubled_entrypoint(service: Service) -> Iterator[Spot]:
    """`vllm serve vllm serve MODEL`, and `vllm serve bash -c ...`."""
    word = service.process.doubled
    if word:
        sentence = f"the image runs `vllm serve`, which takes {shown(word.text)} for the model"
        yield Spot(word.line, sentence)


@rule(
    "ED107",
    "error",
    "`sh -c` runs only the first word of the command.",
    remedy="make the command a list of one text, or leave out `sh -c`",
    source="POSIX sh: the words after the script are $0, $1, ...; Compose splits a command that is a text",
)
def cut_script(service: Service) -> Iterator[Spot]:
    """`entrypoint: [sh, -c]` with a command that Compose splits into words."""
    word = service.process.cut
    if word:
        yield Spot(
            word.line, f"the shell runs {shown(word.text)} alone; the words after it are its arguments"
        )


@rule(
    "ED108",
    "error",
    "A switch lacks the flag it needs; vLLM refuses to start.",
    remedy="give both, or neither",
    source="vLLM 0.32.0 vllm/entrypoints/launchers/cli_args.py validate_parsed_serve_args",
)
def half_a_pair(service: Service) -> Iterator[Spot]:
    """`--enable-auto-tool-choice` without a parser, and its like."""
    pairs = {"enable-auto-tool-choice": "tool-call-parser", "enable-log-outputs": "enable-log-requests"}
    argv = service.serve
    for switch, needed in pairs.items():
        if argv and argv.has(switch) and not argv.has(needed) and not argv.has("config"):
            yield Spot(argv.line_of(switch), f"--{switch} needs --{needed}")
