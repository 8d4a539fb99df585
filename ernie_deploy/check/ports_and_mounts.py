"""Ports and mounts of a service, in Compose's short and long spelling."""

import re
from pathlib import PurePosixPath

from msgspec import Struct

from ernie_deploy.check.interpolate import known
from ernie_deploy.check.tree import Table, Value, Word
from ernie_deploy.check.values import truth, whole

HIGHEST_PORT = 65_535
HOST_PATHS = (".", "/", "~", "$", "\\\\")
# Compose takes one letter before a colon for a drive, never for a volume's name.
WINDOWS = re.compile(r"[A-Za-z]:(?=[\\/])")


class Port(Struct, frozen=True):
    """One published port; `published` is empty where Docker chooses, `address` where it is every one."""

    address: str
    published: str
    target: str
    line: int
    protocol: str = "tcp"

    @property
    def loopback(self) -> bool:
        """Whether only this host reaches it, or nobody can tell."""
        return (
            self.address.startswith("127.") or self.address in ("::1", "localhost") or not known(self.address)
        )

    @property
    def numbers(self) -> range:
        """The ports of the host, one or a range such as `8000-8003`; empty where only the host knows."""
        first, _, last = self.published.partition("-")
        low, high = whole(first), whole(last or first)
        fixed = low is not None and high is not None and 0 < low <= high <= HIGHEST_PORT
        return range(low, high + 1) if fixed and low and high else range(0)


class Mount(Struct, frozen=True):
    """One volume, bind mount or tmpfs."""

    kind: str
    source: str
    target: str
    line: int
    options: str = ""

    def holds(self, path: str) -> bool:
        """Whether `path` lies in it."""
        return PurePosixPath(path).is_relative_to(self.target)


def _field(table: Table, key: str) -> str:
    value = table.values.get(key)
    return value.text if isinstance(value, Word) and not value.null else ""


def port_of(value: Value) -> Port | None:
    """Read one item of `ports`, short or long."""
    if isinstance(value, Table):
        address, published, target = (_field(value, key) for key in ("host_ip", "published", "target"))
        return Port(address, published, target, value.line, _field(value, "protocol") or "tcp")
    if not isinstance(value, Word):
        return None
    ports, _, protocol = value.text.partition("/")
    address, published, target = ["", "", *ports.rsplit(":", 2)][-3:]
    return Port(address.strip("[]"), published, target, value.line, protocol or "tcp")


def mount_of(value: Value) -> Mount | None:
    """Read one item of `volumes`, short or long."""
    if isinstance(value, Table):
        kind, source, target = (_field(value, key) for key in ("type", "source", "target"))
        return Mount(kind, source, target, value.line, "ro" if truth(_field(value, "read_only")) else "")
    if not isinstance(value, Word):
        return None
    source, colon, rest = _source(value.text)
    target, _, options = rest.partition(":")
    kind = "bind" if source.startswith(HOST_PATHS) or WINDOWS.match(source) else "volume"
    kind = kind if colon else "volume"
    return Mount(kind, source if colon else "", target if colon else source, value.line, options)


def _source(text: str) -> tuple[str, str, str]:
    """What stands before the target, the colon between them, and the rest: `C:/models` has a colon of its own."""
    drive = WINDOWS.match(text)
    start = drive.end() if drive else 0
    source, colon, rest = text[start:].partition(":")
    return text[:start] + source, colon, rest


def tmpfs_of(word: Word) -> Mount:
    """Read one item of `tmpfs`: `/tmp:size=1g,exec`."""
    target, _, options = word.text.partition(":")
    return Mount("tmpfs", "", target, word.line, options)
