#!/usr/bin/env python3
"""Writes tiny ERNIE 4.5 checkpoints with random weights, the same bytes every time: checkpoints.py DIR [KIND ...]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import CONTEXT_TOKENS, KINDS, PARSER_WORDS, SPECIAL, VISION, WORDS, Figures
from tiny_weights import write_json, write_weights

REMOTE_CODE = Path(__file__).parent / "remote_code"
NEEDS = ("decord", "sentencepiece", "font")
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
