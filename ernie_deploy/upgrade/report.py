"""An upgrade in words: the lines that change, what cannot be merged, and what breaks."""

import difflib
from collections.abc import Iterable, Iterator

from ernie_deploy import diff
from ernie_deploy.diff.report import as_text
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.secret_masks import masked
from ernie_deploy.upgrade.outcome import Outcome
from ernie_deploy.upgrade.proposal import Proposal
from ernie_deploy.upgrade.three_way import Conflict


def difference(name: str, before: bytes | None, after: bytes | None) -> str:
    """The lines of one file that change, as `diff -u` shows them; its name where it comes or goes as a whole."""
    if before is None or after is None:
        return f"{'removed' if after is None else 'new'}: {name}"
    old, new = (text.decode(errors="replace").splitlines() for text in (before, after))
    return "\n".join(difflib.unified_diff(old, new, name, f"{name}, new", lineterm="", n=1))


def differences(outcomes: Iterable[Outcome]) -> str:
    """Those of each file, without the secrets that a `.env` may hold."""
    return masked("\n".join(difference(one.name, one.before, one.after) for one in outcomes))


def conflicts(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Each place that cannot be merged, with what was rendered, the user's lines and the new ones."""
    for outcome in outcomes:
        for conflict in outcome.conflicts:
            yield f"{outcome.name}:{conflict.line} was edited, and the new version has other lines there:"
            yield from _versions(conflict)


def _versions(conflict: Conflict) -> Iterator[str]:
    for title, lines in (("rendered", conflict.base), ("yours", conflict.user), ("new", conflict.new)):
        for number, line in enumerate(lines or (b"(nothing)",)):
            yield f"  {title if number == 0 else '':<9} {line.decode(errors='replace').rstrip()}"


def by_meaning(proposal: Proposal) -> str:
    """What differs between the compose file and the new one, engines included; by line where one cannot be read."""
    stack = proposal.stack
    old, new = ((text or b"").decode(errors="replace") for text in (stack.before, stack.after))
    labels = (stack.name, f"{stack.name}, new")
    try:
        found = diff.differences(old, new, labels=labels, plans=proposal.plans, env=proposal.env)
    except UsageError:
        return differences([stack])
    return as_text(found)


def notes(proposal: Proposal) -> Iterator[str]:
    """What nobody would expect of the new files."""
    for outcome in proposal.outcomes:
        if outcome.note:
            yield f"{outcome.name}: {outcome.note}"
    if not proposal.exact:
        yield (
            f"{proposal.path.name}: another version of the kit rendered it, so each line that differs from today's "
            "rendering counts as an edit of yours and stands"
        )
