"""Captures everything about one start of the server that its figures depend on."""

import hashlib
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec

from ernie_deploy import __version__
from ernie_deploy.bench.journal.record import Environment
from ernie_deploy.bench.measure.deployment import Deployment
from ernie_deploy.bench.measure.server import ModelCard, ServerMetrics, is_name
from ernie_deploy.errors import ServerDied

SIZES = {
    "tensor_parallel_size": ("--tensor-parallel-size", "-tp"),
    "pipeline_parallel_size": ("--pipeline-parallel-size", "-pp"),
    "data_parallel_size": ("--data-parallel-size", "-dp"),
}


def capture(deployment: Deployment, known: dict[str, Any]) -> Environment:
    """The environment of the running server; `known` are facts of the plan or the user (model, target, ...).

    Raises `ServerDied` where nothing answers.
    """
    card, metrics = deployment.endpoint.model_card(), deployment.endpoint.current_metrics()
    facts = {**_of_server(deployment, card, metrics), **deployment.facts()}
    facts |= {name: value for name, value in known.items() if value not in ("", None, 0)}
    sizes: dict[str, Any] = {name: _size(facts.get("argv", ()), words) for name, words in SIZES.items()}
    facts.setdefault("gpu_count", len(facts.get("gpus", ())) and _product(sizes.values()))
    # Until the server's own version is known, client and server are one image.
    facts.setdefault("client_version", facts["vllm_version"])
    return _identified(
        Environment(id="", taken_unix_s=time.time(), kit_version=__version__, **sizes, **facts)
    )


def generation(deployment: Deployment) -> str:
    """What differs between two starts of a server: its process's start time, as far as it can be seen."""
    metrics = deployment.endpoint.current_metrics()
    return metrics.started if metrics else ""


def _of_server(deployment: Deployment, card: ModelCard, metrics: ServerMetrics | None) -> dict[str, Any]:
    cache, engines = (metrics.cache, metrics.engines) if metrics else ({}, 1)
    return {
        "vllm_version": _version(deployment),
        "max_model_len": card.max_model_len or 0,
        "cache": cache,
        "kv_cache_tokens": _number(cache, "num_gpu_blocks") * _number(cache, "block_size") * engines,
        "server_started": metrics.started if metrics else "",
    }


def _version(deployment: Deployment) -> str:
    with suppress(OSError, ValueError, LookupError, TypeError):
        version = deployment.endpoint.get("/version")["version"]
        return version if isinstance(version, str) and is_name(version) else ""
    return ""


def _number(labels: dict[str, str], name: str) -> int:
    value = labels.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else 0


def _size(argv: Sequence[str], names: Sequence[str]) -> int:
    """A parallel size in a command line, written with `=` or as two words; 1 where it is not there."""
    words = [part for word in argv for part in word.split("=", 1)]
    sizes = [value for name, value in pairwise(words) if name in names]
    return int(sizes[-1]) if sizes and re.fullmatch(r"[0-9]{1,9}", sizes[-1]) else 1


def _product(numbers: Any) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _identified(environment: Environment) -> Environment:
    facts = msgspec.to_builtins(environment)
    for name in ("id", "taken_unix_s"):
        facts.pop(name)
    digest = hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:16]
    return msgspec.structs.replace(environment, id=digest)


def require_same(before: Environment, after: Environment) -> None:
    """Raise `ServerDied` where a server came back as another one."""
    from ernie_deploy.bench.journal.cells import changes

    if changed := changes(before, after):
        raise ServerDied(
            "The server came back as another one.",
            cause="; ".join(changed),
            next_step="run the command again: it starts a new series",
        )
