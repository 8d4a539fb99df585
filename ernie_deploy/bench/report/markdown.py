"""The report as Markdown, for a pull request or a ticket."""

import re
from collections.abc import Iterator, Sequence

from ernie_deploy.bench.journal.figures import METRICS
from ernie_deploy.bench.report.text import COLUMNS, LEFT, conclusion
from ernie_deploy.bench.report.view import View
from ernie_deploy.bench.report.wording import counted, number, percent, ratio
from ernie_deploy.render.templates import code

# What Markdown or the HTML within it would take for its own.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")


def markdown(view: View) -> str:
    """The whole report; every word of a journal is escaped."""
    parts = [_head(view), _cells(view), _published(view), _baseline(view), _checks(view), _setup(view)]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


# Where a reader of Markdown would notify somebody or make a link by itself, and where it is held up.
CALLS = re.compile(r"@|://|www\.", re.IGNORECASE)
BREAK = "&#8203;"


def escaped(text: str) -> str:
    """`text` as one line that Markdown shows as it is, and that mentions nobody and links nowhere."""
    marked = SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return CALLS.sub(lambda call: call[0][:1] + BREAK + call[0][1:], marked)


def _table(rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    yield "| " + " | ".join(map(escaped, rows[0])) + " |"
    yield "|" + "|".join("---" if at < left else "---:" for at in range(len(rows[0]))) + "|"
    for row in rows[1:]:
        yield "| " + " | ".join(map(escaped, row)) + " |"
    yield ""


def _head(view: View) -> Iterator[str]:
    yield f"# {escaped(view.title)}"
    yield ""
    yield f"{escaped(view.subtitle)}"
    yield ""
    if view.rehearsal:
        yield "**Rehearsal: random weights on whatever was there; the speeds mean nothing.**"
        yield ""
    yield f"**{escaped(view.verdict.headline)}** {escaped(view.verdict.sentence)}"
    yield ""
    yield from (f"- {escaped(sentence)}" for sentence in view.verdict.unknown)
    yield ""


def _cells(view: View) -> Iterator[str]:
    yield "## Cells"
    yield ""
    yield from _table([[h for h, _ in COLUMNS]] + [[of(row) for _, of in COLUMNS] for row in view.rows], LEFT)


def _published(view: View) -> Iterator[str]:
    for block in view.published:
        yield f"## {escaped(block.cell)} beside the published figures"
        yield ""
        yield f"{escaped(block.source)}; not a gate. Unknown about them: {escaped(', '.join(block.unknown))}."
        yield ""
        rows = [["", "measured", "published", "ratio"]]
        for side in block.sides:
            measured = number(side.measured.median, METRICS[side.key].decimals)
            rows.append([side.heading, measured, number(side.published, 2), ratio(side.ratio)])
        yield from _table(rows, 1)


def _baseline(view: View) -> Iterator[str]:
    if not view.baseline:
        return
    yield "## Against the baseline"
    yield ""
    yield from (f"- stale: {escaped(sentence)}" for sentence in view.baseline.stale)
    compared = view.baseline.comparison
    if not compared:
        yield f"- {escaped(view.baseline.not_comparable)}"
        return
    yield from (f"- not judged: {escaped(sentence)}" for sentence in compared.unjudged)
    yield ""
    rows = [["cell", "figure", "baseline", "now", "change", "verdict"]]
    for pair in compared.pairs:
        for d in pair.differences:
            metric = METRICS[d.metric]
            sides = [number(side.median, metric.decimals) for side in (d.a, d.b)]
            rows.append([pair.cell, metric.title, *sides, percent(d.change_percent), d.verdict])
    yield from _table(rows, 2)
    yield escaped(conclusion(compared))
    yield ""


def _checks(view: View) -> Iterator[str]:
    if not view.troubles and not view.across:
        return
    yield "## Failed checks"
    yield ""
    for trouble in view.troubles:
        superseded = ", superseded" if trouble.superseded else ""
        yield f"- **{trouble.status}**: {escaped(trouble.cell)}, attempt {trouble.attempt}{superseded}"
        yield from (f"  - {code(check.id)} {check.level}: {escaped(check.text)}" for check in trouble.checks)
        if not trouble.checks:
            yield from (f"  - {escaped(reason)}" for reason in trouble.reasons)
    yield from (f"- odd: {escaped(o.cell)}: {code(o.check.id)}: {escaped(o.check.text)}" for o in view.across)
    yield ""


def _setup(view: View) -> Iterator[str]:
    yield "## Environment"
    yield ""
    for fact in view.facts:
        yield f"- {fact.name}: {code(fact.value) if fact.code else escaped(fact.value)}"
    yield ""
    yield "## Again"
    yield ""
    yield from (f"- {escaped(fact.name)}: {code(fact.value)}" for fact in view.commands)
    yield from (f"- left out: {escaped(sentence)}" for sentence in view.others)
    if view.torn:
        yield f"- left out: {counted(view.torn, 'torn line')} of the journal"
