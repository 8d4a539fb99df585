"""Quantiles of a histogram are Prometheus' own, to the last bit, as hypothesis and the real promtool judge."""

import bisect
import json
import math
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import missing
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.stack.histogram import quantile

bounds = st.lists(st.floats(1e-4, 1e4, allow_nan=False), min_size=1, max_size=12, unique=True).map(sorted)
SHARES = (0.5, 0.95, 0.99)


def observed(limits: list[float], values: list[float]) -> dict[float, float]:
    """A histogram as a client library fills it."""
    return {bound: float(sum(value <= bound for value in values)) for bound in [*limits, math.inf]}


@given(bounds, st.lists(st.floats(0, 2e4), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_observation_that_it_is(
    limits: list[float], values: list[float], share: float
) -> None:
    found = quantile(share, observed(limits, values))
    assert found is not None
    buckets = observed(limits, values)
    rank = share * len(values)
    place = next(bound for bound in sorted(buckets) if buckets[bound] >= rank)
    if place == math.inf:
        assert found == limits[-1]
        return
    at = bisect.bisect_left(limits, place)
    assert (limits[at - 1] if at else 0.0) <= found <= place or math.isclose(found, place)


@given(bounds, st.lists(st.floats(0, 2e4), min_size=1, max_size=60), st.integers(2, 1000))
def test_how_often_everything_was_observed_is_no_matter(
    limits: list[float], values: list[float], times: int
) -> None:
    once = observed(limits, values)
    often = {bound: count * times for bound, count in once.items()}
    for share in SHARES:
        assert quantile(share, often) == pytest.approx(quantile(share, once))


@given(bounds, st.lists(st.floats(0, 2e4), min_size=1, max_size=60))
def test_a_larger_share_is_no_smaller(limits: list[float], values: list[float]) -> None:
    seen = [quantile(share, observed(limits, values)) for share in (0.1, *SHARES, 1)]
    assert seen == sorted(seen, key=lambda value: value or 0.0)


def test_without_an_observation_or_a_last_bucket_there_is_none() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {math.inf: 3.0}) is None
    assert quantile(0.5, {1.0: 3.0, 2.0: 4.0}) is None
    assert quantile(0.5, {1.0: 0.0, math.inf: 0.0}) is None


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, math.nan])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="is no share"):
        quantile(share, {1.0: 1.0, math.inf: 1.0})


def test_promtool_finds_the_same_numbers(tmp_path: Path) -> None:
    """Its comparison is exact: one bit more or less would fail."""
    if not shutil.which("promtool"):
        missing("promtool", "apt-get install prometheus")
    chance = random.Random(16)
    series, wanted = [], []
    for case in range(80):
        limits = sorted(
            {round(chance.uniform(0.001, 100), chance.randint(1, 6)) for _ in range(chance.randint(1, 12))}
        )
        count, buckets = 0, {}
        for bound in [*limits, math.inf]:
            count += chance.choice((0, 0, 1, 3, chance.randint(1, 100000)))
            # Torn reads fall now and then.
            buckets[bound] = float(max(0, count - chance.choice((0, 0, 0, 1))))
        for bound, value in buckets.items():
            le = "+Inf" if bound == math.inf else repr(bound)
            series.append({"series": f'seen_bucket{{case="{case}",le="{le}"}}', "values": f"{value:.0f}"})
        for share in SHARES:
            found = quantile(share, buckets)
            if found is not None:
                query = f'histogram_quantile({share}, seen_bucket{{case="{case}"}})'
                wanted.append({"expr": query, "eval_time": "0m",
                               "exp_samples": [{"labels": f'{{case="{case}"}}', "value": found}]})  # fmt: skip
    assert len(wanted) > 150
    test = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": wanted}],
    }
    (tmp_path / "tests.yml").write_text(json.dumps(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
