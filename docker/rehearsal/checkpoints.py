#!/usr/bin/env python3
"""Writes tiny ERNIE 4.5 checkpoints with random weights, the same bytes every time: checkpoints.py DIR [KIND ...]."""

from __future__ import annotations

import argparse
import json
import math
import random
import struct
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

REMOTE_CODE = Path(__file__).parent / "remote_code"
NEEDS = ("decord", "sentencepiece", "font")
CONTEXT_TOKENS = 131072
# Next to it the embeddings of the words that are never said are zero: their logit is 0, far from the largest.
LOGIT_SPREAD = 4.0
BF16, F32 = "BF16", "F32"
ITEM_BYTES = {BF16: 2, F32: 4}

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

CHAT_TEMPLATE = (
    "<|begin_of_sentence|>"
    "{%- for message in messages -%}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}Assistant: {% endif -%}"
)
NAMED_WORDS = {
    "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>",
    "cls_token": "<|begin_of_sentence|>", "sep_token": "<|end_of_sentence|>", "mask_token": "<mask:1>",
    "image_token": "<|IMAGE_PLACEHOLDER|>", "video_token": "<|VIDEO_PLACEHOLDER|>",
}  # fmt: skip


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


class Tensor(NamedTuple):
    """One tensor of a checkpoint; a spread of 0 is all ones, of -1 all zeros."""

    name: str
    shape: tuple[int, ...]
    spread: float
    dtype: str = BF16
    silent_rows: int = 0

    @property
    def parameters(self) -> int:
        """How many parameters it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return self.parameters * ITEM_BYTES[self.dtype]


# --- which tensors there are, named as Baidu names them ---


def linear(name: str, rows: int, columns: int) -> Tensor:
    """A projection that keeps the size of what passes through it."""
    return Tensor(f"{name}.weight", (rows, columns), 1 / math.sqrt(columns))


def norm(name: str, width: int) -> Tensor:
    """A norm's scale."""
    return Tensor(f"{name}.weight", (width,), 0)


def mlp(name: str, hidden: int, width: int) -> Iterator[Tensor]:
    """The three projections of a gated MLP."""
    yield linear(f"{name}.gate_proj", width, hidden)
    yield linear(f"{name}.up_proj", width, hidden)
    yield linear(f"{name}.down_proj", hidden, width)


def attention(name: str, figures: Figures) -> Iterator[Tensor]:
    """Attention and the two norms of its layer."""
    hidden, width = figures.hidden_size, figures.head_dim
    yield norm(f"{name}.input_layernorm", hidden)
    yield linear(f"{name}.self_attn.q_proj", figures.heads * width, hidden)
    for letter in "kv":
        yield linear(f"{name}.self_attn.{letter}_proj", figures.kv_heads * width, hidden)
    yield linear(f"{name}.self_attn.o_proj", hidden, figures.heads * width)
    yield norm(f"{name}.post_attention_layernorm", hidden)


def routers(name: str, figures: Figures) -> Iterator[Tensor]:
    """The routers: that of the vision-language models lies the other way round, and there are two."""
    hidden, count = figures.hidden_size, figures.experts
    shape = (hidden, count) if figures.vision else (count, hidden)
    for suffix in ("", "_1") if figures.vision else ("",):
        yield Tensor(f"{name}.gate.weight{suffix}", shape, 1 / math.sqrt(hidden), F32)
    kinds = 2 if figures.vision else 1
    yield Tensor(f"{name}.moe_statics.e_score_correction_bias", (kinds, count), -1, F32)


def experts(name: str, figures: Figures) -> Iterator[Tensor]:
    """A mixture of experts; the vision experts are numbered on from the text experts."""
    hidden, count = figures.hidden_size, figures.experts
    sizes = [figures.expert_size] * count
    sizes += [figures.vision_expert_size] * (count if figures.vision else 0)
    yield from routers(name, figures)
    for number, size in enumerate(sizes):
        yield from mlp(f"{name}.experts.{number}", hidden, size)
    if figures.shared:
        yield from mlp(f"{name}.shared_experts", hidden, figures.expert_size * figures.shared)


def layer(number: int, figures: Figures) -> Iterator[Tensor]:
    """One decoder layer."""
    name = f"model.layers.{number}"
    yield from attention(name, figures)
    if figures.experts and number >= figures.first_layer:
        yield from experts(f"{name}.mlp", figures)
    else:
        yield from mlp(f"{name}.mlp", figures.hidden_size, figures.intermediate_size)


def multi_token(figures: Figures) -> Iterator[Tensor]:
    """The layer that drafts one token ahead: dense, as in the published checkpoints."""
    hidden = figures.hidden_size
    yield from attention("model.mtp_block.0", figures)
    yield from mlp("model.mtp_block.0.mlp", hidden, figures.intermediate_size)
    yield norm("model.mtp_emb_norm.0", hidden)
    yield norm("model.mtp_hidden_norm.0", hidden)
    yield linear("model.mtp_linear_proj.0", hidden, 2 * hidden)


def biased(name: str, rows: int, columns: int) -> Iterator[Tensor]:
    """A projection with a bias."""
    yield linear(name, rows, columns)
    yield Tensor(f"{name}.bias", (rows,), -1)


def layer_norm(name: str, width: int) -> Iterator[Tensor]:
    """A norm with a bias."""
    yield norm(name, width)
    yield Tensor(f"{name}.bias", (width,), -1)


def vision_tower() -> Iterator[Tensor]:
    """The vision transformer."""
    width = VISION["embed_dim"]
    yield linear("vision_model.patch_embed.proj", width, 3 * VISION["patch_size"] ** 2)
    for number in range(VISION["depth"]):
        block = f"vision_model.blocks.{number}"
        yield from layer_norm(f"{block}.norm1", width)
        yield from biased(f"{block}.attn.qkv", 3 * width, width)
        yield from biased(f"{block}.attn.proj", width, width)
        yield from layer_norm(f"{block}.norm2", width)
        yield from biased(f"{block}.mlp.fc1", 4 * width, width)
        yield from biased(f"{block}.mlp.fc2", width, 4 * width)
    yield from layer_norm("vision_model.ln", width)


def resampler(figures: Figures) -> Iterator[Tensor]:
    """What makes four patches of two frames one word of the language model."""
    name, width = "model.resampler_model", VISION["embed_dim"] * VISION["merge"] ** 2
    for part, columns in (("spatial_linear", width), ("temporal_linear", 2 * width)):
        yield from biased(f"{name}.{part}.0", width, columns)
        yield from biased(f"{name}.{part}.2", width, width)
        yield from layer_norm(f"{name}.{part}.3", width)
    yield from biased(f"{name}.mlp", figures.hidden_size, width)
    yield norm(f"{name}.after_norm", figures.hidden_size)


def tensors(figures: Figures) -> Iterator[Tensor]:
    """All tensors of a checkpoint, in its order."""
    words = Tensor("", (len(WORDS), figures.hidden_size), LOGIT_SPREAD / math.sqrt(figures.hidden_size))
    yield words._replace(name="model.embed_tokens.weight", silent_rows=len(SILENT))
    for number in range(figures.layers):
        yield from layer(number, figures)
    yield norm("model.norm", figures.hidden_size)
    if figures.mtp:
        yield from multi_token(figures)
    if figures.vision:
        yield from vision_tower()
        yield from resampler(figures)
    if not figures.tied_embeddings:
        yield words._replace(name="lm_head.weight", silent_rows=len(SILENT))


# --- what is in them ---


def content(tensor: Tensor) -> bytes:
    """The bytes of a tensor: 256 evenly spread values, chosen by a generator that its name seeds."""
    values = [tensor.spread * math.sqrt(3) * (2 * byte - 255) / 255 for byte in range(256)]
    if tensor.spread <= 0:
        values = [1.0 + tensor.spread] * 256
    chosen = random.Random(tensor.name).randbytes(tensor.parameters)  # noqa: S311 - weights, not secrets
    table = [struct.pack("<f", value)[4 - ITEM_BYTES[tensor.dtype] :] for value in values]
    filled = bytearray(tensor.size)
    for place in range(ITEM_BYTES[tensor.dtype]):
        column = bytes(entry[place] for entry in table)
        filled[place :: ITEM_BYTES[tensor.dtype]] = chosen.translate(column)
    silent = tensor.silent_rows * (tensor.size // tensor.shape[0])
    filled[:silent] = bytes(silent)
    return bytes(filled)


def write_shard(path: Path, members: list[Tensor]) -> None:
    """Write one file in the safetensors format: the header's length, the header, the bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in members:
        place, end = end, end + tensor.size
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [place, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(map(content, members))


def write_weights(folder: Path, figures: Figures) -> None:
    """Write two shards of about the same size, and the index."""
    members = list(tensors(figures))
    total, seen = sum(tensor.size for tensor in members), 0
    shards: tuple[list[Tensor], list[Tensor]] = ([], [])
    for tensor in members:
        shards[seen * 2 >= total].append(tensor)
        seen += tensor.size
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_shard(folder / name, shard)
    where = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / "model.safetensors.index.json", index)


# --- configuration and tokenizer ---


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write one JSON file."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config(figures: Figures) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "architectures": [figures.architecture],
        "dtype": "bfloat16",
        "vocab_size": len(WORDS),
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "use_bias": False,
        "bos_token_id": WORDS.index("<s>"),
        "eos_token_id": WORDS.index("</s>"),
        "pad_token_id": WORDS.index("<unk>"),
        "hidden_size": figures.hidden_size,
        "intermediate_size": figures.intermediate_size,
        "num_hidden_layers": figures.layers,
        "num_attention_heads": figures.heads,
        "num_key_value_heads": figures.kv_heads,
        "head_dim": figures.head_dim,
        "tie_word_embeddings": figures.tied_embeddings,
    } | (vision_config(figures) if figures.vision else text_config(figures))


def text_config(figures: Figures) -> dict[str, Any]:
    """What only the text models have."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    if not figures.experts:
        return {"model_type": "ernie4_5"} | rope
    return rope | {
        "model_type": "ernie4_5_moe",
        "moe_num_experts": figures.experts,
        "moe_k": figures.per_token,
        "moe_intermediate_size": figures.expert_size,
        "moe_num_shared_experts": figures.shared,
        "moe_layer_start_index": figures.first_layer,
        "moe_layer_end_index": figures.layers - 1,
        "moe_layer_interval": 1,
        "num_nextn_predict_layers": int(figures.mtp),
    }


def vision_config(figures: Figures) -> dict[str, Any]:
    """What only the vision-language models have: flat, as vLLM's model code reads it."""
    last, width = figures.layers - 1, VISION["embed_dim"]
    half, rest = figures.head_dim // 2, figures.head_dim // 8
    section = [(half - rest) // 2, (half - rest) // 2, rest]
    return {
        "model_type": "ernie4_5_moe_vl",
        "auto_map": {"AutoConfig": "configuration_ernie4_5_vl.Ernie4_5_VLMoEConfig"},
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": section},
        "freq_allocation": rest,
        "moe_num_experts": [figures.experts] * 2,
        "moe_k": figures.per_token,
        "moe_intermediate_size": [figures.expert_size, figures.vision_expert_size],
        "moe_num_shared_experts": figures.shared,
        "moe_layer_start_index": [figures.first_layer] * 2,
        "moe_layer_end_index": [last] * 2,
        "moe_layer_interval": 1,
        "im_patch_id": WORDS.index("<|IMAGE_PLACEHOLDER|>"),
        "image_start_token_id": WORDS.index("<|IMAGE_START|>"),
        "image_end_token_id": WORDS.index("<|IMAGE_END|>"),
        "video_start_token_id": WORDS.index("<|VIDEO_START|>"),
        "video_end_token_id": WORDS.index("<|VIDEO_END|>"),
        "pixel_hidden_size": width,
        "spatial_conv_size": VISION["merge"],
        "temporal_conv_size": 2,
        "use_temporal_conv": True,
        "vision_config": {
            "model_type": "DFNRope_vision_transformer",
            "depth": VISION["depth"],
            "embed_dim": width,
            "hidden_size": width,
            "num_heads": VISION["heads"],
            "mlp_ratio": 4,
            "in_channels": 3,
            "patch_size": VISION["patch_size"],
            "spatial_merge_size": VISION["merge"],
        },
    }


def tokenizer() -> dict[str, Any]:
    """The content of tokenizer.json: byte-level BPE without merges, one word a byte."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": number, "content": word, "special": word in SPECIAL} | flags
        for number, word in enumerate(SPECIAL + PARSER_WORDS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "merges": [],
        },
    }


def write_tokenizer(folder: Path, figures: Figures) -> None:
    """Write tokenizer and chat template; that of a vision-language model is remote code too."""
    write_json(folder / "tokenizer.json", tokenizer())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT_TOKENS}
    # Tidying spaces up would change the text of random prompts.
    settings |= {"clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE} | NAMED_WORDS
    if figures.vision:
        settings["tokenizer_class"] = "Ernie4_5_VLTokenizer"
        settings["auto_map"] = {"AutoTokenizer": ["processing_ernie4_5_vl.Ernie4_5_VLTokenizer", None]}
    write_json(folder / "tokenizer_config.json", settings)


def remote_code(path: Path, without: Collection[str]) -> str:
    """The text of a remote file, without the lines of some demands (`# needs: NAME`)."""
    lines = path.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.rpartition("# needs: ")[2].strip() not in without)


def write_remote_code(folder: Path, without: Collection[str]) -> None:
    """Write the code that `--trust-remote-code` runs, and what names it."""
    for path in sorted(REMOTE_CODE.glob("*.py")):
        (folder / path.name).write_text(remote_code(path, without))
    module = "processing_ernie4_5_vl"
    processor = f"{module}.Ernie4_5_VLProcessor"
    images = f"{module}.Ernie4_5_VLImageProcessor"
    settings = {
        "processor_class": "Ernie4_5_VLProcessor",
        "image_processor_type": "Ernie4_5_VLImageProcessor",
    }
    auto = {"auto_map": {"AutoProcessor": processor, "AutoImageProcessor": images}}
    write_json(folder / "preprocessor_config.json", settings | auto)


def write(folder: Path, figures: Figures, without: Collection[str] = ()) -> None:
    """Write one checkpoint, its remote code without some of what that needs."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(figures))
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    write_json(
        folder / "generation_config.json", {"do_sample": True, "temperature": 0.8, "top_p": 0.8} | ends
    )
    write_tokenizer(folder, figures)
    write_weights(folder, figures)
    if figures.vision:
        write_remote_code(folder, without)


def main(arguments: list[str]) -> None:
    """Write the kinds that are asked for, each in a folder of its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=NEEDS,
        help="leave out what the remote code needs at its import",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - KINDS.keys():
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    for kind in options.kinds or KINDS:
        write(options.folder / kind, KINDS[kind], options.without)


if __name__ == "__main__":
    main(sys.argv[1:])
