"""The report of a benchmark: one view, written as text, Markdown, CSV, JUnit, JSON and HTML."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from ernie_deploy.bench.report.view import View
from ernie_deploy.paths import write_all
from ernie_deploy.safe_io.terminal import clean

# Where the name of a kind would hide a module of Python's own.
MODULES = {"csv": "table_csv"}


def write(view: View, files: Mapping[str, Path], *, force: bool = False) -> None:
    """Write each kind of report to its file, or none where one may not be overwritten."""
    # A report may be printed, and what a journal quotes is not trusted.
    write_all({path: clean(_writer(kind)(view)) for kind, path in files.items()}, force=force)


def as_json(view: View) -> str:
    """Everything the report shows."""
    return msgspec.json.format(msgspec.json.encode(view), indent=2).decode()


def _writer(kind: str) -> Callable[[View], str]:
    """The function that writes one kind; the others' modules are not even imported."""
    import importlib

    module = importlib.import_module(f"ernie_deploy.bench.report.{MODULES.get(kind, kind)}")
    writer: Callable[[View], str] = getattr(module, kind)
    return writer
