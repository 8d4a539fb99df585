"""`bench report`: every format from one view, and the HTML looked at by a browser in both themes and widths."""

import csv
import importlib
import io
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import pytest
from bench.journals import ENVIRONMENT, journal_of, measured
from bench.simulate import journal as simulated
from click.testing import CliRunner
from conftest import missing
from msgspec.structs import replace

from ernie_deploy.bench.compare import baseline
from ernie_deploy.bench.journal.record import Check, Journal, Sample, Start
from ernie_deploy.bench.journal.samples import thinned
from ernie_deploy.bench.measure.server import ServerMetrics
from ernie_deploy.bench.measure.watch import Seen, _server
from ernie_deploy.bench.report import html, junit, markdown, table_csv, text
from ernie_deploy.bench.report.plots import plots
from ernie_deploy.bench.report.view import view
from ernie_deploy.cli import main
from ernie_deploy.commands import bench_report
from ernie_deploy.errors import ExtraMissing, UsageError

HOSTILE = "</style></svg><script>alert(1)</script>\"'`|_*[x](javascript:1)\x1b[31m"
WARM = Check(
    id="warm-cache", level="hard", ok=False, text="hits are 48.4 % of the queries (12,416 of 25,628)"
)


@pytest.fixture(scope="module")
def matrix() -> Journal:
    """The recipe's whole matrix, three repeats."""
    return simulated(repeats=3)


@pytest.fixture(scope="module")
def page(matrix) -> str:
    return html.html(view(matrix))


@pytest.fixture(scope="module")
def broken() -> Journal:
    """A journal with everything that may go wrong."""
    invalid = replace(
        measured(n=32, status="invalid"),
        checks=(WARM,),
        reasons=("warm-cache",),
        log_tail=("EngineCore died",),
    )
    earlier = replace(
        measured(n=16, status="failed"), attempt=1, checks=(), reasons=("the client ended with 1",)
    )
    suspect = measured("decode-heavy", 1, status="suspect")
    cut = measured(n=64)
    start = Start(
        run="r1",
        identity=cut.identity,
        attempt=1,
        cell=cut.cell,
        seed=1,
        environment=ENVIRONMENT.id,
        start_unix_s=5e8,
    )
    lines = (ENVIRONMENT, earlier, measured(n=1), measured(n=16), invalid, suspect, start)
    return Journal(lines=lines, torn=2)


class Page(HTMLParser):
    """What a page loads, runs, says, draws and tabulates."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: list[str] = []
        self.svgs: list[dict[str, list[str]]] = []
        self.inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag == "svg":
            self.svgs.append({"ids": [], "uses": [], "words": []})
        if self.svgs and "svg" in self.inside:
            self.svgs[-1]["ids"] += [found["id"]] if "id" in found else []
            self.svgs[-1]["uses"] += [found["href"]] if tag == "use" else []
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in ("meta", "use", "path", "br", "rect") or tag == "svg":
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self.inside or "th" in self.inside:
            self.cells[-1] += data
        if "svg" in self.inside and self.inside[-1] == "text":
            self.svgs[-1]["words"].append(data)


# -- one view ---------------------------------------------------------------------------------------------


def test_the_whole_matrix_is_valid_and_said_so(matrix):
    shown = view(matrix)
    assert shown.verdict.counts == {"valid": 63, "suspect": 0, "invalid": 0, "failed": 0, "interrupted": 0}
    assert shown.verdict.headline.startswith("All 63 measurements are valid.")
    assert shown.title == "baidu/ERNIE-4.5-21B-A3B-PT"
    assert [load.name for load in shown.loads] == ["prompt-heavy", "balanced", "decode-heavy"]
    assert {len(load.rows) for load in shown.loads} == {7}
    assert {row.repeats for row in shown.rows} == {"3"}


def test_figures_are_medians_of_the_valid_repeats_with_an_interval():
    a, b, c = (measured(repeat=k, output_throughput=v) for k, v in ((1, 100.0), (2, 110.0), (3, 102.0)))
    bad = replace(measured(repeat=4, output_throughput=9999.0), status="invalid")
    (row,) = view(journal_of(a, b, c, bad)).rows
    found = row.figure("output_throughput")
    assert (found.median, found.count, row.repeats, row.status) == (102.0, 3, "3 of 4", "valid")
    # t(2) = 4.303 times the standard error of 100, 110, 102.
    assert round(found.half_width_percent, 2) == 12.64
    assert view(journal_of(a)).rows[0].figure("output_throughput").interval is None


def test_a_p99_is_called_so_from_459_requests_on(matrix):
    tails = {row.num_prompts: row.tail for row in view(matrix).rows}
    assert {n: tail for n, tail in tails.items() if tail == "p99"} == {512: "p99"}
    row = next(row for row in view(matrix).rows if row.num_prompts == 16)
    assert row.figure("tail_ttft_ms") == row.figures["slowest_ttft_ms"]


def test_everything_that_went_wrong_is_named(broken):
    shown = view(broken)
    assert shown.verdict.counts == {"valid": 2, "suspect": 1, "invalid": 1, "failed": 0, "interrupted": 1}
    assert shown.verdict.headline.startswith(
        "2 of 5 measurements valid, 1 suspect, 1 invalid and 1 interrupted."
    )
    assert shown.verdict.level == "bad"
    named = {(t.cell, t.status, t.superseded) for t in shown.troubles}
    assert named == {
        ("balanced n=16", "failed", True),
        ("balanced n=32", "invalid", False),
        ("balanced n=64", "interrupted", False),
        ("decode-heavy n=1", "suspect", False),
    }
    assert shown.torn == 2


def test_nothing_measured_is_a_usage_error():
    with pytest.raises(UsageError, match="no attempt"):
        view(journal_of())


def test_the_published_block_stands_beside_the_cell_that_repeats_it(matrix):
    (block,) = view(matrix).published
    assert (block.id, block.cell, len(block.sides)) == ("21b-published", "prompt-heavy n=16", 11)
    assert block.source == "Ernie4.5.md, lines 95 to 116"
    assert "GPU model and count" in block.unknown
    side = next(side for side in block.sides if side.key == "p99_ttft_ms")
    assert side.heading == "p99 of only 16 TTFT, ms"
    assert side.ratio == side.measured.median / 1596.48


@pytest.mark.parametrize(
    "other",
    [
        {"request_rate": None},
        {"max_concurrency": 8},
        {"dataset": "custom"},
        {"num_prompts": 32},
        {"input_len": 7999},
    ],
)
def test_another_load_is_not_put_beside_the_published_block(other):
    base = measured("prompt-heavy", 16)
    assert len(view(journal_of(base)).published) == 1
    assert view(journal_of(replace(base, cell=replace(base.cell, **other)))).published == ()


def test_a_rehearsal_is_not_put_beside_the_published_block_and_says_what_it_is():
    env = replace(ENVIRONMENT, rehearsal=True)
    shown = view(journal_of(measured("prompt-heavy", 16), env=env))
    assert (shown.rehearsal, shown.published, shown.highlights) == (True, (), ())
    assert shown.verdict.sentence.startswith("This was a rehearsal")
    assert "REHEARSAL: random weights on whatever was there; the speeds mean nothing." in text.text(shown)
    assert "**Rehearsal: random weights" in markdown.markdown(shown)
    assert "their speed means nothing" in html.html(shown)


def test_another_configuration_is_left_out_and_said_so():
    newer = replace(ENVIRONMENT, id="e2", vllm_version="0.33.0")
    old, new = measured(n=1), replace(measured(n=16, env=newer), start_unix_s=4e9, end_unix_s=4e9)
    shown = view(Journal(lines=(ENVIRONMENT, newer, old, new)))
    assert [row.name for row in shown.rows] == ["balanced n=16"]
    assert shown.others == ("1 cell of another configuration (vllm_version: 0.32.0 -> 0.33.0)",)


def test_another_life_of_the_same_server_is_the_same_configuration():
    again = replace(
        ENVIRONMENT, id="e2", server_started="later", kv_cache_tokens=ENVIRONMENT.kv_cache_tokens + 16
    )
    both = Journal(lines=(ENVIRONMENT, again, measured(n=1), measured(n=16, env=again)))
    assert [row.name for row in view(both).rows] == ["balanced n=1", "balanced n=16"]


def test_what_could_not_be_seen_is_said():
    env = replace(ENVIRONMENT, driver="", image_digest="", gpus=())
    unknown = view(journal_of(measured(), env=env)).verdict.unknown
    assert unknown[0] == "Not seen from here: image digest, GPU model and GPU driver."
    assert unknown[1] == "Each cell was measured once, so how much of a difference is noise is not known."


def test_thinning_keeps_the_fullest_moment_and_the_last(matrix):
    samples = matrix.attempts[-1].server.samples
    kept = thinned(samples, most=10)
    assert len(kept) <= 14
    assert kept[-1] == samples[-1]
    assert max(s.kv_cache_use for s in kept) == max(s.kv_cache_use for s in samples)
    assert max(s.waiting for s in kept) == max(s.waiting for s in samples)


def test_the_record_of_a_cell_keeps_its_one_full_moment():
    use = [1.0 if i == 502 else 0.1 for i in range(1000)]
    samples = [
        Sample(elapsed_s=i, running=1, waiting=0, kv_cache_use=full, generation_tokens=i)
        for i, full in enumerate(use)
    ]
    look = ServerMetrics(counters={}, running=0, waiting=0, kv_cache_use=0)
    server = _server(Seen(begun=0, before=look, last=look, samples=samples), measured().cell)
    assert server
    assert max(sample.kv_cache_use for sample in server.samples) == 1.0
    assert thinned((), 10) == ()


# -- text, Markdown, CSV, JUnit, JSON ---------------------------------------------------------------------


def test_the_plain_table():
    shown = view(journal_of(measured(output_throughput=1234.56, mean_tpot_ms=13.333, median_ttft_ms=40.06)))
    lines = text.text(shown).splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("cell"))
    assert lines[at].split() == [
        "cell", "status", "repeats", "out", "tok/s", "95", "%", "tok/s/user", "TTFT", "ms", "TPOT", "ms", "ITL", "ms",
        "in", "flight", "KV", "%",
    ]  # fmt: skip
    assert re.fullmatch(
        r"balanced n=16  valid +1 +1,234\.6 +[\d.]+ +40\.1 +13\.33 +[\d.]+ +16 +[\d.]+", lines[at + 1]
    )


def test_a_terminal_gets_the_same_words(matrix, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    text.show(view(matrix))
    shown = capsys.readouterr().out
    assert "All 63 measurements are valid." in shown
    assert "balanced n=512" in shown


def test_failed_checks_stand_in_every_format(broken):
    shown = view(broken)
    assert f"    warm-cache (hard): {WARM.text}" in text.text(shown).splitlines()
    assert "- **invalid**: balanced n=32, attempt 1" in markdown.markdown(shown).splitlines()
    assert WARM.text in html.html(shown)
    assert "EngineCore died" in html.html(shown)
    assert WARM.text in junit.junit(shown)


def test_csv_has_every_figure_at_full_precision():
    attempt = measured(output_throughput=1234.567890123)
    rows = list(csv.DictReader(io.StringIO(table_csv.csv(view(journal_of(attempt))))))
    (row,) = [row for row in rows if row["figure"] == "output_throughput"]
    assert row == {
        "cell": "balanced n=16", "load": "balanced", "num_prompts": "16", "status": "valid", "repeats": "1",
        "figure": "output_throughput", "unit": "tok/s", "median": "1234.567890123",
        "mean_low_95": "", "mean_high_95": "", "cv_percent": "",
    }  # fmt: skip


def test_csv_holds_no_formula():
    attempt = measured()
    hostile = replace(attempt, cell=replace(attempt.cell, shape="=cmd|' /C calc'!A0"))
    rows = list(csv.reader(io.StringIO(table_csv.csv(view(journal_of(hostile))))))
    assert {row[0] for row in rows[1:]} == {"'=cmd|' /C calc'!A0 n=16"}


def test_junit_has_a_case_a_cell(broken):
    suite = ET.fromstring(junit.junit(view(broken)))
    found = {
        case.get("name"): [child.tag for child in case]
        for case in suite
        if case.get("classname") != "across cells"
    }
    assert found == {
        "balanced n=1": [], "balanced n=16": [], "balanced n=32": ["failure"], "balanced n=64": ["skipped"],
        "decode-heavy n=1": ["skipped"],
    }  # fmt: skip
    assert suite.get("failures") == "1"


def test_json_is_the_view(matrix):
    from ernie_deploy.bench.report import as_json

    found = json.loads(as_json(view(matrix)))
    assert found["verdict"]["counts"]["valid"] == 63
    assert found["loads"][0]["rows"][1]["figures"]["output_throughput"]["interval"]["count"] == 3


def hostile_journal() -> Journal:
    attempt = measured(n=32)
    env = replace(
        ENVIRONMENT,
        hf_id=HOSTILE,
        argv=(HOSTILE,),
        gpus=(HOSTILE,),
        variables={HOSTILE: HOSTILE},
        driver=HOSTILE,
    )
    bad = replace(
        attempt, cell=replace(attempt.cell, shape=HOSTILE), status="invalid", reasons=(HOSTILE,), log_tail=(HOSTILE,),
        checks=(Check(id=HOSTILE, level="hard", ok=False, text=HOSTILE),), argv=(HOSTILE,),
    )  # fmt: skip
    good = replace(attempt, cell=replace(attempt.cell, shape=HOSTILE, num_prompts=16), identity="other")
    return Journal(lines=(env, bad, good))


def test_what_a_journal_says_is_never_markup():
    shown = view(hostile_journal())
    page = Page(html.html(shown))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "alert(1)" in "".join(page.text)
    ET.fromstring(junit.junit(shown))
    assert (
        "<script>"
        not in markdown.markdown(shown).replace("\\<script\\>", "").replace("`", "\n").split("# ")[1]
    )


# -- HTML -------------------------------------------------------------------------------------------------


def test_the_page_loads_and_runs_nothing(page):
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "://" not in page
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_every_plot_has_words_a_title_and_points(page, matrix):
    parsed = Page(page)
    assert len(parsed.svgs) == 12
    for found in parsed.svgs:
        assert len(found["words"]) >= 5
        assert any(one.endswith("-title") for one in found["ids"])
        drawn = [one for one in found["ids"] if re.search(r"-(point|points|kv|running|waiting)(-\d+)?$", one)]
        assert drawn or any("patch" in one for one in found["ids"])
    markers = sum(len(found["uses"]) for found in parsed.svgs if any("-point" in i for i in found["ids"]))
    # 21 cells in the trade-off and in each of the three plots against concurrency, and the ticks.
    assert markers >= 4 * 21


def test_every_number_drawn_stands_in_a_table(page, matrix):
    cells = set(Page(page).cells)
    drawn = plots(view(matrix))
    everything = [*drawn.trade_off, *drawn.against_concurrency, *drawn.floor, *drawn.over_time]
    assert len(everything) == 12
    for plot in everything:
        assert len(plot.table) > 1
        assert {item for row in plot.table for item in row} <= cells
    assert [len(plot.table) - 1 for plot in drawn.trade_off] == [7, 7, 7]
    assert [len(plot.table) - 1 for plot in drawn.against_concurrency] == [21, 21, 21]


def test_ids_are_unique_and_every_reference_is_met(page):
    ids = [attributes["id"] for _, attributes in Page(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page)) <= set(ids)


def test_colours_are_the_page_s_own(page):
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.findall(r"#0[0-9a-f]{5}\b", drawings)
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page))
    assert used <= set(re.findall(r"(--[a-z0-9-]+):", page))


def test_the_same_journal_gives_the_same_bytes(matrix, page):
    assert html.html(view(matrix)) == page


def test_a_dominated_point_is_hollow():
    better, worse = measured(n=16), measured(n=32)
    worse = replace(worse, derived=replace(worse.derived, tok_s_user=1.0, tok_s_gpu=1.0))
    (plot,) = plots(view(journal_of(better, worse))).trade_off
    assert [row[-1] for row in plot.table] == ["dominated", "no", "yes"]
    assert plot.svg.count("fill: var(--paper)") == 1


def test_without_figures_no_plot_is_empty(broken):
    nothing = view(journal_of(measured(status="invalid")))
    assert not any(msgspec.to_builtins(plots(nothing)).values())
    page = html.html(nothing)
    assert "<svg" not in page
    assert "nothing can be said about what this server delivers" in page


def test_a_baseline_stands_beside(matrix):
    made = baseline.accept(matrix)
    slow = Journal(lines=tuple(_slowed(line) for line in matrix.lines))
    shown = view(slow, made)
    assert len(shown.baseline.comparison.regressions) == 21
    page = html.html(shown)
    assert "21 regressions in 21 cells." in page
    assert page.count('class="regression"') == 21
    assert "Against the baseline" in markdown.markdown(shown)
    moved = view(journal_of(measured(), env=replace(ENVIRONMENT, image_digest="sha256:b")), made)
    assert "The baseline is stale" in html.html(moved)


def _slowed(line):
    if not hasattr(line, "result"):
        return line
    return replace(line, result={**line.result, "output_throughput": line.result["output_throughput"] * 0.9})


def test_without_matplotlib_only_html_is_missing(monkeypatch, tmp_path, matrix):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExtraMissing) as fault:
        html.html(view(matrix))
    assert fault.value.exit_code == 14, "6 says that Docker is missing"
    assert fault.value.next_step == "pip install 'ernie-deploy[report]'"
    assert markdown.markdown(view(matrix))
    assert table_csv.csv(view(matrix))


def test_matplotlib_is_imported_for_html_alone():
    code = (
        "import sys; import ernie_deploy.commands.bench_report, ernie_deploy.bench.report.html, ernie_deploy.bench.report.text;"
        "print(sorted({'matplotlib', 'rich', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_whole_matrix_is_reported_within_two_seconds(matrix, tmp_path):
    path = saved(tmp_path / "journal.jsonl", matrix)
    assert path.stat().st_size < 5_000_000
    words = [
        sys.executable,
        "-m",
        "ernie_deploy",
        "bench",
        "report",
        path,
        "--html",
        tmp_path / "report.html",
    ]
    subprocess.run([*words, "--force"], check=True, capture_output=True)  # matplotlib lists its fonts once
    # The goal is 2 s. It is one thread, so its processor time is its wall time where nobody else works;
    # twice the goal, and the best of three, for others do.
    assert any(_processor_s([*words, "--force"]) < 4 for _ in range(3))


def _processor_s(words: list[object]) -> float:
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


# -- the command ------------------------------------------------------------------------------------------


def saved(path, journal):
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in journal.lines))
    return path


def test_the_command_writes_whole_files_and_overwrites_none_unasked(tmp_path):
    path = saved(tmp_path / "journal.jsonl", journal_of(measured()))
    files = {kind: tmp_path / f"report.{kind}" for kind in ("html", "markdown", "csv", "junit")}
    words = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    done = CliRunner().invoke(bench_report.report, [str(path), *words])
    assert done.output.splitlines() == [f"wrote {file}" for file in files.values()]
    files["csv"].write_text("mine")
    files["html"].unlink()
    with pytest.raises(SystemExit) as end:
        main(["bench", "report", str(path), *words])
    assert (end.value.code, files["csv"].read_text(), files["html"].exists()) == (2, "mine", False)
    assert CliRunner().invoke(bench_report.report, [str(path), *words, "--force"]).exit_code == 0


def test_the_command_prints_the_table_or_json(tmp_path):
    path = str(saved(tmp_path / "journal.jsonl", journal_of(measured())))
    assert "The measurement is valid." in CliRunner().invoke(bench_report.report, [path]).output
    assert json.loads(CliRunner().invoke(bench_report.report, [path, "--json"]).output)["rehearsal"] is False


def test_without_a_journal_the_command_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["bench", "report"])
    assert end.value.code == 2
    assert "next:  make one with: ernie-deploy bench run" in capsys.readouterr().err


# -- looked at --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        missing("Chromium", "apt-get install chromium fonts-dejavu-core")
    assert found
    return found


SIZES = [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")]
# What a browser finds: too wide a page, drawings without an area, words over one another or outside of their drawing.
PROBE = """<script>addEventListener('load', () => {
  const faults = [], root = document.documentElement;
  if (root.scrollWidth > innerWidth) faults.push('overflow ' + root.scrollWidth);
  for (const svg of document.querySelectorAll('svg')) {
    const box = svg.getBoundingClientRect(), name = svg.getAttribute('aria-labelledby');
    if (box.width < 250 || box.height < 80) faults.push('small ' + name);
    const words = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    if (words.length < 5) faults.push('wordless ' + name);
    for (const [word, r] of words)
      if (r.left < box.left - 2 || r.right > box.right + 2 || r.top < box.top - 2 || r.bottom > box.bottom + 2)
        faults.push('outside ' + name + ' ' + word);
    words.forEach(([a, r], i) => words.slice(i + 1).forEach(([b, s]) => {
      if (Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1
          && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 3) faults.push('overlap ' + name + ' ' + a + '/' + b);
    }));
  }
  for (const part of document.querySelectorAll('main *')) {
    const box = part.getBoundingClientRect();
    if (box.width && box.right > innerWidth + 1 && !part.closest('.scroll')) faults.push('cut ' + part.tagName + '.' + part.className);
  }
  const style = getComputedStyle(document.body);
  const seen = [innerWidth, style.color, style.backgroundColor];
  parent.postMessage(JSON.stringify({faults, seen}), '*');
})</script>"""
# A window is never narrower than 500 px, a frame is.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><body>
<script>addEventListener('message', e => document.body.setAttribute('data-found', e.data))</script>
<iframe src="probed.html" width="{width}" height="4000" style="border:0"></iframe>"""
COLOURS = {
    "light": ["rgb(21, 24, 28)", "rgb(255, 255, 255)"],
    "dark": ["rgb(232, 236, 240)", "rgb(15, 19, 23)"],
}


def browse(chromium, folder, size, theme, *words) -> "subprocess.CompletedProcess[bytes]":
    scheme = {"dark": 0, "light": 1}[theme]
    return subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--virtual-time-budget=4000", f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={size}", *words,
        ],
        capture_output=True, check=True, timeout=240,
    )  # fmt: skip


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_a_browser_finds_nothing_cut_empty_or_on_top_of_another(chromium, tmp_path, page, width, theme):
    (tmp_path / "probed.html").write_text(page.replace("</body>", PROBE + "</body>"))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    dom = browse(chromium, tmp_path, "1600,4100", theme, "--dump-dom", frame.as_uri()).stdout.decode()
    body = next(attributes for tag, attributes in Page(dom).tags if tag == "body")
    found = json.loads(body["data-found"])
    assert found == {"faults": [], "seen": [width, *COLOURS[theme]]}


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_a_screenshot_shows_every_series_on_the_theme_s_paper(chromium, tmp_path, page, width, theme):
    image = importlib.import_module("matplotlib.image")
    source, shot = tmp_path / "report.html", tmp_path / "report.png"
    source.write_text(page)
    height = {390: 9000, 1440: 4500}[width]
    browse(chromium, tmp_path, f"{width},{height}", theme, f"--screenshot={shot}", source.as_uri())
    seen = image.imread(shot)
    assert seen.shape[:2] == (height, width)
    pixels = (seen[::3, ::3, :3] * 255).round().astype(int).reshape(-1, 3)
    shares = {name: (abs(pixels - rgb).max(axis=1) <= 3).mean() for name, rgb in _colours(page, theme)}
    assert 0.6 < shares["paper"] < 0.98
    assert all(shares[f"series-{k}"] > 0.0002 for k in (1, 2, 3)), shares


def _colours(page: str, theme: str) -> Iterator[tuple[str, list[int]]]:
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]
    for name, value in re.findall(r"--([a-z0-9-]+): #([0-9a-f]{6})", dark if theme == "dark" else light):
        yield name, [int(value[k : k + 2], 16) for k in (0, 2, 4)]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_colour_has_contrast(page, theme):
    colours = dict(_colours(page, theme))
    for name in (
        "ink",
        "muted",
        "good",
        "warn",
        "bad",
        "series-1",
        "series-2",
        "series-3",
        "series-4",
        "series-5",
    ):
        for ground in ("paper", "wash"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def _contrast(one: list[int], other: list[int]) -> float:
    """WCAG 2.2's ratio of relative luminances."""
    lights = sorted(
        sum(w * _linear(c / 255) for w, c in zip((0.2126, 0.7152, 0.0722), colour, strict=True))
        for colour in (one, other)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("@everyone", "@&#8203;everyone"),
        ("see https://evil.example/x", "see https:&#8203;//evil.example/x"),
        ("WWW.evil.example", "W&#8203;WW.evil.example"),
        ("mail a@b.example", "mail a@&#8203;b.example"),
        ("![x](http://e/i.png)", r"\!\[x\]\(http:&#8203;//e/i.png\)"),
        ("<img src=x>", r"\<img src=x\>"),
    ],
)
def test_markdown_mentions_nobody_and_links_nowhere(text, shown):
    assert markdown.escaped(text) == shown


def test_a_journal_cannot_mention_anybody():
    hostile = "@everyone @channel https://evil.example www.evil.example"
    noisy = measured(status="invalid")
    noisy = replace(noisy, reasons=(hostile,), log_tail=(hostile,), checks=())
    env = replace(ENVIRONMENT, image=hostile, hf_id=hostile, model=hostile, target=hostile)
    noisy = replace(noisy, environment=env.id)
    made = markdown.markdown(view(Journal(lines=(env, noisy))))
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", made)
    assert "everyone" in made
    for call in ("@everyone", "@channel", "https://", "www.evil"):
        assert call not in outside, outside
