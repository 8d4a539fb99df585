"""Takes off a line what others wrote before it: Compose, Kubernetes, a journal, a terminal, a logger, a quotation."""

import re

from msgspec import Struct

MOST_CHARACTERS = 2_000
MOST_JSON_CHARACTERS = 64 << 10
# A JSON line in a JSON line: Docker's json-file of a program that logs JSON.
MOST_PEELS = 8
LEVELS = r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL|TRACE|debug|info|warning|warn|error)"
ESCAPES = re.compile(r"\x1b(?:\[[\d;?]{0,20}[A-Za-z]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[()][A-Z0-9])")
# vLLM writes `(EngineCore pid=212) ERROR 11-22 03:31:57 [core.py:1136] ` before each line of a message, and wrote
# `ERROR 02-20 16:43:12 engine.py:389] ` before 0.8.
LOGGER = re.compile(
    LEVELS + r"(?: (?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d{1,6})?)? {1,9}\[?[\w./-]{1,100}:\d{1,6}\] ?"
)
PROCESS = re.compile(r"\((?:[\w .=-]{1,80} )?pid=\d{1,10}(?:, ip=[\d.a-f:]{1,45})?\) ?")
# uvicorn's `ERROR:    `, and Compose's: it says nothing of who wrote it.
LEVEL = re.compile(
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)(?::|:? (?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d)? {1,9}"
)
ENGINE = (
    PROCESS,
    LOGGER,
    re.compile(r"\[(?:rank|default)\d{1,5}\]: ?"),
    re.compile(
        r"(?:\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} )?[EWIFC] \d{1,10} \d{1,10}\] [\w.]{1,80}:\d{1,6}: "
    ),
    re.compile(r"\[[EWIFC]\d{0,4} ?[\d:.]{0,20} ?[\w.]{1,80}:\d{1,6}\] "),
)
# What stands before a message that another exception or a warning carries on.
CARRIERS = (
    re.compile(r"^/[\w./-]{1,300}\.py:\d{1,6}: (?=\w{1,60}Warning: )"),
    re.compile(r"^torch\._(?:inductor|dynamo)\.exc\.\w{1,60}: (?=[\w.]{1,99}(?:Error|Compiler): )"),
)
CONTAINER = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]{0,99}) {0,40}\| ?")
OTHERS = (
    re.compile(r"\[pod/(?P<name>[\w.-]{1,200})/[\w.-]{1,200}\] "),
    re.compile(
        r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?(?: (?:stdout|stderr) [FP])?(?:[ \t]{1,9}|$)"
    ),
    re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [\w.-]{1,100} [\w./-]{1,60}(?:\[\d{1,10}\])?: "),
    re.compile(r"\[ {0,8}\d{1,9}\.\d{1,9}\] "),
    re.compile(r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\] "),
    re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{1,9} {1,10}\d{1,10} [\w./-]{1,100}:\d{1,6}\] "),
    re.compile(r"(?:> ?|\u2502 {0,4}|-->(?:\[History\]: )? {0,8}|```\w{0,10}$)"),
)
LOGRUS = re.compile(r'time="[^"]{1,60}" level=(?P<level>\w{1,10}) msg="(?P<text>(?:[^"\\]|\\.){0,4000})"')
JSON_TEXTS = ("log", "message", "msg", "line", "text", "MESSAGE", "event")
JSON_NAMES = ("container", "service", "name")
JSON_LEVELS = ("level", "levelname", "severity")


class Peeled(Struct, frozen=True):
    """A line's own text; `name` of the container that printed it, `level` and `engine` where a logger says so."""

    text: str
    name: str = ""
    level: str = ""
    engine: bool = False


def peeled(line: str) -> list[Peeled]:
    """A line without what stands before it; several where one holds JSON with line ends in it."""
    whole = ESCAPES.sub("", line[:MOST_JSON_CHARACTERS]).strip("\r\n")
    return _peeled(Peeled(whole), MOST_PEELS)


def message(line: str) -> Peeled:
    """A container's own line without the prefix of vLLM's logger; nothing else is taken off."""
    return _off(
        Peeled(ESCAPES.sub("", line[:MOST_CHARACTERS]).strip()), (*ENGINE, LEVEL, *CARRIERS), MOST_PEELS
    )


def _peeled(part: Peeled, left: int) -> list[Peeled]:
    part = _off(part, (CONTAINER, *OTHERS, *ENGINE, LEVEL, *CARRIERS), left)
    inner = _inside(part)
    if not inner or not left:
        return [Peeled(part.text[:MOST_CHARACTERS].rstrip(" \u2502"), part.name, part.level, part.engine)]
    return [one for text in inner.text.split("\n") for one in _peeled(_with(inner, text), left // 2)]


def _with(part: Peeled, text: str) -> Peeled:
    return Peeled(text, part.name, part.level, part.engine)


def _off(part: Peeled, prefixes: "tuple[re.Pattern[str], ...]", most: int) -> Peeled:
    """Take prefixes off, each kind as often as it comes."""
    for _ in range(most):
        first = next(((p, match) for p in prefixes if (match := p.match(part.text)) and match.end()), None)
        if first is None:
            return part
        prefix, match = first
        groups = match.groupdict()
        part = Peeled(
            part.text[match.end() :].removeprefix("kernel: "),
            part.name or groups.get("name") or "",
            (groups.get("level") or "").upper() or part.level,
            part.engine or prefix in ENGINE,
        )
    return part


def _inside(part: Peeled) -> Peeled | None:
    """What a line in a machine's form carries: logrus of Docker, JSON of a log driver or a logger."""
    if match := LOGRUS.match(part.text):
        text = match["text"].replace('\\"', '"').replace("\\n", "\n")
        return Peeled(text, part.name, match["level"].upper(), engine=False)
    return _of_json(part) if part.text.lstrip()[:1] == "{" else None


def _of_json(part: Peeled) -> Peeled | None:
    import json

    try:
        data = json.loads(part.text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    texts = (data[key] for key in JSON_TEXTS if isinstance(data.get(key), str))
    text = next(texts, None)
    level = next((str(data[key]).upper() for key in JSON_LEVELS if key in data), part.level)
    name = next((str(data[key])[:100] for key in JSON_NAMES if isinstance(data.get(key), str)), part.name)
    return None if text is None else Peeled(text.rstrip("\n"), name, level, engine=part.engine)
