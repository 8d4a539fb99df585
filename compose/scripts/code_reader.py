"""Parses one Python file in a process of its own and never runs it: JSON in, JSON out.

In: `source`, `guards` (names of functions behind which transformers takes an import for optional), `placed` (files
that stand where the code would download them). Out: lines with what the file imports, names, writes and hides,
and for each function (`calls`; '' is the module) what it calls; or `fault`, why it cannot be judged.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import resource
import sys
import warnings
from collections import ChainMap, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

MOST_MEMORY_BYTES, MOST_CPU_S = 2 << 30, 20
MOST_NOTES, LONGEST = 200, 300
# Links of a.b().c, parts of a join, and nodes among which a file's name is looked for.
LONGEST_CHAIN = 64
MOST_NODES = 200
ADDRESS = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s'\"<>\\^`|]{1,300}|(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])"
)


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Dotted names; what is not known by an import begins with a colon.
NETWORK_MODULES = names(
    "aiohttp boto3 ftplib gdown http httplib2 httpx paramiko pycurl requests smtplib socket telnetlib urllib urllib3 "
    "websocket websockets wget xmlrpc"
)
NETWORK_PARTS = ("torch.hub.", "nltk.download", "huggingface_hub.HfApi.", "huggingface_hub.HfFileSystem.")
NETWORK_FUNCTIONS = names(
    "cached_download cached_file download_url_to_file from_pretrained hf_hub_download load_dataset "
    "load_state_dict_from_url snapshot_download urlopen urlretrieve"
)
HARMLESS_PARTS = ("urllib.parse.", "urllib.error.", "requests.utils.")
HARMLESS = names(
    "requests.session socket.getdefaulttimeout socket.gethostname socket.setdefaulttimeout socket.socket "
    "urllib.request.build_opener urllib.request.install_opener"
)
WRITING_MODULES, NOT_WRITING = (
    ("shutil.", "tempfile."),
    ("which", "disk_usage", "gettempdir", "get_terminal_size"),
)
WRITING_OS = names("chmod link mkfifo mknod open remove rename renames replace symlink truncate")
WRITING_METHODS = names(
    "VideoWriter download_url_to_file hardlink_to imwrite makedirs mkdir rmdir rmtree save savefig savez symlink_to to_csv "
    "touch unlink urlretrieve write_bytes write_text write_videofile"
)
MODE = re.compile("[rwaxbt+]{1,4}")
UNCLEAR = re.compile(
    r":(?:exec|eval|compile|globals|__import__|__builtins__)|(?:builtins|subprocess|runpy|ctypes|cffi|pty)\.[\w*?]+"
    r"|importlib\.(?:import_module|reload|machinery\.\w+|util\.(?:spec_from|module_from)\w+)|sys\.modules|torch\.load"
    r"|(?:marshal|pickle|dill|cloudpickle)\.loads?|os\.(?:system|popen|fork|exec\w+|spawn\w+|posix_spawn\w*|\*)"
    r"|(?:os|sys|importlib)\.\?"
)
EXISTS = ("exists", "lexists", "isfile", "is_file")
# Run by whoever makes an object of the class.
MADE_BY = ("__new__", "__init__", "__post_init__", "__call__")
# They call a function that they are given.
CALLERS = ("Thread", "Process", "Timer", "map", "filter", "submit", "apply", "run", "partial")

Call = tuple[int, str, bool, list[str]]
Value = tuple[str, frozenset[str]]


class Where(NamedTuple):
    """Around a node: the functions whose calls it makes ('' is the module), names, and what guards it."""

    functions: tuple[str, ...]
    names: ChainMap[str, Value]
    optional: bool = False
    guarded: bool = False
    files: frozenset[str] = frozenset()
    owner: str = ""


class Reader:
    """One pass over a syntax tree, without recursion and with every step bounded: the code may be hostile."""

    def __init__(self, guards: frozenset[str], placed: frozenset[str]) -> None:
        self.guards, self.placed = guards, placed
        self.notes: dict[str, dict[tuple[int, str], None]] = {
            kind: {} for kind in ("imports", "optional", "relative", "addresses", "writes", "unclear")
        }
        self.calls: dict[str, list[Call]] = {}
        # Attributes that come from the network's modules, whichever object has them.
        self.attributes: dict[str, str] = {}
        # Function bodies are read last: they run after the module's statements.
        self.later: deque[tuple[Iterable[ast.AST], Where]] = deque()

    def read(self, tree: ast.Module) -> dict[str, Any]:
        """Return the notes as lists of line and text, and the calls of each function."""
        self.later.append((tree.body, Where(("",), ChainMap())))
        while self.later:
            stack = [self.block(*self.later.popleft())]
            while stack:
                if step := next(stack[-1], None):
                    stack.append(self.visit(*step))
                else:
                    stack.pop()
        return {kind: list(notes) for kind, notes in self.notes.items()} | {"calls": self.calls}

    def note(self, kind: str, node: ast.AST, text: str) -> None:
        """Note a line once, and no more than a person would read."""
        if len(self.notes[kind]) < MOST_NOTES or kind in ("imports", "relative"):
            self.notes[kind][getattr(node, "lineno", 0), text[:LONGEST]] = None

    # --- the walk ---

    def block(self, nodes: Iterable[Any], where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Yield nodes; behind `if exists(...): return`, the rest is guarded by it."""
        for node in nodes:
            if isinstance(node, ast.AST) and not isinstance(node, ast.expr_context):
                yield node, where
            if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Raise):
                where = self.guard(node.test, where)

    def inside(self, node: ast.AST, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Yield the parts of a node in the order of the source."""
        for _, part in ast.iter_fields(node):
            yield from self.block(part if isinstance(part, list) else [part], where)

    def visit(self, node: ast.AST, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Note what a node does; return its parts."""
        method: Callable[[Any, Where], Any] | None = getattr(self, f"on_{type(node).__name__.lower()}", None)
        parts: Iterator[tuple[ast.AST, Where]] | None = method(node, where) if method else None
        return self.inside(node, where) if parts is None else parts

    def on_if(self, node: ast.If, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Read what only a main program or a type checker runs as if nobody called it."""
        if any(self.is_guard(test) for test in ast.walk(node.test)):
            where = where._replace(optional=True)
        if self.is_never(node.test, where):
            self.later.append((node.body, where._replace(functions=())))
            return self.block(node.orelse, where)
        return self.inside(node, self.guard(node.test, where))

    def is_never(self, test: ast.expr, where: Where) -> bool:
        """Tell a condition that holds only elsewhere."""
        match test:
            case ast.Compare(
                left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant(value="__main__")]
            ):
                return True
        return self.dotted(test, where) == "typing.TYPE_CHECKING"

    def is_guard(self, node: ast.AST) -> bool:
        """Tell a condition behind which transformers takes imports for optional."""
        name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        return name in self.guards or (name.endswith("available") and name.startswith("is_flash_attn"))

    def on_try(self, node: ast.Try, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Take imports in it for optional, as transformers does; in `except*` they are not."""
        return self.inside(node, where._replace(optional=True))

    def on_classdef(self, node: ast.ClassDef, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Read its body where it stands, for there it runs."""
        self.decorate(node, where)
        return self.inside(node, where._replace(owner=node.name))

    def on_functiondef(self, node: ast.FunctionDef, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Read decorators and defaults where they stand, the body later."""
        self.decorate(node, where)
        outer = tuple(name for name in where.functions if name)
        made = (where.owner,) if where.owner and node.name in MADE_BY else ()
        inner = Where((node.name, *made, *outer), where.names.new_child(), optional=where.optional)
        self.later.append((node.body, inner))
        return self.block([*node.decorator_list, node.args, node.returns], where)

    on_asyncfunctiondef = on_functiondef

    def decorate(self, node: ast.FunctionDef | ast.ClassDef, where: Where) -> None:
        """Take a bare decorator for the call that it is."""
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call):
                self.called(decorator, self.dotted(decorator, where), where)

    def on_lambda(self, node: ast.Lambda, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Read its body later; where it is called at once, it is read as a part of the call."""
        self.later.append(([node.body], where._replace(functions=())))
        return self.block([node.args], where)

    # --- imports and names ---

    def on_import(self, node: ast.Import, where: Where) -> None:
        """Note modules by their first name, which is what transformers looks for."""
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.note("optional" if where.optional else "imports", node, top)
            where.names[alias.asname or top] = (alias.name if alias.asname else top, frozenset())

    def on_importfrom(self, node: ast.ImportFrom, where: Where) -> None:
        """Note the module, or the file beside this one."""
        for alias in node.names:
            path = ("../" * (node.level - 1)) + (node.module or alias.name).replace(".", "/")
            name = f":{alias.name}" if node.level else f"{node.module}.{alias.name}"
            where.names[alias.asname or alias.name] = (name, frozenset())
            if node.level and path != "*":
                self.note("relative", node, path)
            if UNCLEAR.fullmatch(name) or (alias.name == "*" and is_of_network(name)):
                self.note("unclear", node, name.lstrip(":"))
        if not node.level and node.module:
            self.note("optional" if where.optional else "imports", node, node.module.partition(".")[0])

    def bind(self, target: ast.AST | None, value: ast.AST | None, where: Where) -> None:
        """Remember what a name stands for; once the network, it stays that."""
        name = self.dotted(value, where) if value else ""
        if isinstance(target, ast.Attribute) and is_of_network(name):
            self.attributes[target.attr] = name
        if not isinstance(target, ast.Name) or value is None:
            return
        known = where.names.get(target.id, ("", frozenset()))[0]
        kept = known if known and not known.startswith(":") and (not name or name.startswith(":")) else name
        kept = kept if kept.strip(":") else f":{target.id}"
        where.names[target.id] = (kept, self.mentions([value], where))
        if isinstance(value, ast.Lambda):
            self.later.append(([value.body], where._replace(functions=(target.id,))))

    def on_assign(self, node: ast.Assign, where: Where) -> None:
        """Follow what is assigned to a plain name."""
        for target in node.targets:
            self.bind(target, node.value, where)

    def on_annassign(self, node: ast.AnnAssign | ast.NamedExpr, where: Where) -> None:
        """Follow it likewise."""
        self.bind(node.target, node.value, where)

    on_namedexpr = on_annassign

    def on_withitem(self, node: ast.withitem, where: Where) -> None:
        """Follow `with Session() as session`."""
        self.bind(node.optional_vars, node.context_expr, where)

    def dotted(self, node: ast.AST, where: Where) -> str:
        """Return the dotted name that an expression comes from; '' for a constant, ':' before an unknown."""
        parts: list[str] = []
        base = ""
        for _ in range(LONGEST_CHAIN):
            if isinstance(node, ast.Name | ast.Constant):
                break
            if base := self.module(node, where) or self.attribute(node, where):
                break
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and node.args[1:]:
                parts.append(str(getattr(node.args[1], "value", "?")))
                node = node.args[0]
            elif isinstance(node, ast.Call):
                node = node.func
            elif isinstance(node, ast.Attribute | ast.Subscript | ast.Await | ast.NamedExpr):
                parts += [node.attr] if isinstance(node, ast.Attribute) else []
                node = node.value
            else:
                break
        if isinstance(node, ast.Constant | ast.JoinedStr):
            return ""
        if isinstance(node, ast.Name):
            base = where.names.get(node.id, (f":{node.id}",))[0]
        return shortened(".".join((base or ":", *reversed(parts))))

    def module(self, node: ast.AST, where: Where) -> str:
        """Return the module that a call imports by a constant name, if it does."""
        if not isinstance(node, ast.Call) or not node.args:
            return ""
        function = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        name = where.names.get(function.id, (f":{function.id}",))[0] if isinstance(function, ast.Name) else ""
        if isinstance(node.func, ast.Attribute):
            name += f".{node.func.attr}"
        text = getattr(node.args[0], "value", None)
        known = name in ("importlib.import_module", ":__import__") and isinstance(text, str)
        return str(text) if known and not str(text).startswith(".") else ""

    def attribute(self, node: ast.AST, where: Where) -> str:
        """Return what `self.session` and its like come from, if that is the network."""
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            return ""
        unknown = where.names.get(node.value.id, (":",))[0].startswith(":")
        return self.attributes.get(node.attr, "") if unknown else ""

    def mentions(self, nodes: Iterable[ast.AST], where: Where) -> frozenset[str]:
        """Return the placed files that expressions name, themselves or by a variable."""
        names: set[str] = set()
        walk = itertools.chain.from_iterable(map(ast.walk, nodes))
        for node in itertools.islice(walk, MOST_NODES if self.placed else 0):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value.rpartition("/")[2])
            elif isinstance(node, ast.Name):
                names |= where.names.get(node.id, ("", frozenset()))[1]
        return self.placed & names

    def guard(self, test: ast.AST, where: Where) -> Where:
        """Return the place behind a condition that asks whether a file exists."""
        calls = (node.func for node in ast.walk(test) if isinstance(node, ast.Call))
        if any((getattr(func, "attr", "") or getattr(func, "id", "")) in EXISTS for func in calls):
            return where._replace(guarded=True, files=where.files | self.mentions([test], where))
        return where

    # --- what is done ---

    def on_name(self, node: ast.Name | ast.Attribute, where: Where) -> None:
        """Note what runs code or programs that nobody sees here, called or not."""
        name = self.dotted(node, where)
        if isinstance(node.ctx, ast.Load) and UNCLEAR.fullmatch(name):
            self.note("unclear", node, name.lstrip(":"))

    on_attribute = on_name

    def on_call(self, node: ast.Call, where: Where) -> Iterator[tuple[ast.AST, Where]]:
        """Note a call that writes, asks the network or imports, and what another function does."""
        name = self.dotted(node.func, where)
        last = last_of(name)
        arguments = [*node.args, *(word.value for word in node.keywords)]
        self.called(node, name, where)
        if last in CALLERS:
            for argument in arguments:
                if isinstance(argument, ast.Name | ast.Attribute):
                    self.called(argument, self.dotted(argument, where), where)
        if is_write(name):
            self.note("writes", node, name.lstrip(":."))
        if last == "open":
            self.opened(node, name)
        if getattr(node.func, "attr", "") == "join":
            self.text(node)
        if UNCLEAR.fullmatch(name) and not isinstance(node.func, ast.Name | ast.Attribute):
            self.note("unclear", node, name.lstrip(":"))
        if module := self.module(node, where):
            needed = where.functions == ("",) and not where.optional
            self.note("imports" if needed else "optional", node, module.partition(".")[0])
            return self.block(arguments, where)
        function = node.func.body if isinstance(node.func, ast.Lambda) else node.func
        return self.block([function, *arguments], where)

    def called(self, node: ast.expr, name: str, where: Where) -> None:
        """Remember the call for every function that makes it."""
        network = is_network_call(name)
        if not network and not name.startswith(":"):
            return
        words = [*node.args, *(word.value for word in node.keywords)] if isinstance(node, ast.Call) else []
        files = sorted(where.files | self.mentions(words, where))
        target = name if network else f":{last_of(name)}"
        for function in where.functions:
            self.calls.setdefault(function, []).append((node.lineno, target, where.guarded, files))

    def opened(self, node: ast.Call, name: str) -> None:
        """Note an `open` that writes, or may."""
        given = [
            *node.args[: 2 if name != ":open" else 0],
            *(w.value for w in node.keywords if w.arg == "mode"),
        ]
        given += node.args[1:2] if name == ":open" else []
        for mode in given:
            text = getattr(mode, "value", None)
            if isinstance(text, str) and MODE.fullmatch(text) and set(text) & set("wax+"):
                self.note("writes", node, f"open {text}")
            elif name == ":open" and not isinstance(mode, ast.Constant):
                self.note("writes", node, "open in a computed mode")

    def on_constant(self, node: ast.expr, _: Where) -> None:
        """Note the addresses in a text."""
        self.text(node)

    on_joinedstr = on_binop = on_constant

    def text(self, node: ast.expr) -> None:
        """Note addresses, joined as far as they are constants."""
        known = self.notes["addresses"]
        for address in ADDRESS.findall(joined(node)) if len(known) < MOST_NOTES else ():
            if not any(at == node.lineno and text.startswith(address) for at, text in known):
                self.note("addresses", node, address)


def last_of(name: str) -> str:
    """Return the last part of a dotted name."""
    return name.rpartition(".")[2].lstrip(":")


def is_of_network(name: str) -> bool:
    """Tell a name that comes from a module of the network."""
    known = name.partition(".")[0] in NETWORK_MODULES or name.startswith(NETWORK_PARTS)
    return known or last_of(name) in NETWORK_FUNCTIONS


def is_network_call(name: str) -> bool:
    """Tell a call that asks the network; a class is only made, and asked later by a method."""
    last = last_of(name)
    made = last.lstrip("_")[:1].isupper() or last == "disable_warnings" or name in HARMLESS
    return is_of_network(name) and not made and not name.startswith(HARMLESS_PARTS)


def is_write(name: str) -> bool:
    """Tell a call that changes files, by its module or, of any object, by its method."""
    last = last_of(name)
    module = name.startswith(WRITING_MODULES) and last not in NOT_WRITING
    return module or (name.startswith("os.") and last in WRITING_OS) or last in WRITING_METHODS


def shortened(name: str) -> str:
    """Return a dotted name, or both ends of a long one."""
    return (
        name if len(name) < LONGEST else f"{name[:LONGEST_CHAIN]}.{name.rpartition('.')[2][:LONGEST_CHAIN]}"
    )


def joined(node: ast.AST, depth: int = 0) -> str:
    """Return the text of an expression, with {} for what is computed; a part of one is cut."""
    text, deeper = "{}", depth + 1
    if depth > LONGEST_CHAIN:
        return text
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    elif isinstance(node, ast.JoinedStr):
        text = "".join(joined(part, deeper) for part in node.values)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        text = joined(node.left, deeper) + joined(node.right, deeper)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
        parts = getattr(node.args[0], "elts", [])[:LONGEST_CHAIN] if node.args else []
        text = joined(node.func.value, deeper).join(joined(part, deeper) for part in parts)
    return text[: LONGEST if depth else None]


def read(source: str, guards: list[str], placed: list[str]) -> dict[str, Any]:
    """Return the notes, or the fault of a file that Python's parser refuses."""
    try:
        return Reader(frozenset(guards), frozenset(placed)).read(ast.parse(source))
    except SyntaxError as error:
        return {"fault": f"line {error.lineno or 0}: {error.msg[:60]}"}
    except (ValueError, RecursionError, MemoryError):
        return {"fault": "it holds NUL bytes, or is nested too deeply or too large for Python's parser"}


def main() -> None:
    """Answer one question, within limits."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    json.dump(read(**json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
