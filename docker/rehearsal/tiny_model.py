"""The architecture and the vocabulary of each tiny ERNIE 4.5 of the rehearsal."""

from __future__ import annotations

from typing import NamedTuple

CONTEXT_TOKENS = 131072
TEXT_WORDS = ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<mask:1>"]
VISION_WORDS = [
    "<|IMAGE_PLACEHOLDER|>", "<|IMAGE_START|>", "<|IMAGE_END|>", "<|VIDEO_PLACEHOLDER|>", "<|VIDEO_START|>",
    "<|VIDEO_END|>", "<|image@placeholder|>", "<|video@placeholder|>",
]  # fmt: skip
SPECIAL = TEXT_WORDS + VISION_WORDS
# What vLLM's ernie45 parsers look up. Not special, or decoding would drop what they read.
PARSER_WORDS = ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>", "<0x0A>"]
# Byte-level BPE spells unprintable bytes as the characters from U+0100 on. Bytes above 127 are unknown to this
# vocabulary: any series of its words is text, and that text gives the same series again, as a benchmark
# with random prompts needs to get the length it asked for.
CONTROL = [chr(0x100 + code) for code in range(33)] + [chr(0x100 + 33)]
PRINTABLE = ["\u0120", *map(chr, range(33, 127))]
SILENT = SPECIAL + PARSER_WORDS + [word for word in CONTROL if word not in PRINTABLE]
WORDS = SILENT + PRINTABLE


class Figures(NamedTuple):
    """Architecture of a tiny model: 8 heads and 4 KV heads, so that 1, 2, 4 and 8 ranks can share it."""

    architecture: str = "Ernie4_5_MoeForCausalLM"
    layers: int = 4
    hidden_size: int = 128
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    intermediate_size: int = 256
    tied_embeddings: bool = True
    experts: int = 8
    per_token: int = 2
    expert_size: int = 128
    shared: int = 1
    first_layer: int = 1
    vision_expert_size: int = 0
    mtp: bool = True

    @property
    def vision(self) -> bool:
        """Whether it sees."""
        return self.vision_expert_size > 0


VL = "Ernie4_5_VLMoeForConditionalGeneration"
# Three-dimensional positions need a wider head, and vLLM drafts for no vision-language ERNIE.
SEEING = Figures(VL, head_dim=64, vision_expert_size=64, mtp=False)
KINDS = {
    "dense": Figures("Ernie4_5ForCausalLM", experts=0, shared=0, mtp=False),
    "moe": Figures(),
    "moe-untied": Figures(tied_embeddings=False, shared=0, first_layer=2),
    "vl": SEEING,
    "vl-untied": SEEING._replace(tied_embeddings=False, shared=0, first_layer=2),
}
# Small patches, because vLLM profiles with a video as long as the context: a million patches.
VISION = {"depth": 1, "embed_dim": 32, "heads": 8, "patch_size": 4, "merge": 2}
