"""Prints in which releases of vLLM each flag of `vllm serve` stands, for ernie_deploy/catalog/engines/history.toml.

    python .ci/flag_history.py FOLDER > ernie_deploy/catalog/engines/history.toml

FOLDER holds one folder a release, named after it, with the release's own package `vllm` in it. The sources are
read and never run: old releases import nothing that is still to be had. `.ci/add-engine` adds a release to the file.
"""

from __future__ import annotations

import ast
import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

HEADER = """\
# Every flag of `vllm serve` with the releases that have it, [first, last] of each run; no last: the newest has it.
# `switch` says that it took no value. Made by `python .ci/flag_history.py`; do not edit.
"""
SOURCE = (
    "vllm/engine/arg_utils.py and the parser of `vllm serve` in the sdist or wheel of each release on PyPI"
)
PLACES = (
    "engine/arg_utils.py",
    "entrypoints/cli/serve.py",
    "entrypoints/openai/cli_args.py",
    "entrypoints/launchers/cli_args.py",
    "entrypoints/common/cli_args.py",
)
OPPOSITE = {"--enable-": "--disable-", "--disable-": "--enable-"}
# Since when vLLM's parser pairs the two (EnableDisableAction in its argparse_utils).
PAIRED_SINCE = (0, 33, 0)

Flags = dict[str, bool]
Release = tuple[str, Flags]


def order(release: str) -> tuple[int, ...]:
    """Order releases by their numbers."""
    return tuple(int(part) for part in release.split(".")[:3])


def trees(folder: Path) -> list[ast.Module]:
    """Parse the files of one release that give its parser flags."""
    paths = [folder / "vllm" / place for place in PLACES]
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def flags(folder: Path, release: str) -> Flags:
    """Map the flags of the release that lies in a folder to whether they are switches."""
    nodes = [node for tree in trees(folder) for node in ast.walk(tree)]
    fields: Flags = {}
    for node in nodes:
        if isinstance(node, ast.ClassDef) and node.name.endswith(("EngineArgs", "FrontendArgs")):
            fields |= dict(of_class(node))
    taken: Flags = {}
    paired: Flags = {}
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = {name: fields.get(name, False) or is_switch(node) for name in spellings(node)}
            taken |= names
            # What says store_true has no opposite, not even the one with --no-.
            paired |= {} if "store_" in ast.unparse(node) else names
        elif isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
            taken |= dict(of_class(node))
            paired |= dict(of_class(node))
    return taken | opposites(paired, release)


def opposites(taken: Flags, release: str) -> Flags:
    """Name the other half of each pair, where the release has pairs."""
    if order(release) < PAIRED_SINCE:
        return {}
    pairs = [
        (name, begin)
        for name, switch in taken.items()
        for begin in OPPOSITE
        if switch and name.startswith(begin)
    ]
    return {OPPOSITE[begin] + name.removeprefix(begin): True for name, begin in pairs}


def spellings(call: ast.Call) -> Iterator[str]:
    """Return the --names in one `add_argument`."""
    for argument in call.args:
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--"):
            yield str(argument.value).replace("_", "-")


def is_switch(call: ast.Call) -> bool:
    """Tell whether an `add_argument` says store_true, or vLLM's own StoreBoolean."""
    actions = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "action"]
    return any("store_" in action or "Boolean" in action for action in actions)


def of_class(node: ast.ClassDef) -> Iterator[tuple[str, bool]]:
    """Return the fields of a class of arguments as flags; those of bool are switches."""
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = ast.unparse(line.annotation)
            yield (
                f"--{line.target.id.replace('_', '-')}",
                kind.removesuffix(" | None") in ("bool", "Optional[bool]"),
            )


def runs(name: str, releases: list[Release]) -> list[list[str]]:
    """Return first and last release of each run of releases that have the flag."""
    spans: list[list[str]] = []
    before = False
    for release, taken in releases:
        here = name in taken
        if here and not before:
            spans.append([release, release])
        elif here:
            spans[-1][1] = release
        before = here
    if before:
        spans[-1].pop()
    return spans


def toml_line(name: str, releases: list[Release]) -> str:
    """Write one flag as a line."""
    switch = any(taken.get(name) for _, taken in releases)
    spans = f"spans = {json.dumps(runs(name, releases))}"
    return f"{json.dumps(name)} = {{ {'switch = true, ' if switch else ''}{spans} }}"


def known_releases(text: str) -> list[Release]:
    """The releases of a history with their flags."""
    history = tomllib.loads(text)
    rows = history["flags"].items()
    return [
        (release, {name: row.get("switch", False) for name, row in rows if stands(row["spans"], release)})
        for release in history["releases"]
    ]


def stands(spans: list[list[str]], release: str) -> bool:
    """Tell whether a release is in one of the runs."""
    here = order(release)
    return any(order(first) <= here and all(here <= order(end) for end in last) for first, *last in spans)


def with_release(text: str, release: str, folder: Path) -> str:
    """The history with the release that lies in a folder, in the place of what it had of it."""
    return history_of([*without(text, release), (release, flags(folder, release))])


def without(text: str, release: str) -> list[Release]:
    """The other releases of a history."""
    return [(name, taken) for name, taken in known_releases(text) if name != release]


def history_of(unsorted: list[Release]) -> str:
    """Write the whole file."""
    releases = sorted(unsorted, key=lambda release: order(release[0]))
    names = sorted({name for _, taken in releases for name in taken})
    lines = [
        f"source = {json.dumps(SOURCE)}",
        f"releases = {json.dumps([name for name, _ in releases])}",
        "",
        "[flags]",
    ]
    return "\n".join([HEADER, *lines, *(toml_line(name, releases) for name in names)]) + "\n"


def main() -> None:
    """Print the whole file."""
    folders = Path(sys.argv[1]).iterdir()
    sys.stdout.write(history_of([(folder.name, flags(folder, folder.name)) for folder in folders]))


if __name__ == "__main__":
    main()
