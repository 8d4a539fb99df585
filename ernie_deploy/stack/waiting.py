"""Waits for something that only polling can tell."""

import time
from collections.abc import Callable

POLL_S = 0.5


def poll_until(met: Callable[[], bool], limit_s: float) -> bool:
    """Whether it was met before the limit; asked twice a second, and once at the least."""
    end = time.monotonic() + limit_s
    while not met():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
