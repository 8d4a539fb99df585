"""Two vLLM versions: what moves between them, which of the kit's stacks are touched, and how long that takes."""

import json
import subprocess
import time
from itertools import permutations, product

import pytest
from conftest import kit, planned, rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.diff import differences
from ernie_deploy.diff.engines import Differences, compare_engines
from ernie_deploy.diff.matrix import requests
from ernie_deploy.diff.report import as_text, line
from ernie_deploy.errors import KitError
from ernie_deploy.plan.resolve import decide

LIMIT_S = 5.0

HEAD = """\
--- vLLM 0.32.0, parsed, configured, served in rehearsal
+++ vLLM 0.33.0, parsed and configured by its own code; not served (no CPU build yet)

engine
~ bench: the client of chats no longer counts a first chunk that holds only the role: TTFT is longer and the first gap \
shorter, so no series compares with one of an older client (since vLLM 0.33.0)
"""
FLAGS = """\
flags
+ serve --monokernel
+ serve --reasoning-effort-map
+ serve --sleep-mode-backend
+ serve --watchdog-config
"""
MOVED = """\
= serve --mamba-cache-mode: none -> unset
    its default moved from vLLM 0.32.0 to 0.33.0
= serve --tool-strict-level: auto -> unset
    its default moved from vLLM 0.32.0 to 0.33.0
"""
DEPRECATED = """\
~ serve --mamba-cache-mode: deprecated since vLLM 0.33.0: leave it out; it has no effect
"""


@pytest.fixture(scope="module")
def compared() -> Differences:
    """The two versions that stand in the issue."""
    return compare_engines(Catalog(), "0.32.0", "0.33.0")


@pytest.fixture(scope="module")
def text(compared: Differences) -> str:
    """Their page."""
    return as_text(compared)


@pytest.mark.parametrize("part", [HEAD, FLAGS, MOVED, DEPRECATED])
def test_the_page_says_what_moved(text: str, part: str) -> None:
    assert part in f"{text}\n"


def test_images_and_drivers_of_each_vendor_are_named(text: str) -> None:
    lines = text.splitlines()
    assert "- nvidia for CUDA 12.9: vllm/vllm-openai:v0.32.0-cu129" in lines
    assert "+ amd driver at least: 31.50.0" in lines
    assert "+ amd for ROCm 7.2: vllm/vllm-openai-rocm:v0.33.0-rocm72" in lines


def test_the_touched_stacks_are_told_by_what_they_have_in_common(text: str) -> None:
    page = text[text.index("the kit's ") :].splitlines()
    assert page[0].endswith(" stacks, as `render` writes them")
    image = page.index("~ serve image: vllm/vllm-openai-rocm:v0.32.0 -> vllm/vllm-openai-rocm:v0.33.0")
    assert page[image + 1].endswith(" stacks: all on amd")


def test_every_pair_of_engines_over_the_whole_matrix_takes_less_than_5_s() -> None:
    """Of the processor: the tests of other files run beside it. 616 stacks under each of two engines."""
    begun = time.process_time()
    for old, new in permutations(Catalog().ids("engines"), 2):
        compared = compare_engines(Catalog(), old, new)
        assert not compared.equal
        assert len(compared.matrix) > 500
        assert {stack for each in compared.touched for stack in each.stacks} == set(compared.matrix)
    assert time.process_time() - begun < LIMIT_S


def test_an_engine_is_equal_to_itself() -> None:
    for version in Catalog().ids("engines"):
        same = compare_engines(Catalog(), version, version)
        assert (same.equal, same.touched) == (True, ())


def test_what_a_pair_says_of_its_stack_is_what_their_files_say(compared: Differences) -> None:
    """The matrix is compared by plans, for speed: the flags and variables of files differ by the same."""
    touched = compared.touched
    for name, target, options in (
        ("21b-h100-mtp", "h100", {"profiles": ("mtp",)}),
        ("vl-28b-mi300x", "mi300x", {"model": "vl-28b"}),
        ("vl-424b-b200", "b200", {"model": "vl-424b"}),
    ):
        of_plans = {line(each.change) for each in touched if name in each.stacks}
        plans = [planned(target, engine=version, **options) for version in ("0.32.0", "0.33.0")]
        files = differences(
            *(rendered(target, engine=version, **options) for version in ("0.32.0", "0.33.0")),
            plans=(plans[0], plans[1]),
        )
        sections = ("flags", "variables", "memory", "image")
        of_files = {
            line(change)
            for change in files.changes
            if change.section in sections and change.service != "fetch" and change.kind != "default"
        }
        assert of_plans == of_files


def test_json_has_each_stack_by_name() -> None:
    done: subprocess.CompletedProcess[str] = kit("diff", "0.32.0", "0.33.0", "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 1
    assert "21b-h100" in data["matrix"]
    moved = [change for change in data["changes"] if change["kind"] == "default"]
    assert [(change["name"], change["old"], change["new"]) for change in moved] == [
        ("--mamba-cache-mode", "none", ""),
        ("--tool-strict-level", "auto", ""),
    ]


def test_the_matrix_is_each_supported_pair_plain_and_with_each_profile() -> None:
    every = list(requests(Catalog()))
    pairs = {(request.model, request.target) for request in every}
    assert len(every) == len(pairs) * (1 + len(Catalog().ids("profiles")))
    assert pairs == {
        (model.id, target.id)
        for model, target in product(Catalog().models(), Catalog().targets())
        if Catalog().support(model.id, target.id).state != "refused"
    }
    for request in every[::97]:
        try:
            assert decide(Catalog(), request).model.id == request.model
        except KitError as refusal:
            assert refusal.what
