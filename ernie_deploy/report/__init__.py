"""The report of a benchmark: one view, written as text, Markdown, CSV, JUnit, JSON and HTML."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from ernie_deploy.paths import refuse_overwrite, write_whole
from ernie_deploy.report.view import View


def write(view: View, files: Mapping[str, Path], *, force: bool = False) -> None:
    """Write each kind of report to its file, or none where one may not be overwritten."""
    texts = {path: _writer(kind)(view) for kind, path in files.items()}
    for path, text in texts.items():
        if not force:
            refuse_overwrite(path, text)
    for path, text in texts.items():
        write_whole(path, text, force=True)


def as_json(view: View) -> str:
    """Everything the report shows."""
    return msgspec.json.format(msgspec.json.encode(view), indent=2).decode()


def _writer(kind: str) -> Callable[[View], str]:
    from ernie_deploy.report import html, junit, markdown, table_csv

    return {"html": html.html, "markdown": markdown.markdown, "csv": table_csv.csv, "junit": junit.junit}[
        kind
    ]
