"""What a service runs around vLLM: the words before and behind its arguments, and those of other programs."""

import re
from collections.abc import Sequence
from itertools import pairwise

from ernie_deploy.check.process import MODULE, OPERATORS, program, script_words
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Word

SCRIPTS = re.compile(r"/scripts/[0-9a-f]{12}(?=/|$|:)")
NAME = re.compile(r"[\w.-]{1,80}")


def around(service: Service) -> list[str]:
    """The words that are not vLLM's arguments, in their order; the kit's scripts without their checksum."""
    words = [*(service.entrypoint or ()), *(service.command or ())]
    if script := service.process.script:
        at = words.index(script) if script in words else 0
        words = [*words[:at], *script_words(script)]
    return [without_checksum(word.text) for word in _outside(words, service)]


def without_checksum(text: str) -> str:
    """`/scripts/4deefae1da40/serve.py` -> `/scripts/serve.py`."""
    return SCRIPTS.sub("/scripts", text)


def _outside(words: Sequence[Word], service: Service) -> Sequence[Word]:
    if service.argv is None:
        return words
    start = _start(words)
    if start is None:
        # The image's entrypoint is vLLM itself.
        return ()
    end = next((at for at in range(start, len(words)) if _ends(words[at].text)), len(words))
    return [*words[:start], *words[end:]]


def _start(words: Sequence[Word]) -> int | None:
    """The place of `vllm serve`, `vllm bench serve` or of Python's module."""
    for at, word in enumerate(words):
        following = [later.text for later in words[at + 1 : at + 3]]
        if program(word) == "vllm" and (following[:1] == ["serve"] or following == ["bench", "serve"]):
            return at
        if word.text == "-m" and following and following[0].startswith(MODULE):
            return at
    return None


def _ends(text: str) -> bool:
    return bool(text) and set(text) <= set(OPERATORS)


def options(words: Sequence[str]) -> dict[str, str]:
    """`--name=value` words and texts by name; all others in their order as `command`."""
    found: dict[str, str] = {}
    rest: list[str] = []
    for before, word in pairwise(["", *words]):
        name, equals, value = word.partition("=")
        if "\n" in word:
            found[f"text of {before if NAME.fullmatch(before) else 'a script'}"] = f"sha256 {_digest(word)}"
        elif equals and name.startswith("--"):
            found[name] = f"{found[name]} {value}" if name in found else value
        else:
            rest.append(word)
    return {**({"command": " ".join(rest)} if rest else {}), **found}


def _digest(text: str) -> str:
    """The beginning of a text's SHA-256: enough to tell one from another."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:12]
