"""What a journal must not hold: values of flags that carry a key."""

import re
from collections.abc import Iterator, Sequence

SECRET = re.compile(r"--?(?:[a-z0-9]+[-_])*(?:key|keys|token|secret|password|headers?)", re.IGNORECASE)
MASK = "***"


def masked(words: Sequence[str]) -> Iterator[str]:
    """The same words, `--api-key=***` and the word after `--api-key` among them."""
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("--"):
            yield MASK
        elif SECRET.fullmatch(name):
            yield f"{name}={MASK}" if equals else word
        else:
            yield word
        hide = bool(SECRET.fullmatch(word))
