"""Asks vLLM's own code which kernels it takes for experts and how wide it allocates them, one JSON line a job.

The platform is the CPU's, so the questions that the choice depends on are answered as each job's card would answer
them: the platform, its compute capability, and that its libraries are there. All else is vLLM's.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.update(VLLM_LOGGING_STREAM="ext://sys.stderr", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")

import torch
from vllm._aiter_ops import rocm_aiter_ops
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import (
    FusedMoEConfig,
    FusedMoEParallelConfig,
    get_routing_method_type,
)
from vllm.model_executor.layers.fused_moe.oracle import fp8, unquantized
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.quantization.online.fp8 import (
    Fp8PerBlockOnlineMoEMethod,
    Fp8PerTensorOnlineMoEMethod,
)
from vllm.platforms import current_platform

Job = dict[str, Any]
METHODS = {"fp8_per_tensor": Fp8PerTensorOnlineMoEMethod, "fp8_per_block": Fp8PerBlockOnlineMoEMethod}
# Functions that ask for a library of NVIDIA's, under the names by which modules import them.
LIBRARIES = (
    "has_flashinfer",
    "has_flashinfer_cutlass_fused_moe",
    "has_flashinfer_trtllm_fused_moe",
    "has_deep_gemm",
    "is_deep_gemm_supported",
)
card: Job = {}


def load_kernels() -> None:
    """Import every kernel's module while the platform still is this machine's."""
    for oracle, backends in (
        (unquantized, unquantized.UnquantizedMoeBackend),
        (fp8, fp8.Fp8MoeBackend),
    ):
        for backend in backends:
            try:
                oracle.backend_to_kernel_cls(backend)
            except (ImportError, ValueError):
                continue  # A library or a platform that no target has.


def answer_as_card() -> None:
    """Let the platform answer as the card of the job at hand."""

    def cuda(*_: Any, **__: Any) -> bool:
        return bool(card["platform"] == "cuda")

    def rocm(*_: Any, **__: Any) -> bool:
        return bool(card["platform"] == "rocm")

    def number(capability: int | tuple[int, int]) -> int:
        return capability if isinstance(capability, int) else capability[0] * 10 + capability[1]

    current_platform.is_cpu = lambda: False
    current_platform.is_cuda, current_platform.is_rocm = cuda, rocm
    current_platform.is_cuda_alike = lambda: True
    current_platform.is_device_capability = lambda c, *_, **__: cuda() and number(c) == card["capability"]
    current_platform.has_device_capability = lambda c, *_, **__: cuda() and card["capability"] >= number(c)
    current_platform.is_device_capability_family = lambda c, *_, **__: (
        cuda() and c // 10 == card["capability"] // 10
    )
    current_platform.supports_fp8 = lambda: rocm() or card["capability"] >= 89
    rocm_aiter_ops.is_fused_moe_enabled = rocm
    for module in [module for name, module in sys.modules.items() if name.startswith("vllm")]:
        for name in LIBRARIES:
            if hasattr(module, name):
                setattr(module, name, cuda)


def config_of(job: Job) -> FusedMoEConfig:
    """The experts of one ERNIE layer as one rank has them: routed by softmax with a bias, as ernie45_moe.py says."""
    whole, ranks = job["expert_parallel"], job["ranks"]
    parallel = FusedMoEParallelConfig(
        tp_size=1 if whole else ranks, pcp_size=1, dp_size=1, ep_size=ranks if whole else 1,
        tp_rank=0, pcp_rank=0, dp_rank=0, ep_rank=0, sp_size=1, use_ep=whole,
        all2all_backend="allgather_reducescatter", enable_eplb=False,
    )  # fmt: skip
    return FusedMoEConfig(
        num_experts=job["count"],
        experts_per_token=job["per_token"],
        hidden_dim=job["hidden_size"],
        intermediate_size=job["width"],
        num_local_experts=job["count"] // (ranks if whole else 1),
        num_logical_experts=job["count"],
        activation=MoEActivation.SILU,
        device="cpu",
        routing_method=get_routing_method_type(
            scoring_func="softmax",
            top_k=job["per_token"],
            renormalize=True,
            num_expert_group=None,
            has_e_score_bias=True,
        ),
        moe_parallel_config=parallel,
        in_dtype=torch.bfloat16,
        router_logits_dtype=torch.float32,
    )


def verdict_on(job: Job) -> Job:
    card.update(job["card"])
    os.environ.pop("VLLM_ROCM_USE_AITER", None)
    os.environ.update(job["environment"])
    config = config_of(job)
    share = config.intermediate_size_per_partition
    with set_current_vllm_config(VllmConfig()):
        quantized = METHODS.get(job["quantization"])
        method = quantized(moe=config) if quantized else UnquantizedFusedMoEMethod(config)
        _, width = method.maybe_roundup_sizes(
            config.hidden_dim, share, config.in_dtype, config.moe_parallel_config
        )
    backend = method.fp8_backend if quantized else method.unquantized_backend
    return {"backend": backend.name.lower(), "width": width}


if __name__ == "__main__":
    load_kernels()
    answer_as_card()
    for line in sys.stdin:
        print(json.dumps(verdict_on(json.loads(line))))
