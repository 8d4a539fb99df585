"""`check` on every image and every version of vLLM: what a tag says, which flags it has, and what no version takes."""

import tomllib

import pytest
import yaml

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import RemovedFlags
from ernie_deploy.catalog.load import load
from ernie_deploy.check import judge
from ernie_deploy.check.document import load as stack_of
from ernie_deploy.check.images import image_of, kind_of, kinds
from ernie_deploy.check.values import NEWEST
from ernie_deploy.paths import CATALOG as FOLDER
from ernie_deploy.plan.flag_history import history
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.plan.words import names, tabled
from ernie_deploy.render.compose import compose_file

CATALOG = Catalog()
SHA = "7be1f0c92d3a4455667788990a0b1c2d3e4f5061"


def stack(command, image="vllm/vllm-openai:v0.32.0", **keys):
    service = {"image": image, "command": command, **keys}
    return yaml.safe_dump(
        {"services": {"llm": {key: value for key, value in service.items() if value is not None}}}
    )


def findings(command, image="vllm/vllm-openai:v0.32.0", **keys):
    return judge(stack(command, image, **keys).encode(), "compose.yml", CATALOG)


def of(identity, command, image="vllm/vllm-openai:v0.32.0", **keys):
    return [finding for finding in findings(command, image, **keys) if finding.id == identity]


def service_of(command, image="vllm/vllm-openai:v0.32.0", **keys):
    return stack_of(stack(command, image, **keys).encode(), "compose.yml", CATALOG).services["llm"]


# --- what a reference says


@pytest.mark.parametrize(
    ("reference", "engine", "tag", "hardware"),
    [
        ("vllm/vllm-openai:v0.31.0", (0, 31, 0), "release", "nvidia"),
        ("docker.io/vllm/vllm-openai:v0.8.5.post1", (0, 8, 5), "release", "nvidia"),
        ("vllm/vllm-openai:v0.10.1.1-x86_64", (0, 10, 1), "release", "nvidia"),
        ("vllm/vllm-openai:v0.33.0rc2", (0, 33, 0), "release", "nvidia"),
        ("vllm/vllm-openai:0.9.2", (0, 9, 2), "release", "nvidia"),
        ("ghcr.io/mirror/vllm-openai-rocm:v0.33.0-rocm72", (0, 33, 0), "release", "amd"),
        ("vllm/vllm-openai-cpu:latest-x86_64", NEWEST, "newest", "cpu"),
        ("vllm/vllm-openai-xpu:v0.31.0", (0, 31, 0), "release", "intel"),
        ("vllm/vllm-openai", NEWEST, "newest", "nvidia"),
        ("vllm/vllm-openai:latest", NEWEST, "newest", "nvidia"),
        ("vllm/vllm-openai:nightly-aarch64", NEWEST, "newest", "nvidia"),
        (f"vllm/vllm-openai:nightly-{SHA}", None, "commit", "nvidia"),
        (f"vllm/vllm-openai-rocm:{SHA[:9]}", None, "commit", "amd"),
        ("vllm/vllm-openai:nightly-20260704", None, "dated", "nvidia"),
        ("rocm/vllm-dev:nightly_main_20260803", None, "dated", "amd"),
        ("rocm/vllm:rocm7.0.0_vllm_0.11.1_20251103", (0, 11, 1), "dated", "amd"),
        ("rocm/vllm:rocm7.12.0_gfx950-dcgpu_ubuntu24.04_py3.12_pytorch_2.9.1_vllm_0.16.0", (0, 16, 0), "own", "amd"),
        ("rocm/vllm:latest", None, "newest", "amd"),
        ("nvcr.io/nvidia/vllm:26.03-py3", (0, 17, 1), "release", "nvidia"),
        ("nvcr.io/nvidia/vllm:27.01-py3", None, "release", "nvidia"),
        ("registry.redhat.io/rhaiis/vllm-cuda-rhel9:3.2.1", None, "release", "nvidia"),
        ("registry.redhat.io/rhaiis/vllm-rocm-rhel9:3.2.1", None, "release", "amd"),
        ("public.ecr.aws/deep-learning-containers/vllm:0.15-gpu-py312-ec2", (0, 15, 0), "release", "nvidia"),
        ("763104351884.dkr.ecr.us-west-2.amazonaws.com/vllm:server-cuda-v1", None, "own", "nvidia"),
        (f"public.ecr.aws/q9t5s3a7/vllm-release-repo:{SHA}-x86_64", None, "commit", "nvidia"),
        ("lmcache/vllm-openai:v0.3.9", None, "release", "nvidia"),
        ("${IMAGE}", None, "variable", ""),
        ("vllm/vllm-openai:${TAG}", None, "variable", "nvidia"),
        (f"vllm/vllm-openai@sha256:{SHA}", None, "digest", "nvidia"),
        ("ghcr.io/us/llm-server:3", None, "own", ""),
    ],
)  # fmt: skip
def test_what_a_reference_says_of_its_vllm(reference, engine, tag, hardware):
    image = image_of(reference)
    assert (image.engine, image.hardware) == (engine, hardware)
    assert image.tag_kind == tag


@pytest.mark.parametrize(
    ("reference", "serves", "bare"),
    [
        ("vllm/vllm-openai:v0.6.0", True, False),
        ("vllm/vllm-openai-rocm:v0.13.0", False, True),
        ("vllm/vllm-openai-rocm:v0.14.0", True, False),
        ("rocm/vllm-dev:main", False, True),
        ("nvcr.io/nvidia/vllm:25.10-py3", False, True),
        ("registry.redhat.io/rhaii/vllm-cuda-rhel9:3.4.0", True, False),
        ("public.ecr.aws/deep-learning-containers/vllm:server-cuda", True, False),
        ("vllm/vllm-omni:v0.12.0", False, False),
        ("haproxy:3.2", False, False),
        ("ghcr.io/somebody/vllm-router:1", False, False),
    ],
)
def test_what_an_entrypoint_does_with_the_command(reference, serves, bare):
    assert (image_of(reference).serves, image_of(reference).bare) == (serves, bare)


def test_every_kind_of_image_is_told_from_the_others():
    samples = {
        "lmcache/vllm-openai", "vllm/vllm-openai", "vllm/vllm-openai-rocm", "vllm/vllm-openai-cpu",
        "vllm/vllm-openai-xpu", "q9t5s3a7/vllm-cpu-release-repo", "q9t5s3a7/vllm-release-repo",
        "q9t5s3a7/vllm-ci-postmerge-repo", "rocm/vllm", "nvcr.io/nvidia/vllm", "rhaiis/vllm-cuda-rhel9",
        "public.ecr.aws/deep-learning-containers/vllm", "vllm/vllm-omni", "team/own-vllm",
    }  # fmt: skip
    assert sorted(kind_of(name).source for name in samples) == sorted(row.source for _, row in kinds())


# --- a service that runs vLLM, whatever the image

VLLMS = ["some/checkpoint", "--max-model-len", "16384", "--tensor-parallel-size", "8"]


@pytest.mark.parametrize(
    ("command", "image", "keys"),
    [
        (VLLMS, "${LLM_IMAGE}", {}),
        (VLLMS, "harbor.corp/team/llm:7", {}),
        (VLLMS[1:], "harbor.corp/team/llm:7", {}),
        (["--model", "some/checkpoint", "--dtype", "auto"], "team/vllm-custom:3", {}),
        (VLLMS, None, {"build": "."}),
        (VLLMS, "team/llm:2", {"entrypoint": ["/start.sh"]}),
        (["vllm", "serve", *VLLMS], "nvcr.io/nvidia/vllm:26.05-py3", {}),
        (["bash", "-lc", "vllm serve some/checkpoint --tensor-parallel-size 8"], "rocm/vllm:latest", {}),
    ],
)
def test_a_server_is_known_by_what_it_runs(command, image, keys):
    service = service_of(command, image, **keys)
    assert service.serve is not None
    assert service.serve.arguments


@pytest.mark.parametrize(
    ("command", "image"),
    [
        (
            ["python3", "-m", "sglang.launch_server", "--model-path", "m", "--tp", "8"],
            "lmsysorg/sglang:latest",
        ),
        (["--model-id", "m", "--num-shard", "2"], "ghcr.io/huggingface/text-generation-inference:3"),
        (["--model", "/m.gguf", "--ctx-size", "4096"], "ghcr.io/ggml-org/llama.cpp:server"),
        (["--config", "/litellm.yml", "--port", "4000"], "litellm/litellm:main"),
        (["--port", "8001", "--service-discovery", "static"], "team/vllm-router:2"),
        (["sleep", "infinity"], "rocm/vllm:latest"),
        (["nginx", "-g", "daemon off;"], "nginx:1.29"),
    ],
)
def test_other_programs_are_not_taken_for_vllm(command, image):
    assert service_of(command, image).argv is None


def test_a_server_of_an_own_build_is_judged_like_any():
    command = ["--model", "m", "--tensor-parallel-size", "8", "--host", "0.0.0.0"]
    keys = {"environment": {"HIP_VISIBLE_DEVICES": "4,5,6"}, "ports": ["9000:8000"], "shm_size": "32m"}
    found = {f.id: f.sentence for f in findings(command, "corp/vllm-gfx942:internal", **keys)}
    assert found["ED112"] == "vLLM needs 8 GPUs and the service gets 3"
    assert {"ED109", "ED201", "ED307"} <= found.keys()


# --- flags by version


@pytest.mark.parametrize("target", ["h100", "mi300x"])
def test_the_kits_own_file_is_judged_on_the_day_it_is_upgraded(target):
    text = compose_file(resolve(CATALOG, Request(target=target)), CATALOG.defaults).replace(
        "v0.32.0", "v0.33.0"
    )
    assert not [f for f in judge(text.encode(), "compose.yml", CATALOG) if f.severity == "error"]
    wrong = text.replace("--disable-fastapi-docs", "--no-flag-of-that-kind=3")
    assert wrong != text
    [finding] = [f for f in judge(wrong.encode(), "compose.yml", CATALOG) if f.severity == "error"]
    assert (finding.id, finding.sentence) == ("ED101", "vllm serve 0.33.0 has no flag --no-flag-of-that-kind")


@pytest.mark.parametrize(
    ("image", "severity", "sentence"),
    [
        ("vllm/vllm-openai:v0.29.1", "error", "--max-sequences is unknown to vLLM 0.32.0 and 0.33.0; this tag is 0.29.1"),
        ("vllm/vllm-openai:v0.32.4", "error", "--max-sequences is unknown to vLLM 0.32.0 and 0.33.0; this tag is 0.32.4"),
        ("vllm/vllm-openai:v0.41.0", "warning", "--max-sequences is unknown to vLLM 0.33.0; this tag is 0.41.0"),
        ("vllm/vllm-openai:latest", "warning", "--max-sequences is unknown to vLLM 0.33.0; latest may be newer"),
        ("vllm/vllm-openai:${TAG}", "warning", "--max-sequences is unknown to vLLM 0.33.0; the version in use is unknown"),
        ("corp/vllm:7", "warning", "--max-sequences is unknown to vLLM 0.33.0; the version in use is unknown"),
    ],
)  # fmt: skip
def test_a_version_without_a_table_is_judged_by_its_neighbours_and_the_finding_says_so(
    image, severity, sentence
):
    [finding] = of("ED101", ["vllm", "serve", "m", "--max-sequences=4"], image, entrypoint=[])
    assert (finding.severity, finding.sentence) == (severity, sentence)


def test_a_flag_of_a_later_version_is_named_with_that_version():
    [finding] = of("ED101", ["m", "--watchdog-config={}"], "vllm/vllm-openai:v0.28.0")
    assert finding.sentence == "--watchdog-config came with vLLM 0.33.0; this tag is 0.28.0"
    assert not of("ED101", ["m", "--watchdog-config={}"], "vllm/vllm-openai:v0.33.1")


REMOVED = [row.flag for row in load(FOLDER / "engines/removed.toml", RemovedFlags).removed]


def given(flag):
    run = history().run(flag)
    return ["m", f"--{flag}"] if run.switch else ["m", f"--{flag}=1"]


@pytest.mark.parametrize("flag", REMOVED)
def test_a_removed_flag_is_found_on_every_tag_that_lacks_it_and_on_none_that_has_it(flag):
    last = history().run(flag).spans[0][-1]
    assert not of("ED102", given(flag), f"vllm/vllm-openai:v{last}")
    [pinned] = of("ED102", given(flag))
    assert (pinned.severity, pinned.remedy) == ("error", history().remedy(flag))
    [newest] = of("ED102", given(flag), "vllm/vllm-openai:latest")
    assert "latest" in newest.sentence
    assert newest.severity == ("warning" if history().again(flag) else "error")
    assert not of("ED101", given(flag))
    assert not of("ED101", given(flag), "vllm/vllm-openai:latest")


def test_nothing_is_certain_of_a_commits_nightly():
    command = ["m", "--rope-theta", "1000000", "--worker-use-ray"]
    found = findings(command, f"vllm/vllm-openai:nightly-{SHA}")
    assert {f.severity for f in found if f.id == "ED102"} == {"note"}
    assert [f.severity for f in found if f.id == "ED109"] == ["note"]
    assert not [f for f in found if f.id == "ED321"]


def test_the_model_after_a_removed_switch_is_still_the_model():
    service = service_of(["--enable-reasoning", "some/checkpoint"], "vllm/vllm-openai:v0.12.0")
    assert service.model_word.text == "some/checkpoint"


def test_a_pair_of_0_33_means_what_it_says():
    switched = ["m", "--disable-prefix-caching", "--enable-custom-all-reduce"]
    argv = service_of(switched, "vllm/vllm-openai:v0.33.0").serve
    assert [argument.name for argument in argv.arguments] == [
        "no-enable-prefix-caching",
        "no-disable-custom-all-reduce",
    ]
    assert not of("ED101", switched, "vllm/vllm-openai:v0.33.0")
    assert len(of("ED101", switched)) == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--max-modle-len", "--max-model-len"),
        ("--tensor-paralel-size", "--tensor-parallel-size"),
        ("--gpu-memory-utilisation", "--gpu-memory-utilization"),
        ("--enable-prefixcaching", "--enable-prefix-caching"),
        ("--max-model-length", "--max-model-len"),
        ("--guided-decode-backend", ""),
        ("--disable-sleep-mode", ""),
        ("--max-lora-len", ""),
    ],
)
def test_a_hint_names_a_misspelt_flag_and_never_another_one(typed, meant):
    [finding] = of("ED101", ["m", typed, "1"])
    assert finding.remedy == (f"did you mean {meant}?" if meant else finding.remedy)
    assert meant or "did you mean" not in finding.remedy


# --- the data behind it


def test_every_flag_that_is_gone_has_advice_and_no_other_has():
    rows = tomllib.loads((FOLDER / "engines/history.toml").read_text())["flags"]
    gone = {name for name, row in rows.items() if len(row["spans"]) > 1 or len(row["spans"][-1]) > 1}
    assert {f"--{flag}" for flag in REMOVED} == gone


@pytest.mark.parametrize("version", tabled())
def test_the_history_of_flags_and_the_parsers_own_table_agree(version):
    own = {name for name in names(version, "serve") if name.startswith("--") and not name.startswith("--no-")}
    numbers = tuple(map(int, version.split(".")))
    rows = tomllib.loads((FOLDER / "engines/history.toml").read_text())["flags"]
    assert {name for name in rows if history().has(name.removeprefix("--"), numbers)} == own


def test_no_advice_names_a_flag_that_the_newest_vllm_lacks():
    newest = names(tabled()[-1], "serve")
    for flag in REMOVED:
        words = (word.partition(".")[0].strip(",;:") for word in history().remedy(flag).split())
        assert not [word for word in words if word.startswith("--") and word not in newest], flag


# --- what is wrong in every version

FLOATING = ["vllm/vllm-openai:latest", "vllm/vllm-openai-rocm:nightly", f"vllm/vllm-openai:nightly-{SHA}",
            "vllm/vllm-openai:v0.9.2", "vllm/vllm-openai:${TAG}"]  # fmt: skip


@pytest.mark.parametrize("image", FLOATING)
@pytest.mark.parametrize(
    ("identity", "command"),
    [
        ("ED160", ["m", "--seed 3"]),
        ("ED160", ["m", "-tp 4"]),
        ("ED160", ["m", '--hf-overrides {"a": 1}']),
        ("ED160", ["m --seed 3 --port 9000"]),
        ("ED160", ["vllm serve m --seed 3"]),
        ("ED160", ["m", "--seed=3 --port=9000"]),
        ("ED106", ["vllm", "serve", "m"]),
        ("ED106", ["serve", "m", "--seed", "3"]),
        ("ED106", ["python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]),
        ("ED104", ["--model", "m", "--served-model-name='ours'"]),
        ("ED104", ["--model", "m", "--hf-overrides", "{'a': 1}"]),
        ("ED104", ["--model", "m", '--gpu-memory-utilization="0.9"']),
        ("ED104", ["--model", "m", "--gpu-memory-utilization", "90"]),
        ("ED104", ["--model", "m", "--max-num-seqs", "many"]),
        ("ED104", ["m", "--max-model-len=4k5"]),
        ("ED105", ["m", "--max-model-len"]),
        ("ED161", ["--seed", "3", "--max-model-len", "4096"]),
        ("ED161", None),
    ],
)  # fmt: skip
def test_a_floating_tag_silences_nothing_that_no_version_takes(image, identity, command):
    assert [f.severity for f in of(identity, command, image)] == ["error"]


@pytest.mark.parametrize(
    "command",
    [
        ["vllm serve m --seed 3"],
        ["vllm serve", "m"],
    ],
)
def test_a_command_in_one_item_starts_nothing_without_an_entrypoint_either(command):
    assert of("ED160", command, "rocm/vllm:latest")
    assert of("ED160", command, entrypoint=[])


@pytest.mark.parametrize(
    "command",
    [
        ["m", "--chat-template", "{{ a }} - {{ b }}"],
        ["/models/my own model", "--seed", "3"],
        ["m", "--served-model-name", "a b"],
        ["bash", "-c", "vllm serve m --seed 3 && echo done"],
        ["m", "${EXTRA_ARGS}"],
    ],
)
def test_a_blank_that_belongs_to_the_value_is_no_second_word(command):
    assert not of("ED160", command)


@pytest.mark.parametrize(
    ("command", "image", "keys"),
    [
        (["vllm", "serve", "m", "--seed", "3"], "corp/llm:1", {"entrypoint": ["vllm", "serve"]}),
        (["serve", "m"], "corp/llm:1", {"entrypoint": ["vllm", "serve"]}),
    ],
)
def test_a_doubled_serve_is_found_behind_an_entrypoint_of_the_file(command, image, keys):
    assert [f.severity for f in of("ED106", command, image, **keys)] == ["error"]
    assert service_of(command, image, **keys).model_word.text == "m"


@pytest.mark.parametrize(
    ("image", "default"),
    [("vllm/vllm-openai:v0.33.0", "Qwen/Qwen3-0.6B"), ("vllm/vllm-openai:v0.9.2", "facebook/opt-125m")],
)
def test_a_server_without_a_model_serves_vllms_default(image, default):
    environment = {"MODEL_NAME": "us/ours", "DTYPE": "bfloat16", "TZ": "UTC"}
    [finding] = of("ED161", None, image, environment=environment)
    assert default in finding.sentence
    assert "MODEL_NAME, DTYPE" in finding.sentence
    assert "TZ" not in finding.sentence


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["--model", "m"], {}), (["--config", "/c.yaml"], {}), (["--help"], {}), (["${ARGS}"], {}),
        (["--seed", "1", "$MORE"], {}), (None, {"entrypoint": ["sleep", "9"]}), (None, {"entrypoint": ["/run.sh"]}),
        (None, {"extends": {"file": "base.yml", "service": "llm"}}),
    ],
)  # fmt: skip
def test_a_model_that_comes_from_elsewhere_is_not_missed(command, keys):
    assert not of("ED161", command, **keys)


@pytest.mark.parametrize(
    ("command", "image", "keys"),
    [
        (["--model", "m", "--dtype", "auto"], "rocm/vllm-dev:main", {}),
        (["some/checkpoint", "--seed", "1"], "nvcr.io/nvidia/vllm:26.10-py3", {}),
        (["--model", "m", "--max-model-len", "8192"], "vllm/vllm-openai-rocm:v0.12.0", {}),
        (["some/checkpoint", "--max-model-len", "8192"], "vllm/vllm-openai:v0.32.0", {"entrypoint": []}),
    ],
)
def test_flags_first_start_nothing_without_an_entrypoint(command, image, keys):
    [finding] = of("ED162", command, image, **keys)
    assert finding.severity == "error"
    assert "vllm, serve" in finding.remedy


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ("vllm/vllm-openai:v0.8.5.post1", "us/ours is refused"),
        ("vllm/vllm-openai:v0.11.0", "us/ours is passed over: this entrypoint takes --model alone, and serves Qwen/Qwen3-0.6B"),
    ],
)  # fmt: skip
def test_a_model_that_the_module_does_not_read_is_found(image, what):
    [finding] = of("ED161", ["us/ours", "--max-model-len=4096"], image)
    assert finding.sentence.startswith(what)
    [of_module] = of(
        "ED161", ["us/ours"], "corp/llm:1", entrypoint=["python3", "-m", "vllm.entrypoints.openai.api_server"]
    )
    assert "passed over" in of_module.sentence


def test_a_served_name_does_not_name_the_model():
    [finding] = of("ED161", ["--served-model-name", "ours"])
    assert "refuses --served-model-name" in finding.sentence


def test_a_build_of_ones_own_may_have_vllm_for_its_entrypoint():
    service = service_of(["serve", "us/ours", "--max-model-len", "4096"], None, build=".")
    assert service.model_word.text == "us/ours"


@pytest.mark.parametrize(
    ("image", "severity", "hedge"),
    [
        ("vllm/vllm-openai:v0.33.0", "error", ""),
        ("vllm/vllm-openai:v0.31.0", "warning", "unknown to vLLM 0.32.0 and 0.33.0; this tag is 0.31.0"),
        ("vllm/vllm-openai:latest", "warning", "unknown to vLLM 0.33.0; latest may be newer"),
        ("corp/vllm:3", "warning", "the version in use is unknown"),
    ],
)
@pytest.mark.parametrize("words", [["--dtype", "fp16"], ["--kv-cache-dtype=fp9"]])
def test_a_choice_that_no_table_has_is_said_with_reserve_elsewhere(image, severity, hedge, words):
    [finding] = of("ED104", ["vllm", "serve", "m", *words], image, entrypoint=[])
    assert finding.severity == severity
    assert hedge in finding.sentence
    assert "it takes" in finding.sentence


@pytest.mark.parametrize(
    "image", ["vllm/vllm-openai:latest", "vllm/vllm-openai:v0.33.0", "vllm/vllm-openai:v0.34.1"]
)
def test_a_switch_with_a_value_is_refused_from_the_first_table_on(image):
    assert of("ED105", ["m", "--enable-chunked-prefill=False"], image)
    assert of("ED105", ["m", "--enforce-eager", "true"], image)
    # Older parsers took it.
    assert not of("ED105", ["m", "--enable-chunked-prefill=False"], "vllm/vllm-openai:v0.8.5")


def test_an_old_image_takes_the_model_as_a_flag_alone():
    assert service_of(["--model", "m"], "vllm/vllm-openai:v0.11.0").process.module
    assert not service_of(["m"], "vllm/vllm-openai:v0.11.1").process.module
