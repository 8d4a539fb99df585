"""What `plan` advises is done as it is printed, over the whole support matrix, and what was promised is there."""

import itertools
import re
from collections.abc import Iterator
from functools import cache

import pytest
from conftest import kit, planned
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError, Refused
from ernie_deploy.plan.candidates import LayoutRefused
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import LOOPBACK, Request
from ernie_deploy.plan.resolve import resolve

CATALOG = Catalog()
PROFILES = [("published",), ("mtp",), ("fp8",), ("expert-parallel",)]
SIZES = [
    {}, {"tp": 1}, {"tp": 2}, {"tp": 3}, {"tp": 16}, {"dp": 2}, {"dp": 3}, {"dp": 8}, {"dp": 16}, {"tp": 2, "dp": 4},
    {"tp": 8, "dp": 2}, {"pp": 2}, {"nodes": 2}, {"nodes": 2, "dp": 2}, {"nodes": 2, "dp": 3}, {"nodes": 2, "tp": 3},
]  # fmt: skip
FORMS = [
    *itertools.product([(), ("bf16",)], SIZES),
    *itertools.product(PROFILES, [{}, {"dp": 2}, {"nodes": 2}, {"nodes": 2, "pp": 2}]),
]
MATRIX = [
    Request(target=target.id, model=model.id, profiles=profiles, **sizes)  # type: ignore[arg-type]
    for model, target, (profiles, sizes) in itertools.product(CATALOG.models(), CATALOG.targets(), FORMS)
    if CATALOG.support(model.id, target.id).state != "refused"
]
NUMBERS = re.compile(r"--(tp|pp|dp|nodes) (\d+)")
PROFILE = re.compile(r"--profile (\S+?)(?: in place of (\S+))?(?=[ ,.]|$)")


def done(request: Request, advice: str) -> Request:
    """The request with what a piece of advice says to add, as its reader would type it."""
    numbers = {name: int(number) for name, number in NUMBERS.findall(advice)}
    profiles = list(request.profiles)
    for added, instead_of in PROFILE.findall(advice):
        profiles = [*(profile for profile in profiles if profile != instead_of), added]
    return replace(request, **numbers, profiles=tuple(profiles))


def outcome(request: Request) -> Plan | KitError:
    try:
        return resolve(CATALOG, request)
    except KitError as refusal:
        return refusal


def pieces(plan: Plan) -> Iterator[str]:
    """Each sentence of a plan that tells to type an option about sizes or precision."""
    for note in (*plan.notes, *plan.warnings):
        yield from (
            part for part in re.split(r"(?<=\.) ", note) if NUMBERS.search(part) or PROFILE.search(part)
        )


ODD = [
    Request(target="h100", bind="0.0.0.0"), Request(target="mi300x", bind="10.0.0.4", api_key_file=True),
    Request(target="h100", model="300b", nodes=2, tp=16, pp=1), Request(target="h100", model="vl-28b"),
    Request(target="h100", model="vl-28b", pairs=("revision=main",)),
]  # fmt: skip


@cache
def outcomes() -> list[tuple[Request, Plan | KitError]]:
    """What becomes of each request of the matrix."""
    return [(request, outcome(request)) for request in MATRIX]


def test_every_advice_of_a_plan_keeps_its_promise() -> None:
    kept = set()
    for request, plan in outcomes():
        for advice in pieces(plan) if isinstance(plan, Plan) else ():
            assert isinstance(plan, Plan)
            after = resolve(CATALOG, done(request, advice))
            kept.add(_promise(plan, after, advice))
    assert kept == {"the rest", "BF16", "no pipeline", "no padding", "no misfit"}


def _promise(plan: Plan, after: Plan, advice: str) -> str:
    """Which promise it was; fails where the plan that follows the advice does not keep it."""
    if "uses" in advice:
        promised = re.search(r"uses (\d+) of them", advice)
        assert after.topology.gpus == (int(promised[1]) if promised else plan.target.gpus), advice
        assert after.topology.tensor_parallel_size == plan.topology.tensor_parallel_size, advice
        assert after.memory.context_tokens >= plan.memory.context_tokens, advice
        assert after.profiles == plan.profiles
        return "the rest"
    if "keeps BF16" in advice:
        assert after.setting("quantization") is None, advice
        return "BF16"
    if "keeps them whole" in advice:
        assert not [warning for warning in after.warnings if "keeps them whole" in warning]
        return "no misfit"
    if promised := re.search(r"returns ([\d.]+) GiB", advice):
        returned = plan.memory.weights_gib - after.memory.weights_gib
        assert f"{returned:.1f}" == promised[1], advice
        assert after.memory.expert_padding_gib == 0, advice
        return "no padding"
    assert "avoids it" in advice, f"an advice that no promise is known of: {advice}"
    assert not [note for note in after.notes if "avoids it" in note]
    return "no pipeline"


# What a sentence says of an option, and the request that follows it: the sentence is gone then.
OTHER_PROMISES: dict[str, dict[str, object]] = {
    "--security strict does not.": {"security": "strict"},
    "Leave --bind out": {"bind": LOOPBACK},
    "Without --rdma it goes over TCP.": {"rdma": True},
    "or with --set revision=COMMIT": {"pairs": (f"revision={'0' * 40}",)},
}


def test_every_other_option_that_a_sentence_names_does_what_it_says() -> None:
    kept = set()
    for asked, plan in [*outcomes(), *((one, outcome(one)) for one in ODD)]:
        for sentence in (*plan.notes, *plan.warnings) if isinstance(plan, Plan) else ():
            for promise in (promise for promise in OTHER_PROMISES if promise in sentence):
                after = resolve(CATALOG, replace(asked, **OTHER_PROMISES[promise]))
                assert not [other for other in (*after.notes, *after.warnings) if promise in other], asked
                kept.add(promise)
    assert kept == set(OTHER_PROMISES)


def test_every_advice_of_a_refused_layout_resolves() -> None:
    told = 0
    for request, refusal in outcomes():
        if isinstance(refusal, LayoutRefused) and refusal.next_step.startswith("--"):
            for advice in refusal.next_step.split(", or "):
                told += 1
                resolve(CATALOG, done(request, advice))
    assert told > 500, "there are as many refusals in the matrix"


def test_replicas_are_of_the_size_that_is_there_without_them() -> None:
    for request, plan in outcomes():
        if not isinstance(plan, Plan) or request.dp is None or request.tp or request.nodes > 1:
            continue
        alone = outcome(replace(request, dp=None))
        if isinstance(alone, Plan):
            assert plan.topology.tensor_parallel_size == alone.topology.tensor_parallel_size, request
            assert plan.topology.gpus == alone.topology.gpus * request.dp, request
            assert plan.memory.context_tokens >= alone.memory.context_tokens, request
            assert plan.profiles == alone.profiles, request


def test_300b_on_mi300x_twice_is_twice_the_same_server() -> None:
    one, two = planned("mi300x", model="300b"), planned("mi300x", model="300b", dp=2)
    assert one.notes[0].endswith("--dp 2 uses the rest.")
    assert (two.topology.tensor_parallel_size, two.topology.gpus, two.memory.context_tokens) == (
        4,
        8,
        131_072,
    )


@pytest.mark.parametrize(
    ("target", "options", "next_step"),
    [
        ("mi300x", {"dp": 8}, "--dp 8 with --tp 1, or --dp 2, or --nodes 4"),
        ("mi300x", {"tp": 3}, "--tp 1, or --tp 2, or --tp 4"),
        ("mi300x", {"model": "300b", "dp": 3}, "--dp 2"),
        ("h100", {"model": "300b", "tp": 16}, "--tp 8, or --nodes 2"),
        ("h100", {"nodes": 2}, "--nodes 2 --dp 2"),
        ("h100", {"model": "300b", "profiles": ("bf16",)}, "--nodes 2, or --profile fp8 in place of bf16"),
        ("mi300x", {"pairs": ("data-parallel-size=8",)}, "--dp 8 with --tp 1, or --dp 2, or --nodes 4"),
    ],
)
def test_a_refused_layout_names_what_can_be_typed(
    target: str, options: dict[str, object], next_step: str
) -> None:
    with pytest.raises(Refused) as refusal:
        planned(target, **options)
    assert refusal.value.next_step == next_step


def test_fp8_is_called_published_only_where_the_recipe_has_it() -> None:
    rows = {row.id: row for row in CATALOG.recipes.serve}
    seen = set()
    for _, plan in outcomes():
        for note in plan.notes if isinstance(plan, Plan) else ():
            if note.startswith("FP8 was chosen"):
                assert isinstance(plan, Plan)
                published = plan.row in rows and "quantization" in rows[plan.row].settings
                assert ("as published" in note) == published, note
                shares = plan.topology.data_parallel_size > 1
                assert published or shares or "GiB usable per GPU" in note, note
                seen.add(published)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a100", "--model", "300b"], "The precision is fp8_per_tensor: the checkpoint's BF16 does not fit."),
        (["mi300x", "--profile", "fp8"], "fp8_per_tensor, where the recipe (Ernie4.5.md:178-185) has BF16."),
        (["h100", "--model", "300b"], ""),
        (["h100", "--model", "300b", "--profile", "bf16", "--nodes", "2"], ""),
        (["mi300x"], ""),
    ],
)
def test_render_says_where_the_precision_is_not_the_recipes(words: list[str], sentence: str) -> None:
    errors = kit("render", *words).stderr
    assert sentence in errors
    assert ("precision" in errors) == bool(sentence)


@pytest.mark.parametrize(
    ("target", "model", "named"),
    [("h100", "21b", True), ("mi300x", "21b", False), ("mi300x", "vl-28b", True)],
)
def test_the_other_port_is_named_where_the_recipe_names_it(target: str, model: str, named: bool) -> None:
    assert any("8200" in note for note in planned(target, model=model).notes) == named
