"""Fewer samples of a server, those that a check or a reader looks for among them."""

from collections.abc import Sequence

from ernie_deploy.bench.journal.record import Sample


def thinned(samples: Sequence[Sample], most: int) -> tuple[Sample, ...]:
    """At most about `most` samples, evenly taken, with the fullest and the last one."""
    if not samples:
        return ()
    step = max(1, -(-len(samples) // most))
    kept = {*range(0, len(samples), step), len(samples) - 1}
    kept |= {max(range(len(samples)), key=lambda i: samples[i].kv_cache_use)}
    kept |= {max(range(len(samples)), key=lambda i: samples[i].waiting)}
    return tuple(samples[i] for i in sorted(kept))
