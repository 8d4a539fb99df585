"""Judges a model's Python files before anything runs them: every file is read, and none is executed.

`judge.py --reader SCRIPT [--path DIR]... [--file NAME]... [--network refuse|allow] FOLDER RECORD`: SCRIPT is
code_reader.py, as its path or as its text; DIR holds modules beside those of this image; NAME is a file that
stands where the remote code would download it. RECORD keeps the files and what is known of them, once approved.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import hashlib
import io
import itertools
import json
import os
import posixpath
import re
import signal
import stat
import subprocess
import sys
import tokenize
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

# Exit codes; fetch.py and serve.py have 20 to 27, node.py 30 to 38, with_api_key.py 40.
MISSING, NETWORK, UNREADABLE = 50, 51, 52
MOST_BYTES, MOST_JSON_BYTES, MOST_RECORD_BYTES, MOST_FILES = 1 << 20, 64 << 20, 256 << 20, 200
READER_S, DIFF_S = 60, 5
SHOWN, DIFF_LINES, LINE = 5, 40, 300
# The classes that vLLM has itself for every model of the kit: it never loads the remote ones.
NOT_LOADED = "AutoModel"
# Where the package of a module has another name.
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML"}
AGAIN = (
    "let Kubernetes start the pod again"
    if "KUBERNETES_SERVICE_HOST" in os.environ
    else "run `docker compose up -d`"
)


class Unclear(Exception):
    """Why a file cannot be judged."""


class Options(argparse.Namespace):
    """The command line."""

    reader: str
    path: list[str]
    file: list[str]
    network: str
    folder: Path
    record: Path


class Code(NamedTuple):
    """One file: its text ('' where it cannot be read), SHA-256, what code_reader.py knows, or the fault."""

    text: str
    sha256: str
    facts: dict[str, Any]
    fault: str

    def lines(self, kind: str) -> list[tuple[int, str]]:
        """Return the notes of one kind."""
        return [(line, text) for line, text in self.facts.get(kind, ())]


class Problem(NamedTuple):
    """What keeps the remote code from being loaded: an exit code, and where and what."""

    code: int
    what: str


REMEDIES = {
    MISSING: "render with `--extra-packages fetch`, or with an image of your own that has it",
    NETWORK: "`serve` has no way out of the network, so the start would hang or fail: bring what it downloads in an "
    "image of your own, or set REMOTE_CODE_NETWORK=allow in .env to start anyway",
    UNREADABLE: "name a revision whose files are whole, or a folder of your own with --weights",
}


def say(text: str, *, error: bool = False) -> None:
    """Print one line of the container's log without what steers a terminal; it comes from hostile files."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    print(f"judge: {line}", file=sys.stderr if error else sys.stdout, flush=True)


def plain(name: str) -> str:
    """Return a file's name without what would read as a sentence of ours."""
    return re.sub(r"[^\w./@+-]", "?", name)[:LINE]


# --- reading files ---


def read_bytes(path: Path, roots: Iterable[Path], most_bytes: int) -> tuple[bytes, str]:
    """Return the first bytes of a regular file below the roots and its SHA-256; raises Unclear for another."""
    try:
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(root) for root in roots):
            raise Unclear("it is a link to elsewhere")
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unclear("it is no regular file")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return file.read(most_bytes), digest
    except (OSError, RuntimeError) as error:
        raise Unclear(
            f"it cannot be read ({getattr(error, 'strerror', None) or 'a loop of links'})"
        ) from None


def decode(content: bytes) -> str:
    """Return the text, which transformers reads as UTF-8; raises Unclear where Python would run another one."""
    if len(content) > MOST_BYTES:
        raise Unclear(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = content.decode()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        same = content.decode(encoding) == text
    except (ValueError, LookupError, SyntaxError):
        raise Unclear("it is not UTF-8, or declares another encoding") from None
    if not same:
        raise Unclear(f"it declares the encoding {encoding}, in which it is another program")
    return text


def ask(reader: str, text: str, guards: list[str], placed: list[str]) -> dict[str, Any]:
    """Return what the reader knows of a text, or a fault: the parser of Python may end its process."""
    question = json.dumps({"source": text, "guards": guards, "placed": placed})
    command = [sys.executable, "-I", "-c", reader]
    try:
        done = subprocess.run(  # noqa: S603 - the stack's own script
            command, input=question, capture_output=True, text=True, timeout=READER_S, check=False
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {"fault": "the parser of Python breaks down on it, or takes too long"}
    return dict(answer)


class Folder:
    """The Python files of a model, each read once."""

    def __init__(self, options: Options) -> None:
        self.path, self.options = options.folder, options
        real = options.folder.resolve()
        # A snapshot of huggingface_hub is a folder of links to its blobs.
        blobs = [real.parent.parent / "blobs"] if real.parent.name == "snapshots" else []
        self.roots = [real, *blobs]
        self.guards = names_of_transformers()
        self.files: dict[str, Code] = {}
        self.cut = False

    def code(self, name: str) -> Code:
        """Return one file; a fault of it is kept in it."""
        if name not in self.files:
            self.files[name] = self.read(name)
        return self.files[name]

    def read(self, name: str) -> Code:
        """Read one file and ask about it."""
        sha256, text, facts, fault = "", "", {}, ""
        try:
            content, sha256 = read_bytes(self.path / name, self.roots, MOST_BYTES + 1)
            text = decode(content)
            facts = ask(self.options.reader, text, self.guards, self.options.file)
            fault = str(facts.get("fault", ""))
        except Unclear as error:
            fault = str(error)
        return Code(text, sha256, facts, fault)

    def names(self) -> list[str]:
        """Name the Python files, without following links to other folders."""
        walk = (
            os.path.relpath(os.path.join(top, name), self.path)
            for top, folders, names in os.walk(self.path)
            for name in names
            if name.endswith(".py")
        )
        names = sorted(itertools.islice(walk, MOST_FILES + 1))
        self.cut = len(names) > MOST_FILES
        return names[:MOST_FILES]

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        with contextlib.suppress(ValueError):
            return name in self.files or os.path.lexists(self.path / name)
        return False


def names_of_transformers() -> list[str]:
    """Return the functions behind which transformers takes imports for optional: what its import_utils has."""
    spec = PathFinder.find_spec("transformers")
    path = Path(spec.origin or "").parent / "utils" / "import_utils.py" if spec else Path(os.devnull)
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        return sorted(defined(ast.parse(path.read_bytes())))
    return []


def defined(tree: ast.Module) -> set[str]:
    """Return the names that a module of ours gives itself, but for its functions' own."""
    names: set[str] = set()
    nodes = deque[ast.AST](tree.body)
    while nodes:
        node = nodes.popleft()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        nodes.extend(ast.iter_child_nodes(node))
    return names


# --- what will be loaded ---


def entries(folder: Folder, problems: list[Problem]) -> Iterator[tuple[str, str]]:
    """Yield the name of each JSON file with an auto_map and the class that it names; one that cannot be read is a problem."""
    for path in sorted({folder.path / "config.json", *folder.path.glob("*_config.json")}):
        try:
            content, _ = read_bytes(path, folder.roots, MOST_JSON_BYTES)
            auto_map = json.loads(content).get("auto_map") or {}
            pairs = auto_map.items() if isinstance(auto_map, dict) else [("AutoTokenizer", auto_map)]
        except (Unclear, ValueError, AttributeError, RecursionError):
            unknown = f"{path.name} cannot be read, so what it loads is not known"
            if os.path.lexists(path):
                problems.append(Problem(UNREADABLE, unknown))
            else:
                say(unknown)
            continue
        for kind, classes in pairs:
            if not kind.startswith(NOT_LOADED):
                listed = classes if isinstance(classes, list) else [classes]
                yield from ((path.name, name) for name in listed if isinstance(name, str))


def loaded_files(folder: Folder) -> tuple[list[str], list[Problem]]:
    """Return the files that transformers will load for vLLM, and what is wrong with their names."""
    waiting, loaded = deque[tuple[str, str]](), list[str]()
    problems: list[Problem] = []
    for place, name in entries(folder, problems):
        module, _, _ = name.rpartition(".")
        if "--" in name or "." in module:
            problems.append(Problem(UNREADABLE, f"{place} takes {plain(name)} from elsewhere"))
        else:
            waiting.append((f"{module}.py", place))
    while waiting:
        name, place = waiting.popleft()
        if name in loaded:
            continue
        if not folder.has(name):
            problems.append(Problem(UNREADABLE, f"{plain(place)} needs {plain(name)}, which is not there"))
            continue
        loaded.append(name)
        for line, path in folder.code(name).lines("relative"):
            beside = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            package = f"{beside}/__init__.py"
            waiting.append((package if folder.has(package) else f"{beside}.py", f"{name}:{line}"))
    return loaded, problems


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
    folder = Folder(options)
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


def script(text: str) -> str:
    """Return the text of a script that is given by its path; one that is inlined is the text itself."""
    return Path(text).read_text() if text.endswith(".py") else text


def main(arguments: list[str]) -> int:
    """Judge the files; each kind of problem ends in a one-line error."""
    parser = argparse.ArgumentParser("judge")
    parser.add_argument("--reader", required=True, type=script)
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
