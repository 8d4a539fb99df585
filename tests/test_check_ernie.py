"""`check` on ERNIE checkpoints: how they are named, drafted for, split, parsed, and which of them vLLM cannot read."""

import json

import pytest
from check_files import CATALOG, CUDA, MODEL, found, serve, severities

from ernie_deploy.check import judge
from ernie_deploy.check.model_names import as_published, model_named, repository

THINKING = "baidu/ERNIE-4.5-21B-A3B-Thinking"
VL = "baidu/ERNIE-4.5-VL-28B-A3B-PT"


def words(*arguments):
    return json.dumps(arguments)


# --- names


@pytest.mark.parametrize(
    ("text", "identity", "published"),
    [
        ("baidu/ERNIE-4.5-21B-A3B-PT", "21b", True),
        ("PaddlePaddle/ERNIE-4.5-300B-A47B-PT", "300b", True),
        ("somebody/ERNIE-4.5-21B-A3B-PT", "21b", False),
        ("/srv/ERNIE-4.5-0.3B-PT/", "0.3b", False),
        ("./ernie-4.5-0.3b-pt", "0.3b", False),
        ("/cache/modelscope/models/PaddlePaddle/ERNIE-4___5-0___3B-PT", "0.3b", True),
        ("/mnt/ERNIE-4___5-VL-28B-A3B-PT", "vl-28b", True),
        ("/hub/models--baidu--ERNIE-4.5-300B-A47B-PT/snapshots/8f2d", "300b", True),
        ("/hub/models--me--ERNIE-4.5-300B-A47B-PT/snapshots/8f2d", "300b", False),
        (r"D:\models\ERNIE-4.5-21B-A3B-Thinking", "21b-thinking", False),
        ("/models/my-finetune", None, False),
        ("", None, False),
    ],
)
def test_a_model_is_known_by_each_of_its_names(text, identity, published):
    model = model_named(text, CATALOG.models())
    assert (model.id if model else None) == identity
    assert model is None or as_published(text, model) is published


def test_every_model_of_the_catalog_is_known_in_each_cache():
    for model in CATALOG.models():
        owner, _, name = model.hf_id.partition("/")
        for text in (
            f"/x/hub/models/PaddlePaddle/{name.replace('.', '___')}",
            f"/x/models--{owner}--{name}/snapshots/main/",
        ):
            assert repository(text) == name
            assert model_named(text, CATALOG.models()) is model


@pytest.mark.parametrize("size", [3, 8, 16])
def test_heads_of_a_model_in_a_folder_do_not_divide(size):
    folder = "/models/PaddlePaddle/ERNIE-4___5-21B-A3B-Thinking"
    (finding,) = found(serve(command=words(folder, f"-tp={size}")), "ED110")
    assert f"does not divide the 20 attention heads of 21b-thinking (20 / {size}" in finding.sentence


def test_an_unknown_number_of_replicas_hides_no_bad_split():
    assert found(serve(command=words(MODEL, "-tp=8", "-dp=${REPLICAS}")), "ED110")


# --- drafts


def drafted(target, **config):
    return serve(command=words(target, "--speculative-config", json.dumps(config)))


@pytest.mark.parametrize(
    ("target", "draft"),
    [
        ("baidu/ERNIE-4.5-300B-A47B-PT", "/models/ERNIE-4___5-21B-A3B-PT"),
        ("baidu/ERNIE-4.5-300B-A47B-Base-PT", "baidu/ERNIE-4.5-0.3B-PT"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", "baidu/ERNIE-4.5-300B-A47B-PT"),
    ],
)
@pytest.mark.parametrize("method", ["mtp", "ernie_mtp", None])
def test_a_draft_of_another_size_does_not_fit(target, draft, method):
    config = {"model": draft, "num_speculative_tokens": 1} | ({"method": method} if method else {})
    (finding,) = found(drafted(target, **config), "ED125")
    assert "does not fit" in finding.sentence
    assert '"method": "mtp"' in finding.remedy
    assert '"model"' not in finding.remedy


def test_a_draft_in_dotted_flags_is_seen():
    text = serve(command=words("baidu/ERNIE-4.5-300B-A47B-PT", "--speculative-config.model", MODEL))
    assert severities(text, "ED125") == ["error"]


@pytest.mark.parametrize(
    ("target", "config"),
    [
        (MODEL, {"method": "mtp", "model": MODEL}),
        (MODEL, {"method": "mtp"}),
        ("baidu/ERNIE-4.5-300B-A47B-PT", {"method": "ngram", "model": "ngram"}),
        ("baidu/ERNIE-4.5-300B-A47B-PT", {"method": "eagle3", "model": "somebody/ernie-300b-eagle3"}),
        ("somebody/their-own", {"method": "mtp", "model": MODEL}),
    ],
)
def test_a_draft_that_may_fit_is_not_accused(target, config):
    assert not found(drafted(target, **config), "ED125")


# --- formats


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("baidu/ERNIE-4.5-300B-A47B-W4A8C8-TP4-Paddle", "baidu/ERNIE-4.5-300B-A47B-PT"),
        ("/data/ERNIE-4___5-0___3B-Paddle", "baidu/ERNIE-4.5-0.3B-PT"),
        ("unsloth/ERNIE-4.5-21B-A3B-Thinking-GGUF", THINKING),
        ("unsloth/ERNIE-4.5-21B-A3B-PT-GGUF:Q4_K_M", MODEL),
        ("/models/ernie-4.5-0.3b-q8_0.gguf", "baidu/ERNIE-4.5-0.3B-PT"),
        ("mlx-community/ERNIE-4.5-0.3B-PT-bf16", "baidu/ERNIE-4.5-0.3B-PT"),
        ("someone/ERNIE-4.5-21B-A3B-PT-exl3", MODEL),
        ("baidu/ERNIE-9-Paddle", "-PT"),
    ],
)
def test_weights_that_vllm_does_not_read(name, twin):
    (finding,) = found(serve(command=words(name)), "ED126")
    assert finding.severity == "error"
    assert twin in finding.remedy


@pytest.mark.parametrize(
    ("name", "image"),
    [
        (MODEL, CUDA),
        ("PaddlePaddle/ERNIE-4.5-21B-A3B-PT", CUDA),
        ("PaddlePaddle/PaddleOCR-VL", CUDA),
        ("someone/ERNIE-4.5-21B-A3B-PT-AWQ", CUDA),
        ("someone/Some-7B-GGUF", "vllm/vllm-openai:v0.9.2"),
        ("${MODEL}-Paddle", CUDA),
    ],
)
def test_weights_that_vllm_reads_or_may_have_read(name, image):
    assert not found(serve(command=words(name), image=image), "ED126")


# --- parsers


@pytest.mark.parametrize(
    ("model", "arguments", "expected"),
    [
        (THINKING, ["--reasoning-parser", "deepseek_r1"], ["error"]),
        (THINKING, ["--tool-call-parser=hermes", "--enable-auto-tool-choice"], ["error"]),
        ("/m/ERNIE-4___5-21B-A3B-Thinking", ["--reasoning-parser", "qwen3", "--tool-call-parser", "qwen3_coder"],
         ["error", "error"]),
        (VL, ["--reasoning-parser", "glm45", "--trust-remote-code"], ["error"]),
        (MODEL, ["--reasoning-parser", "ernie45"], ["warning"]),
        (THINKING, ["--reasoning-parser", "ernie45", "--tool-call-parser", "ernie45"], []),
        (THINKING, ["--reasoning-parser", "ours", "--reasoning-parser-plugin", "/p.py"], []),
        (THINKING, ["--reasoning-parser", "${PARSER}"], []),
        ("somebody/else", ["--reasoning-parser", "deepseek_r1"], []),
    ],
)  # fmt: skip
def test_parsers_of_another_family(model, arguments, expected):
    assert severities(serve(command=words(model, *arguments)), "ED127") == expected


# --- remote code


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        (VL, True),
        ("PaddlePaddle/ERNIE-4.5-VL-28B-A3B-PT", True),
        ("/c/models--baidu--ERNIE-4.5-VL-424B-A47B-PT/snapshots/0a1b", True),
        ("/c/PaddlePaddle/ERNIE-4___5-VL-28B-A3B-Thinking", True),
        ("/srv/ERNIE-4.5-VL-28B-A3B-PT", False),
        ("me/ERNIE-4.5-VL-28B-A3B-PT", False),
    ],
)
def test_a_vl_model_as_it_was_published_needs_its_code(name, missing):
    assert bool(found(serve(command=words(name)), "ED124")) is missing


def test_a_configuration_file_may_say_that_the_code_is_trusted():
    assert not found(serve(command=words(VL, "--config", "/etc/vllm.yaml")), "ED124")


def test_a_plain_line_without_the_code_is_one_too():
    assert "ED124" in {f.id for f in judge(f"vllm serve {VL}".encode(), "start.sh", CATALOG)}
