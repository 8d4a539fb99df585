"""No measured figure of a valid record can be changed unseen: each is corrupted in turn, and a check fires."""

import copy
import math
from typing import Any

import pytest
from bench.good import GOOD, RECIPE, failed
from msgspec.structs import replace

from ernie_deploy.bench.journal.record import Evidence, InterTokenLatency

# What a check must allow, for the reason given; each is caught by the other way to corrupt it.
EXCEPTIONS = {
    ("figures", "max_output_tokens_per_s"): "only its limits follow from what is kept of the gaps",
    ("server.after", "prefix_cache_hits"): "a few hits are chance collisions; 2 % are allowed",
    ("server.before", "prefix_cache_hits"): "likewise",
}


def paths(proof: Evidence) -> list[tuple[str, Any]]:
    """Every measured number of a record, not what follows from them: (table, key), or (table, (key, place)) for one element of a list."""
    found: list[tuple[str, Any]] = []
    for key, value in proof.figures.items():
        if isinstance(value, list) and value and not isinstance(value[0], str):
            found += [("figures", (key, place)) for place in {0, len(value) // 2, len(value) - 1}]
        elif isinstance(value, int | float):
            found.append(("figures", key))
    found += [
        ("itl.counts", 0),
        ("itl.sums_s", 0),
        ("itl.histogram", max(proof.itl.histogram, key=proof.itl.histogram.get)),
    ]
    return found + [(f"server.{when}", key) for when in ("before", "after") for key in proof.server.after]


def corrupted(proof: Evidence, table: str, key: Any, change) -> Evidence:
    if table == "figures":
        figures = copy.deepcopy(proof.figures)
        holder, at = (figures[key[0]], key[1]) if isinstance(key, tuple) else (figures, key)
        holder[at] = change(holder[at])
        return replace(proof, figures=figures)
    if table.startswith("itl"):
        return replace(proof, itl=corrupted_gaps(proof.itl, table.partition(".")[2], key, change))
    when = table.partition(".")[2]
    counters = dict(getattr(proof.server, when))
    counters[key] = change(counters[key])
    return replace(proof, server=replace(proof.server, **{when: counters}))


def corrupted_gaps(itl: InterTokenLatency, name: str, key: int, change) -> InterTokenLatency:
    held = getattr(itl, name)
    values = dict(held) if isinstance(held, dict) else list(held)
    values[key] = change(values[key])
    return replace(itl, **{name: values if isinstance(values, dict) else tuple(values)})


def larger(value):
    """By 30 %, or by one where that is nothing."""
    return (
        math.ceil(value * 1.3)
        if isinstance(value, int) and value > 0
        else value * 1.3
        if value
        else value + 1
    )


def negative(value):
    return -value if value else -1


@pytest.mark.parametrize("kind", ["recipe", "many", "closed loop", "speculative"])
@pytest.mark.parametrize("change", [larger, negative])
def test_no_figure_can_be_changed_unseen(kind, change):
    proof = GOOD[kind]
    excepted = set(EXCEPTIONS) if change is larger else set()
    unseen = [
        (table, key)
        for table, key in paths(proof)
        if (table, key) not in excepted and not failed(corrupted(proof, table, key, change))
    ]
    assert unseen == []


def test_the_exceptions_are_seen_when_they_matter():
    for (table, key), value in ((key, 30_000.0) for key in EXCEPTIONS):
        assert failed(corrupted(RECIPE, table, key, lambda _, value=value: value)), (table, key)


@pytest.mark.parametrize("field", ["elapsed_s", "running", "waiting", "kv_cache_use", "generation_tokens"])
def test_no_sample_can_be_negative(field):
    samples = list(RECIPE.server.samples)
    samples[50] = replace(samples[50], **{field: -1.0})
    assert "samples" in failed(replace(RECIPE, server=replace(RECIPE.server, samples=tuple(samples))))


def test_a_list_that_lost_an_entry_is_caught():
    for name in ("input_lens", "output_lens", "ttfts", "latencies", "start_times", "queue_times", "errors"):
        assert "list-lengths" in failed(
            replace(RECIPE, figures=RECIPE.figures | {name: RECIPE.figures[name][1:]})
        ), name
