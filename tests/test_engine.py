"""Each vLLM of the catalog parses and configures every command of the whole matrix by its own code, without a warning."""

import importlib.metadata
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_key_files import FILES, KEYS
from conftest import NOTHING_MISSING, ROOT, missing, planned
from engine.checkpoint import write_config, write_tokenizer
from engine.configs import config_of
from engine.rendered import services, vllm_words, words_of
from engine.vllm_code import EngineCode, Verdicts, code_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_api_key import keys_in

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError
from ernie_deploy.plan.memory import parameters
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.topology import pipeline_stages
from ernie_deploy.plan.words import find, table

pytestmark = pytest.mark.engine
if importlib.util.find_spec("vllm") is None and not NOTHING_MISSING:
    # One line for the whole file.
    pytest.skip(
        "vLLM for CPU is missing: docker/engine-cpu/install_engine.py installs it (3.4 GB)",
        allow_module_level=True,
    )
Jobs = list[dict[str, Any]]


@pytest.fixture(scope="session", params=Catalog().ids("engines"))
def code(request: pytest.FixtureRequest) -> EngineCode:
    """The code of each version of the catalog."""
    return code_of(request.param)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model id -> folder with its full-size config.json and a tokenizer; no weights."""
    pytest.importorskip("tokenizers")
    folders = {}
    for model in Catalog().models():
        folder = tmp_path_factory.mktemp("checkpoint") / model.id
        write_config(folder, model.architecture, config_of(model))
        write_tokenizer(folder)
        folders[model.id] = str(folder)
    return folders


def unexpected(code: EngineCode, verdict: dict[str, Any]) -> list[str]:
    """The warnings that the catalog does not expect of this version."""
    expected = [known.text for known in Catalog().engine(code.version).expected_warnings]
    return [warning for warning in verdict["warnings"] if not any(text in warning for text in expected)]


@cache
def plans(version: str) -> tuple[Plan, ...]:
    """Every supported pair with every profile and pair of profiles that applies, and with replicas."""
    catalog, made = Catalog(), []
    profiles = catalog.ids("profiles")
    choices = [(), *itertools.combinations(profiles, 1), *itertools.combinations(profiles, 2)]
    for model, target in itertools.product(catalog.models(), catalog.targets()):
        for chosen, dp in [
            *((chosen, None) for chosen in choices),
            ((), 2),
            ((), 8),
            (("expert-parallel",), 8),
        ]:
            try:
                made.append(planned(target.id, model=model.id, profiles=chosen, dp=dp, engine=version))
            except KitError:
                continue
    return tuple(made)


# (target, request, tensor, pipeline and data parallel size); the first three are the published rows.
OVER_NODES = [
    ("h100", {"model": "300b", "nodes": 2}, (8, 2, 1)),
    ("h100", {"model": "300b", "nodes": 2, "profiles": ("mtp",)}, (16, 1, 1)),
    ("h100", {"model": "vl-424b", "nodes": 2}, (8, 2, 1)),
    ("h100", {"model": "300b", "nodes": 2, "profiles": ("published",)}, (16, 1, 1)),
    ("h100", {"model": "300b", "nodes": 2, "tp": 16, "pp": 1}, (16, 1, 1)),
    ("h100", {"model": "300b-base", "nodes": 4, "gpus": (0, 1, 2, 3)}, (4, 4, 1)),
    ("a100", {"model": "vl-424b", "nodes": 2}, (8, 2, 1)),
    ("mi300x", {"model": "vl-424b", "nodes": 2}, (8, 2, 1)),
    ("h100", {"model": "21b", "nodes": 2, "dp": 16}, (1, 1, 16)),
    ("mi300x", {"model": "21b", "nodes": 2, "dp": 4}, (4, 1, 4)),
    ("h100", {"model": "vl-28b", "nodes": 4, "dp": 4, "tp": 2}, (2, 1, 4)),
    ("h200", {"model": "300b", "nodes": 2, "dp": 2, "profiles": ("expert-parallel",)}, (8, 1, 2)),
    ("h100", {"model": "300b", "nodes": 4, "dp": 2, "tp": 16}, (16, 1, 2)),
    ("h100", {"model": "300b", "nodes": 2, "multi_node": "ray"}, (8, 2, 1)),
    ("h100", {"model": "300b", "nodes": 2, "multi_node": "ray", "profiles": ("mtp",)}, (16, 1, 1)),
]


def argv_of_rank(plan: Plan, rank: int) -> list[str]:
    """The words of one node, with what its .env says."""
    env = {"NODE_RANK": rank, "HEAD_ADDR": "10.0.0.4"}
    return vllm_words(plan, "worker" if rank else "serve", **env)


@pytest.fixture(scope="session")
def ranks(code: EngineCode, checkpoints: dict[str, str]) -> Verdicts:
    """vLLM's verdict on the first and the last node of each form; Ray's workers have no words of vLLM's."""
    jobs: Jobs = []
    for i, (target, options, _) in enumerate(OVER_NODES):
        plan = planned(target, engine=code.version, **options)
        for rank in (0,) if plan.uses_ray else (0, plan.topology.nodes - 1):
            argv, folder = argv_of_rank(plan, rank), checkpoints[plan.model.id]
            jobs.append({"id": f"{i} {rank}", "kind": "serve", "argv": argv, "model_dir": folder})
    return code.judged(jobs)


@pytest.mark.parametrize("form", range(len(OVER_NODES)), ids=lambda i: str(OVER_NODES[i][:2]))
def test_vllm_configures_every_rank_of_several_nodes(form: int, code: EngineCode, ranks: Verdicts) -> None:
    target, options, (tensor, pipeline, replicas) = OVER_NODES[form]
    plan = planned(target, engine=code.version, **options)
    if plan.uses_ray and importlib.util.find_spec("ray") is None:
        missing("Ray", "pip install ray==2.56.1")
    verdicts = {key: verdict for key, verdict in ranks.items() if key.split()[0] == str(form)}
    assert len(verdicts) == (1 if plan.uses_ray else 2)
    for key, verdict in verdicts.items():
        assert verdict["ok"], verdict
        assert unexpected(code, verdict) == []
        assert verdict["world_size"] == tensor * pipeline
        facts = verdict["facts"]
        sizes = ("tensor", "pipeline", "data")
        assert [facts[f"{size}_parallel_size"] for size in sizes] == [tensor, pipeline, replicas]
        assert facts["max_model_len"] == plan.memory.context_tokens
        if plan.uses_ray:
            assert (facts["distributed_executor_backend"], facts["nnodes"]) == ("ray", 1)
        else:
            assert (facts["nnodes"], facts["node_rank"]) == (plan.topology.nodes, int(key.split()[1]))
            assert facts["master_addr"] == "10.0.0.4"
            assert facts["data_parallel_size_local"] == max(1, plan.topology.gpus // (tensor * pipeline))


def test_the_ray_that_was_asked_is_the_pinned_one() -> None:
    if importlib.util.find_spec("ray") is None:
        missing("Ray", "pip install ray==2.56.1")
    pinned = re.search(r"ray==([\d.]+)", (ROOT / "docker/ray/Dockerfile").read_text(encoding="utf-8"))
    assert pinned
    assert importlib.metadata.version("ray") == pinned[1]


def test_the_published_rows_over_nodes_are_the_first(code: EngineCode, ranks: Verdicts) -> None:
    rows = [row.id for row in Catalog().recipes.serve if row.nodes > 1]
    assert [
        planned(target, engine=code.version, **options).row for target, options, _ in OVER_NODES[: len(rows)]
    ] == rows
    assert all(ranks[f"{i} {rank}"]["world_size"] == 16 for i in range(len(rows)) for rank in (0, 1))


@pytest.mark.parametrize(("layers", "size"), [(54, 2), (54, 4), (54, 8), (54, 16), (28, 3)])
def test_vllm_shares_out_the_layers_so(code: EngineCode, layers: int, size: int) -> None:
    job = {"id": "stages", "kind": "stages", "layers": layers, "size": size}
    assert code.judged([job])["stages"]["layers"] == pipeline_stages(layers, size)


@pytest.fixture(scope="session")
def matrix(code: EngineCode, checkpoints: dict[str, str]) -> tuple[dict[str, Plan], Verdicts]:
    """Each different command of the matrix, with vLLM's verdict."""
    unique: dict[str, Plan] = {}
    jobs: Jobs = []
    for plan in plans(code.version):
        made = services(plan)
        for kind, argv in ((kind, words_of(made, kind)) for kind in ("serve", "bench")):
            key = f"{kind} {plan.model.id} {' '.join(argv)}"
            if key not in unique:
                unique[key] = plan
                folder = checkpoints[plan.model.id] if kind == "serve" else None
                jobs.append({"id": key, "kind": kind, "argv": argv, "model_dir": folder})
    return unique, code.judged(jobs)


def test_the_matrix_is_the_whole_support_table(
    code: EngineCode, matrix: tuple[dict[str, Plan], Verdicts]
) -> None:
    catalog = Catalog()
    supported = {
        (model.id, target.id)
        for model, target in itertools.product(catalog.models(), catalog.targets())
        if catalog.support(model.id, target.id).state != "refused"
    }
    assert {(plan.model.id, plan.target.id) for plan in plans(code.version)} == supported
    used = {profile for plan in plans(code.version) for profile in plan.profiles}
    assert used == set(catalog.ids("profiles"))
    assert len(matrix[0]) > 100


def test_vllm_parses_and_configures_every_command(matrix: tuple[dict[str, Plan], Verdicts]) -> None:
    refused = {key: f"{v['stage']}: {v['error']}" for key, v in matrix[1].items() if not v["ok"]}
    assert not refused, json.dumps(refused, indent=1)


def test_vllm_warns_of_nothing(code: EngineCode, matrix: tuple[dict[str, Plan], Verdicts]) -> None:
    warned = {key: loud for key, verdict in matrix[1].items() if (loud := unexpected(code, verdict))}
    assert not warned, json.dumps(warned, indent=1)


def test_each_warning_that_is_expected_comes_and_has_a_reason(
    code: EngineCode, matrix: tuple[dict[str, Plan], Verdicts], ranks: Verdicts
) -> None:
    heard = [text for verdicts in (matrix[1], ranks) for v in verdicts.values() for text in v["warnings"]]
    for known in Catalog().engine(code.version).expected_warnings:
        assert known.reason
        assert any(known.text in text for text in heard), known.text


def test_vllm_understood_what_was_planned(matrix: tuple[dict[str, Plan], Verdicts]) -> None:
    for key, plan in matrix[0].items():
        if not key.startswith("serve"):
            continue
        facts = matrix[1][key]["facts"]
        assert facts["tensor_parallel_size"] == plan.topology.tensor_parallel_size
        assert facts["data_parallel_size"] == plan.topology.data_parallel_size
        assert facts["max_model_len"] == plan.memory.context_tokens
        assert facts["shutdown_timeout"] == 60
        assert (facts["speculative_method"] == "mtp") == ("mtp" in plan.profiles)
        assert (facts["quantization"] == "fp8_per_tensor") == ("fp8" in plan.profiles)
        assert facts["enable_prefix_caching"] == (plan.setting("no-enable-prefix-caching") is None)


REFUSED_BY_VLLM = [
    ("21b", ["--tensor-parallel-size=8"], "divisible by tensor parallel size"),
    ("vl-28b", ["--trust-remote-code", "--tensor-parallel-size=8"], "divisible by tensor parallel size"),
    ("21b", ["--max-model-len=131073"], "greater than the derived max_model_len"),
    ("0.3b", ["--enable-expert-parallel"], "Number of experts"),
    ("vl-28b", ["--trust-remote-code", '--speculative-config={"method":"mtp","num_speculative_tokens":1}'],
     "Unsupported speculative method"),
    ("21b", ["--enable-auto-tool-choice"], "requires --tool-call-parser"),
    ("21b", ["--gpu-memory-utilization=1.5"], "less than or equal to 1"),
    ("21b", ["--quantization=fp9"], "quantization"),
    ("300b", ["--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=2", "--node-rank=0",
              "--distributed-executor-backend=ray"], "nnodes"),
    ("300b", ["--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=2", "--node-rank=2"],
     "`--node-rank` must be between 0 and 1"),
    ("300b", ["--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=3", "--node-rank=0"],
     "must evenly divide the total world size (16)"),
    ("300b", ["--tensor-parallel-size=8", "--nnodes=2", "--node-rank="], "--node-rank"),
]  # fmt: skip

# In those versions whose flag table lacks the flag.
UNKNOWN_TO_VLLM = [
    ("21b", ["--swap-space=4"], "unrecognized arguments"),
    ("21b", ["--disable-log-requests"], "unrecognized arguments"),
    ("21b", ["--watchdog-config={}"], "unrecognized arguments"),
]

WARNED_BY_VLLM = [
    ("300b", ["--tensor-parallel-size=8", "--quantization=fp8"], "use --quantization fp8_per_tensor"),
    ("21b", ['--speculative-config={"method":"ernie_mtp","num_speculative_tokens":1}'], "deprecated and replaced"),
    ("21b", ['--speculative-config={"method":"mtp","num_speculative_tokens":1}'], "suboptimal performance"),
    ("vl-28b", ["--trust-remote-code", "--mm-encoder-tp-mode=data"], "does not support `--mm-encoder-tp-mode data`"),
]  # fmt: skip


def test_vllm_refuses_and_warns_where_the_kit_says_so(code: EngineCode, checkpoints: dict[str, str]) -> None:
    unknown = [case for case in UNKNOWN_TO_VLLM if find(case[1][0].partition("=")[0], code.version) is None]
    refused = [*REFUSED_BY_VLLM, *unknown]
    cases = [*refused, *WARNED_BY_VLLM]
    jobs: Jobs = [
        {"id": str(i), "kind": "serve", "argv": [model, *argv], "model_dir": checkpoints[model]}
        for i, (model, argv, _) in enumerate(cases)
    ]
    verdicts = code.judged(jobs)
    for i, (model, argv, sentence) in enumerate(cases):
        verdict = verdicts[str(i)]
        assert verdict["ok"] == (i >= len(refused)), (model, argv, verdict)
        assert sentence in verdict["error"] + " ".join(verdict["warnings"]), (model, argv, verdict)


# What the kit refuses and vLLM's configuration on a CPU does not, by the word of the refusal.
REFUSED_BY_THE_KIT_ALONE = {
    "does not fit": "memory",
    "needs": "the device count: the CPU platform counts no GPUs",
    "KV heads": "an assertion at load: vllm/model_executor/models/ernie45_moe.py, Ernie4_5_MoeAttention",
    "ties its embeddings": "a crash at load: PPMissingLayer has no attribute 'weight'",
    "cpu target is for trying": "memory, and no published CPU deployment",
}


@pytest.mark.parametrize("model", Catalog().ids("models"))
@pytest.mark.parametrize("tp", [1, 2, 3, 4, 5, 8, 16, 20])
def test_what_the_kit_refuses_vllm_refuses_too_or_the_reason_is_named(
    model: str, tp: int, code: EngineCode, sizes: Verdicts
) -> None:
    try:
        planned("b300", model=model, tp=tp, engine=code.version)
    except KitError as told:
        by_vllm = not sizes[f"{model} {tp}"]["ok"]
        assert by_vllm or any(reason in str(told) for reason in REFUSED_BY_THE_KIT_ALONE), str(told)
    else:
        assert sizes[f"{model} {tp}"]["ok"]


@pytest.fixture(scope="session")
def sizes(code: EngineCode, checkpoints: dict[str, str]) -> Verdicts:
    """vLLM's verdict on each model at each tensor-parallel size."""
    jobs: Jobs = [
        {"id": f"{model} {tp}", "kind": "serve", "model_dir": folder,
         "argv": [model, "--trust-remote-code", f"--tensor-parallel-size={tp}"]}
        for model, folder in checkpoints.items()
        for tp in (1, 2, 3, 4, 5, 8, 16, 20)
    ]  # fmt: skip
    return code.judged(jobs)


def test_the_key_file_is_read_by_vllm(code: EngineCode, checkpoints: dict[str, str], tmp_path: Path) -> None:
    """The words as rendered, the path among them: the file that stands there is the one that the launcher wrote."""
    plan = planned("h100", api_key_file=True, engine=code.version)
    argv = vllm_words(plan)
    config = argv[argv.index("--config") + 1]
    (source := tmp_path / "key.yaml").write_text("api-key: [sk-something, sk-next]\n")
    launched(source, written := tmp_path / "written.yaml")
    jobs: Jobs = [{"id": "key", "kind": "serve", "argv": argv, "model_dir": checkpoints["21b"],
                   "files": {config: written.read_text()}}]  # fmt: skip
    verdict = code.judged(jobs)["key"]
    assert verdict["ok"], verdict
    assert verdict["facts"]["api_keys"] == ["sk-something", "sk-next"]


def launched(source: Path, config: Path) -> None:
    """Let the launcher read a key file and write what vLLM reads."""
    words_ = [sys.executable, ROOT / "docker/scripts/with_api_key.py", "serve", source, config, "true"]
    subprocess.run(words_, check=True, timeout=60)


def test_vllm_asks_for_the_keys_that_were_read_and_for_no_others(code: EngineCode) -> None:
    """Each file as the launcher hands it on, and as vLLM would have read it by itself."""
    texts = dict.fromkeys(FILES) | dict.fromkeys(any_files())
    accepted = {text: keys for text in texts if (keys := keys_in(text)) is not None}
    assert len(accepted) > 100
    argv = vllm_words(planned("h100", api_key_file=True, engine=code.version))
    handed = [json.dumps({"api-key": keys}) for keys in accepted.values()]
    jobs: Jobs = [
        {"id": "handed", "kind": "keys", "argv": argv, "contents": handed},
        {"id": "by itself", "kind": "keys", "argv": argv, "contents": list(accepted)},
    ]
    verdicts = code.judged(jobs)
    for way in ("handed", "by itself"):
        assert verdicts[way]["ok"], verdicts[way]
        asked = zip(accepted.items(), verdicts[way]["keys"], strict=True)
        assert {text: (keys, theirs) for (text, keys), theirs in asked if theirs != keys} == {}, way


UNAUTHORIZED, NOT_FOUND = 401, 404


def test_what_the_key_leaves_open_is_what_the_catalog_says(code: EngineCode) -> None:
    """Every route of vLLM's own app, asked without the key that it was started with."""
    known = Catalog().engine(code.version).api_key
    argv = vllm_words(planned("h100", api_key_file=True, engine=code.version))
    files = {argv[argv.index("--config") + 1]: '{"api-key": ["sk-a"]}'}
    with_docs = [word for word in argv if word != "--disable-fastapi-docs"]
    assert len(with_docs) == len(argv) - 1
    jobs: Jobs = [
        {"id": name, "kind": "routes", "argv": words_, "files": files}
        for name, words_ in (("rendered", argv), ("with docs", with_docs))
    ]
    verdicts = code.judged(jobs)
    for name, flags in (("rendered", {"disable-fastapi-docs"}), ("with docs", set())):
        statuses = verdicts[name]["statuses"]
        assert NOT_FOUND not in statuses.values()
        opened = {path for path, status in statuses.items() if status != UNAUTHORIZED}
        assert opened == set(known.left_open(flags)), name
        assert {path for path in statuses if path.startswith(tuple(known.guards))} == set(statuses) - opened


def any_files() -> list[str]:
    """Files with any keys that are taken, each written in several ways."""
    files: list[str] = []

    @given(st.lists(KEYS, min_size=1, max_size=3), st.sampled_from([None, 0, 2]), st.booleans())
    @settings(max_examples=150, database=None, derandomize=True)
    def collect(keys: list[str], indent: int | None, ascii_: bool) -> None:
        files.append(yaml.safe_dump({"api-key": keys if len(keys) > 1 else keys[0]}, indent=indent))
        files.append(json.dumps({"api_key": keys}, ensure_ascii=ascii_))

    collect()
    return files


def test_the_flag_table_is_the_parsers_own(code: EngineCode) -> None:
    job = {"id": "table", "kind": "script", "script": str(ROOT / ".ci/flag_table.py")}
    kept = ROOT / f"ernie_deploy/catalog/engines/{code.version}.flags.toml"
    assert code.judged([job])["table"]["printed"] == kept.read_text(encoding="utf-8")


def test_what_the_flag_table_calls_an_opposite_switches_that_flag_off(code: EngineCode) -> None:
    pairs = [
        (f"--{name}", negative)
        for name, flag in table(code.version, "serve").items()
        for negative in (f"--no-{name}", *flag.negatives)
        if flag.kind == "boolean"
    ]
    verdict = code.judged([{"id": "switches", "kind": "switches", "pairs": pairs}])["switches"]
    assert verdict["ok"], verdict
    assert verdict["differences"].keys() == {negative for _, negative in pairs}
    for flag, negative in pairs:
        assert list(verdict["differences"][negative].values()) == [[True, False]], (flag, negative)


COUNT = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
for model_id, (folder, vision) in json.loads(sys.argv[1]).items():
    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(AutoConfig.from_pretrained(folder))
    learnt = sum(p.numel() for p in model.parameters())
    bias = sum(b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    print("count", model_id, learnt + bias, flush=True)
"""
COUNTED = ("0.3b", "21b", "300b", "vl-28b", "vl-424b")


@pytest.fixture(scope="module")
def counts(engine: str, checkpoints: dict[str, str]) -> tuple[dict[str, int], str]:
    """The parameters of each model by one process of transformers, and what it printed besides."""
    asked = {name: (checkpoints[name], Catalog().model(name).vision is not None) for name in COUNTED}
    words_ = [engine, "-c", COUNT, json.dumps(asked)]
    done = subprocess.run(words_, capture_output=True, text=True, timeout=580)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("count ")]
    return {name: int(count) for _, name, count in lines}, done.stderr[-2000:]


@pytest.mark.parametrize("model_id", COUNTED)
def test_transformers_counts_the_same_parameters(counts: tuple[dict[str, int], str], model_id: str) -> None:
    numbers, stderr = counts
    assert numbers.get(model_id) == parameters(Catalog().model(model_id)).total, stderr
