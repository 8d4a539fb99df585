"""Intervals of a few repeats: the t table against what is known in closed form, and what one value has."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.bench.stats import T_975, interval, t_975


def test_one_value_has_no_interval():
    assert interval([]) is None
    assert interval([857.78]) is None


def test_three_values_by_hand():
    found = interval([10.0, 11.0, 12.0])
    # mean 11, deviation 1, t(2) = 4.303, half width 4.303 / sqrt 3
    assert found.mean == 11.0
    assert found.high - found.mean == pytest.approx(2.4843, abs=1e-4)
    assert found.mean - found.low == pytest.approx(2.4843, abs=1e-4)
    assert found.cv == pytest.approx(1 / 11)
    assert found.half_width_share == pytest.approx(0.22585, abs=1e-5)
    assert found.count == 3


def _cumulative(t: float, freedom: int) -> float:
    """Student's distribution by Simpson's rule, from 0 to t, and a half."""
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    steps = 2000
    values = [scale * (1 + (t * k / steps) ** 2 / freedom) ** (-(freedom + 1) / 2) for k in range(steps + 1)]
    return 0.5 + t / steps / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 10, 17, 29, 30, 31, 40, 62, 100])
def test_each_figure_of_t_is_the_quantile(freedom):
    assert _cumulative(t_975(freedom), freedom) == pytest.approx(0.975, abs=2e-5)


def test_the_table_falls():
    assert len(T_975) == 30
    assert list(T_975) == sorted(T_975, reverse=True)
    assert t_975(31) < T_975[-1]


def test_intervals_that_share_nothing():
    low, high = interval([10.0, 10.1, 9.9]), interval([12.0, 12.1, 11.9])
    assert low.disjoint(high)
    assert high.disjoint(low)
    assert not low.disjoint(interval([10.0, 10.4, 10.2]))


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=40))
def test_the_mean_lies_inside(values):
    found = interval(values)
    assert found.low <= found.mean <= found.high
    assert found.cv >= 0
