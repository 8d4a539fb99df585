"""Takes Compose's merge for this reader's where the two differ; every value keeps the line that it stands in."""

from collections.abc import Callable, Mapping
from typing import Any

from ernie_deploy.check.interpolate import is_secret
from ernie_deploy.check.merge import as_table
from ernie_deploy.check.ports_and_mounts import mount_of, port_of
from ernie_deploy.check.service import command_words
from ernie_deploy.check.tree import Items, Table, Value, Word

TEXTS = ("image", "user", "restart", "ipc", "pid", "network_mode", "runtime", "container_name", "hostname")
WORDS = ("cap_add", "cap_drop", "security_opt", "group_add", "profiles")


def reconciled(top: Table, theirs: Mapping[str, Any]) -> Table:
    """The stack with the services that Compose has, as it has them."""
    services = top.values.get("services")
    if not isinstance(services, Table):
        return top
    values = {
        name: _service(value, theirs[name]) if isinstance(value, Table) else value
        for name, value in services.values.items()
        if name in theirs
    }
    whole = Table(values=values, lines=services.lines, line=services.line, repeated=services.repeated)
    return Table(
        values={**top.values, "services": whole}, lines=top.lines, line=top.line, repeated=top.repeated
    )


def _service(mine: Table, theirs: Mapping[str, Any]) -> Table:
    values = dict(mine.values)
    for key, same in SAME.items():
        value, other = values.get(key), theirs.get(key)
        if other is None:
            continue
        line = mine.lines.get(key, mine.line)
        if value is None or not same(value, _value(other, line)):
            values[key] = _value(other, line)
    _environment(mine, theirs, values)
    return Table(values=values, lines=mine.lines, line=mine.line, repeated=mine.repeated)


def _environment(mine: Table, theirs: Mapping[str, Any], values: dict[str, Value]) -> None:
    """Variables by name; those that only Compose has come from an `env_file`."""
    table = as_table(mine.values["environment"]) if "environment" in mine.values else None
    known = table.values if isinstance(table, Table) else {}
    line = mine.lines.get("env_file", mine.line)
    both: dict[str, Value] = {}
    for name, other in (theirs.get("environment") or {}).items():
        word, text = known.get(name), "" if other is None else str(other)
        keep = isinstance(word, Word) and (word.null or word.text == text.replace("$$", "$"))
        raw = f"${{{name}}}" if text and is_secret(name, text) else text
        both[name] = word if word and keep else Word(raw, word.line if word else line, null=other is None)
    if both and (both.keys() != known.keys() or any(both[name] is not known[name] for name in both)):
        values["environment"] = Table(
            values=both, lines={name: word.line for name, word in both.items()}, line=line
        )


def _value(value: Any, line: int) -> Value:
    """A value of Compose's JSON, all on one line of the input."""
    if isinstance(value, dict):
        values = {key: _value(item, line) for key, item in value.items()}
        return Table(values=values, lines=dict.fromkeys(values, line), line=line)
    if isinstance(value, list):
        return Items(values=tuple(_value(item, line) for item in value), line=line)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return Word("" if value is None else text, line, null=value is None)


def _same_text(mine: Value, theirs: Value) -> bool:
    return isinstance(mine, Word) and isinstance(theirs, Word) and mine.text == theirs.text


def _same_command(mine: Value, theirs: Value) -> bool:
    one, other = command_words(mine) or (), command_words(theirs) or ()
    return [word.text for word in one] == [word.text for word in other]


def _same_by(key: Callable[[Value], object]) -> Callable[[Value, Value], bool]:
    def same(mine: Value, theirs: Value) -> bool:
        if not isinstance(mine, Items) or not isinstance(theirs, Items):
            return False
        return {key(value) for value in mine.values} == {key(value) for value in theirs.values}

    return same


def _port(value: Value) -> object:
    port = port_of(value)
    return (port.address, port.published, port.target, port.protocol) if port else value.line


def _mount(value: Value) -> object:
    mount = mount_of(value)
    return (mount.source, mount.target) if mount else value.line


def _word(value: Value) -> object:
    return value.text if isinstance(value, Word) else value.line


SAME: dict[str, Callable[[Value, Value], bool]] = {
    **dict.fromkeys(TEXTS, _same_text),
    **dict.fromkeys(("command", "entrypoint"), _same_command),
    **dict.fromkeys(WORDS, _same_by(_word)),
    "ports": _same_by(_port),
    "volumes": _same_by(_mount),
}
