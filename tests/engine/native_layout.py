"""How far vLLM gets with a vision-language ERNIE in a folder: native_layout.py NATIVE REMOTE_CODE.

The first is read without remote code and the second with it, each in a fork of its own. Prints one JSON object for
each, step -> `ok`, or the error and the line of vLLM's models that raised it. The steps are the first that a server
takes with the model's configuration, without a processor, weights and a port.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.update(VLLM_LOGGING_STREAM="ext://sys.stderr", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")

import torch
import vllm
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.ernie45_vl import (
    Ernie4_5_VLMoeForConditionalGeneration,
    Ernie4_5_VLProcessingInfo,
)
from vllm.model_executor.models.transformers import TransformersMultiModalMoEForCausalLM
from vllm.multimodal.processing import InputProcessingContext
from vllm.utils.torch_utils import set_default_torch_dtype

ROOT = Path(vllm.__file__).parents[1]
# The limits of a picture as both layouts name them.
LEAST, MOST = ("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")
SIZE = dict.fromkeys(LEAST, 256) | dict.fromkeys(MOST, 4096)


def configured(folder: str, *, remote_code: bool) -> VllmConfig:
    """vLLM's own configuration; no tokenizer, because transformers' video processor wants torchvision."""
    arguments = EngineArgs(
        model=folder,
        trust_remote_code=remote_code,
        load_format="dummy",
        max_model_len=256,
        skip_tokenizer_init=True,
        enforce_eager=True,
    )
    return arguments.create_engine_config()


def words_of_a_picture(config: VllmConfig) -> None:
    """What the API server computes before anything else."""
    processor: Any = SimpleNamespace(size=SIZE)
    info = Ernie4_5_VLProcessingInfo(InputProcessingContext(config.model_config, tokenizer=None))
    info.get_num_image_tokens(image_width=64, image_height=48, image_processor=processor, mm_kwargs={})


def built(config: VllmConfig, model_class: type[torch.nn.Module]) -> None:
    """What a worker does first: the model, without its weights."""
    with set_current_vllm_config(config), set_default_torch_dtype(torch.bfloat16):
        if not torch.distributed.is_initialized():
            place = Path(tempfile.mkdtemp(), "rendezvous")
            init_distributed_environment(1, 0, f"file://{place}", 0, "gloo")
            initialize_model_parallel()
        initialize_model(config, model_class=model_class)


STEPS: dict[str, Callable[[VllmConfig], None]] = {
    "words of a picture": words_of_a_picture,
    "vLLM's model": lambda config: built(config, Ernie4_5_VLMoeForConditionalGeneration),
    # What --model-impl transformers takes for this architecture.
    "transformers' model": lambda config: built(config, TransformersMultiModalMoEForCausalLM),
}


def outcome(step: Callable[[VllmConfig], None], config: VllmConfig) -> str:
    """`ok`, or what was raised and by which line of vLLM's models."""
    try:
        step(config)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
        traceback.print_exc()
        places = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        models = ROOT / "vllm/model_executor/models"
        lines = [f"{path.relative_to(ROOT)}:{line}" for path, line in places if path.is_relative_to(models)]
        return f"{type(error).__name__}: {error}"[:300] + f" ({' '.join(lines[-2:])})"
    return "ok"


def main(folder: str, *, remote_code: bool) -> None:
    """Only the outcome goes to stdout, whatever a library prints."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        config = configured(folder, remote_code=remote_code)
        print(json.dumps({name: outcome(step, config) for name, step in STEPS.items()}), file=out)


if __name__ == "__main__":
    for place, trusted in zip(sys.argv[1:], (False, True), strict=True):
        forked = multiprocessing.get_context("fork").Process(
            target=main, args=(place,), kwargs={"remote_code": trusted}
        )
        forked.start()
        forked.join()
        if forked.exitcode:
            raise SystemExit(forked.exitcode)
