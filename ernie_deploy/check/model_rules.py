"""ED1xx, second part: what the model and the hardware make impossible, and vLLM finds out late."""

import json
import re
from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.hardware import VISIBLE, has_gpu, platform_of, ranks, reserved, uses_ray
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import NEWEST, shown, version
from ernie_deploy.plan.layout import MTP_MIN_BATCHED_TOKENS
from ernie_deploy.plan.topology import Topology, refusal

GPUS_A_NODE = 8
COMMIT = re.compile(r"[0-9a-f]{40}")
# The ends of what vLLM could be asked for; beyond them nothing is worth computing.
MOST = 1 << 16


@rule(
    "ED110",
    "error",
    "The model cannot be split over that many GPUs.",
    remedy="use a tensor_parallel_size that divides the heads; --data-parallel-size uses the other GPUs",
    source="vLLM 0.32.0 vllm/model_executor/models/ernie45_moe.py; the figures are the catalog's",
)
def illegal_split(service: Service) -> Iterator[Spot]:
    """Tensor and expert parallel sizes that do not divide the model."""
    argv, model = service.serve, service.model
    tp = argv.number("tensor-parallel-size", 1) if argv else None
    # Heads that do not divide are wrong with any number of replicas.
    dp = (argv.number("data-parallel-size", 1) or 1) if argv else 1
    if argv is None or model is None or tp is None or not (0 < tp < MOST and 0 < dp < MOST):
        return
    expert = argv.has("enable-expert-parallel")
    reason = refusal(model, Topology(tensor_parallel_size=tp, data_parallel_size=dp, expert_parallel=expert))
    if reason:
        flag = "tensor-parallel-size" if argv.has("tensor-parallel-size") else "data-parallel-size"
        yield Spot(argv.line_of(flag, service.line), reason)


@rule(
    "ED111",
    "error",
    "The model ties its embeddings; with pipeline parallel sizes loading crashes.",
    remedy="use --tensor-parallel-size instead",
    source="run with vLLM 0.32.0: the configuration passes, then `PPMissingLayer has no attribute 'weight'`",
)
def tied_pipeline(service: Service) -> Iterator[Spot]:
    """Pipeline parallelism for 0.3b, 21b and vl-28b."""
    argv, model = service.serve, service.model
    size = argv.number("pipeline-parallel-size", 1) if argv else None
    if argv and model and size and 1 < size < MOST:
        reason = refusal(model, Topology(pipeline_parallel_size=size))
        yield from [Spot(argv.line_of("pipeline-parallel-size"), reason)] if reason else []


@rule(
    "ED112",
    "error",
    "The command takes more GPUs than the service gets.",
    remedy="reserve as many GPUs as tensor x pipeline x data parallel size, or add --nnodes",
    source="vLLM 0.32.0 vllm/config/parallel.py: `World size (n) is larger than the number of available GPUs`",
)
def too_few_gpus(service: Service) -> Iterator[Spot]:
    """World sizes above the reservation."""
    needed, given = ranks(service), reserved(service)
    if needed and given is not None and needed > given and platform_of(service) != "cpu":
        sentence = f"vLLM needs {needed} GPUs and the service gets {given}"
        yield Spot(_size_line(service), sentence)


@rule(
    "ED113",
    "warning",
    f"More than {GPUS_A_NODE} GPUs on one node: most nodes have {GPUS_A_NODE}.",
    remedy="--tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank R --master-addr HEAD",
    source="vLLM 0.32.0 docs/serving/parallelism_scaling.md; the published 16 x 80 GB command does not start",
)
def wide_node(service: Service) -> Iterator[Spot]:
    """The recipe's bare `--tensor-parallel-size 16`, where the file does not count the GPUs."""
    needed = ranks(service)
    if needed and needed > GPUS_A_NODE and reserved(service) is None and platform_of(service) != "cpu":
        yield Spot(_size_line(service), f"vLLM looks for {needed} GPUs on this one node")


def _size_line(service: Service) -> int:
    argv = service.serve
    flags = ("tensor-parallel-size", "data-parallel-size", "pipeline-parallel-size")
    lines = (argv.line_of(flag) for flag in flags if argv and argv.last(flag))
    return next(lines, service.line)


@rule(
    "ED114",
    "warning",
    "The file gives the server no GPU.",
    remedy="reserve them: deploy.resources.reservations.devices, or on AMD devices /dev/kfd and /dev/dri",
    source="Docker gives a container no GPU unasked; only a default runtime of the daemon would",
    of_absence=True,
)
def no_gpu(service: Service) -> Iterator[Spot]:
    """A GPU image without a GPU."""
    if service.serve and platform_of(service) in ("cuda", "rocm") and not has_gpu(service):
        yield Spot(service.line, "vLLM's GPU image runs here without a GPU reservation")


@rule(
    "ED115",
    "error",
    "The engine is older than the lowest one that serves the model.",
    remedy="use the image of the catalog's engine; `ernie-deploy models` names them",
    source="min_vllm of the catalog's model, with its source",
)
def old_engine(service: Service) -> Iterator[Spot]:
    """Images from before the model, or before a fix it needs."""
    engine, model, lowest = service.engine, service.model, None
    if service.argv and model and engine and engine != NEWEST:
        lowest = version(model.min_vllm)
    if service.serve and model and engine and lowest and engine < lowest:
        label = ".".join(map(str, engine))
        yield Spot(
            service.line_of("image"), f"{model.id} needs vLLM {model.min_vllm} or later; this is {label}"
        )


@rule(
    "ED116",
    "error",
    "The context is longer than the model's own; vLLM refuses it.",
    remedy="leave out --max-model-len, or lower it",
    source="vLLM 0.32.0 vllm/config/model.py; context_tokens of the catalog's model",
)
def long_context(service: Service) -> Iterator[Spot]:
    """`--max-model-len` above what config.json says."""
    argv, model = service.serve, service.model
    asked = argv.number("max-model-len") if argv else None
    stretched = argv and (argv.last("hf-overrides") or service.variable("VLLM_ALLOW_LONG_MAX_MODEL_LEN"))
    if argv and model and asked and asked > model.context_tokens and not stretched:
        sentence = (
            f"{model.id} has a context of {model.context_tokens:,} tokens; the command asks for {asked:,}"
        )
        yield Spot(argv.line_of("max-model-len"), sentence)


@rule(
    "ED117",
    "error",
    "--nnodes and Ray exclude each other.",
    remedy="drop --distributed-executor-backend ray: --nnodes needs no Ray, and stock images have none",
    source="vLLM 0.32.0 vllm/config/parallel.py; Ray is not in the images since 0.18.0",
)
def nodes_with_ray(service: Service) -> Iterator[Spot]:
    """Both ways to more nodes at once."""
    argv = service.serve
    nodes = argv.number("nnodes", 1) if argv else None
    if argv and nodes and nodes > 1 and uses_ray(service):
        yield Spot(argv.line_of("nnodes"), f"--nnodes {nodes} is refused together with Ray")


@rule(
    "ED118",
    "warning",
    "Remote code is trusted for a model that needs none.",
    remedy="leave out --trust-remote-code",
    source="vLLM has the text models built in (registry.py); CVE-2026-4372 and others came this way",
)
def needless_remote_code(service: Service) -> Iterator[Spot]:
    """`--trust-remote-code` on the text models."""
    argv, model = service.argv, service.model
    if argv and model and not model.trust_remote_code and argv.has("trust-remote-code"):
        yield Spot(
            argv.line_of("trust-remote-code"),
            f"--trust-remote-code: {model.id} runs without code from its repository",
        )


@rule(
    "ED119",
    "warning",
    "Remote code is trusted at a revision that may change.",
    remedy="read the code, then pin it: --revision and --code-revision with the 40 digits of a commit;"
    " a stack of the kit takes them from ernie-deploy lock, or --set revision=COMMIT",
    source="huggingface_hub: a branch, a tag and refs/pr/N move, a commit does not",
)
def moving_remote_code(service: Service) -> Iterator[Spot]:
    """Code that its owner may change under a running stack."""
    argv = service.serve
    needed = service.model is None or service.model.trust_remote_code
    if not argv or not needed or not argv.has("trust-remote-code") or not _from_hub(service):
        return
    # The configuration at `revision` names the code, even where the code's own revision is pinned.
    named = [argv.text("revision") or "main", argv.text("code-revision"), argv.text("tokenizer-revision")]
    moving = [
        revision for revision in named if revision and known(revision) and not COMMIT.fullmatch(revision)
    ]
    if moving:
        sentence = f"code is run from the revision {shown(moving[0])}, which can be changed there"
        yield Spot(argv.line_of("trust-remote-code"), sentence)


def _from_hub(service: Service) -> bool:
    word = service.model_word
    return word is not None and not word.text.startswith(("/", ".", "~")) and known(word.text)


@rule(
    "ED120",
    "warning",
    f"With a draft model vLLM recommends at least {MTP_MIN_BATCHED_TOKENS} batched tokens.",
    remedy=f"--max-num-batched-tokens {MTP_MIN_BATCHED_TOKENS} or more",
    source="vLLM 0.32.0 vllm/config/vllm.py _set_max_num_scheduled_tokens: `suboptimal performance`",
)
def small_draft_batch(service: Service) -> Iterator[Spot]:
    """MTP with too small a batch."""
    argv = service.serve
    asked = argv.number("max-num-batched-tokens") if argv else None
    drafts = argv and any(a.name == "speculative-config" for a in argv.arguments)
    if argv and drafts and asked and asked < MTP_MIN_BATCHED_TOKENS:
        sentence = f"{asked} batched tokens leave little room beside the draft tokens"
        yield Spot(argv.line_of("max-num-batched-tokens"), sentence)


@rule(
    "ED121",
    "error",
    "The model has no draft layer that vLLM can use.",
    remedy="leave out --speculative-config; of ERNIE 4.5 only 21b and 300b have one",
    source="mtp of the catalog's model; vLLM 0.32.0 vllm/config/speculative.py knows ernie4_5_moe alone",
)
def no_draft_layer(service: Service) -> Iterator[Spot]:
    """MTP on a checkpoint without it."""
    argv, model = service.serve, service.model
    argument = argv.last("speculative-config") if argv else None
    if argument and model and not model.mtp and _drafts_itself(argument.value):
        yield Spot(argument.line, f"{model.id} has no multi-token-prediction layer that vLLM can draft with")


def _drafts_itself(value: str) -> bool:
    try:
        table = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(table, dict) and table.get("method") in ("mtp", "ernie_mtp")


@rule(
    "ED122",
    "error",
    "HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES differ; vLLM refuses to start.",
    remedy="set CUDA_VISIBLE_DEVICES alone: vLLM reads it on ROCm too",
    source="vLLM 0.32.0 vllm/platforms/rocm.py raises ValueError",
)
def two_views(service: Service) -> Iterator[Spot]:
    """Two lists of GPUs that contradict each other."""
    values = [service.variable(name) for name in VISIBLE]
    if service.serve and all(values) and all(map(known, values)) and values[0] != values[1]:
        yield Spot(
            service.line_of("environment"),
            f"HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES say {shown(values[0], 20)} and {shown(values[1], 20)}",
        )
