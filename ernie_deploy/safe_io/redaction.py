"""Blanks out names and passwords in URLs, a proxy's for one, before a text is shown or kept."""

import re

MASK = "***"


def redacted(text: str) -> str:
    """`text` with all between a word's `//` and its last `@` blanked out: a password may hold slashes and signs."""
    return "".join(map(_word, re.split(r"(\s)", text))) if "@" in text else text


def _word(word: str) -> str:
    before, slashes, rest = word.partition("//")
    secret, at, host = rest.rpartition("@")
    return f"{before}{slashes}{MASK}{at}{host}" if secret else word
