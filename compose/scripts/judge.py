"""Judges a model's Python files before anything runs them: every file is read, and none is executed.

`judge.py [--path DIR]... [--file NAME]... [--network refuse|allow] FOLDER RECORD`: DIR holds modules beside those of
this image; NAME is a file that stands where the remote code would download it. RECORD keeps the files and what is
known of them, once approved.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import itertools
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
from model_code import (
    LINE,
    MISSING,
    MOST_FILES,
    NETWORK,
    READER,
    UNREADABLE,
    Code,
    Folder,
    Problem,
    Unclear,
    loaded_files,
    plain,
    read_bytes,
    say,
)

# The stack's own scripts are no modules of the image: `is_there` must not find them.
sys.path.pop(0)

MOST_RECORD_BYTES = 256 << 20
DIFF_S = 5
SHOWN, DIFF_LINES = 5, 40
# Where the package of a module has another name.
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML"}
AGAIN = (
    "let Kubernetes start the pod again"
    if "KUBERNETES_SERVICE_HOST" in os.environ
    else "run `docker compose up -d`"
)
REMEDIES = {
    MISSING: "render with `--extra-packages fetch`, or with an image of your own that has it",
    NETWORK: "`serve` has no way out of the network, so the start would hang or fail: bring what it downloads in an "
    "image of your own, or set REMOTE_CODE_NETWORK=allow in .env to start anyway",
    UNREADABLE: "name a revision whose files are whole, or a folder of your own with --weights",
}


class Options(argparse.Namespace):
    """The command line."""

    path: list[str]
    file: list[str]
    network: str
    folder: Path
    record: Path


# --- what is wrong with it ---


def is_there(module: str, paths: list[str]) -> bool:
    """Tell whether a module could be imported, without importing it."""
    path = [*sys.path, *paths]
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):
            if finder.find_spec(module, path if finder is PathFinder else None):
                return True
    # The package of the remote code itself.
    return module == "transformers_modules"


def missing(code: Code, kind: str, paths: list[str]) -> dict[str, int]:
    """Return the modules that are not there, each with the first line that needs it."""
    return {name: line for line, name in reversed(code.lines(kind)) if not is_there(name, paths)}


class Reached(NamedTuple):
    """A call over the network while a file is imported; `placed` is the file that keeps it from happening."""

    line: int
    call: str
    placed: str


def network_at_import(name: str, loaded: dict[str, Code]) -> list[Reached]:
    """Follow the calls of a module's statements, by name, through all files that are loaded with it."""
    start = (name, "", False, frozenset[str]())
    waiting, seen, reached = deque([start]), {start}, {}
    while waiting:
        file, function, guarded, files = waiting.popleft()
        for line, target, guard, names in loaded[file].facts.get("calls", {}).get(function, ()):
            now, known = guarded or guard, files | set(names)
            if not target.startswith(":"):
                placed = min(known) if now and known else ""
                reached[file, line] = Reached(
                    line, f"{target} in {plain(file)}" if file != name else target, placed
                )
                continue
            for place in places(target[1:], file, loaded):
                if (step := (place, target[1:], now, known)) not in seen:
                    seen.add(step)
                    waiting.append(step)
    return list(reached.values())


def places(function: str, file: str, loaded: dict[str, Code]) -> list[str]:
    """Name the files that have a function: its own, or all others, whence it may be imported."""
    having = [name for name, code in loaded.items() if function in code.facts.get("calls", {})]
    return [file] if file in having else having


def problems_of(name: str, code: Code, calls: list[Reached], options: Options) -> Iterator[Problem]:
    """Yield what keeps a file that is loaded from being so."""
    if code.fault:
        yield Problem(UNREADABLE, f"{plain(name)} is loaded and cannot be judged: {code.fault}")
    for module, line in sorted(missing(code, "imports", options.path).items(), key=lambda item: item[1]):
        package = PACKAGES.get(module, module)
        yield Problem(
            MISSING, f"{plain(name)}:{line} imports {module} (package {package}), which this image has not"
        )
    for call in calls if options.network == "refuse" else ():
        if not call.placed:
            yield Problem(NETWORK, f"{plain(name)}:{call.line} calls {call.call} while it is imported")


# --- what is shown ---


def shown(lines: Iterable[str]) -> str:
    """Join the first of many."""
    words = list(dict.fromkeys(lines))
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(word[:LINE] for word in words[:SHOWN]) + more


def describe(name: str, code: Code, calls: list[Reached] | None, options: Options) -> str:
    """Return the one line about a file; `calls` is None where nothing loads it."""
    lacking = [*missing(code, "imports", options.path)]
    lacking += [f"{module} (optional)" for module in missing(code, "optional", options.path)]
    network = [
        f"{c.line} {c.call}{f' (not with {c.placed} in place)' if c.placed else ''}" for c in calls or ()
    ]
    parts = {
        "cannot be judged: ": code.fault,
        "imports what is not here: ": shown(lacking),
        "network while imported: line ": shown(network),
        "addresses: ": shown(text for _, text in code.lines("addresses")),
        "writes: line ": shown(f"{line} {text}" for line, text in code.lines("writes")),
        "not judged: line ": shown(f"{line} {text}" for line, text in code.lines("unclear")),
    }
    facts = "; ".join(label + text for label, text in parts.items() if text) or "nothing to note"
    return f"{plain(name)} {code.sha256[:12]} ({'not ' if calls is None else ''}loaded): {facts}"


def difference(name: str, before: Any, code: Code | None) -> Iterator[str]:
    """Yield how a file differs from the approved one, in a bounded number of lines."""
    old = str(before.get("text", "")) if isinstance(before, dict) else ""
    if code is None or before is None:
        yield f"{plain(name)} {'is gone' if code is None else 'is new'} since the last approval"
    elif before.get("sha256") != code.sha256:
        yield f"{plain(name)} changed since the last approval"
        yield from unified(old, code.text)


def unified(old: str, new: str) -> list[str]:
    """Return the first lines of a difference; a hostile one takes difflib for ever."""

    def end(*_: object) -> NoReturn:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(DIFF_S)
    try:
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "approved", "now", n=1, lineterm="")
        first = [line[:LINE] for line in itertools.islice(lines, DIFF_LINES + 1)]
    except TimeoutError:
        return ["  (too different to be shown)"]
    finally:
        signal.alarm(0)
    return [f"  {line}" for line in first[:DIFF_LINES]] + ["  ..."] * (len(first) > DIFF_LINES)


# --- the record ---


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the approved files; what is no record counts as none."""
    try:
        content, _ = read_bytes(path, [path.parent.resolve()], MOST_RECORD_BYTES)
        files = json.loads(content)["files"]
        return {str(name): entry for name, entry in files.items() if isinstance(entry, dict)}
    except (Unclear, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def write_record(path: Path, folder: Folder, loaded: Iterable[str]) -> None:
    """Replace the record in one step."""
    files = {
        name: {"sha256": code.sha256, "loaded": name in loaded, "fault": code.fault, "text": code.text}
        | {kind: notes for kind, notes in code.facts.items() if kind not in ("calls", "fault")}
        for name, code in sorted(folder.files.items())
    }
    fresh = path.with_suffix(".new")
    # `serve` may write to this folder: what it left under the name is not written to, but taken away.
    fresh.unlink(missing_ok=True)
    with fresh.open("x") as file:
        file.write(json.dumps({"files": files}, indent=1) + "\n")
    fresh.replace(path)


# --- the verdict ---


def judge(options: Options) -> list[Problem]:
    """Show what the files do, and return what keeps them from being loaded."""
    # A stack without it would blame each file of the model.
    READER.stat()
    folder = Folder(options.folder, options.file)
    names = folder.names()
    for name in names:
        folder.code(name)
    loaded, problems = loaded_files(folder)
    code = {name: folder.code(name) for name in loaded}
    calls = {name: network_at_import(name, code) for name in loaded}
    before = read_record(options.record)
    for name in sorted({*folder.files, *(before or ())}) if before is not None else ():
        for line in difference(name, (before or {}).get(name), folder.files.get(name)):
            say(line)
    for name, file in sorted(folder.files.items()):
        say(describe(name, file, calls.get(name), options))
    if folder.cut:
        say(f"there are more than {MOST_FILES} Python files; the others are not judged")
    for name in loaded:
        problems += problems_of(name, code[name], calls[name], options)
    if not problems:
        write_record(options.record, folder, loaded)
    return problems


def main(arguments: list[str]) -> int:
    """Judge the files; each kind of problem ends in a one-line error."""
    parser = argparse.ArgumentParser("judge")
    parser.add_argument("--path", action="append", default=[])
    parser.add_argument("--file", action="append", default=[])
    parser.add_argument("--network", choices=("refuse", "allow"), default="refuse")
    parser.add_argument("folder", type=Path)
    parser.add_argument("record", type=Path)
    try:
        problems = judge(parser.parse_args(arguments, Options()))
    except OSError as error:
        problems = [Problem(UNREADABLE, f"{error.filename} cannot be read or written ({error.strerror})")]
    for kind, remedy in REMEDIES.items():
        if found := [problem.what for problem in problems if problem.code == kind]:
            say(f"{shown(found)}: {remedy}, then {AGAIN}", error=True)
    return min((problem.code for problem in problems), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
