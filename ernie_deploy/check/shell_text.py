"""The commands in a shell script, a README's code blocks or a pasted line; nothing is run.

Variables are filled in as far as the text assigns them.
"""

import re
import shlex
from collections.abc import Iterator, Sequence

from ernie_deploy.check.interpolate import Variables
from ernie_deploy.check.line import Line
from ernie_deploy.check.process import ASSIGNED, CONTINUED, OPERATORS, shell_tokens
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import MAX_ARGUMENT

MAX_LINES_A_COMMAND = 300
FENCE = re.compile(r"\s{0,8}(```+|~~~+)\s*([\w+-]*)")
# Code blocks that hold no commands.
OTHER_LANGUAGES = {
    "python",
    "py",
    "yaml",
    "yml",
    "json",
    "toml",
    "dockerfile",
    "ini",
    "diff",
    "text",
    "go",
    "js",
}
# A shell's prompt, and what stands before a command in a systemd unit.
PROMPT = re.compile(r"^\s*(?:(?:[\w.@~:-]{0,40}[$%#]|>)\s+|Exec\w+=[-@:+!]*)")
ARRAY = re.compile(r"\A([A-Za-z_][A-Za-z0-9_]*)=\((.*)\)", re.DOTALL)
ARRAY_USE = re.compile(r'"?\$\{([A-Za-z_][A-Za-z0-9_]*)\[[@*]\]\}"?')
SUBSTITUTION = re.compile(r"\$\([^()]*\)|`[^`]*`")
HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
DECLARES = {"export", "declare", "local", "readonly"}


def commands(text: str, name: str) -> Iterator[list[Word]]:
    """The words of each simple command, with their lines; what the text does not assign stays `${NAME}`."""
    values: dict[str, str] = {}
    for number, logical in _logical_lines(_code(text)):
        if match := ARRAY.fullmatch(logical.strip()):
            values[match[1]] = _filled(match[2].replace("\n", " "), values)
            continue
        for words in _simple(_filled(logical, values), Line(number, name)):
            rest = [word for word in words if word.text not in DECLARES]
            if rest and all(ASSIGNED.match(word.text) for word in rest):
                values.update((text[0], text[2]) for text in (word.text.partition("=") for word in rest))
            elif rest:
                yield words


def is_markdown(name: str) -> bool:
    """Whether the text shows several ways, of which one is taken."""
    return name.lower().endswith((".md", ".markdown", ".rst"))


def _code(text: str) -> list[tuple[int, str]]:
    """The lines that hold commands: all, or those of the code blocks where there are any."""
    lines = list(enumerate(text.splitlines(), 1))
    if not any(FENCE.match(line) for _, line in lines):
        return lines
    fenced: list[tuple[int, str]] = []
    fence, taken = "", False
    for number, line in lines:
        match = FENCE.match(line)
        if match and not fence:
            fence, taken = match[1], match[2].lower() not in OTHER_LANGUAGES
        elif match and line.strip() == fence:
            fence = ""
            fenced.append((number, ""))
        elif fence and taken:
            fenced.append((number, line))
    return fenced


def _logical_lines(lines: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines joined while they end in a backslash, or a quote or a list is open; texts of `<<EOF` left out."""
    rest = list(lines)[::-1]
    while rest:
        number, line = rest.pop()
        line = PROMPT.sub("", line)
        count = 1
        while rest and count < MAX_LINES_A_COMMAND and _goes_on(line):
            line, count = f"{line}\n{rest.pop()[1]}", count + 1
        yield number, line
        if match := HEREDOC.search(line):
            while rest and rest.pop()[1].strip() != match[1]:
                pass


def _goes_on(line: str) -> bool:
    if line.rstrip(" \t").endswith("\\") or re.match(r"\A\s*\w+=\([^)]*$", line):
        return True
    try:
        shlex.split(line, comments=True)
    except ValueError:
        # An apostrophe in a sentence opens no quote.
        return bool(re.search(r"\b(?:run|serve|vllm|=)", line))
    return False


def _filled(text: str, values: dict[str, str]) -> str:
    """The text with its variables, outside single quotes; commands in it are unknown."""
    parts = re.split(r"('[^']*')", text.replace("\\\n", CONTINUED))
    return "".join(part if part.startswith("'") else _part(part, values) for part in parts).replace(
        CONTINUED, "\\\n"
    )


def _part(text: str, values: dict[str, str]) -> str:
    text = SUBSTITUTION.sub("${COMMAND}", SUBSTITUTION.sub("${COMMAND}", text))
    text = ARRAY_USE.sub(lambda match: values.get(match[1], f"${{{match[1]}}}"), text)
    return Variables(values).resolve(text) if "$" in text else text


def _simple(text: str, start: Line) -> Iterator[list[Word]]:
    """Simple commands: what stands between `;`, `&&`, `|` and line ends."""
    words: list[Word] = []
    comment = target = False
    try:
        tokens = list(shell_tokens(re.sub(r"\\[ \t]*\n", CONTINUED, text)[:MAX_ARGUMENT]))
    except ValueError:
        tokens = [(token, 0) for token in text.split()]
    for token, down in tokens:
        operator = bool(token) and set(token) <= set(OPERATORS)
        if comment and not (operator and "\n" in token):
            continue
        if operator and "\n" not in token and set(token) & set("<>"):
            # `2>&1`, `> log`: the number before and the file behind are no words of the command.
            if words and words[-1].text in ("1", "2"):
                words.pop()
            target = True
        elif operator:
            yield words
            words, comment, target = [], False, False
        elif token.startswith("#"):
            comment = True
        elif target:
            target = False
        else:
            words.append(Word(token.replace("$", "$$"), start + down))
    yield words
