"""The Python files of a model, each read once and never executed, and which of them transformers will load."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import itertools
import json
import os
import posixpath
import re
import stat
import subprocess
import sys
import tokenize
from collections import deque
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

READER = Path(__file__).with_name("code_reader.py")
# Exit codes; fetch.py and serve.py have 20 to 27, node.py 30 to 38, with_api_key.py 40.
MISSING, NETWORK, UNREADABLE = 50, 51, 52
MOST_BYTES, MOST_JSON_BYTES, MOST_FILES = 1 << 20, 64 << 20, 200
READER_S = 60
LINE = 300
# The classes that vLLM has itself for every model of the kit: it never loads the remote ones.
NOT_LOADED = "AutoModel"


class Unclear(Exception):
    """Why a file cannot be judged."""


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


def say(text: str, *, error: bool = False) -> None:
    """Print one line of the container's log without what steers a terminal; it comes from hostile files."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    print(f"judge: {line}", file=sys.stderr if error else sys.stdout, flush=True)


def plain(name: str) -> str:
    """Return a file's name without what would read as a sentence of ours."""
    return re.sub(r"[^\w./@+-]", "?", name)[:LINE]


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


def ask(text: str, guards: list[str], placed: list[str]) -> dict[str, Any]:
    """Return what the reader knows of a text, or a fault: the parser of Python may end its process."""
    question = json.dumps({"source": text, "guards": guards, "placed": placed})
    command = [sys.executable, "-I", str(READER)]
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

    def __init__(self, folder: Path, placed: list[str]) -> None:
        self.path, self.placed = folder, placed
        real = folder.resolve()
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
            facts = ask(text, self.guards, self.placed)
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
