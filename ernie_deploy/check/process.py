"""Which program a service runs: `vllm serve`, `vllm bench serve`, or neither; and with which words."""

import re
import shlex
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import pairwise

from msgspec import Struct

from ernie_deploy.check.argv import Argv, Tool, parse
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import MAX_ARGUMENT, NEWEST, Version, version

SHELLS = {"sh", "bash", "dash", "ash", "zsh"}
# First words that no model is called: with the image's own entrypoint they become the model.
PROGRAMS = SHELLS | {"vllm", "serve", "bench", "python", "python3"}
OFFICIAL = re.compile(r"vllm-openai(?:-(?P<variant>rocm|cpu|xpu))?")
# Since when the image's entrypoint is `vllm serve`, by variant ("" is CUDA).
SERVES_SINCE: dict[str, Version] = {"": (0, 11, 1), "rocm": (0, 14, 0)}
MODULE = "vllm.entrypoints."
OPERATORS = ";&|<>()\n"
CONTINUED = "\v"


class Image(Struct, frozen=True):
    """An image reference taken apart."""

    name: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def variant(self) -> str | None:
        """`rocm`, `cpu`, `xpu`, or empty for CUDA; None where it is not vLLM's own image."""
        match = OFFICIAL.fullmatch(self.name.rpartition("/")[2])
        return (match["variant"] or "") if match else None

    @property
    def engine(self) -> Version | None:
        """vLLM's version in it: that of the tag, the newest for `latest`, else unknown."""
        if self.variant is None:
            return None
        return NEWEST if self.floats else version(self.tag)

    @property
    def floats(self) -> bool:
        """Whether the reference is another image tomorrow."""
        return not self.digest and (not self.tag or self.tag.startswith(("latest", "nightly")))

    @property
    def serves(self) -> bool:
        """Whether its entrypoint runs the server."""
        variant, engine = self.variant, self.engine
        return variant is not None and (engine is None or variant != "rocm" or engine >= SERVES_SINCE["rocm"])


class Process(Struct, frozen=True):
    """What a service runs; `argv` is None where it is not vLLM.

    `script` is the text of a `sh -c` around it, `cut` one that is only the first word of what
    was meant; `doubled` the first word of a command that the image's entrypoint takes for the model.
    """

    argv: Argv | None = None
    module: bool = False
    script: Word | None = None
    doubled: Word | None = None
    cut: Word | None = None


def image_of(reference: str) -> Image:
    """Take `registry:5000/name:tag@digest` apart."""
    rest, _, digest = reference.partition("@")
    head, slash, last = rest.rpartition("/")
    # A variable may hold a colon: `vllm-openai:${TAG}` and `${IMAGE}` both.
    name, _, tag = last.partition(":")
    return Image(name=f"{head}{slash}{name}", tag=tag, digest=digest)


def process_of(entrypoint: Sequence[Word] | None, command: Sequence[Word] | None, image: Image) -> Process:
    """The process that `entrypoint` and `command` start in `image`; None is what the file leaves out."""
    if entrypoint is None and image.serves:
        return _behind_entrypoint(command or (), image)
    return _of_words([*(entrypoint or ()), *(command or ())])


def _behind_entrypoint(command: Sequence[Word], image: Image) -> Process:
    """The image's own entrypoint with `command` as its arguments."""
    if command and _program(command[0]) in PROGRAMS:
        inner = _of_words(command)
        argv = inner.argv or Argv(tool="serve")
        return Process(argv=argv, module=inner.module, script=inner.script, doubled=command[0])
    engine = image.engine
    module = image.variant == "" and engine is not None and engine < SERVES_SINCE[""]
    return Process(argv=parse(command, "serve"), module=module)


def _of_words(words: Sequence[Word]) -> Process:
    at = _script_at(words)
    if at is None:
        return _found(words) or Process()
    script = words[at]
    if len(words) > at + 1 and script.text.strip() in PROGRAMS:
        inner = _found(words[at:]) or Process()
        return Process(argv=inner.argv, cut=script)
    inner = _found(_script_words(script)) or Process()
    return Process(argv=inner.argv, module=inner.module, script=script)


def _script_at(words: Sequence[Word]) -> int | None:
    """The place of the script of `sh -c SCRIPT`."""
    for at, (shell, option) in enumerate(pairwise(words)):
        if _program(shell) in SHELLS and re.fullmatch(r"-[a-z]*c", option.text):
            return at + 2 if at + 2 < len(words) else None
    return None


def _script_words(script: Word) -> list[Word]:
    """The words of a shell script, operators standing alone."""
    # A line that goes on (`\\` at its end) ends in a space that is counted as a line.
    text = script.text.replace("\\\n", CONTINUED)
    try:
        tokens = list(_tokens(text[:MAX_ARGUMENT]))
    except ValueError:
        tokens = [(token, 0) for token in text.split()]
    # `$` is doubled again, as the words of a file are.
    first, step = (script.line + 1, 1) if script.block else (script.line, 0)
    return [Word(raw=token.replace("$", "$$"), line=first + step * down) for token, down in tokens]


def _tokens(text: str) -> Iterator[tuple[str, int]]:
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


def _found(words: Sequence[Word]) -> Process | None:
    """The first vLLM command among the words."""
    for at, word in enumerate(words):
        following = [later.text for later in words[at + 1 : at + 3]]
        if _program(word) == "vllm" and following[:1] == ["serve"]:
            return _process(words[at + 2 :], "serve")
        if _program(word) == "vllm" and following == ["bench", "serve"]:
            return _process(words[at + 3 :], "bench")
        if word.text == "-m" and following and following[0].startswith(MODULE):
            return _process(words[at + 2 :], "serve", module=True)
    return None


def _program(word: Word) -> str:
    return word.text.rpartition("/")[2]


def _process(words: Sequence[Word], tool: Tool, *, module: bool = False) -> Process:
    return Process(argv=parse(_to_operator(words), tool), module=module)


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
