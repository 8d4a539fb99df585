"""`bench report`, `bench compare` and `bench baseline`: what a journal says; no server and no GPU is needed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ernie_deploy.safe_io.columns import width_of
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.bench.journal.record import Journal

JOURNAL = Path("bench-results/journal.jsonl")
FILE = click.Path(path_type=Path, dir_okay=False)

REPORT_EXAMPLE = """\b
Examples:
  ernie-deploy bench report
  ernie-deploy bench report --html report.html --baseline baseline.json
  ernie-deploy bench report other/journal.jsonl --markdown report.md --csv cells.csv --junit junit.xml"""

COMPARE_EXAMPLE = """\b
Examples:
  ernie-deploy bench compare before/journal.jsonl after/journal.jsonl
  ernie-deploy bench compare baseline.json bench-results/journal.jsonl --tolerance tolerance.toml

A tolerance file holds percentages: output_throughput = 5, mean_tpot_ms = 5, median_ttft_ms = 15 (these are
the defaults), and from 459 requests on p99_ttft_ms and p99_tpot_ms. Exits 1 on a regression and 13
if the two answer different questions."""

ACCEPT_EXAMPLE = """\b
Example:
  ernie-deploy bench baseline accept bench-results/journal.jsonl -o baseline.json
  ernie-deploy bench compare baseline.json bench-results/journal.jsonl"""


@click.command(epilog=REPORT_EXAMPLE)
@click.argument("journal", type=FILE, default=JOURNAL)
@click.option("--html", type=FILE, metavar="FILE", help="Write one HTML file with plots; needs matplotlib.")
@click.option("--markdown", type=FILE, metavar="FILE", help="Write Markdown.")
@click.option("--csv", type=FILE, metavar="FILE", help="Write one CSV row per cell and figure.")
@click.option("--junit", type=FILE, metavar="FILE", help="Write one JUnit test case per measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--baseline", type=FILE, metavar="FILE", help="Show an accepted baseline beside the figures.")
@click.option("--force", is_flag=True, help="Overwrite files.")
def report(journal: Path, as_json: bool, baseline: Path | None, force: bool, **files: Path | None) -> None:
    """Report the measurements and which of them are valid."""
    from ernie_deploy.bench import report as reports
    from ernie_deploy.bench.compare import baseline as baselines
    from ernie_deploy.bench.report import text
    from ernie_deploy.bench.report.view import view

    shown = view(_journal(journal), baselines.load(baseline) if baseline else None)
    named = {kind: path for kind, path in files.items() if path}
    reports.write(shown, named, force=force)
    if as_json:
        say(reports.as_json(shown), as_json=True)
    elif named:
        say("\n".join(f"wrote {path}" for path in named.values()), err=True)
    else:
        text.show(shown)


@click.command(epilog=COMPARE_EXAMPLE)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option(
    "--tolerance",
    type=FILE,
    metavar="FILE",
    help="TOML file with the percentages by which figures may get worse.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(a: Path, b: Path, tolerance: Path | None, as_json: bool) -> int:
    """Report what got worse from A to B, each a journal or a baseline."""
    import msgspec

    from ernie_deploy.bench.compare import comparison as comparing
    from ernie_deploy.bench.report import text

    compared = comparing.compare(_journal(a), _journal(b), comparing.tolerance_of(tolerance))
    shown = (
        msgspec.json.encode(compared).decode() if as_json else text.comparison(compared, width_of(sys.stdout))
    )
    say(shown, as_json=as_json)
    return compared.exit_code


@click.group()
def baseline() -> None:
    """Keep a good run to compare later ones with."""


@baseline.command(epilog=ACCEPT_EXAMPLE)
@click.argument("journal", type=FILE, default=JOURNAL)
@click.option("-o", "--output", type=FILE, default=Path("baseline.json"), show_default=True, metavar="FILE")
@click.option("--force", is_flag=True, help="Replace an existing baseline.")
def accept(journal: Path, output: Path, force: bool) -> None:
    """Make the valid attempts of a journal the baseline."""
    from ernie_deploy.bench.compare import baseline as baselines
    from ernie_deploy.paths import write_whole

    made = baselines.accept(_journal(journal))
    write_whole(output, baselines.text(made), force=force)
    say(f"wrote {output}: {len(made.attempts)} valid attempts", err=True)


def _journal(path: Path) -> "Journal":
    """A journal, or a baseline read as one; raises `UsageError`."""
    from ernie_deploy.bench.compare import baseline as baselines
    from ernie_deploy.bench.journal import store

    return baselines.load(path).journal if baselines.is_baseline(path) else store.read(path)
