"""The search finds the edge, with few probes."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.bench.measure.search import highest, probe


@given(st.integers(0, 2000), st.integers(1, 2000))
def test_the_edge_is_found_within_five_percent(edge: int, most: int) -> None:
    asked: list[int] = []

    def meets(n: int) -> bool:
        asked.append(n)
        return n <= edge

    found = highest(meets, most)
    truth = min(edge, most)
    assert found <= truth
    assert truth - found <= max(1, 0.05 * found)
    assert len(asked) == len(set(asked)), "no probe is made twice"
    assert len(asked) <= 2 * math.log2(most + 1) + 3
    assert max(asked) <= most


def test_a_probe_keeps_so_many_in_flight() -> None:
    cell = probe(("balanced", 1000, 1000), 32, {"ttft": 1000.0})
    assert (cell.max_concurrency, cell.num_prompts, cell.rate, cell.goodput) == (
        32,
        128,
        "inf",
        {"ttft": 1000.0},
    )
