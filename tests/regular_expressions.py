"""Every regular expression of the project, found by reading its source, and text that makes each one slow."""

import ast
import importlib
import importlib.util
import random
import re
import signal
import string
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import FrameType, ModuleType
from typing import Any, TypeVar

from conftest import ROOT
from msgspec import Struct

SOURCES = ("ernie_deploy/**/*.py", "docker/**/*.py", "templates/**/*.py", "benchmarks/**/*.py", ".ci/**/*.py")
TABLES = "ernie_deploy/catalog/**/*.toml"
CALLS = ("compile", "search", "match", "fullmatch", "sub", "subn", "findall", "finditer", "split")
# How many arguments stand before `flags` when it is given by position.
FLAGS_AT = {"compile": 1, "sub": 4, "subn": 4, "split": 3}
# Keys of the catalog's tables whose values are patterns; `_text` names what the code searches with otherwise.
PATTERN_KEYS = ("host", "script", "engine", "near", "confirmed_by", "refuted_by", "image")
# Where a pattern is put together from a name that only a call knows.
ANY_NAME = "NAME"
FILLERS = (" ", "a", "1", "=", '"', "'", "\n", "a\n", "/", "-", ".", ":", "{", "}", "\\", "`", "x: ", "a1_")
MOST_SAMPLES, MOST_PAIRS = 10, 40
Text = TypeVar("Text", str, tuple[str, str])


class Pattern(Struct, frozen=True):
    """One regular expression, where it stands, and its flags."""

    place: str
    text: str
    flags: int = 0


def every_pattern() -> list[Pattern]:
    """All of them, of the code and of the catalog's tables."""
    paths = sorted({path for mask in SOURCES for path in ROOT.glob(mask)})
    return [*(p for path in paths for p in _of_file(path)), *_of_tables()]


def _of_tables() -> Iterator[Pattern]:
    for path in sorted(ROOT.glob(TABLES)):
        yield from _of_value(tomllib.loads(path.read_text(encoding="utf-8")), path.name)


def _of_value(value: Any, place: str) -> Iterator[Pattern]:
    if isinstance(value, list):
        for item in value:
            yield from _of_value(item, place)
    if isinstance(value, dict):
        for key, item in value.items():
            if key in PATTERN_KEYS and isinstance(item, str):
                yield Pattern(f"{place}:{value.get('id', '')}:{key}", item)
            yield from _of_value(item, place)


def _of_file(path: Path) -> Iterator[Pattern]:
    text = path.read_text(encoding="utf-8")
    # One that gets at `re` by another way than its name would be missed.
    assert not re.search(r"^\s*(?:from re import|import re as)", text, re.MULTILINE), path
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    for call in calls:
        name = call.func
        if (
            isinstance(name, ast.Attribute)
            and isinstance(name.value, ast.Name)
            and name.value.id == "re"
            and name.attr in CALLS
        ):
            yield from _of_call(call, name.attr, path)


def _of_call(call: ast.Call, method: str, path: Path) -> Iterator[Pattern]:
    place = f"{path.relative_to(ROOT)}:{call.lineno}"
    if ast.unparse(call.args[0]) == "pattern" and path.name in ("failures.py", "images.py"):
        return  # Of the catalog's tables.
    module = _module(path)
    flags = [word.value for word in call.keywords if word.arg == "flags"]
    flags += call.args[FLAGS_AT.get(method, 2) :][:1]
    yield Pattern(place, _text(call.args[0], module), int(sum(_value(flag, module) for flag in flags)))


def _text(node: ast.expr, module: ModuleType) -> str:
    """What an argument comes to; a name that only its function knows stands as ANY_NAME."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, module) for part in node.values)
    try:
        value = _value(node.value if isinstance(node, ast.FormattedValue) else node, module)
    except (NameError, AttributeError):
        assert isinstance(node, ast.FormattedValue), ast.unparse(node)
        return ANY_NAME
    # A pattern over bytes is tried as one over the same characters.
    text = value.decode() if isinstance(value, bytes) else value
    assert isinstance(text, str), ast.unparse(node)
    return text


def _value(node: ast.expr, module: ModuleType) -> Any:
    return eval(compile(ast.Expression(node), "pattern", "eval"), vars(module))


_MODULES: dict[Path, ModuleType] = {}


def _module(path: Path) -> ModuleType:
    if path not in _MODULES:
        if path.is_relative_to(ROOT / "ernie_deploy"):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            _MODULES[path] = importlib.import_module(dotted)
        else:
            spec = importlib.util.spec_from_file_location(f"patterns_of_{path.stem}", path)
            assert spec
            assert spec.loader
            made = importlib.util.module_from_spec(spec)
            # A dataclass or a struct looks its module up.
            sys.modules[made.__name__] = made
            # So does a script that imports another beside it.
            sys.path.append(str(path.parent))
            spec.loader.exec_module(made)
            sys.path.remove(str(path.parent))
            _MODULES[path] = made
    return _MODULES[path]


# --- text that a pattern is slow on ---


def attacks(pattern: Pattern, size: int) -> Iterator[str]:
    """Texts of `size` characters: what the pattern itself begins with and repeats, and plain fillers."""
    tree = parser.parse(pattern.text, pattern.flags)
    heads = _spread([head for head in _heads(list(tree)) if head])
    units = _spread([unit for unit in _units(list(tree)) if unit])
    for unit in dict.fromkeys([*heads, *units, *FILLERS]):
        yield _filled("", unit, size)
    for head, unit in _spread([(head, unit) for head in heads for unit in units], MOST_PAIRS):
        yield _filled(head, unit, size)


def _filled(head: str, unit: str, size: int) -> str:
    """The last character is one that hardly any pattern wants: what matched so far fails there."""
    return (head + unit * (size // len(unit) + 1))[: size - 1] + "\x01"


def _spread(texts: list[Text], most: int = MOST_SAMPLES) -> list[Text]:
    """At most so many of them, from all over the list and always the same ones."""
    unique = list(dict.fromkeys(texts))
    return unique if len(unique) <= most else random.Random(0).sample(unique, most)


def _heads(items: list[Any]) -> list[str]:
    """What matches the first items, the first two and so on, into each branch and group."""
    made, before = [], [""]
    for item in items:
        made += [head + inner for head in before[:3] for inner in _inside(item)]
        before = list(dict.fromkeys(head + text for head in before for text in _samples(item)))[:6]
        made += before
    return made


def _inside(item: Any) -> list[str]:
    return [head for body in _bodies(item) for head in _heads(body)]


def _bodies(item: Any) -> list[list[Any]]:
    """The sequences within a node."""
    kind, value = item
    if kind is op.BRANCH:
        return [list(body) for body in value[1]]
    if kind is op.SUBPATTERN:
        return [list(value[3])]
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        return [list(value[2])]
    if kind is op.ATOMIC_GROUP:
        return [list(value)]
    return []


def _units(items: list[Any]) -> list[str]:
    """What every repetition repeats, and each single character that the pattern names."""
    made = []
    for item in items:
        for body in _bodies(item):
            if item[0] in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
                made += [text for text in _sequence(body) if text]
            made += _units(body)
        if item[0] in (op.IN, op.ANY, op.NOT_LITERAL):
            made += _samples(item)
    return made


def _sequence(items: list[Any]) -> list[str]:
    made = [""]
    for item in items:
        made = list(dict.fromkeys(head + text for head in made for text in _samples(item)))[:6]
    return made


def _samples(item: Any) -> list[str]:
    """A few short texts that one node matches."""
    kind, value = item
    if kind is op.LITERAL:
        return [chr(value)]
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        low, high, body = value
        texts = _sequence(list(body))
        return list(
            dict.fromkeys(
                text * min(count, 40) for count in (low, max(1, low)) if count <= high for text in texts
            )
        )
    if bodies := _bodies(item):
        return [text for body in bodies for text in _sequence(body)][:6]
    if kind in (op.IN, op.ANY, op.NOT_LITERAL):
        return _characters(item)
    return [""]  # An anchor or a look around: it has no text of its own.


def _characters(item: Any) -> list[str]:
    """Letters, digits, spaces and marks, one of each that the set takes."""
    tree = parser.parse("")
    tree.append(item)
    one = re._compiler.compile(tree)  # type: ignore[attr-defined]
    marks = string.ascii_letters + string.digits + string.punctuation + " \t\n\x80\u2028"
    taken = [mark for mark in marks if one.fullmatch(mark)]
    kinds = {("a" if c.isalpha() else "1" if c.isdigit() else c): c for c in reversed(taken)}
    return list(kinds.values())[:6] or [""]


# --- time ---


class Late(Exception):
    """A pattern took longer than it may."""


@contextmanager
def at_most(cpu_s: float) -> Iterator[None]:
    """Raise `Late` after so much time of this process; the pattern itself is interrupted."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Late

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def taken_s(compiled: "re.Pattern[str]", text: str, limit_s: float) -> float:
    """The time of this process to search all of `text` and to match it whole; `limit_s` where that is too long."""
    begun = time.process_time()
    try:
        with at_most(limit_s):
            for _ in compiled.finditer(text):
                pass
            compiled.fullmatch(text)
    except Late:
        return limit_s
    return time.process_time() - begun
