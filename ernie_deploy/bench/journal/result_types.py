"""What a figure of vLLM's result may be, so that no reader of a journal meets a text where a number belongs."""

import math
from collections.abc import Mapping
from typing import Any

# Of each request.
NUMBERS_OF_REQUESTS = ("input_lens", "output_lens", "ttfts", "latencies", "start_times", "queue_times")
TEXTS_OF_REQUESTS = ("errors",)
NUMBERS = (
    "num_prompts",
    "completed",
    "failed",
    "duration",
    "rtfx",
    "burstiness",
    "request_goodput",
    "max_concurrency",
)
NUMBER_ENDINGS = ("_ms", "_throughput", "_tokens", "_per_s", "_requests")
# Beyond what any clock or counter here reaches, and far within what a float and an axis can show.
MOST = 1e15


def type_fault(result: Mapping[str, Any]) -> str:
    """The first figure that is of another type than its name says, in a sentence; empty where there is none."""
    return next((f"{key} is of another type" for key, value in result.items() if not _fits(key, value)), "")


def _fits(key: str, value: object) -> bool:
    if key in NUMBERS_OF_REQUESTS:
        return value is None or (isinstance(value, list) and all(map(_is_number, value)))
    if key in TEXTS_OF_REQUESTS:
        return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))
    if key == "request_rate":
        return value in (None, "inf") or _is_number(value)
    if key in NUMBERS or key.endswith(NUMBER_ENDINGS):
        return value is None or _is_number(value)
    return True  # Kept as it came; nobody reads it.


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -MOST <= value <= MOST
        and not math.isnan(value)
    )
