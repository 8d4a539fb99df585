"""Which program a service runs: `vllm serve`, `vllm bench serve`, or neither; and with which words."""

import re
import shlex
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.check.argv import Argv, Tool, is_joined, parse, separated
from ernie_deploy.check.images import Image
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import MAX_ARGUMENT
from ernie_deploy.check.versions import table_of
from ernie_deploy.check.vllm_detection import reads_like_vllm

SHELLS = {"sh", "bash", "dash", "ash", "zsh"}
# First words that no model is called: with the image's own entrypoint they become the model.
PROGRAMS = SHELLS | {"vllm", "serve", "bench", "python", "python3"}
MODULE = "vllm.entrypoints."
OPERATORS = ";&|<>()\n"
CONTINUED = "\v"
# A variable before a command, or by itself.
ASSIGNED = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*=")


class Process(Struct, frozen=True):
    """What a service runs; `argv` is None where it is not vLLM.

    `script` is the text of a `sh -c` around it, `cut` one that is only the first word of what
    was meant; `doubled` the first word of a command that the image's entrypoint takes for the model;
    `bare` one that is run as it stands, for want of an entrypoint; `guessed` where only the flags
    tell that a program of somebody's own starts vLLM.
    """

    argv: Argv | None = None
    module: bool = False
    script: Word | None = None
    doubled: Word | None = None
    cut: Word | None = None
    bare: Word | None = None
    guessed: bool = False


def process_of(entrypoint: Sequence[Word] | None, command: Sequence[Word] | None, image: Image) -> Process:
    """The process that `entrypoint` and `command` start in `image`; None is what the file leaves out."""
    table = table_of(image.engine)
    if entrypoint is None and image.serves:
        return _behind_entrypoint(command or (), image, table)
    process = _of_words([*(entrypoint or ()), *(command or ())], table)
    if process.argv or process.script or process.cut:
        return process
    return _of_flags(entrypoint, command or (), image, table) or process


def _behind_entrypoint(command: Sequence[Word], image: Image, table: str) -> Process:
    """The image's own entrypoint with `command` as its arguments."""
    if command and program(separated(command[:1])[0]) in PROGRAMS:
        inner = _of_words(command, table)
        # `serve MODEL`, `vllm MODEL`: the program's name alone is too much.
        argv = inner.argv or parse(_afterprogram(command), "serve", table)
        return Process(argv=argv, module=inner.module, script=inner.script, doubled=command[0])
    return Process(argv=parse(command, "serve", table), module=image.module)


def _afterprogram(command: Sequence[Word]) -> Sequence[Word]:
    return command[1:] if command[0].text in ("serve", "vllm") else ()


def _of_flags(
    entrypoint: Sequence[Word] | None, command: Sequence[Word], image: Image, table: str
) -> Process | None:
    """A server that only its flags tell: behind a program of somebody's own, or behind none at all."""
    # The image's entrypoint may be `vllm`.
    words = command[1:] if command and command[0].text == "serve" else command
    if len(entrypoint or ()) > 1 or not reads_like_vllm(words, image, table):
        return None
    alone = image.bare if entrypoint is None else not entrypoint
    argv = parse(words, "serve", table)
    return Process(argv=argv, bare=command[0] if alone else None, guessed=not alone)


def _of_words(words: Sequence[Word], table: str) -> Process:
    at = _script_at(words)
    if at is None:
        return _found(words, table) or _of_joined(words, table) or Process()
    script = words[at]
    if len(words) > at + 1 and script.text.strip() in PROGRAMS:
        inner = _found(words[at:], table) or Process()
        return Process(argv=inner.argv, cut=script)
    inner = _found(script_words(script), table) or Process()
    return Process(argv=inner.argv, module=inner.module, script=script)


def _of_joined(words: Sequence[Word], table: str) -> Process | None:
    """`vllm serve MODEL` in one item: nothing of that name can be run."""
    joined = tuple(word for word in words if is_joined(word.text))
    process = _found(separated(words), table) if joined else None
    if not process or not process.argv:
        return None
    return Process(argv=replace(process.argv, joined=joined), module=process.module)


def _script_at(words: Sequence[Word]) -> int | None:
    """The place of the script of `sh -c SCRIPT`."""
    for at, (shell, option) in enumerate(pairwise(words)):
        if program(shell) in SHELLS and re.fullmatch(r"-[a-z]*c", option.text):
            return at + 2 if at + 2 < len(words) else None
    return None


def script_words(script: Word) -> list[Word]:
    """The words of a shell script, operators standing alone."""
    # A line that goes on (`\\` at its end) ends in a space that is counted as a line.
    text = script.text.replace("\\\n", CONTINUED)
    try:
        tokens = list(shell_tokens(text[:MAX_ARGUMENT]))
    except ValueError:
        tokens = [(token, 0) for token in text.split()]
    # `$` is doubled again, as the words of a file are.
    first, step = (script.line + 1, 1) if script.block else (script.line, 0)
    return [Word(raw=token.replace("$", "$$"), line=first + step * down) for token, down in tokens]


def shell_tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token and how many lines down it stands; raises `ValueError` on an open quote."""
    stream = StringIO(text)
    lexer = shlex.shlex(stream, posix=True, punctuation_chars=OPERATORS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = f" \t\r{CONTINUED}", True, ""
    down = at = 0
    while (token := lexer.get_token()) is not None:
        # The lexer has read one character beyond the token.
        end = max(at, stream.tell() - 1)
        down, at = down + len(re.findall(f"[\n{CONTINUED}]", text[at:end])), end
        yield token, down


def _found(words: Sequence[Word], table: str) -> Process | None:
    """The first vLLM command among the words."""
    for at, word in enumerate(words):
        following = [later.text for later in words[at + 1 : at + 3]]
        if program(word) == "vllm" and following[:1] == ["serve"]:
            return _process(words[at + 2 :], "serve", table)
        if program(word) == "vllm" and following == ["bench", "serve"]:
            return _process(words[at + 3 :], "bench", table)
        if word.text == "-m" and following and following[0].startswith(MODULE):
            return _process(words[at + 2 :], "serve", table, module=True)
    return None


def program(word: Word) -> str:
    """The word without the folder in front of it."""
    return word.text.rpartition("/")[2]


def _process(words: Sequence[Word], tool: Tool, table: str, *, module: bool = False) -> Process:
    words = _to_operator(words)
    doubled = words[0] if words and words[0].text in ("vllm", "serve") else None
    if doubled:
        words = words[2 if [word.text for word in words[:2]] == ["vllm", "serve"] else 1 :]
    return Process(argv=parse(words, tool, table), module=module, doubled=doubled)


def _to_operator(words: Sequence[Word]) -> list[Word]:
    """The words up to the shell operator that ends the command."""
    taken: list[Word] = []
    for word in words:
        if (word.text and set(word.text) <= set(OPERATORS)) or word.text.startswith("#"):
            if word.text.startswith((">", "<")) and taken and taken[-1].text in ("1", "2"):
                taken.pop()
            break
        taken.append(word)
    return taken
