"""Derives a version's catalog file from the version before, and lists what a person must decide about it."""

from __future__ import annotations

import filecmp
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of the version before alone: what was proven of it, what served it, and what moved since its own predecessor.
LEFT_OUT = ("proofs", "cpu_build", "changes")
PATH = r"(?<![\w./-])[\w.-]{1,100}/[\w./-]{0,200}\w"
NO_PROOFS = "# Nothing is proven of it yet.\nproofs = []\n"

Decisions = dict[str, list[str]]


@dataclass(frozen=True)
class Step:
    """From one version to the next, with the folders that hold the Python of each."""

    old: str
    new: str
    old_tree: Path
    new_tree: Path

    def derived(self, text: str) -> str:
        """The new version's file: images by the new tag, sources by the new version where it has the file too."""
        kept = "".join(block for block in blocks(text) if table_of(block) not in LEFT_OUT)
        kept = kept.replace(f'version = "{self.old}"', f'version = "{self.new}"', 1)
        kept = re.sub(rf"(:v){re.escape(self.old)}\b", rf"\g<1>{self.new}", kept)
        kept = re.sub(rf"vLLM {re.escape(self.old)} ({PATH})", self._moved, kept)
        head, images, rest = kept.partition("[images.")
        return f"{head}{NO_PROOFS}\n{images}{rest}".rstrip("\n") + "\n"

    def _moved(self, citation: re.Match[str]) -> str:
        version = self.new if (self.new_tree / citation[1]).exists() else self.old
        return f"vLLM {version} {citation[1]}"

    def decisions(self, text: str) -> Decisions:
        """What a person must decide, by the table of the file: what nobody can derive, and what lost its source."""
        found: Decisions = {name: [sentence] for name, sentence in ALWAYS.items()}
        for table, paths in cited(tomllib.loads(text), self.old).items():
            for path in paths:
                if fate := self._fate(path):
                    found.setdefault(table, []).append(fate)
        return found

    def _fate(self, path: str) -> str:
        new, old = self.new_tree / path, self.old_tree / path
        if not new.exists():
            return f"{path} is gone: find where it is now, or leave out what it was the source of"
        if old.is_file() and filecmp.cmp(old, new, shallow=False):
            return ""
        return (
            f"{path} is another one: read it again"
            if old.is_file()
            else f"{path}: read it, no older one is here"
        )


ALWAYS = {
    "images": "which images there are, the CUDA or ROCm they hold, and the oldest driver they run on",
    "proofs": "what was proven of it, and when: `parsed` and `configured` after this verdict, `served` after a rehearsal",
    "changes": "what the same command line does otherwise: flags whose default moved, speed, the benchmark's client",
    "lifetimes": "which flags it deprecates: its log and help say so",
    "expected_warnings": "the reason of each warning that the verdict shows",
}


def blocks(text: str) -> Iterator[str]:
    """The file in parts that each hold one table, with the comment before it."""
    comment = ""
    for part in re.split(r"(?m)^(?=\[)", text):
        body = without_last_comment(part)
        yield comment + body
        comment = part.removeprefix(body)


def without_last_comment(part: str) -> str:
    """A part of the file without the comment at its end, which belongs to the table after it."""
    lines = part.splitlines(keepends=True)
    end = len(lines) - (lines[-1:] == ["\n"])
    begin = end
    while begin and lines[begin - 1].startswith("#"):
        begin -= 1
    return part if begin == end else "".join(lines[:begin])


def table_of(block: str) -> str:
    """The top table that a part of the file belongs to."""
    match = re.search(r"(?m)^\[\[?(\w+)", block)
    return match[1] if match else ""


def cited(data: dict[str, Any], version: str) -> dict[str, list[str]]:
    """Table -> the files of that version's source that its facts are taken from, each once."""
    found: dict[str, list[str]] = {}
    for table, value in data.items():
        if table not in LEFT_OUT:
            paths = [path for text in texts(value) for path in paths_in(text, version)]
            found[table] = list(dict.fromkeys(paths))
    return found


def paths_in(text: str, version: str) -> list[str]:
    """The files that a source cites of vLLM's own tree."""
    _, known, cited_text = text.partition(f"vLLM {version} ")
    return [path for path in re.findall(PATH, cited_text) if path.partition("/")[0] in TREES] if known else []


TREES = ("vllm", "docs", "docker", ".buildkite")


def texts(value: Any) -> Iterator[str]:
    """Every string in a value of TOML."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value
