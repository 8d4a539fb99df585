"""Every published command has its rendering, what cannot run is refused, and each flag has an origin."""

import itertools
import re

import pytest
from conftest import planned
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError, Refused, UsageError
from ernie_deploy.plan.memory import Budget, _stage_bytes, parameters, plan_memory
from ernie_deploy.plan.settings import words
from ernie_deploy.plan.topology import Topology, pipeline_stages, refusal
from ernie_deploy.render.explain import as_data, as_text

KIT = ["--shutdown-timeout=60", "--disable-fastapi-docs"]
MTP = '--speculative-config={"method":"mtp","num_speculative_tokens":1}'
VL_REVISION = [f"--{name}=refs/pr/17" for name in ("revision", "tokenizer-revision", "code-revision")]
VL = ["--trust-remote-code"]
# What every VL server has on top (tests/test_limits.py).
MEDIA = ["--allowed-media-domains", "data-urls-only.invalid", '--limit-mm-per-prompt={"image":8,"video":1}']

# (published lines, target, request, argv after the model, environment)
PUBLISHED = [
    ("Ernie4.5.md:18", "h100", {}, []),
    ("Ernie4.5.md:23-26", "h100", {"model": "300b"},
     ["--tensor-parallel-size=8", "--quantization=fp8_per_tensor", "--gpu-memory-utilization=0.95"]),
    ("Ernie4.5.md:40-41", "h100", {"profiles": ("mtp",)}, [MTP, "--max-num-batched-tokens=8192"]),
    ("Ernie4.5.md:46-50", "h100", {"model": "300b", "profiles": ("mtp",)},
     ["--tensor-parallel-size=8", MTP, "--quantization=fp8_per_tensor", "--gpu-memory-utilization=0.95",
      "--max-num-batched-tokens=8192"]),
    ("Ernie4.5.md:178-185", "mi300x", {}, ["--tensor-parallel-size=4", "--gpu-memory-utilization=0.9"]),
    ("Ernie4.5.md:178-185", "mi325x", {}, ["--tensor-parallel-size=4", "--gpu-memory-utilization=0.9"]),
    ("Ernie4.5.md:178-185", "mi355x", {}, ["--tensor-parallel-size=4", "--gpu-memory-utilization=0.9"]),
    ("Ernie4.5.md:178-185, as printed", "mi300x", {"profiles": ("published",)},
     ["--tensor-parallel-size=4", "--gpu-memory-utilization=0.9", "--no-enable-prefix-caching",
      "--trust-remote-code"]),
    ("Ernie4.5-VL.md:2, one 80 GB GPU", "h100", {"model": "vl-28b"},
     [*VL_REVISION, *VL, "--max-model-len=32768"]),
    ("Ernie4.5-VL.md:28-34", "mi300x", {"model": "vl-28b"},
     [*VL_REVISION, *VL, "--tensor-parallel-size=4", "--gpu-memory-utilization=0.9"]),
    ("Ernie4.5-VL.md:28-34", "mi325x", {"model": "vl-28b"},
     [*VL_REVISION, *VL, "--tensor-parallel-size=4", "--gpu-memory-utilization=0.9"]),
    ("Ernie4.5-VL.md:28-34", "mi355x", {"model": "vl-28b"},
     [*VL_REVISION, *VL, "--tensor-parallel-size=4", "--gpu-memory-utilization=0.9"]),
    ("Ernie4.5-VL.md:11-13", "h200", {"model": "vl-424b"}, [*VL, "--tensor-parallel-size=8"]),
    ("Ernie4.5-VL.md:16-20, FP8 alone", "h100", {"model": "vl-424b"},
     [*VL, "--tensor-parallel-size=8", "--quantization=fp8_per_tensor"]),
    ("Ernie4.5-VL.md:16-20, with offload", "h100", {"model": "vl-424b", "profiles": ("cpu-offload",)},
     [*VL, "--tensor-parallel-size=8", "--cpu-offload-gb=50", "--quantization=fp8_per_tensor"]),
    ("Ernie4.5-VL.md:16-20, as printed", "h100", {"model": "vl-424b", "profiles": ("published",)},
     [*VL, "--tensor-parallel-size=8", "--quantization=fp8_per_tensor", "--cpu-offload-gb=50"]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "target", "request_", "argv"), PUBLISHED, ids=lambda v: str(v)[:40])
def test_published_command_has_its_rendering(
    line: str, target: str, request_: dict[str, object], argv: list[str]
) -> None:
    plan = planned(target, **request_)
    assert words(plan.settings) == argv + KIT + (MEDIA if plan.model.vision else []), line


def test_the_published_amd_variables_are_set() -> None:
    environment = {s.name: s for s in planned("mi300x").environment}
    assert environment["VLLM_ROCM_USE_AITER"].origin == "recipe Ernie4.5.md:178"
    assert environment["SAFETENSORS_FAST_GPU"].origin == "recipe Ernie4.5.md:179"
    derived = {s.name: s for s in planned("mi300x", model="300b").environment}
    assert derived["VLLM_ROCM_USE_AITER"].origin == "hardware mi300x"


NODES = [
    "--nnodes=2", "--node-rank=", "--master-addr=", "--master-port=29501", "--host=127.0.0.1", "--port=8000",
]  # fmt: skip
PIPELINE = ["--tensor-parallel-size=8", "--pipeline-parallel-size=2"]
RAY = ["--distributed-executor-backend=ray", "--host=127.0.0.1", "--port=8000"]

# (published lines, target, request, argv after the model)
OVER_NODES = [
    ("Ernie4.5.md:31-33", "h100", {"model": "300b"}, [*PIPELINE, *NODES]),
    ("Ernie4.5.md:55-58", "h100", {"model": "300b", "profiles": ("mtp",)},
     ["--tensor-parallel-size=16", MTP, "--max-num-batched-tokens=8192", *NODES]),
    ("Ernie4.5-VL.md:22-25", "h100", {"model": "vl-424b"}, [*VL, *PIPELINE, *NODES]),
    ("Ernie4.5.md:31-33, as printed but for Ray", "h100", {"model": "300b", "profiles": ("published",)},
     ["--tensor-parallel-size=16", *NODES]),
    ("Ernie4.5.md:31-33, over Ray", "h100", {"model": "300b", "multi_node": "ray"}, [*PIPELINE, *RAY]),
    ("derived", "mi300x", {"model": "300b"}, [*PIPELINE, *NODES]),
    ("derived, replicas of Ernie4.5.md:178-185", "mi300x", {"dp": 4},
     ["--data-parallel-size=4", "--tensor-parallel-size=4", "--gpu-memory-utilization=0.9", *NODES[:4],
      "--data-parallel-rpc-port=29550", *NODES[4:]]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "target", "request_", "argv"), OVER_NODES, ids=lambda v: str(v)[:40])
def test_published_command_over_nodes_has_its_rendering(
    line: str, target: str, request_: dict[str, object], argv: list[str]
) -> None:
    plan = planned(target, nodes=2, **request_)
    kit = KIT + (MEDIA if plan.model.vision else [])
    assert sorted(words(plan.settings)) == sorted([*argv, *kit]), line
    kit.remove("--disable-fastapi-docs")
    of_worker = [w for w in argv if not w.startswith(("--host=", "--port="))]
    assert sorted(words(plan.worker_settings)) == sorted([*of_worker, *kit, "--headless"])
    assert plan.topology.gpus * plan.topology.nodes == plan.topology.ranks == 16


WHY = (
    "a bare 16 on nodes of 8 GPUs raises ValueError, and the images have had no Ray since vLLM 0.18.0; vLLM joins"
    " the nodes itself (--nnodes), tensor parallel within a node and pipeline across, because only pipeline"
    " parallelism needs little enough bandwidth between nodes. MTP keeps 16, since it is unproven with a pipeline"
)


@pytest.mark.parametrize("model", ["300b", "vl-424b"])
def test_what_became_of_the_published_16_is_said(model: str) -> None:
    assert planned("h100", model=model, nodes=2).differences[-1] == (
        f"--tensor-parallel-size=16 -> --tensor-parallel-size=8 --pipeline-parallel-size=2 on 2 nodes: {WHY}"
    )
    assert not [d for d in planned("h100", model=model, nodes=3).differences if "=16" in d]


UNENCRYPTED = (
    "The traffic between the nodes is neither encrypted nor authenticated (vLLM's docs/usage/security.md):"
    " keep it on a network of its own, and open its ports to the nodes alone."
)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, [UNENCRYPTED]),
        ({"tp": 16, "pp": 1}, [UNENCRYPTED, "slow. Without --rdma it goes over TCP."]),
        ({"profiles": ("mtp",), "rdma": True}, [UNENCRYPTED, "InfiniBand or RoCE between them it is slow."]),
        ({"profiles": ("mtp",), "pp": 2}, [UNENCRYPTED, "--pp 1 avoids it."]),
        ({"multi_node": "ray"}, [UNENCRYPTED, "this is unproven here."]),
    ],
)
def test_what_several_nodes_cost_is_said(request_: dict[str, object], expected: list[str]) -> None:
    notes = planned("h100", model="300b", nodes=2, **request_).notes
    assert notes[0] == "Uses 8 of the 8 GPUs of each of 2 nodes."
    assert all(note.endswith(end) for note, end in zip(notes[1:], expected, strict=False)), notes
    # Those on memory, on the way out and on the benchmark's port follow.
    assert len(notes) == 4 + len(expected)


def test_the_memory_of_a_pipeline_is_that_of_its_fullest_stage() -> None:
    plan = planned("h100", model="300b", nodes=2)
    # 27 of 54 layers, all with experts, and the output embeddings; the first stage has three dense layers.
    assert (round(plan.memory.weights_gib, 1), plan.memory.kv_bytes_per_token) == (36.6, 221_184 // 8 // 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("model_id", ["300b", "300b-base"])
def test_the_stages_of_a_pipeline_are_the_whole_model(model_id: str, size: int) -> None:
    model, topology = Catalog().model(model_id), Topology(pipeline_parallel_size=size)
    budget = Budget(memory_gib=80, gpu_memory_utilization=0.9, max_num_batched_tokens=8192, max_num_seqs=256)
    ends = list(itertools.accumulate(pipeline_stages(model.figures.layers, size), initial=0))
    stages = [_stage_bytes(model, topology, budget, first, last) for first, last in itertools.pairwise(ends)]
    assert sum(stages) == pytest.approx(2 * parameters(model).total, rel=1e-12)


def test_nodes_are_pure_text_and_its_commands_are_said() -> None:
    text = as_text(planned("h100", model="300b", nodes=2))
    section = text[text.index("what to type") : text.index("\n\nnotes")]
    assert section.replace(" (net.ipv4.ip_local_port_range)", "").splitlines() == [
        "what to type; start the nodes in any order, each waits for the others",
        "  anywhere; then copy compose.yml to every node:",
        "    ernie-deploy render -o compose.yml h100 --model 300b --nodes 2",
        "  node 0, the head, whose address ADDR the others reach:",
        "    ernie-deploy doctor --write-env --node-rank 0 --head ADDR h100 --model 300b --nodes 2",
        "    docker compose --profile head up -d --wait",
        "  node 1, a worker:",
        "    scp -rp ADDR:FOLDER/group-secret .",
        "    ernie-deploy doctor --write-env --node-rank 1 --head ADDR h100 --model 300b --nodes 2",
        "    docker compose --profile worker up -d --wait",
        "",
        "ports to open (TCP), only to those named",
        "  8000 on head for clients                the API, on BIND_ADDR",
        "  29501 on head for workers               torch's TCPStore, where the ranks meet; it listens on every interface",
        "  29502 on head for workers               the kit's beacon: reports whether the head serves, and since when",
        "  ephemeral on every node for every node  NCCL or RCCL, gloo and vLLM's ZMQ, ports of the kernel's choice",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "ports"),
    [
        ({"model": "300b"}, [8000, 29501, 29502, "ephemeral"]),
        ({"dp": 2}, [8000, 29501, 29550, 29502, "ephemeral"]),
        ({"model": "300b", "multi_node": "ray"}, [8000, 6379, 29502, "ephemeral"]),
        ({"model": "300b", "pairs": ("master-port=30000",)}, [8000, 30000, 29502, "ephemeral"]),
    ],
)
def test_ports_follow_the_form_of_the_nodes(request_: dict[str, object], ports: list[object]) -> None:
    assert [port["port"] for port in as_data(planned("h100", nodes=2, **request_))["ports"]] == ports
    assert as_data(planned("h100"))["ports"] == as_data(planned("h100"))["on_each_node"] == []


BENCH = ["--dataset-name=random", "--random-input-len=8000", "--random-output-len=1000"]


@pytest.mark.parametrize(
    ("line", "target", "model", "rest"),
    [
        ("Ernie4.5.md:69-78", "h100", "21b", ["--request-rate=10"]),
        ("Ernie4.5.md:193-200", "mi300x", "21b", ["--request-rate=10000"]),
        ("Ernie4.5-VL.md:38-48", "h100", "vl-28b", ["--request-rate=10", "--trust-remote-code"]),
        ("Ernie4.5-VL.md:38-48", "mi300x", "vl-28b", ["--request-rate=10", "--trust-remote-code"]),
    ],
)
def test_published_benchmark_is_the_bench_service(
    line: str, target: str, model: str, rest: list[str]
) -> None:
    plan = planned(target, model=model)
    made = words(plan.bench)
    assert f"--model={plan.model.hf_id}" in made
    assert set(BENCH + rest) <= set(made), line
    assert {"--host=serve", "--port=8000", "--num-prompts=16", "--ignore-eos"} <= set(made)


@pytest.mark.parametrize(
    ("target", "request_", "sentence"),
    [
        ("h100", {"model": "300b", "profiles": ("bf16",)}, r"73\.2 GiB usable per GPU - 69\.8 weights"),
        ("h100", {"model": "300b", "profiles": ("bf16",), "gpu_memory_utilization": 0.95}, "does not fit"),
        ("h100", {"tp": 8}, "does not divide the 20 attention heads"),
        ("h100", {"model": "300b", "tp": 16}, "needs 16 GPUs, one h100 node has 8"),
        ("h100", {"model": "300b", "tp": 16}, "next:  --tp 8, or --nodes 2"),
        (
            "h100",
            {"model": "300b", "tp": 32, "nodes": 2},
            "16 GPUs of each of the 2 nodes, one h100 node has 8",
        ),
        ("h100", {"model": "300b", "profiles": ("bf16",)}, "next:  --nodes 2, or --profile fp8"),
        ("h100", {"nodes": 2}, "ties its embeddings(.|\n)*--nodes 2 --dp 2"),
        ("h100", {"model": "vl-28b", "nodes": 4}, "ties its embeddings(.|\n)*--nodes 4 --dp 4"),
        ("h100", {"model": "300b", "nodes": 2, "tp": 5, "pp": 3}, "does not divide the 64 attention heads"),
        ("h100", {"dp": 3, "nodes": 2}, "3 ranks do not spread evenly over 2 nodes"),
        (
            "h100",
            {"model": "0.3b", "tp": 2, "dp": 3, "nodes": 2},
            "replicas of 2 ranks do not split into nodes of 3",
        ),
        ("h100", {"model": "300b", "pp": 55, "nodes": 55}, "more than the 54 layers"),
        ("cpu", {"nodes": 2, "dp": 2, "multi_node": "ray"}, "refused by vLLM"),
        ("cpu", {"nodes": 2, "dp": 2, "rdma": True}, "no GPU memory"),
        ("h100", {"nodes": 2, "dp": 2, "multi_node": "ray"}, "native here"),
        ("h100", {"max_model_len": 131_073}, "context of 131,072 tokens"),
        ("h100", {"extra": ("--pipeline-parallel-size", "2")}, "ties its embeddings"),
        ("h100", {"model": "vl-28b", "pairs": ("pipeline-parallel-size=2",)}, "ties its embeddings"),
        ("cpu", {"model": "21b"}, "cpu target is for trying"),
        ("h200", {"model": "300b", "profiles": ("published",)}, "no published recipe names"),
        ("h100", {"model": "0.3b", "profiles": ("expert-parallel",)}, "has no experts"),
        ("h100", {"model": "vl-28b", "profiles": ("mtp",)}, "no multi-token-prediction layer"),
        ("h100", {"profiles": ("text-only",)}, "no vision tower"),
        ("h100", {"profiles": ("tools",)}, "tool calling"),
        ("h100", {"profiles": ("fp8", "bf16")}, "contradicts"),
        ("cpu", {"profiles": ("fp8",)}, "no FP8 path"),
        ("cpu", {"gpus": (0,)}, "has 0 GPUs|no GPU"),
        ("h100", {"gpus": (8,)}, "numbered 0 to 7"),
        ("h100", {"gpus": (0, 1), "tp": 4}, "needs 4 GPUs, --gpus names 2"),
        ("h100", {"cuda": "11.8"}, "no nvidia image"),
        ("mi300x", {"cuda": "12.9"}, "no amd image"),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(
    target: str, request_: dict[str, object], sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence) as told:
        planned(target, **request_)
    assert told.value.exit_code == 4


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"extra": ("--disable-log-requests",)}, "removed in 0.17.0"),
        ({"pairs": ("disable-chunked-prefill=true",)}, "it came with 0.33.0"),
        ({"extra": ("--no-such-flag",)}, "no flag"),
        ({"extra": ("stray",)}, "no flag"),
        ({"pairs": ("max-num-seqs",)}, "has no value"),
        ({"pairs": ("max-num-seqs=many",)}, "takes a number|whole number"),
        ({"pairs": ("max-model-len=0",)}, "whole number of 1 or more"),
        ({"pairs": ("dtype=float7",)}, "vLLM takes one of"),
        ({"pairs": ("api-key=sk-123",)}, "--api-key-file"),
        ({"extra": ("--hf-token", "hf_x")}, "HF_TOKEN_FILE"),
        ({"extra": ("--port", "9000")}, "set PORT"),
        ({"pairs": ("nnodes=2",)}, "choose it with --nodes"),
        ({"nodes": 2, "dp": 2, "pairs": ("data-parallel-address=10.0.0.1",)}, "takes it from NODE_RANK"),
        (
            {"nodes": 2, "dp": 2, "pairs": ("distributed-executor-backend=ray",)},
            "choose it with --multi-node",
        ),
        ({"rdma": True}, "--rdma is about more than one node"),
        ({"multi_node": "ray"}, "--multi-node ray is about more than one node"),
        ({"user": "vllm"}, "not UID:GID"),
        ({"user": "٠:٠"}, "not UID:GID"),
        ({"user": "2147483648:0"}, "not UID:GID"),
        ({"pairs": ("served-model-name=--host=0.0.0.0",)}, "begins with a dash"),
        ({"extra": ("--served-model-name=--api-key=SECRET",)}, "begins with a dash"),
        ({"gpus": (1, 1)}, "twice"),
        ({"profiles": ("mtp", "mtp")}, "named twice"),
        ({"weights": "a\nb"}, "no path"),
        ({"pairs": ("shutdown-timeout=9999999",)}, "between 0 and 3600"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(request_: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as told:
        planned("h100", **request_)
    assert told.value.exit_code == 2


def test_a_refused_key_is_not_repeated() -> None:
    with pytest.raises(UsageError) as told:
        planned("h100", pairs=("api-key=sk-123-very-secret",))
    assert "sk-123" not in str(told.value)


def test_300b_on_h100_picks_fp8_by_itself_and_says_so() -> None:
    plan = planned("h100", model="300b")
    assert plan.profiles == ("fp8",)
    assert plan.notes[1].startswith("FP8 was chosen as published for h100. BF16 does not fit h100: ")
    derived = planned("a100", model="300b")
    assert derived.notes[1].startswith("FP8 was chosen for memory. BF16 does not fit a100: ")


@pytest.mark.parametrize(
    ("target", "model", "note"),
    [
        ("h100", "21b", "Uses 1 of the node's 8 GPUs (the published layout). --dp 8 uses the rest."),
        ("mi300x", "21b", "Uses 4 of the node's 8 GPUs (the published layout). --dp 2 uses the rest."),
        ("h100", "300b", "Uses 8 of the node's 8 GPUs (the published layout)."),
        ("h200", "21b", "Uses 1 of the node's 8 GPUs (the memory plan). --dp 8 uses the rest."),
    ],
)
def test_plan_says_how_much_of_the_node_it_uses(target: str, model: str, note: str) -> None:
    assert planned(target, model=model).notes[0] == note


def test_dp_uses_the_rest_of_the_node() -> None:
    plan = planned("mi300x", dp=2)
    assert plan.topology.gpus == 8
    assert plan.gpu_ids == tuple(range(8))
    assert "--data-parallel-size=2" in words(plan.settings)


def test_fewer_gpus_make_a_smaller_layout() -> None:
    plan = planned("mi300x", gpus=(2, 5))
    assert plan.gpu_ids == (2, 5)
    assert plan.topology.tensor_parallel_size == 2


def test_the_published_context_is_capped_only_where_it_would_not_fit() -> None:
    capped = [
        f"{m.id} {t.id} {planned(t.id, model=m.id).memory.context_tokens}"
        for m in Catalog().models()
        for t in Catalog().targets()
        if Catalog().support(m.id, t.id).state != "refused"
        and planned(t.id, model=m.id).memory.context_tokens < m.context_tokens
    ]
    assert capped == [
        "0.3b cpu 32768", "0.3b-base cpu 32768",
        "vl-28b h100 32768", "vl-28b a100 32768",
        "vl-28b-base h100 32768", "vl-28b-base a100 32768",
        "vl-28b-thinking h100 32768", "vl-28b-thinking a100 32768",
    ]  # fmt: skip


def test_a_context_the_user_chose_is_kept() -> None:
    assert planned("h100", model="vl-28b", max_model_len=131_072).memory.verdict == "tight"


def test_every_difference_from_the_recipe_has_its_reason() -> None:
    differences = planned("mi300x").differences
    assert [d.split(": ")[0] for d in differences] == [
        "--disable-log-requests -> left out",
        "--no-enable-prefix-caching -> left out",
        "--trust-remote-code -> left out",
    ]
    assert all(len(d.split(": ", 1)[1]) > 20 for d in differences)


def test_every_flag_and_variable_has_an_origin() -> None:
    plan = planned("h100", model="300b", profiles=("mtp",), pairs=("max-num-seqs=64",))
    origin = re.compile(r"recipe \S+\.md:\d+|profile \w+|model \w+|hardware.*|memory plan.*|kit: .+|user")
    for setting in (*plan.settings, *plan.environment, *plan.bench):
        assert origin.fullmatch(setting.origin), setting
    assert plan.setting("max-num-seqs").origin == "user"  # type: ignore[union-attr]


def test_long_flag_names_only() -> None:
    for word in words(planned("h100", extra=("-tp", "2", "--max_num_seqs", "8")).settings):
        assert word.startswith("--")
        assert "_" not in word.partition("=")[0]


@pytest.mark.parametrize(
    ("target", "model", "seconds"), [("h100", "21b", 746), ("h100", "300b", 2603), ("cpu", "0.3b", 602)]
)
def test_ready_timeout_follows_the_weights(target: str, model: str, seconds: int) -> None:
    assert planned(target, model=model).ready_timeout_s == seconds


def test_older_drivers_have_their_image() -> None:
    assert planned("h100", engine="0.32.0", cuda="12.9").image == "vllm/vllm-openai:v0.32.0-cu129"


def test_mtp_makes_room_for_drafts_and_keeps_the_larger_default() -> None:
    assert "--max-num-batched-tokens=16384" in words(planned("mi300x", profiles=("mtp",)).settings)
    assert "--max-num-batched-tokens=512" in words(
        planned("h100", profiles=("mtp",), pairs=("max-num-batched-tokens=512",)).settings
    )


MODELS = st.sampled_from(Catalog().models())
SIZES = st.integers(1, 128)


@given(MODELS, SIZES, SIZES)
def test_a_legal_topology_divides_heads_and_experts(model: object, tp: int, dp: int) -> None:
    topology = Topology(tensor_parallel_size=tp, data_parallel_size=dp)
    if not refusal(model, topology):  # type: ignore[arg-type]
        assert model.figures.heads % tp == 0  # type: ignore[attr-defined]
        assert model.figures.kv_heads % tp == 0 or tp % model.figures.kv_heads == 0  # type: ignore[attr-defined]
        assert not model.experts or model.experts.intermediate_size % (tp * dp) == 0  # type: ignore[attr-defined]


@given(
    MODELS,
    st.sampled_from(Catalog().targets()),
    st.none() | st.integers(1, 16),
    st.none() | st.integers(1, 16),
)
def test_a_plan_never_takes_more_gpus_than_the_node_has(
    model: object, target: object, tp: int | None, dp: int | None
) -> None:
    try:
        plan = planned(target.id, model=model.id, tp=tp, dp=dp)  # type: ignore[attr-defined]
    except KitError:
        return
    assert plan.topology.gpus <= max(1, plan.target.gpus)
    assert len(plan.gpu_ids) == (plan.topology.gpus if plan.target.gpus else 0)


@given(
    MODELS,
    st.sampled_from([1, 2, 4, 8]),
    st.floats(16, 300),
    st.integers(1, 131_072),
    st.integers(1, 131_072),
)
def test_a_longer_context_never_holds_more_sequences(
    model: object, tp: int, memory_gib: float, one: int, other: int
) -> None:
    budget = Budget(
        memory_gib=memory_gib, gpu_memory_utilization=0.9, max_num_batched_tokens=8192, max_num_seqs=256
    )
    short, long = (
        plan_memory(model, Topology(tensor_parallel_size=tp), budget, context)  # type: ignore[arg-type]
        for context in sorted((one, other))
    )
    if short.verdict == "refused":
        assert long.verdict == "refused"
    assert long.sequences <= short.sequences or short.kv_cache_tokens < 0
