"""A catalog model as the config.json that transformers and vLLM read, at full size."""

from typing import Any

from ernie_deploy.catalog.schema import Model

ROPE = {"rope_type": "default", "rope_theta": 500000.0}
VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 5120, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_merge_size": 2,
}  # fmt: skip
VISION_TOKENS = {
    "image_start_token_id": 101304, "image_end_token_id": 101305, "image_token_id": 100295,
    "video_start_token_id": 101306, "video_end_token_id": 101307, "video_token_id": 103367,
}  # fmt: skip


def config_of(model: Model) -> dict[str, Any]:
    """config.json's content, architecture and model type apart."""
    if model.vision:
        tied = model.figures.tied_embeddings
        return {
            **VISION_TOKENS,
            "tie_word_embeddings": tied,
            "vision_config": VISION,
            "text_config": _vl_text(model),
        }
    return {**_language(model), **_text_experts(model)}


def _language(model: Model) -> dict[str, Any]:
    figures = model.figures
    return {
        "vocab_size": figures.vocab_size,
        "max_position_embeddings": model.context_tokens,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "use_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "head_dim": figures.head_dim,
        "rope_parameters": ROPE,
        "hidden_size": figures.hidden_size,
        "intermediate_size": figures.intermediate_size,
        "num_hidden_layers": figures.layers,
        "num_attention_heads": figures.heads,
        "num_key_value_heads": figures.kv_heads,
        "tie_word_embeddings": figures.tied_embeddings,
    }


def _text_experts(model: Model) -> dict[str, Any]:
    if not (experts := model.experts):
        return {}
    return {
        "moe_num_experts": experts.count,
        "moe_k": experts.per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "moe_num_shared_experts": experts.shared,
        "moe_layer_start_index": experts.first_layer,
        "moe_layer_end_index": model.figures.layers - 1,
        "moe_layer_interval": 1,
        "num_nextn_predict_layers": 1 if model.mtp else 0,
    }


def _vl_text(model: Model) -> dict[str, Any]:
    experts = model.experts
    assert experts, "every vision-language ERNIE has experts"
    dense = experts.first_layer
    return {
        **_language(model),
        "moe_num_experts": experts.count,
        "moe_k": experts.per_token,
        "moe_intermediate_size": [experts.intermediate_size, experts.vision_intermediate_size],
        "moe_num_shared_experts": experts.shared,
        "mlp_layer_types": ["dense"] * dense + ["sparse"] * (model.figures.layers - dense),
        "rope_parameters": {**ROPE, "mrope_section": [22, 22, 20]},
    }
