"""What a journal must not hold: values of flags that carry a key."""

from collections.abc import Iterator, Sequence

SECRET = frozenset({"key", "keys", "token", "secret", "password", "header", "headers"})
MASK = "***"


def masked(words: Sequence[str]) -> Iterator[str]:
    """The same words, `--api-key=***` and the word after `--api-key` among them."""
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("--"):
            yield MASK
        elif _is_secret(name):
            yield f"{name}={MASK}" if equals else word
        else:
            yield word
        hide = _is_secret(word)


def _is_secret(flag: str) -> bool:
    """Whether the last word of a flag's name is one of SECRET."""
    return flag.startswith("-") and flag.lower().replace("_", "-").rpartition("-")[2] in SECRET
