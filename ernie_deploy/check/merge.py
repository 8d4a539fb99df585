"""Compose's merge of one file over another: what is replaced, what is joined by key, what is appended."""

from collections.abc import Callable, Iterable

from ernie_deploy.check.ports_and_mounts import mount_of, port_of
from ernie_deploy.check.tree import Items, Table, Value, Word

# Paths inside a service. An override replaces these whole (compose-go v2 override/merge.go).
REPLACED = {("command",), ("entrypoint",), ("healthcheck", "test")}
# Lists of `NAME=value` or of names that are tables in other words, and are joined by name.
PAIRS = {
    ("environment",), ("labels",), ("annotations",), ("sysctls",), ("build", "args"), ("build", "labels"),
    ("deploy", "labels"), ("depends_on",), ("networks",),
}  # fmt: skip


def merge_stacks(base: Table, over: Table) -> Table:
    """Two files: their services by `merge_services`, the rest key by key."""
    values, lines = dict(base.values), {**base.lines, **over.lines}
    for section, value in over.values.items():
        mine = values.get(section)
        if section == "services" and isinstance(mine, Table) and isinstance(value, Table):
            values[section] = _each_service(mine, value)
        else:
            values[section] = _joined(mine, value, (section, "*"))
    return Table(values=values, lines=lines, line=base.line, repeated=base.repeated + over.repeated)


def _each_service(base: Table, over: Table) -> Table:
    values, lines = dict(base.values), {**over.lines, **base.lines}
    for name, value in over.values.items():
        mine = values.get(name)
        both = isinstance(mine, Table) and isinstance(value, Table)
        values[name] = merge_services(mine, value) if both else value  # type: ignore[arg-type]
        if isinstance(value, Word) and value.resets:
            del values[name]
    return Table(values=values, lines=lines, line=base.line, repeated=base.repeated + over.repeated)


def merge_services(base: Table, over: Table) -> Table:
    """One service over another, as for `extends` and for an override file."""
    return over if over.replaces else _merged(base, over, ())


def _merged(base: Table, over: Table, path: tuple[str, ...]) -> Table:
    values, lines = dict(base.values), {**base.lines, **over.lines}
    if path == ("logging",) and _text(base, "driver") != _text(over, "driver") and _text(over, "driver"):
        values.pop("options", None)
    for key, value in over.values.items():
        values[key] = _joined(values.get(key), value, (*path, key))
        if isinstance(value, Word) and value.resets:
            del values[key]
    return Table(values=values, lines=lines, line=over.line, repeated=base.repeated + over.repeated)


def _text(table: Table, key: str) -> str:
    value = table.values.get(key)
    return value.text if isinstance(value, Word) else ""


def _joined(base: Value | None, over: Value, path: tuple[str, ...]) -> Value:
    if base is None or over.replaces or path in REPLACED:
        return over
    if path in PAIRS:
        base, over = as_table(base), as_table(over)
    if isinstance(base, Table) and isinstance(over, Table):
        return _merged(base, over, path)
    if isinstance(base, Items) and isinstance(over, Items):
        return Items(values=_appended(base, over, path), line=over.line)
    # `!reset` of something else, and what Compose refuses to join.
    return base if isinstance(over, Word) and over.null and not over.resets else over


def _appended(base: Items, over: Items, path: tuple[str, ...]) -> tuple[Value, ...]:
    """The items of both; of two that mean the same port, path or word the later one holds."""
    key = KEYS.get(path, _word_key if len(path) == 1 else None)
    if key is None:
        return base.values + over.values
    kept: dict[object, Value] = {}
    for value in base.values + over.values:
        kept[key(value)] = value
    return tuple(kept.values())


def _word_key(value: Value) -> object:
    return value.text if isinstance(value, Word) else id(value)


def _port_key(value: Value) -> object:
    port = port_of(value)
    return (port.address, port.published, port.target, port.protocol) if port else id(value)


def _mount_key(value: Value) -> object:
    mount = mount_of(value)
    return mount.target if mount else id(value)


def _source_key(value: Value) -> object:
    if isinstance(value, Table):
        return _text(value, "target") or _text(value, "source")
    return value.text if isinstance(value, Word) else id(value)


def _device_key(value: Value) -> object:
    return _text(value, "source") if isinstance(value, Table) else _word_key(value)


KEYS: dict[tuple[str, ...], Callable[[Value], object]] = {
    ("ports",): _port_key,
    ("volumes",): _mount_key,
    ("secrets",): _source_key,
    ("configs",): _source_key,
    ("devices",): _device_key,
}


def as_table(value: Value) -> Value:
    """A list of `NAME=value` or of names as the table that it stands for."""
    if not isinstance(value, Items):
        return value
    words = [word for word in value.values if isinstance(word, Word)]
    return Table(
        values=dict(map(pair, words)),
        lines={pair(word)[0]: word.line for word in words},
        line=value.line,
        replaces=value.replaces,
    )


def pair(word: Word) -> tuple[str, Word]:
    """The name and the value of `NAME=value`; the value is null where there is no sign."""
    raw, text = word.raw.partition("="), word.text.partition("=")
    filled = text[2] if word.filled is not None else None
    return text[0] or raw[0], Word(raw[2], word.line, null=not raw[1], filled=filled)


def names(value: Value | None) -> Iterable[str]:
    """The keys of a table, or the words of a list of names."""
    table = as_table(value) if value is not None else None
    return table.values if isinstance(table, Table) else ()
