"""What comes from elsewhere: remote code at a revision that its owner can move, and what the kit itself installs."""

import pytest
from conftest import kit, planned

from ernie_deploy.catalog import Catalog
from ernie_deploy.explain import as_data, as_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VISION = [model.id for model in Catalog().models() if model.trust_remote_code]


@pytest.mark.parametrize("model", VISION)
def test_code_at_a_movable_revision_is_warned_of(model: str) -> None:
    plan = planned("b300", model=model)
    (warning,) = plan.warnings
    assert f"is run at the revision {plan.model.revision}, which its owner can move" in warning
    assert "--set revision=COMMIT" in warning
    assert warning in as_text(plan)
    assert as_data(plan)["warnings"] == [warning]


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/17", COMMIT[:39], COMMIT.upper()])
def test_only_a_commit_stays(revision: str) -> None:
    plan = planned("h100", model="vl-28b", pairs=(f"revision={revision}",))
    assert len(plan.warnings) == 1


@pytest.mark.parametrize("model", VISION)
def test_a_commit_is_followed_by_fetch_stamp_tokenizer_and_code(model: str) -> None:
    plan = planned("b300", model=model, pairs=(f"revision={COMMIT}",))
    assert plan.warnings == ()
    names = ("revision", "tokenizer-revision", "code-revision")
    assert {
        setting.name: setting.value for setting in plan.settings if setting.name in names
    } == dict.fromkeys(names, COMMIT)
    assert f"--revision={COMMIT}" in plan.fetch_words
    assert plan.stamp.endswith(f"@{COMMIT}.json")


def test_code_revision_of_its_own_stays_the_users() -> None:
    pairs = (f"revision={COMMIT}", "code-revision=main")
    plan = planned("h100", model="vl-28b", pairs=pairs)
    assert next(s.value for s in plan.settings if s.name == "code-revision") == "main"
    assert "at the revision main" in plan.warnings[0]


@pytest.mark.parametrize(
    "options", [{}, {"model": "vl-28b", "weights": "/data/ernie"}, {"model": "300b", "nodes": 2}]
)  # fmt: skip
def test_without_code_from_the_hub_there_is_nothing_to_warn_of(options: dict[str, object]) -> None:
    assert planned("h100", **options).warnings == ()


def test_the_recipes_needless_remote_code_is_warned_of_too() -> None:
    assert len(planned("mi300x", profiles=("published",)).warnings) == 1


@pytest.mark.parametrize("form", ["compose", "kubernetes"])
def test_render_says_it_beside_the_file(form: str) -> None:
    done = kit("render", "h100", "--model", "vl-28b", "--format", form)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: Code out of baidu/ERNIE-4.5-VL-28B-A3B-PT is run at the revision")
    assert "warning:" not in done.stdout
