"""Which texts stand for a secret and are none: nothing, a reference to one, a blank to be filled in."""

import re

NOTHING = re.compile(
    r"\A(?:[0-9]*|true|false|yes|no|empty|none|dummy|null|unused|not[-_ ]needed"
    # A path, or a reference that something else resolves: op://vault/item, arn:aws:..., ENC[...].
    r"|/.*|[a-z][a-z0-9+.-]*://.*|arn:.*|ENC\[.*)",
    re.IGNORECASE,
)
# <token>, [token], {{ token }}, %TOKEN%, __TOKEN__, @TOKEN@, #{token}, $(TOKEN)
BLANK = re.compile(
    r"\A(?:<.*>|\[.*\]|\{.*\}|%\w+%|__\w+__|@+\w+@+|#\{.*|\$\(.*\)|.*(?:\.{3}|\N{HORIZONTAL ELLIPSIS}|\*{3}).*)"
)
# hf_xxxxxxxx, sk-00000000
ONE_CHARACTER = re.compile(r"(?:hf[_-]|sk-)?(.)\1*")
TELLING = {
    "your", "yours", "changeme", "changeit", "change", "replace", "replaceme", "placeholder", "example",
    "insert", "enter", "todo", "fixme", "dummy", "fake", "goes", "here", "fill", "xxx", "xxxx",
}  # fmt: skip
# Each of these is no secret, and no secret is made of them alone.
COMMON = {
    "a", "abc", "abc123", "123", "1234", "12345", "123456", "admin", "api", "apikey", "bearer", "demo", "dev",
    "hf", "hub", "huggingface", "key", "llm", "local", "master", "my", "no", "none", "not", "only", "pass",
    "password", "required", "needed", "secret", "sk", "some", "test", "the", "token", "vllm",
}  # fmt: skip


def is_nothing(text: str) -> bool:
    """Whether the text says that there is no secret, or where it is."""
    return NOTHING.fullmatch(_bare(text)) is not None


def is_placeholder(text: str) -> bool:
    """Whether the text is a blank that somebody was to fill in."""
    bare = _bare(text)
    words = {word for word in re.split(r"[^a-z0-9]+", bare.lower()) if word}
    if BLANK.fullmatch(bare) or ONE_CHARACTER.fullmatch(bare):
        return True
    return bool(words & TELLING) or (bool(words) and words <= COMMON)


def _bare(text: str) -> str:
    return text.strip().strip("'\"").strip()
