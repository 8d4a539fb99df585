"""ED1xx, first part: what the parser of the tag's vLLM refuses, or takes with a warning."""

import difflib
import json
from collections.abc import Iterator

from ernie_deploy.catalog.engine_schema import Lifetime
from ernie_deploy.check.argv import Argument, Argv, Tool
from ernie_deploy.check.caveat import caveat
from ernie_deploy.check.findings import Severity, Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import NEWEST, shown, version
from ernie_deploy.check.versions import exact, judges, spelled, standing
from ernie_deploy.plan.flag_history import history
from ernie_deploy.plan.words import names

PARSER = "the flag tables in catalog/engines, read from vLLM's own parsers, and the history beside them"
# Comparing takes a millisecond a flag; nobody reads so many.
MOST_SUGGESTED = 20
# Below it two words are different words; `guided` and `decode` are.
SAME_WORD = 0.75
# Fewer letters begin words of any meaning.
SHORTEST = 3


@rule(
    "ED101",
    "error",
    "The vLLM of the tag has no such flag.",
    remedy="leave it out, or see `vllm serve --help=all` of this version",
    source=f"{PARSER}; an unknown flag ends the container with exit 2",
)
def unknown_flag(service: Service) -> Iterator[Spot]:
    """Flags that the parser of the tag's vLLM does not have, or that none has."""
    argv, engine = service.argv, service.engine
    if argv is None or service.process.guessed:
        return
    for count, argument in enumerate(a for a in argv.arguments if known(a.typed)):
        state = _standing(argument, argv, service)
        if state in ("never", "later"):
            near = _near(f"--{argument.name}"[:60], argv) if count < MOST_SUGGESTED else ""
            severity: Severity = "error" if engine and engine <= _newest() else "warning"
            yield Spot(argument.line, _absence(argument, argv.tool, service, state), near, severity)


def _newest() -> tuple[int, int, int]:
    """The newest release that anything is known of."""
    return version(history().newest) or NEWEST


def _standing(argument: Argument, argv: Argv, service: Service) -> str:
    """Whether the service's vLLM has the flag: by its own table, else by the history of `vllm serve`."""
    if argv.tool == "bench" or exact(service.engine):
        if argument.flag is not None:
            return "there"
        gone = argv.tool == "serve" and standing(argument.spelling, service.engine) == "gone"
        return "gone" if gone else "never"
    return standing(argument.spelling, service.engine)


def _absence(argument: Argument, tool: Tool, service: Service, state: str) -> str:
    """`unknown to vLLM 0.32.0 and 0.33.0; this tag is 0.29.1`."""
    flag, engine = shown(argument.typed), service.engine
    if exact(engine):
        return f"vllm {tool} {judges(engine)} has no flag {flag}"
    if state == "later" and engine:
        return f"{flag} came with vLLM {history().first(argument.spelling)}; this tag is {spelled(engine)}"
    return f"{flag} is unknown to vLLM {judges(engine)}; {caveat(service)}"


def _near(spelling: str, argv: Argv) -> str:
    """A flag that is spelt almost so, and can mean no other thing."""
    near = difflib.get_close_matches(spelling, names(argv.table, argv.tool), n=1, cutoff=0.75)
    return f"did you mean {near[0]}?" if near and _same_matter(spelling, near[0]) else ""


def _same_matter(spelling: str, near: str) -> bool:
    """Whether the two differ in letters alone: no word of theirs is another word of the other's place."""
    mine, theirs = spelling.strip("-").split("-"), near.strip("-").split("-")
    if len(mine) != len(theirs):
        return "".join(mine) == "".join(theirs) or {*mine} <= {*theirs} or {*theirs} <= {*mine}
    return all(map(_same_word, mine, theirs))


def _same_word(one: str, other: str) -> bool:
    """Whether one is the other misspelt, or written out: `length` is `len`."""
    short, long = sorted((one, other), key=len)
    written_out = len(short) >= SHORTEST and long.startswith(short)
    return written_out or difflib.SequenceMatcher(None, one, other).ratio() >= SAME_WORD


@rule(
    "ED102",
    "error",
    "A flag was removed from vLLM; the server does not start.",
    remedy="leave it out",
    source=f"catalog/engines/removed.toml, each with its source; {PARSER}",
)
def removed_flag(service: Service) -> Iterator[Spot]:
    """Flags that older recipes still name."""
    argv = service.serve
    for argument in argv.arguments if argv else ():
        if argv and _standing(argument, argv, service) == "gone":
            remedy = history().remedy(argument.spelling)
            yield Spot(argument.line, _removal(argument, service), remedy, _certainty(service))
        elif again := _taken_again(argument, service):
            yield Spot(argument.line, again, history().remedy(argument.spelling), "warning")


def _certainty(service: Service) -> Severity:
    """How sure a removal is: nothing is where nobody can tell which vLLM the image holds."""
    return "note" if service.engine is None else "error"


def _removal(argument: Argument, service: Service) -> str:
    engine = service.engine
    end = history().end(argument.spelling, engine or NEWEST)
    sentence = f"--{argument.spelling} was removed by vLLM {end}"
    if engine is None:
        return f"{sentence}; the version in use is unknown"
    if engine == NEWEST:
        return f"{sentence}; {shown(service.image.tag or 'an image without a tag')} is newer unless pulled long ago"
    return sentence if exact(engine) else f"{sentence}; this tag is {spelled(engine)}"


def _taken_again(argument: Argument, service: Service) -> str:
    """What to say of a flag that some releases lack, where a floating tag may be one of them."""
    again = history().again(argument.spelling)
    if service.engine != NEWEST or not again:
        return ""
    gone = history().end(argument.spelling, version(again) or NEWEST)
    tag = shown(service.image.tag or "no tag")
    return f"--{argument.spelling} was removed by vLLM {gone} and came back with {again}; {tag} may be either"


@rule(
    "ED103",
    "warning",
    "A flag or a value is deprecated in this vLLM.",
    remedy="write the new name",
    source="lifetimes in catalog/engines, each with its source",
)
def deprecated(service: Service) -> Iterator[Spot]:
    """Flags and values that still work, with a warning in vLLM's log."""
    for lifetime in _lifetimes(service):
        for argument in service.serve.arguments if service.serve else ():
            if argument.name == lifetime.flag and _holds(lifetime, argument, service):
                if lifetime.flag == "model" and (named := _named_first(service)):
                    sentence = f"--model {shown(argument.value)} is passed over: the command names {shown(named)}, which wins"
                    yield Spot(argument.line, sentence, "name one model, as the first word of the command")
                    continue
                what = f"--{lifetime.flag} {lifetime.value}".rstrip()
                yield Spot(
                    argument.line, f"{what} is deprecated since vLLM {lifetime.since}", lifetime.remedy
                )


def _named_first(service: Service) -> str:
    """The model that stands without a flag: in vLLM's serve.py it takes precedence over --model."""
    word = service.model_word
    return word.text if word and service.argv and word in service.argv.positionals else ""


def _lifetimes(service: Service) -> list[Lifetime]:
    """What the service's engine has deprecated; empty where its version is unknown."""
    engine = service.engine
    if engine is None or service.serve is None:
        return []
    return [
        lifetime
        for lifetime in service.engine_facts.lifetimes
        if engine >= (version(lifetime.since) or engine)
    ]


def _holds(lifetime: Lifetime, argument: Argument, service: Service) -> bool:
    """Whether the deprecation is meant here."""
    if lifetime.flag == "model":
        # `python -m vllm.entrypoints...` has no other way to name it.
        return not service.process.module
    if lifetime.flag == "quantization":
        # A checkpoint that is FP8 already has every right to say so.
        return argument.value == lifetime.value and service.model is not None
    if argument.dotted:
        return argument.value == lifetime.value
    return not lifetime.value or lifetime.value in _values(argument.value)


def _values(text: str) -> list[object]:
    """The values of a flag's table; none where it is no table."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [*table.values()] if isinstance(table, dict) else []
