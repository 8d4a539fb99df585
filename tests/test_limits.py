"""What one request may ask of the server, and vLLM's own verdict on requests that ask for more."""

import json
import math
import os
import subprocess
from typing import Any

import pytest
from conftest import ROOT, kit, planned, rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import command_words
from ernie_deploy.render.explain import as_text

SCRIPT = ROOT / "tests/engine/requests_judged.py"
NOBODY = "data-urls-only.invalid"
VISION_FLAGS = {"allowed-media-domains", "limit-mm-per-prompt"}
VISION_VARIABLES = {
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS", "VLLM_MAX_IMAGE_PIXELS", "VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB",
}  # fmt: skip
EVERY_MODEL = {"VLLM_MAX_N_SEQUENCES", "VLLM_MAX_COMPLETION_PROMPTS"}


def limits_of(plan: Plan) -> tuple[set[str], set[str]]:
    known = {limit.name for limit in Catalog().engine().request_limits}
    return {s.name for s in plan.settings} & known, {s.name for s in plan.environment} & known


@pytest.mark.parametrize("model", Catalog().ids("models"))
def test_every_model_has_the_limits_that_are_of_use_to_it(model: str) -> None:
    flags, variables = limits_of(planned("b300", model=model))
    vision = Catalog().model(model).vision is not None
    assert flags == (VISION_FLAGS if vision else set())
    assert variables == EVERY_MODEL | (VISION_VARIABLES if vision else set())


def test_a_vl_model_without_vision_has_those_of_text() -> None:
    assert limits_of(planned("h100", model="vl-28b", profiles=("text-only",))) == (set(), EVERY_MODEL)


def test_behind_a_gateway_one_request_is_few_sequences() -> None:
    """It counts requests: with 128 answers to 16 prompts each, 64 of a key would be 131,072 sequences."""
    for engine in Catalog().ids("engines"):
        variables = {s.name: int(str(s.value)) for s in planned("h100", gateway=True, engine=engine).environment
                     if s.name in EVERY_MODEL}  # fmt: skip
        assert variables.keys() == EVERY_MODEL
        assert math.prod(variables.values()) <= 64


def test_the_published_commands_have_the_limits_too() -> None:
    """The recipes name none; a replay of theirs is no reason to be open."""
    flags, _ = limits_of(planned("h100", model="vl-424b", profiles=("published",)))
    assert flags == VISION_FLAGS


def test_every_limit_is_in_the_plan_with_its_reason() -> None:
    text = as_text(planned("h100", model="vl-28b"))
    for limit in Catalog().engine().request_limits:
        line = next(line for line in text.splitlines() if limit.name in line)
        assert limit.reason in line
        assert limit.source


def test_every_node_of_several_has_them() -> None:
    plan = planned("h100", model="vl-424b", nodes=2)
    assert {s.name for s in plan.worker_settings} >= VISION_FLAGS


def test_media_domains_name_the_hosts() -> None:
    plan = planned("h100", model="vl-28b", media_domains=("images.example.org", "CDN.example.org"))
    assert next(s for s in plan.settings if s.name == "allowed-media-domains").value == [
        "images.example.org", "cdn.example.org",
    ]  # fmt: skip
    assert "--allowed-media-domains, images.example.org, cdn.example.org," in rendered(
        "h100", model="vl-28b", media_domains=("images.example.org", "CDN.example.org")
    )
    assert command_words(plan.request)[-2:] == ["--media-domains", "images.example.org,CDN.example.org"]


@pytest.mark.parametrize(
    "domain", ["", "http://a.org", "a.org:80", "a.org/x", "*.a.org", "a_b", "-a.org", "a..b", "a.org.", "a b", "ä.org"]
)  # fmt: skip
def test_what_is_no_host_name_is_refused(domain: str) -> None:
    with pytest.raises(UsageError, match="not a host name"):
        planned("h100", model="vl-28b", media_domains=("a.org", domain))


@pytest.mark.parametrize("options", [{"model": "21b"}, {"model": "vl-28b", "profiles": ("text-only",)}])
def test_media_domains_are_of_models_that_take_images(options: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="takes no images here"):
        planned("h100", media_domains=("a.org",), **options)


@pytest.mark.parametrize("command", ["plan", "render"])
def test_the_commands_take_media_domains(command: str) -> None:
    done = kit(command, "h100", "--model", "vl-28b", "--media-domains", "a.org,b.org")
    assert done.returncode == 0
    assert "b.org" in done.stdout
    assert NOBODY not in done.stdout


# --- vLLM's own verdict ---


Judged = dict[str, tuple[dict[str, str], list[str]]]


@pytest.fixture(scope="module")
def judged(engine: str) -> Judged:
    """What vLLM makes of each request under each plan's own flag and variables; which paths it fetched."""
    plans = {
        "pictures": planned("h100", model="vl-28b"),
        "pictures of a host": planned("h100", model="vl-28b", media_domains=("127.0.0.1",)),
        "text": planned("h100"),
    }
    lines = "\n".join(json.dumps(limited(plan)) for plan in plans.values())
    done = subprocess.run(
        [engine, str(SCRIPT)], input=lines, capture_output=True, text=True, timeout=300,
        env={**os.environ, "VLLM_LOGGING_STREAM": "ext://sys.stderr"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(plans, [(one["verdicts"], one["seen"]) for one in answers], strict=True))


def limited(plan: Plan) -> dict[str, object]:
    named = {s.name: str(s.value) for s in plan.environment if s.name.startswith(("VLLM_MAX", "VLLM_MEDIA"))}
    domains = next((s.value for s in plan.settings if s.name == "allowed-media-domains"), [])
    return {"domains": domains, "environment": named}


GRANTED = {"data", "data in capitals", "photo of 12 megapixels", "chat n=128", "16 prompts"}
REFUSED = {
    "another container": "must be from one of the allowed domains",
    "redirect": "must be from one of the allowed domains",
    "user before host": "must be from one of the allowed domains",
    "file": "Cannot load local files",
    "bomb": "exceed the maximum of 16777216 pixels",
    "chat n": "n must be at most 128",
    "completion n": "n must be at most 128",
    "prompts": "exceeds the maximum allowed count",
    "prompts of tokens": "exceeds the maximum allowed count",
}


@pytest.mark.engine
def test_vllm_refuses_what_is_beyond_the_limits(judged: Judged) -> None:
    verdicts, seen = judged["pictures"]
    assert verdicts.keys() == GRANTED | REFUSED.keys()
    assert {name: verdicts[name] for name in GRANTED} == dict.fromkeys(GRANTED, "ok")
    assert [name for name, sentence in REFUSED.items() if sentence not in verdicts[name]] == []
    assert seen == []


@pytest.mark.engine
def test_a_host_that_may_be_asked_sends_vllm_nowhere_else(judged: Judged) -> None:
    verdicts, seen = judged["pictures of a host"]
    assert verdicts["another container"] == "ok"
    assert verdicts["redirect"] != "ok"
    assert sorted(set(seen)) == ["/image", "/redirect", "/user"]


@pytest.mark.engine
def test_a_text_model_refuses_as_many_answers_and_prompts(judged: Judged) -> None:
    verdicts, _ = judged["text"]
    assert all(REFUSED[name] in verdicts[name] for name in ("chat n", "completion n", "prompts"))
