"""When vLLM's client means to send each request: its Poisson schedule, drawn again from the seed."""

import math
import random
from itertools import accumulate

STATE_WORDS = 624
WORD = 0xFFFFFFFF


def schedule(seed: int, num_prompts: int, request_rate: float | None) -> list[float]:
    """Seconds from the client's start at which each request is due; all 0 where there is no rate.

    vLLM 0.32.0 benchmarks/serve.py get_request: cumulated exponential gaps, stretched so that the last request
    leaves at exactly num_prompts / request_rate.
    """
    if request_rate is None:
        return [0.0] * num_prompts
    twister = _numpy_twister(seed)
    cumulated = list(accumulate(-math.log(1.0 - twister.random()) / request_rate for _ in range(num_prompts)))
    stretch = num_prompts / request_rate / cumulated[-1]
    return [due * stretch for due in cumulated]


def _numpy_twister(seed: int) -> random.Random:
    """The generator behind `numpy.random.seed`: Python's own, but seeded by Knuth's recurrence."""
    words = [seed & WORD]
    for k in range(1, STATE_WORDS):
        words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + k) & WORD)
    twister = random.Random()  # noqa: S311 - a schedule, not a secret
    twister.setstate((3, (*words, STATE_WORDS), None))
    return twister
