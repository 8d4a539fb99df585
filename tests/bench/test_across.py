"""What is odd between the cells of one shape: falling TPOT, throughput or TTFT, another server."""

from typing import Any

import pytest
from bench.simulate import attempt, journal, recipe_cell
from msgspec.structs import replace

from ernie_deploy.bench.journal.record import Attempt
from ernie_deploy.bench.validity.across import across

LADDER = [attempt(recipe_cell("balanced", n), seed=n) for n in (1, 16, 32)]


def failed(attempts: list[Attempt]) -> dict[str, set[str]]:
    """Names of the failed checks by identity, where any failed."""
    found = {identity: {c.id for c in checks if not c.ok} for identity, checks in across(attempts).items()}
    return {identity: names for identity, names in found.items() if names}


def changed(index: int, **figures: Any) -> list[Attempt]:
    ladder = list(LADDER)
    ladder[index] = replace(ladder[index], result=ladder[index].result | figures)
    return ladder


def test_the_whole_matrix_is_in_order():
    attempts = journal(1).attempts
    assert failed(attempts) == {}
    assert len(across(attempts)) == 18


def test_the_order_of_the_journal_does_not_matter():
    assert across(reversed(LADDER)) == across(LADDER)
    assert list(across(LADDER)) == [LADDER[1].identity, LADDER[2].identity]


@pytest.mark.parametrize(("figure", "check", "allowed", "too_low"), [
    ("mean_tpot_ms", "across-mean-tpot", 0.971, 0.969),
    ("output_throughput", "across-output-throughput", 0.971, 0.969),
    ("median_ttft_ms", "across-median-ttft", 0.901, 0.899),
])  # fmt: skip
def test_a_figure_that_falls_with_more_load(figure, check, allowed, too_low):
    before = LADDER[1].result[figure]
    assert failed(changed(2, **{figure: before * allowed})) == {}
    assert failed(changed(2, **{figure: before * too_low})) == {LADDER[2].identity: {check}}


def test_a_first_cell_with_cold_kernels_shows():
    found = across(changed(0, median_ttft_ms=2500.0))[LADDER[1].identity]
    (check,) = (check for check in found if not check.ok)
    assert check.id == "across-median-ttft"
    assert check.text.startswith("balanced median_ttft_ms: 2500.00 at n=1, ")
    assert check.level == "soft"


def test_throughput_may_fall_where_requests_wait():
    small, large = (attempt(recipe_cell("prompt-heavy", n), seed=n) for n in (128, 256))
    slower = replace(large, result=large.result | {"output_throughput": 100.0})
    assert failed([small, slower]) == {}


@pytest.mark.parametrize(("kv_cache_use", "ok"), [(0.91, True), (0.89, False)])
def test_throughput_may_fall_where_the_kv_cache_is_full(kv_cache_use, ok):
    small, large = (attempt(recipe_cell("balanced", n), seed=n) for n in (16, 32))
    samples = tuple(replace(s, kv_cache_use=kv_cache_use, waiting=0) for s in large.server.samples)
    server = replace(large.server, samples=samples)
    slower = replace(large, server=server, result=large.result | {"output_throughput": 1.0})
    assert failed([small, slower]) == ({} if ok else {large.identity: {"across-output-throughput"}})


def test_another_life_of_the_server_is_told_unless_each_cell_has_its_own():
    other = [*LADDER[:2], replace(LADDER[2], environment="e2")]
    assert failed(other) == {LADDER[2].identity: {"across-server-start"}}
    own = [
        replace(a, cell=replace(a.cell, cold="restart"), environment=f"e{i}") for i, a in enumerate(LADDER)
    ]
    assert failed(own) == {}


def test_only_like_cells_with_figures_are_compared():
    others = [attempt(recipe_cell("balanced", 32, repeat=2), seed=9), replace(LADDER[2], status="invalid")]
    assert across([LADDER[1], *others]) == {}
