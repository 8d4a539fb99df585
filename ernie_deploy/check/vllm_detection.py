"""Whether a command without the word vllm is one of vLLM's: by its flags, and by the name of its image."""

import re
from collections.abc import Sequence

from ernie_deploy.check.argv import Argument, is_flag, parse
from ernie_deploy.check.images import Image
from ernie_deploy.check.tree import Word
from ernie_deploy.plan.flag_history import history

# Flags that no other server has, so that they tell vLLM in an image of any name.
TELLING = {
    "enable-prefix-caching", "gpu-memory-utilization", "kv-cache-dtype", "max-model-len",
    "max-num-batched-tokens", "max-num-seqs", "pipeline-parallel-size", "tensor-parallel-size",
}  # fmt: skip
# Programs with flags of the same names.
OTHERS = re.compile(
    r"sglang|aphrodite|lmdeploy|tensorrt|trtllm|triton|llama|text-generation|tgi|ollama|router"
)


def reads_like_vllm(command: Sequence[Word], image: Image, table: str) -> bool:
    """Whether the words are the server's own: flags of vLLM's, after a model at most."""
    beginning = [is_flag(word.text) for word in command[:2]]
    if not any(beginning) or OTHERS.search(image.name.lower()):
        return False
    arguments = parse(command, "serve", table).arguments
    if image.kind:
        return any(_is_vllms(argument) for argument in arguments)
    return any(argument.name in TELLING for argument in arguments)


def _is_vllms(argument: Argument) -> bool:
    return argument.flag is not None or history().run(argument.name) is not None
