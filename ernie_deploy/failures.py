"""Names the cause of a failed start from what Docker and the containers said."""

import re

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Failure


def recognise(text: str, catalog: Catalog) -> Failure | None:
    """The first known failure in `text`, its sentence filled in; None for an unknown one."""
    for failure in catalog.failures:
        if match := re.search(failure.pattern, text):
            return _filled(failure, match)
    return None


def _filled(failure: Failure, match: "re.Match[str]") -> Failure:
    named = match.groupdict()
    detail = named.get("detail") or named.get("detail2") or "(unnamed)"
    return Failure(
        id=failure.id,
        pattern=failure.pattern,
        what=failure.what.replace("{detail}", detail.strip()[:200]),
        next=failure.next,
    )
