"""What an upgrade breaks: the faults that `check` finds in the new files alone."""

from pathlib import Path

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import Finding, judge_project
from ernie_deploy.check.project import of_file
from ernie_deploy.errors import Refused, UsageError


def new_errors(path: Path, text: bytes, catalog: Catalog) -> list[Finding]:
    """The errors that `check` finds once the compose file says `text` and not before, by what lies beside it too.

    Raises `Refused` where the text is no compose file, although what it replaces is one.
    """
    try:
        now = _errors(path, None, catalog)
    except UsageError:
        return []
    try:
        then = _errors(path, text, catalog)
    except UsageError as fault:
        raise Refused(
            f"With your edits the new {path.name} cannot be read: {fault.what}",
            cause="your addition repeats what the new version adds, or belongs in a line that moved",
            next_step=f"take those lines out of {path}, upgrade, and put them in again",
        ) from fault
    known = {_told(finding) for finding in now}
    return [finding for finding in then if _told(finding) not in known]


def _errors(path: Path, text: bytes | None, catalog: Catalog) -> list[Finding]:
    texts = {} if text is None else {str(path): text}
    found = judge_project(of_file(str(path)), catalog, texts=texts).findings
    return [finding for finding in found if finding.severity == "error"]


def _told(finding: Finding) -> tuple[str, str, str]:
    return finding.id, finding.service, finding.sentence
