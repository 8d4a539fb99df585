"""Values of a compose file as plain data in one spelling: sizes, durations, truths, lists of pairs."""

import json
import re
from typing import Any

from ernie_deploy.check.merge import PAIRS, as_table
from ernie_deploy.check.tree import Items, Table, Value, Word
from ernie_deploy.check.values import seconds, truth
from ernie_deploy.plan.sizes import size_bytes

Plain = dict[str, Any] | list[Any] | str | None

DURATIONS = {
    "interval", "timeout", "start_period", "start_interval", "stop_grace_period", "delay", "window", "monitor",
}  # fmt: skip
SIZES = {"shm_size", "mem_limit", "mem_reservation", "memswap_limit", "memory", "size"}
TRUTHS = {
    "read_only", "init", "privileged", "tty", "stdin_open", "external", "internal", "attachable", "disable",
    "oom_kill_disable", "required", "restart_with", "create_host_path",
}  # fmt: skip
NUMBERS = {"cpus", "pids_limit", "cpu_shares", "retries", "max_attempts", "replicas", "scale"}
UNITS = ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))


def plain(value: Value | None, path: tuple[str, ...] = ()) -> Plain:
    """The value at a path of a service's keys, with its variables filled in."""
    if value is None or (isinstance(value, Word) and value.null):
        return None
    if path in PAIRS:
        value = as_table(value)
    if isinstance(value, Table):
        return {key: plain(inner, (*path, key)) for key, inner in value.values.items()}
    if isinstance(value, Items):
        return [plain(inner, path) for inner in value.values]
    return text_of(path[-1] if path else "", value.text)


def text_of(key: str, text: str) -> str:
    """A scalar under `key` in one spelling; as it is where it says something else."""
    if key in DURATIONS and (time_s := seconds(text)) is not None:
        return f"{time_s:g}s"
    if key in SIZES and (count := size_bytes(text)) is not None:
        return bytes_text(count)
    if key in TRUTHS and text:
        return "true" if truth(text) else "false"
    if key in NUMBERS and re.fullmatch(r"-?\d{1,12}(?:\.\d{1,9})?", text):
        return f"{float(text):g}"
    return text


def bytes_text(count: int) -> str:
    """17179869184 -> `16 GiB`."""
    for power, unit in UNITS:
        if count and count % (1 << power) == 0:
            return f"{count >> power} {unit}"
    return str(count)


def shown(value: Plain) -> str:
    """Plain data on one line; lists of words with commas between them."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def flat(value: Plain, name: str) -> dict[str, str]:
    """Tables taken apart: `healthcheck.interval` -> its value; an empty table is named too."""
    if not isinstance(value, dict) or not value:
        return {name: shown(value) if value else ""}
    parts: dict[str, str] = {}
    for key, inner in value.items():
        parts |= flat(inner, f"{name}.{key}")
    return parts
