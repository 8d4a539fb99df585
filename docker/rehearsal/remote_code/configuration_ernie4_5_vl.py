"""The configuration that a vision-language ERNIE brings along: flat, with the vision tower's inside."""

from typing import Any, ClassVar

from transformers import PretrainedConfig


class DFNRopeVisionTransformerConfig(PretrainedConfig):
    """The vision tower's part."""

    model_type = "DFNRope_vision_transformer"


class Ernie4_5_VLMoEConfig(PretrainedConfig):  # noqa: N801 - its published name
    """The whole; what has no name here becomes an attribute as it is."""

    model_type = "ernie4_5_moe_vl"
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": DFNRopeVisionTransformerConfig}

    def __init__(self, vision_config: dict[str, Any] | None = None, **others: Any) -> None:
        self.vision_config = DFNRopeVisionTransformerConfig(**(vision_config or {}))
        super().__init__(**others)
