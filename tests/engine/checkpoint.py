"""Writes the weightless part of an ERNIE 4.5 checkpoint: a full-size config.json and a small tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL_TYPES = {
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Ernie4_5_MoeForCausalLM": "ernie4_5_moe",
    "Ernie4_5_VLMoeForConditionalGeneration": "ernie4_5_vl_moe",
}

# What vLLM's ernie45 parsers look up; without the first two the reasoning parser refuses to start.
PARSER_TOKENS = ["<think>", "</think>", "<response>", "</response>", "<tool_call>", "</tool_call>", "<0x0A>"]

VISION_TOKENS = [
    "<|IMAGE_PLACEHOLDER|>",
    "<|IMAGE_START|>",
    "<|IMAGE_END|>",
    "<|VIDEO_PLACEHOLDER|>",
    "<|VIDEO_START|>",
    "<|VIDEO_END|>",
    "<|image@placeholder|>",
    "<|video@placeholder|>",
]

TEXT_TOKENS = ["<unk>", "<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<mask:1>"]

NAMED_TOKENS = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
    "cls_token": "<|begin_of_sentence|>",
    "sep_token": "<|end_of_sentence|>",
    "mask_token": "<mask:1>",
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
}

CHAT_TEMPLATE = (
    "<|begin_of_sentence|>"
    "{%- for message in messages -%}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}Assistant: {% endif -%}"
)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_config(folder: Path, architecture: str, config: dict[str, Any]) -> None:
    head = {"architectures": [architecture], "model_type": MODEL_TYPES[architecture], "dtype": "bfloat16"}
    write_json(folder / "config.json", head | config)


def byte_level_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = TEXT_TOKENS + VISION_TOKENS
    words = special + PARSER_TOKENS + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in special])
    # Not special, or decoding would drop what the parsers read.
    tokenizer.add_tokens([AddedToken(word, special=False) for word in PARSER_TOKENS])
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 131072, **NAMED_TOKENS}
    write_json(folder / "tokenizer_config.json", settings | {"chat_template": CHAT_TEMPLATE})
