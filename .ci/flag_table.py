"""Prints the flags of vLLM's own parsers as TOML, for ernie_deploy/catalog/engines/<version>.flags.toml."""

from __future__ import annotations

import argparse
import enum
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

HEADER = """\
# The flags of `vllm serve` and `vllm bench serve`, read from vLLM's own parsers.
# Made by `python .ci/flag_table.py`, with a python that has vLLM; do not edit.
"""

TYPE_NAMES = {
    "loads": "json",
    "parse_dataclass": "json",
    "union_dict_and_str": "json-or-str",
    "human_readable_int": "human-int",
    "human_readable_int_or_auto": "human-int",
    "check_port": "int",
    "<lambda>": "str",
    "_parse_mm_bucket_config": "json",
    "parse_reasoning_parser": "str",
}

# Flags that take any text, whose configuration then takes these alone.
CONFIGURED = {"kv_cache_dtype": ("vllm.config.cache", "CacheDType")}

Row = tuple[str, dict[str, Any]]


def serve_parser() -> argparse.ArgumentParser:
    """Make vLLM's parser of `vllm serve`."""
    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser
    except ImportError:  # before 0.33.0
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())
    return parser


def bench_parser() -> argparse.ArgumentParser:
    """Make vLLM's parser of `vllm bench serve`."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = FlexibleArgumentParser()
    add_cli_args(parser)
    return parser


def unwrapped(converter: Any) -> Any:
    """Return the converter inside vLLM's wrappers."""
    # vLLM wraps converters in closures (optional_type, parse_type); the wrapped one says the type.
    while getattr(converter, "__name__", "") in ("_optional_type", "_parse_type"):
        converter = inspect.getclosurevars(converter).nonlocals["return_type"]
    return converter


def type_name(action: argparse.Action) -> str:
    """Name what a flag's value is converted to."""
    if action.type is None:
        return "str"
    name = getattr(unwrapped(action.type), "__name__", type(action.type).__name__)
    known = {"int", "float", "str"} | set(TYPE_NAMES.values())
    name = TYPE_NAMES.get(name, name)
    if name not in known:
        raise SystemExit(f"{action.option_strings}: no name for its type {name!r}; add it to TYPE_NAMES")
    return name


def kind(action: argparse.Action) -> str:
    """Tell how many values a flag takes."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "boolean"
    if action.nargs == 0:
        return "switch"
    by_nargs = {None: "value", "?": "optional", "*": "list", "+": "list"}
    return by_nargs[action.nargs]  # type: ignore[index]


def choices(action: argparse.Action) -> list[Any]:
    """Return a flag's choices, sorted."""
    # Some of vLLM's choices are sets: only sorted ones are the same on every run.
    values: Iterable[Any] = action.choices or configured(action)
    named = ("None" if value is None else value for value in values)
    return sorted(named, key=lambda value: (value if isinstance(value, int) else 0, str(value)))


def configured(action: argparse.Action) -> Iterable[Any]:
    """Return the values that only vLLM's configuration holds a flag to."""
    module, name = CONFIGURED.get(action.dest, ("", ""))
    return get_args(getattr(importlib.import_module(module), name)) if module else ()


def long_names(action: argparse.Action) -> list[str]:
    """Return a flag's --names, the main one first, without those that mean the opposite."""
    names = [name for name in action.option_strings if name.startswith("--")]
    if isinstance(action, argparse.BooleanOptionalAction):
        opposite = set(opposites(action))
        return [name for name in names if not name.startswith("--no-") and name not in opposite]
    return names


def opposites(action: argparse.Action) -> list[str]:
    """Return the --names that switch a flag off; its --no- form is left out, for every boolean has it."""
    # From 0.33.0 vLLM pairs --enable-x with --disable-x (EnableDisableAction in its argparse_utils).
    names = sorted(getattr(action, "negative_option_strings", ()))
    return [name for name in names if not name.startswith("--no-")]


def default(action: argparse.Action) -> str:
    """Return what holds without the flag, as it would be written; empty for off, nothing, or what vLLM decides later."""
    value = action.default.value if isinstance(action.default, enum.Enum) else action.default
    if value is False or not is_plain(value):
        return ""
    return json.dumps(value) if isinstance(value, list | tuple | bool) else str(value)


def is_plain(value: Any) -> bool:
    """Tell whether a value can be written down: a text, a number, a truth, or a list of these."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return isinstance(value, str | int | float) and value != argparse.SUPPRESS


def entry(action: argparse.Action) -> dict[str, Any]:
    """Describe one flag."""
    fields: dict[str, Any] = {"kind": kind(action)}
    if fields["kind"] not in ("switch", "boolean"):
        fields["type"] = type_name(action)
    fields["short"] = sorted(name for name in action.option_strings if not name.startswith("--"))
    fields["aliases"] = long_names(action)[1:]
    fields["negatives"] = opposites(action)
    fields["choices"] = choices(action)
    fields["default"] = default(action)
    return {key: value for key, value in fields.items() if value}


def rows(parser: argparse.ArgumentParser) -> Iterator[Row]:
    """Describe every flag of a parser but --help."""
    for action in parser._actions:  # noqa: SLF001 - argparse lists them nowhere else
        if action.option_strings and action.dest != "help":
            yield long_names(action)[0], entry(action)


def steady(make: Callable[[], argparse.ArgumentParser]) -> list[Row]:
    """Describe the flags of a parser; a default that is another one each time is left out."""
    first, second = (dict(rows(make())) for _ in range(2))
    return [
        (
            name,
            {
                key: value
                for key, value in fields.items()
                if key != "default" or second[name].get(key) == value
            },
        )
        for name, fields in first.items()
    ]


def toml_line(row: Row) -> str:
    """Write one flag as a line."""
    # A TOML basic string and a JSON string are written alike for the ASCII of flag names.
    name, fields = row
    body = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    return f"{json.dumps(name)} = {{ {body} }}"


def table(title: str, make: Callable[[], argparse.ArgumentParser]) -> str:
    """Write one parser as a table."""
    return "\n".join([f"[{title}]", *map(toml_line, sorted(steady(make)))]) + "\n"


def main() -> None:
    """Print the whole file."""
    import vllm

    version = json.dumps(vllm.__version__.split("+")[0])
    tables = [table("serve", serve_parser), table("bench", bench_parser)]
    sys.stdout.write("\n".join([f"{HEADER}\nversion = {version}\n", *tables]))


if __name__ == "__main__":
    main()
