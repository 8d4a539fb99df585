"""What a user types is understood or answered with what can be typed: names, paths, and what `check` will say."""

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT, kit, planned

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge
from ernie_deploy.commands.render import PLAIN, tell_errors, text_of
from ernie_deploy.errors import CatalogError, KitError, UsageError
from ernie_deploy.plan.request import Request

OWN = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
NAMES = [
    ("mi300x", ""), ("MI300X", "21b"), ("mi300", "baidu/ERNIE-4.5-21B-A3B-PT"), ("Mi300x", "21B"),
    ("MI300", "ERNIE-4.5-21B-A3B-PT"), ("mi300x", "BAIDU/ernie-4.5-21b-a3b-pt"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "model"), NAMES)
def test_every_name_of_a_model_and_a_target_is_understood_everywhere(
    target: str, model: str, tmp_path: Path
) -> None:
    chosen = ["--model", model] if model else []
    # A model of the default's name is one that was asked for.
    words = ["mi300x", *(["--model", "21b"] if model else [])]
    assert kit("render", target, *chosen).stdout == kit("render", *words).stdout
    for command in (
        ["plan", "--json"],
        ["rehearse", "--dry-run"],
        ["doctor", "--dry-run"],
        ["up", "--dry-run", "--no-preflight"],
    ):
        named, known = (kit(*command, *those, cwd=tmp_path, env=OWN) for those in ([target, *chosen], words))
        assert named.returncode == 0, named.stderr
        assert named.stdout.replace(tmp_path.name, "") == known.stdout.replace(tmp_path.name, "")
    cells = kit("bench", "plan", "--json", "--target", target, *chosen, cwd=tmp_path, env=OWN)
    assert {row["cell"]["request_rate"] for row in json.loads(cells.stdout)} == {10000.0}


def test_every_checkpoint_is_known_by_its_name_on_the_hub() -> None:
    catalog = Catalog()
    for model in catalog.models():
        assert planned("h200", model=model.hf_id).model.id == model.id
    assert [catalog.id_of("targets", target.id.upper()) for target in catalog.targets()] == [
        target.id for target in catalog.targets()
    ]


@pytest.mark.parametrize(
    ("noun", "word", "near"),
    [
        ("models", "baidu/ERNIE-4.5-21B-A3B-Paddle", "21b"), ("targets", "MI300Y", "mi300x"), ("targets", "h10", "h100"),
        ("models", "21-b", "21b"),
    ],
)  # fmt: skip
def test_an_unknown_name_has_a_near_one(noun: str, word: str, near: str) -> None:
    with pytest.raises(CatalogError) as told:
        Catalog().model(word) if noun == "models" else Catalog().target(word)
    assert told.value.cause == f"did you mean {near!r}?"


def test_a_node_that_is_no_target_stays_unknown() -> None:
    """An MI300A has another memory than an MI300X."""
    assert Catalog().id_of("targets", "mi300a") == "mi300a"


@pytest.mark.parametrize(
    "words",
    [
        ["render", "h100", "--api-key-file", "key.yaml"], ["render", "--api-key-file", "key.yaml", "h100"],
        ["plan", "h100", "--api-key-file", "key.yaml"], ["up", "--api-key-file", "key.yaml", "h100"],
        ["init", "x", "h100", "--api-key-file", "key.yaml"], ["doctor", "h100", "--api-key-file", "key.yaml"],
        ["rehearse", "h100", "--api-key-file", "key.yaml"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_key_file_takes_no_path_and_says_so(words: list[str], tmp_path: Path) -> None:
    done = kit(*words, cwd=tmp_path, env=OWN)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--api-key-file takes no path, and 'key.yaml' follows it." in done.stderr
    assert "API_KEY_FILE=key.yaml" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pair", "next_step"),
    [
        ("port=9000", "set PORT in .env for the host's side"), ("model=x", "choose it with --model"),
        ("api-key=x", "use --api-key-file"), ("hf-token=x", "set HF_TOKEN_FILE in .env"),
        ("nnodes=2", "choose it with --nodes"), ("download-dir=x", "set HF_CACHE_DIR in .env"),
    ],
)  # fmt: skip
def test_what_the_stack_sets_names_what_can_be_done(pair: str, next_step: str) -> None:
    with pytest.raises(UsageError) as told:
        planned("h100", pairs=(pair,))
    assert told.value.next_step == next_step
    assert next_step not in told.value.cause


@pytest.mark.parametrize(
    ("pair", "hint"),
    [("tp=3", "did you mean --tensor-parallel-size?"), ("max_model_lenn=4", "did you mean --max-model-len?"), ("a=b", ""), ("tpp=3", "")],
)  # fmt: skip
def test_a_hint_is_a_flag_that_can_be_typed_as_a_setting_or_none(pair: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        planned("h100", pairs=(pair,))
    assert raised.value.next_step == hint


# An image of one's own whose vLLM is older than the flags of the stack.
OLD = ["--image", "vllm/vllm-openai:v0.11.0"]


@pytest.mark.parametrize(("words", "rule"), [(OLD, "ED101")], ids=str)
def test_render_says_what_check_will_call_an_error(words: list[str], rule: str, tmp_path: Path) -> None:
    for output in ([], ["-o", "compose.yml"]):
        done = kit("render", "h100", *words, *output, cwd=tmp_path, env=OWN)
        assert done.returncode == 0
        assert "`ernie-deploy check` will say of this file:" in done.stderr
        assert f"error {rule} serve" in done.stderr
    assert (tmp_path / "compose.yml").read_text() == kit("render", "h100", *words).stdout
    found = kit("check", "compose.yml", "--json", cwd=tmp_path, env=OWN).stdout
    assert [one["id"] for one in json.loads(found) if one["severity"] == "error"] == [rule]


def test_up_says_it_of_what_it_renders(tmp_path: Path) -> None:
    """Where Docker is missing nothing is started, and the file is there."""
    env = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)}
    done = kit("up", "h100", *OLD, "--no-preflight", cwd=tmp_path, env=env)
    assert done.returncode == 6
    assert "error ED101 serve" in done.stderr
    assert (tmp_path / "compose.yml").is_file()


def test_init_says_what_check_calls_an_error_in_its_env(tmp_path: Path) -> None:
    done = kit(
        "init", "x", "h100", "--env", "ENGINE_IMAGE=vllm/vllm-openai:v0.11.0", *OLD, cwd=tmp_path, env=OWN
    )
    assert done.returncode == 0
    assert "error ED101 serve" in done.stderr
    assert "ED101" not in kit("init", "y", "h100", cwd=tmp_path, env=OWN).stderr


def test_a_rendering_that_is_not_judged_has_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """`render` judges what was asked for beyond a layout; this holds the layouts against `check`, profile by profile."""
    catalog, seen = Catalog(), 0
    asked = [{"profiles": (profile,)} for profile in catalog.ids("profiles")]
    asked += [{"nodes": 2}, {"tp": 1}, {"dp": 2}, {"gpus": (0,)}, {"name": "x"}, {"max_model_len": 4096}]
    for target, model in (("mi300x", "21b"), ("h100", "vl-28b"), ("h100", "21b-thinking"), ("cpu", "0.3b")):
        for options in ({}, *asked):
            request = Request(target=target, model=model, **options)  # type: ignore[arg-type]
            assert set(options) <= set(PLAIN)
            try:
                text = text_of(request)
            except KitError:
                continue
            seen += 1
            assert not [f for f in judge(text.encode(), "compose.yml", catalog) if f.severity == "error"], (
                request
            )
            capsys.readouterr()
            tell_errors(request, Path("compose.yml"), text)
            assert capsys.readouterr().err == ""
    assert seen > 20
