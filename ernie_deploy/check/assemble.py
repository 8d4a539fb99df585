"""Reads the files of one stack, with `include` and `extends`, into one table; nothing is fetched."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_deploy.check.interpolate import Variables
from ernie_deploy.check.merge import merge_services, merge_stacks
from ernie_deploy.check.project import with_env
from ernie_deploy.check.remark import Remark
from ernie_deploy.check.tree import (
    MAX_BYTES,
    MAX_VALUES,
    Items,
    Table,
    Value,
    Word,
    read_document,
    too_many_values,
)
from ernie_deploy.check.values import shown
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import read_head

MAX_FILES = 50
MAX_EXTENDS = 20
# What Compose would fetch with git or from a registry.
REMOTE = re.compile(r"\A(?:[a-z][a-z0-9+.-]*://|git@|github\.com/|[^/\s]+\.git(?:[#?]|$))", re.IGNORECASE)
EMPTY = Table(values={}, lines={}, line=1)
NO_TEXTS: Mapping[str, bytes] = {}


class Assembly:
    """One stack as it is put together; `files` are those that were read, `partial` services that lack a part."""

    def __init__(self, variables: Variables, *, exact: bool = False) -> None:
        self.variables = variables
        self.exact = exact
        self.files: list[str] = []
        self.remarks: list[Remark] = []
        self.partial: set[str] = set()
        self.remote = False
        self.unset: set[str] = set()
        self._size = 0
        self._open: list[Path] = []

    def stack(self, names: tuple[str, ...], texts: Mapping[str, bytes] = NO_TEXTS) -> Table:
        """The named files merged, later ones over earlier ones; raises `UsageError`.

        `texts` is what some of them are to say instead of what they do.
        """
        top: Table | None = None
        self._open = [Path(name).resolve() for name in names]
        for name in names:
            data = texts[name] if name in texts else read_file(name)
            more = self.file(data, name, Path(name).parent)
            top = merge_stacks(top, more) if top else more
        return top or EMPTY

    def file(self, data: bytes, name: str, folder: Path | None) -> Table:
        """One file with what it includes; `folder` is None where nothing beside it can be read."""
        if len(self.files) >= MAX_FILES:
            raise UsageError(f"The stack has more than {MAX_FILES} files.")
        top = self._table(data, name)
        services = top.values.get("services")
        if isinstance(services, Table):
            whole = Table(
                values=dict(self._extended(services, folder)), lines=services.lines, line=services.line,
                repeated=services.repeated,
            )  # fmt: skip
            top = Table(values={**top.values, "services": whole}, lines=top.lines, line=top.line)
        return self._with_included(top, folder)

    def _table(self, data: bytes, name: str) -> Table:
        document = read_document(data, name, self.variables)
        self.files.append(name)
        for missing in document.missing:
            self._note_missing(missing.unset.name, missing.unset.message, missing.line)
        if not isinstance(document.top, Table):
            raise no_compose_file(document.top, name)
        return document.top

    def _note_missing(self, name: str, message: str | None, line: int) -> None:
        if name in self.unset or (message is None and not self.exact):
            self.unset.add(name)
            return
        self.unset.add(name)
        if message is None:
            sentence = f"{shown(name)} is not set, and Compose puts nothing in its place"
        else:
            sentence = f"{shown(name)} is required and not set" + (f": {shown(message)}" if message else "")
        self.remarks.append(Remark("ED402", line, sentence, severe=self.exact and message is not None))

    # --- include

    def _with_included(self, top: Table, folder: Path | None) -> Table:
        included = top.values.get("include")
        for entry in included.values if isinstance(included, Items) else ():
            more = self._included(entry, folder)
            top = merge_stacks(more, top) if more else top
        return top

    def _included(self, entry: Value, folder: Path | None) -> Table | None:
        """The files of one entry, with their own `.env`."""
        path = entry.values.get("path") if isinstance(entry, Table) else entry
        words = path.values if isinstance(path, Items) else (path,)
        variables, top = self.variables, None
        for word in (word for word in words if isinstance(word, Word)):
            if not (target := self._resolve_included(word, folder, "it includes")):
                continue
            own = self._own_folder(entry, target, folder)
            self.variables = Variables(with_env(variables.values, (), own), blank=variables.blank)
            more = self._optional(word, target, own)
            top = merge_stacks(top, more) if top and more else top or more
            self.variables = variables
        return top

    def _own_folder(self, entry: Value, target: Path, folder: Path | None) -> Path:
        named = entry.values.get("project_directory") if isinstance(entry, Table) else None
        return (folder or Path()) / named.text if isinstance(named, Word) else target.parent

    def _optional(self, word: Word, target: Path, folder: Path) -> Table | None:
        data = self._data(word, target, "it includes")
        if data is None:
            return None
        if target.resolve() in self._open:
            raise UsageError(f"{self.files[-1]}:{word.line}: {shown(word.text)} includes itself.")
        self._open.append(target.resolve())
        try:
            return self.file(data, str(target), folder)
        finally:
            self._open.pop()

    # --- extends

    def _extended(self, services: Table, folder: Path | None) -> Iterator[tuple[str, Value]]:
        for name, value in services.values.items():
            if isinstance(value, Table):
                yield name, self._whole(name, value, services, folder, MAX_EXTENDS)
            else:
                yield name, value

    def _whole(self, name: str, table: Table, services: Table, folder: Path | None, depth: int) -> Table:
        """The service with what it extends."""
        extends = table.values.get("extends")
        if extends is None:
            return table
        wanted = extends.values.get("service") if isinstance(extends, Table) else extends
        file = extends.values.get("file") if isinstance(extends, Table) else None
        if isinstance(file, Word):
            services, folder = self._elsewhere(name, file, folder)
        base = services.values.get(wanted.text) if isinstance(wanted, Word) else None
        if not isinstance(base, Table) or not depth:
            self._lacks(name, extends, wanted)
            return table
        merged = merge_services(self._whole(name, base, services, folder, depth - 1), table)
        self._size += sum(1 if isinstance(v, Word) else len(v.values) for v in merged.values.values())
        if self._size > MAX_VALUES:
            raise too_many_values(self.files[0])
        return merged

    def _lacks(self, name: str, extends: Value, wanted: Value | None) -> None:
        self.partial.add(name)
        if not any(remark.service == name for remark in self.remarks):
            base = shown(wanted.text) if isinstance(wanted, Word) else "no service"
            sentence = f"not judged: a part of it comes from {base}, which is not in the file"
            self.remarks.append(Remark("ED403", extends.line, sentence, name))

    def _elsewhere(self, name: str, file: Word, folder: Path | None) -> tuple[Table, Path | None]:
        """The services of the file that a service extends, and its folder."""
        target = self._resolve_included(file, folder, "a part of it comes from", name)
        data = self._data(file, target, "a part of it comes from", name) if target else None
        if target is None or data is None:
            return EMPTY, None
        services = self._table(data, str(target)).values.get("services")
        return (services if isinstance(services, Table) else EMPTY), target.parent

    # --- other files

    def _resolve_included(self, word: Word, folder: Path | None, what: str, service: str = "") -> Path | None:
        """The path that a word names, where it can be read at all."""
        if REMOTE.match(word.text):
            self.remote = True
            self._skip(word, f"{what} {shown(word.text)}, which is remote and not fetched", service)
            return None
        if folder is None or "$" in word.text:
            self._skip(word, f"{what} {shown(word.text)}, which was not read", service)
            return None
        return folder / Path(word.text).expanduser()

    def _data(self, word: Word, path: Path, what: str, service: str = "") -> bytes | None:
        try:
            if len(self.files) < MAX_FILES:
                return read_head(path, MAX_BYTES + 1)
            reason = f"the stack has more than {MAX_FILES} files"
        except (OSError, ValueError) as fault:
            reason = getattr(fault, "strerror", None) or str(fault)
        self._skip(word, f"{what} {shown(word.text)}, which cannot be read: {reason}", service)
        return None

    def _skip(self, word: Word, sentence: str, service: str) -> None:
        self.remarks.append(Remark("ED403", word.line, f"not judged: {sentence}", service))


def read_file(name: str) -> bytes:
    """The beginning of a file, a byte more than is allowed; raises `UsageError`."""
    try:
        return read_head(Path(name), MAX_BYTES + 1)
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or str(fault)
        raise UsageError(f"{name}:1: the file cannot be read: {reason}.") from fault


def no_compose_file(value: Value, name: str) -> UsageError:
    """What is said of YAML without services."""
    return UsageError(
        f"{name}:{value.line}: this is not a compose file: it has no table of `services`.",
        next_step="make one with: ernie-deploy render TARGET -o compose.yml",
    )
