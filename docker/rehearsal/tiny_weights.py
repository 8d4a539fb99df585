"""The tensors of a tiny ERNIE 4.5 by Baidu's names, with random bytes that are the same every time."""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import SILENT, VISION, WORDS, Figures

# Next to it the embeddings of the words that are never said are zero: their logit is 0, far from the largest.
LOGIT_SPREAD = 4.0
BF16, F32 = "BF16", "F32"
ITEM_BYTES = {BF16: 2, F32: 4}


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


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write one JSON file."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
