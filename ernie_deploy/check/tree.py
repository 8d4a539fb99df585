"""Reads YAML into words, lists and tables that remember their line; raises `UsageError` on all else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from msgspec import Struct

from ernie_deploy.check.interpolate import NOTHING_SET, Unset, Variables, resolved
from ernie_deploy.check.line import Line
from ernie_deploy.errors import UsageError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 512 << 10
# Values after every alias is written out; the kit's own files have about 300.
MAX_VALUES = 100_000
CHARACTERS_A_VALUE = 20

NULL = "tag:yaml.org,2002:null"
MERGE = "tag:yaml.org,2002:merge"
OVERRIDE = "!override"


class Word(Struct, frozen=True):
    """A scalar: `raw` as written, `text` with its variables filled in.

    `block` is a text of the style `|`, whose lines are the file's own, from the next one on.
    `resets` is Compose's `!reset`, `replaces` its `!override`.
    """

    raw: str
    line: int
    null: bool = False
    block: bool = False
    filled: str | None = None
    resets: bool = False
    replaces: bool = False

    @property
    def text(self) -> str:
        """The scalar as Compose reads it, by the values of `.env`, else by the defaults."""
        return resolved(self.raw) if self.filled is None else self.filled


class Items(Struct, frozen=True):
    """A list."""

    values: tuple["Value", ...]
    line: int
    replaces: bool = False


class Table(Struct, frozen=True):
    """A mapping by its keys' text; `lines` are the keys' own, `repeated` what stands twice."""

    values: dict[str, "Value"]
    lines: dict[str, int]
    line: int
    repeated: tuple[Word, ...] = ()
    replaces: bool = False


Value: TypeAlias = Word | Items | Table


class Missing(Struct, frozen=True):
    """A variable without a value, and the line that asks for it."""

    unset: Unset
    line: int


class Document(Struct, frozen=True):
    """One YAML document, and the variables that have no value."""

    top: Value
    missing: tuple[Missing, ...] = ()


def read(data: bytes, name: str) -> Value:
    """The one document in `data`, with nothing set; `name` is how faults call the file."""
    return read_document(data, name).top


def read_document(data: bytes, name: str, variables: Variables = NOTHING_SET) -> Document:
    """The one document in `data`; `name` is how faults call the file."""
    node = _compose(_text(data, name), name)
    if node is None:
        raise UsageError(
            f"{name}:1: the file is empty.", next_step="ernie-deploy render TARGET -o compose.yml"
        )
    return _document(node, name, variables)


def read_all(data: bytes, name: str) -> list[Value]:
    """The documents in `data` that are not empty, as Kubernetes has several in one file."""
    nodes = _compose_all(_text(data, name), name)
    return [_document(node, name, NOTHING_SET).top for node in nodes if node is not None]


def _document(node: "yaml.Node", name: str, variables: Variables) -> Document:
    try:
        if _weight(node, {}, name) > MAX_VALUES:
            raise too_many_values(name)
        converter = _Converter(name, variables)
        return Document(converter.value(node), tuple(converter.missing))
    except RecursionError:
        raise _too_deep(name) from None


def tables(value: "Value | None") -> list[Table]:
    """The tables among the items of a list; empty where it is none."""
    return [item for item in value.values if isinstance(item, Table)] if isinstance(value, Items) else []


def too_large(name: str) -> UsageError:
    """Refuse a file that nobody wrote by hand."""
    return UsageError(
        f"{name} is larger than {MAX_BYTES >> 10} KiB.",
        cause="compose files are never that large; is it the right file?",
    )


def _text(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise too_large(name)
    return _decoded(data, name)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data[: fault.start].count(b"\n") + 1
        raise UsageError(
            f"{name}:{line}: the file is not UTF-8 text.", cause="it is binary, or in another encoding"
        ) from None


def _compose(text: str, name: str) -> "yaml.Node | None":
    from ernie_deploy.check.loader import compose

    with _faults(text, name):
        return compose(text)


def _compose_all(text: str, name: str) -> "list[yaml.Node | None]":
    from ernie_deploy.check.loader import compose_all

    with _faults(text, name):
        return compose_all(text)


@contextmanager
def _faults(text: str, name: str) -> Iterator[None]:
    """What PyYAML raises as a `UsageError` with the line."""
    import yaml

    try:
        yield
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        _not_yaml(name, mark.line + 1 if mark else 1, fault.problem or fault.context or "unreadable")
    except yaml.reader.ReaderError as fault:
        line = text[: fault.position].count("\n") + 1
        _not_yaml(name, line, f"the character U+{ord(text[fault.position]):04X} is not allowed")
    except RecursionError:
        raise _too_deep(name) from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError) as fault:
        # PyYAML lets such escapes as "\UFFFFFFFF" fall through.
        _not_yaml(name, 1, str(fault))


def _not_yaml(name: str, line: int, problem: str) -> NoReturn:
    raise UsageError(f"{name}:{line}: the file is not YAML: {problem[:200]}.")


def too_many_values(name: str) -> UsageError:
    """Refuse a small file that stands for a huge one."""
    return UsageError(
        f"{name}:1: the file grows to more than {MAX_VALUES:,} values.",
        cause="its aliases, or services that extend each other, multiply (a YAML bomb)",
    )


def _too_deep(name: str) -> UsageError:
    return UsageError(f"{name}:1: the file nests its lists and tables too deeply to be read.")


def _weight(node: "yaml.Node", known: dict[int, int], name: str) -> int:
    """Values of `node` with every alias written out, counted once a node."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // CHARACTERS_A_VALUE
    if id(node) in known:
        if known[id(node)] < 0:
            raise UsageError(f"{name}:{node.start_mark.line + 1}: an anchor contains itself.")
        return known[id(node)]
    known[id(node)] = -1
    known[id(node)] = 1 + sum(_weight(child, known, name) for child in _children(node))
    return known[id(node)]


def _children(node: "yaml.Node") -> Iterator["yaml.Node"]:
    import yaml

    for child in node.value:
        if isinstance(node, yaml.MappingNode):
            yield from child
        else:
            yield child


class _Converter:
    """Turns nodes into values, a shared node once."""

    def __init__(self, name: str, variables: Variables) -> None:
        self.name = name
        self.variables = variables
        self.missing: list[Missing] = []
        self.known: dict[int, Value] = {}

    def value(self, node: "yaml.Node") -> Value:
        if id(node) not in self.known:
            self.known[id(node)] = self._made(node)
        return self.known[id(node)]

    def _made(self, node: "yaml.Node") -> Value:
        import yaml

        line = Line(node.start_mark.line + 1, self.name)
        if node.tag == "!reset":
            return Word(raw="", line=line, null=True, resets=True)
        if isinstance(node, yaml.MappingNode):
            return self._table(node, line)
        if isinstance(node, yaml.SequenceNode):
            values = tuple(self.value(child) for child in node.value)
            return Items(values=values, line=line, replaces=node.tag == OVERRIDE)
        return self._word(node, line)

    def _word(self, node: "yaml.Node", line: Line) -> Word:
        unset: list[Unset] = []
        filled = self.variables.resolve(node.value, unset) if "$" in node.value else None
        self.missing += [Missing(each, line) for each in unset]
        return Word(
            raw=node.value, line=line, null=node.tag == NULL, block=getattr(node, "style", None) == "|",
            filled=filled, replaces=node.tag == OVERRIDE,
        )  # fmt: skip

    def _table(self, node: "yaml.MappingNode", line: Line) -> Table:
        values: dict[str, Value] = {}
        lines: dict[str, int] = {}
        repeated: list[Word] = []
        for key, child in node.value:
            if key.tag == MERGE:
                continue
            word = self._key(key)
            if word.raw in values:
                repeated.append(word)
            values[word.raw], lines[word.raw] = self.value(child), word.line
        for merged in self._merged(node):
            values = {**merged.values, **values}
            lines = {**merged.lines, **lines}
        return Table(
            values=values, lines=lines, line=line, repeated=tuple(repeated), replaces=node.tag == OVERRIDE
        )

    def _key(self, node: "yaml.Node") -> Word:
        key = self.value(node)
        if not isinstance(key, Word):
            raise UsageError(f"{self.name}:{key.line}: a list or table stands where a key must be.")
        return key

    def _merged(self, node: "yaml.MappingNode") -> Iterator[Table]:
        """Tables that `<<` brings in; the first one wins over the next."""
        for key, child in node.value:
            if key.tag == MERGE:
                value = self.value(child)
                for table in value.values if isinstance(value, Items) else [value]:
                    if not isinstance(table, Table):
                        raise UsageError(f"{self.name}:{table.line}: `<<` merges something that is no table.")
                    yield table
