"""Reads one catalog file into its type, and tells all of the file's faults at once."""

import marshal
from contextlib import suppress
from importlib.util import source_hash
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ernie_deploy.catalog.schema import Fact
from ernie_deploy.errors import CatalogError
from ernie_deploy.paths import CATALOG
from ernie_deploy.safe_io.derived import keep, kept

AnyFact = TypeVar("AnyFact", bound=Fact)


def load(path: Path, kind: type[AnyFact]) -> AnyFact:
    """Read `path` as `kind`; raises `CatalogError` naming the file, each key and its fault."""
    data = _read(path)
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError:
        # msgspec stops at the first fault; an author wants to see all of them.
        raise _faulty(path, list(faults(data, kind, ""))) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as fault:
        raise _faulty(path, [str(fault)]) from fault
    return _kept(path, text) if path.is_relative_to(CATALOG) else _parsed(path, text)


def _kept(path: Path, text: bytes) -> dict[str, Any]:
    """The table as it was parsed before, while the text is the same."""
    stamp = source_hash(text)
    if (data := kept(path, "toml")) and data.startswith(stamp):
        with suppress(EOFError, ValueError, TypeError):
            return dict(marshal.loads(data[len(stamp) :]))  # noqa: S302 - it lies where the bytecode does
    table = _parsed(path, text)
    keep(path, "toml", stamp + marshal.dumps(table))
    return table


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise _faulty(path, [str(fault)]) from fault


def _faulty(path: Path, all_faults: list[str]) -> CatalogError:
    lines = "\n".join(f"  {path.parent.name}/{path.name}: {fault}" for fault in all_faults)
    count = "1 fault" if len(all_faults) == 1 else f"{len(all_faults)} faults"
    return CatalogError(
        f"The catalog has {count}:\n{lines}",
        cause="a catalog file was edited, or belongs to another version of the kit",
        next_step="correct the file; ernie_deploy/catalog/schema.py says what each table takes",
    )


def faults(data: object, kind: Any, at: str) -> "list[str]":
    """Every fault of `data` as a `kind`, each with its path, such as `figures.layers: ...`."""
    if not (isinstance(kind, type) and issubclass(kind, Fact)):
        return _fault_of_value(data, kind, at)
    if not isinstance(data, dict):
        return [f"{at}: expected a table"]
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    all_faults = [f"{_join(at, key)}: unknown key" for key in data if key not in fields]
    for name, field in fields.items():
        if name in data:
            all_faults += _fault_of_field(data[name], field.type, _join(at, name))
        elif field.required:
            all_faults.append(f"{_join(at, name)}: missing")
    return all_faults


def _fault_of_field(value: object, kind: Any, at: str) -> list[str]:
    """Descend into tables, optional tables and lists of tables."""
    inner = [arg for arg in getattr(kind, "__args__", ()) if _is_fact(arg)]
    if _is_fact(kind):
        return faults(value, kind, at)
    if inner and isinstance(value, list):
        return [f for i, item in enumerate(value) for f in faults(item, inner[0], f"{at}[{i}]")]
    if inner and isinstance(value, dict) and getattr(kind, "__origin__", None) is not dict:
        return faults(value, inner[0], at)
    if inner and isinstance(value, dict):
        return [f for key, item in value.items() for f in faults(item, inner[0], _join(at, key))]
    return _fault_of_value(value, kind, at)


def _fault_of_value(value: object, kind: Any, at: str) -> list[str]:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as fault:
        return [f"{at}: {fault}"]
    return []


def _is_fact(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Fact)


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
