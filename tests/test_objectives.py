"""--slo and --gpu-price: what they take, what they refuse, and the objectives that a plan derives without them."""

import pytest
from conftest import CATALOG, kit, planned

from ernie_deploy.errors import UsageError
from ernie_deploy.plan import objectives as o
from ernie_deploy.plan.objectives import parse
from ernie_deploy.plan.request import command_words


def test_an_objective_is_read_and_written_back():
    ttft, tpot = parse(("ttft_p95=2000ms", "tpot_p99=50ms"))
    assert (ttft.metric, ttft.percentile, ttft.limit_s, ttft.budget) == ("ttft", 95, 2.0, 0.05)
    assert (tpot.metric, tpot.percentile, tpot.limit_s, tpot.budget) == ("tpot", 99, 0.05, 0.01)
    assert (ttft.text, tpot.text) == ("ttft_p95=2s", "tpot_p99=50ms")
    assert parse((ttft.text, tpot.text)) == (ttft, tpot)


@pytest.mark.parametrize("words", [
    ("ttft",), ("ttft_p95",), ("ttft_p95=2",), ("ttft_p94=2s",), ("ttft_p95=0s",), ("ttft_p95=-1s",), ("ttft_p95=1e3s",),
    ("ttft_p95=641s",), ("tpot_p95=81s",), ("TTFT_p95=2s",), ("ttft_p95=2s ",), ("ttft_p95=nans",), ("",),
    ("ttft_p95=2s", "ttft_p95=3s"), ("ttft_p95=٣s",),
])  # fmt: skip
def test_what_is_no_objective_is_refused(words):
    with pytest.raises(UsageError):
        parse(words)


@pytest.mark.parametrize("price", ["nan", "inf", "0", "-1", "1e9"])
def test_what_is_no_price_is_refused(price):
    done = kit("plan", "h100", "--monitoring", "--gpu-price", price)
    assert done.returncode == 2
    assert "--gpu-price" in done.stderr


def test_both_stand_in_the_command_that_renders_the_same_again():
    plan = planned("h100", monitoring=True, slo=("ttft_p95=2s", "tpot_p95=50ms"), gpu_price=2.5)
    words = command_words(plan.request)
    assert words[words.index("--slo") + 1] == "ttft_p95=2s,tpot_p95=50ms"
    assert words[words.index("--gpu-price") + 1] == "2.5"
    assert [one.origin for one in o.objectives(plan)] == ["--slo", "--slo"]


@pytest.mark.parametrize("target", [target.id for target in CATALOG.targets() if target.gpus])
@pytest.mark.parametrize("model", ["0.3b", "21b", "vl-28b"])
def test_a_derived_objective_is_slower_than_the_floor_and_fits_its_own_option(target, model):
    plan = planned(target, model=model)
    ttft, tpot = o.objectives(plan)
    assert parse((ttft.text, tpot.text))
    assert 0 < o.decode_floor_s(plan) < tpot.limit_s < 1
    assert o.prefill_s(plan, plan.memory.context_tokens) <= ttft.limit_s
    assert all(one.origin.startswith("derived: ") for one in (ttft, tpot))
    assert o.most_tokens_per_s(plan) == pytest.approx(o.full_load(plan).batch / o.decode_floor_s(plan))


def test_a_flag_of_the_user_moves_what_is_derived():
    full, small = planned("h100"), planned("h100", pairs=("max-num-seqs=16",))
    assert (o.max_num_seqs(full), o.max_num_seqs(small)) == (1024, 16)
    assert o.most_tokens_per_s(small) < o.most_tokens_per_s(full)
    assert o.objectives(planned("h100", max_model_len=8192))[0].limit_s < o.objectives(full)[0].limit_s


def test_a_processor_has_no_bandwidth_to_derive_from():
    assert o.objectives(planned("cpu")) == ()
    assert [one.text for one in o.objectives(planned("cpu", monitoring=True, slo=("tpot_p95=1s",)))] == [
        "tpot_p95=1s"
    ]


@pytest.mark.parametrize(
    "words", [("--slo", "ttft_p95=2s"), ("--gpu-price", "2"), ("--runbooks", "https://x.example")]
)
def test_without_monitoring_nobody_would_read_them(words):
    done = kit("plan", "h100", *words)
    assert done.returncode == 2
    assert f"{words[0]} is for the alerts and the dashboard of --monitoring" in done.stderr
