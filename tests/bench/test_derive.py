"""Reducing a raw result and deriving from it: each figure against another way to compute it."""

import copy
import math
import random
import statistics

import pytest
from bench.engine import Speed
from bench.simulate import (
    environment,
    journal,
    recipe_cell,
    server_of,
    simulate,
    simulate_reduced,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.bench.journal.arrivals import schedule
from ernie_deploy.bench.journal.derive import derive, reduce
from ernie_deploy.bench.journal.record import Cell
from ernie_deploy.bench.quantiles import bin_of, edges_ms, histogram_quantile_ms, quantile

NUMPY_SEED_0 = [0.09225866000617942, 0.23784755381206038, 0.3448686098264802, 0.4361218447563611, 0.5]
NUMPY_SEED_MAX = [0.009130477611303043, 0.2255235906738606, 0.3638202111722287, 0.498391120510367, 0.5]
SMALL = Cell(shape="80/10", input_len=80, output_len=10, num_prompts=8)


def derived_of(cell, *, seed=0, speed=None):
    result, itl = reduce(simulate(cell, seed=seed, speed=speed or Speed()))
    return result, derive(result, itl, server_of(result, cell), environment(), seed=seed)


def test_reduce_drops_the_lists_of_tokens_and_nothing_else():
    raw = simulate(SMALL)
    before = copy.deepcopy(raw)
    result, itl = reduce(raw)
    assert raw == before
    assert set(raw) - set(result) == {"itls", "generated_texts"}
    assert all(result[name] == raw[name] for name in result)
    assert itl.counts == (9,) * 8
    assert itl.sums_s == pytest.approx([sum(gaps) for gaps in raw["itls"]])
    assert sum(itl.histogram.values()) == 72


@pytest.mark.parametrize("cell", [SMALL, recipe_cell("balanced", 16), recipe_cell("prompt-heavy", 32)])
def test_the_quick_simulation_is_the_whole_one_reduced(cell):
    result, itl = reduce(simulate(cell))
    quick, quick_itl = simulate_reduced(cell)
    assert result == quick
    assert itl.counts == quick_itl.counts
    assert itl.histogram == quick_itl.histogram
    assert itl.sums_s == pytest.approx(quick_itl.sums_s)


def test_the_simulated_statistics_are_those_of_the_raw_lists():
    raw = simulate(recipe_cell("prompt-heavy", 16))
    gaps = sorted(gap for each in raw["itls"] for gap in each)
    assert raw["mean_itl_ms"] == pytest.approx(1000 * statistics.fmean(gaps))
    assert raw["std_itl_ms"] == pytest.approx(1000 * statistics.pstdev(gaps))
    assert raw["p99_itl_ms"] == pytest.approx(1000 * quantile(gaps, 0.99))
    # vLLM's own loop: the time of each token, in buckets of a second from the first send.
    times = [
        start - min(raw["start_times"]) + ttft + math.fsum(gaps[:k])
        for start, ttft, gaps in zip(raw["start_times"], raw["ttfts"], raw["itls"], strict=True)
        for k in range(len(gaps) + 1)
    ]
    buckets = statistics.multimode(map(int, times))
    assert raw["max_output_tokens_per_s"] == pytest.approx(sum(int(t) == buckets[0] for t in times), abs=16)


def test_every_derived_figure_of_the_recipes_cell():
    result, found = derived_of(recipe_cell("prompt-heavy", 16))
    assert found.mean_concurrency == pytest.approx(result["mean_e2el_ms"] / 1000 * 16 / result["duration"])
    assert found.peak_concurrency == 16
    assert found.achieved_rate == pytest.approx(15 / (result["start_times"][-1] - result["start_times"][0]))
    assert found.send_lag_p99_ms == pytest.approx(0.4, abs=1e-6)
    assert found.tok_s_user == pytest.approx(1000 / result["mean_tpot_ms"])
    assert found.tok_s_gpu == pytest.approx(16_000 / result["duration"])
    assert found.tokens_per_chunk == 1.0
    assert found.ttft_deciles_ms[5] == pytest.approx(result["median_ttft_ms"])
    assert found.ttft_deciles_ms[9] == pytest.approx(result["p90_ttft_ms"])
    assert found.prefix_hit_share == 0.0
    assert found.acceptance_length is None


def test_tokens_a_chunk_and_acceptance_agree_with_speculative_decoding():
    result, itl = simulate_reduced(recipe_cell(), speed=Speed(tokens_per_step=1.7))
    found = derive(result, itl, server_of(result, recipe_cell()), environment())
    assert found.tokens_per_chunk == pytest.approx(1.699, abs=1e-3)
    assert found.acceptance_length == pytest.approx(result["spec_decode_acceptance_length"])
    assert found.send_lag_p99_ms is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=40))
def test_peak_concurrency_is_what_any_moment_shows(spans):
    """The sweep line against counting at every half moment."""
    result = {
        "start_times": [float(start) for start, _ in spans], "latencies": [float(took) for _, took in spans],
        "ttfts": [0.5] * len(spans), "input_lens": [1] * len(spans), "output_lens": [2] * len(spans),
        "errors": [""] * len(spans), "duration": 100.0,
    }  # fmt: skip
    moments = (k + 0.5 for k in range(71))
    seen = max(sum(start < at < start + took for start, took in spans) for at in moments)
    assert derive(result, None, None, None).peak_concurrency == seen


def test_vllms_own_peak_reports_more_than_were_in_flight():
    result, found = derived_of(recipe_cell("balanced", 128, max_concurrency=16))
    assert found.peak_concurrency == 16
    assert result["max_concurrent_requests"] > 20


def test_nothing_listening_derives_to_nothing():
    zeros = [0.0] * 4
    result = {
        "num_prompts": 4, "request_rate": 10.0, "duration": 0.4, "completed": 0, "failed": 4, "mean_tpot_ms": 0.0,
        "output_throughput": 0.0, "input_lens": [8] * 4, "output_lens": [0] * 4, "ttfts": zeros,
        "latencies": zeros, "start_times": zeros, "errors": ["refused"] * 4, "itls": [[]] * 4,
    }  # fmt: skip
    kept, itl = reduce(result)
    found = derive(kept, itl, None, None, seed=0)
    assert (found.mean_concurrency, found.peak_concurrency) == (0.0, 0)
    assert found.achieved_rate is found.send_lag_p99_ms is found.tok_s_user is found.tokens_per_chunk is None
    assert derive({}, None, None, None).peak_concurrency == 0


def test_the_schedule_is_numpys():
    # np.random.seed(s); np.random.gamma(shape=1, scale=0.1) five times, cumulated, stretched to end at 0.5
    assert schedule(0, 5, 10.0) == pytest.approx(NUMPY_SEED_0, abs=1e-15)
    assert schedule(2**32 - 1, 5, 10.0) == pytest.approx(NUMPY_SEED_MAX, abs=1e-15)
    assert schedule(7, 3, None) == [0.0, 0.0, 0.0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 64), st.floats(0.1, 1e4))
def test_the_last_request_leaves_at_n_over_rate(seed, n, rate):
    due = schedule(seed, n, rate)
    assert due == sorted(due)
    assert due[-1] == pytest.approx(n / rate)


@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=50), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0])
)
def test_quantiles_interpolate(values, share):
    ordered = sorted(values)
    found = quantile(ordered, share)
    at = share * (len(values) - 1)
    assert ordered[math.floor(at)] <= found * (1 + 1e-12)
    assert found <= ordered[math.ceil(at)] * (1 + 1e-12)


def test_quantiles_by_hand():
    # np.percentile([1, 2, 4, 8], [50, 90, 99])
    assert [quantile([1, 2, 4, 8], q) for q in (0.5, 0.9, 0.99)] == pytest.approx([3.0, 6.8, 7.88])
    assert quantile([], 0.5) == 0.0


@given(st.lists(st.floats(1e-7, 10.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bins_it_came_from(gaps, share):
    histogram: dict[int, int] = {}
    for gap in gaps:
        histogram[bin_of(gap)] = histogram.get(bin_of(gap), 0) + 1
    low, high = histogram_quantile_ms(histogram, share)
    assert low * (1 - 1e-9) <= 1000 * quantile(sorted(gaps), share) <= high * (1 + 1e-9)


def test_bins_are_a_hundredth_wide():
    rng = random.Random(1)
    for gap in (10 ** rng.uniform(-6, 1) for _ in range(200)):
        low, high = edges_ms(bin_of(gap))
        assert low * (1 - 1e-9) <= 1000 * gap <= high * (1 + 1e-9)
    assert bin_of(0.0) == bin_of(5e-7) == 0


def test_a_whole_matrix_is_valid_and_small():
    import msgspec

    found = journal(1)
    assert [attempt.status for attempt in found.attempts] == ["valid"] * 21
    assert len(msgspec.json.encode(found)) < 5e6
