"""What a journal and a client must not get: values of flags and variables that carry a key."""

import re
from collections.abc import Iterator, Sequence

SECRET = frozenset({
    "key", "keys", "apikey", "token", "secret", "secrets", "pass", "passwd", "password", "credential", "credentials", "auth",
    "authorization", "header", "headers",
})  # fmt: skip
MASK = "***"
_USERINFO = re.compile(r"://[^/\s'\"]*@")
_MEMBER = re.compile(r'"([^"\\]{1,80})"(\s{0,9}:\s{0,9})("(?:[^"\\]|\\.)*"|[^\s",{}\[\]]+)')


def masked(words: Sequence[str]) -> Iterator[str]:
    """The same words, `--api-key=***` and every word after `--api-key` up to the next flag among them."""
    hide = False
    for word in words:
        is_flag = word.startswith("-")
        name, equals, _ = word.partition("=")
        hide = _is_secret(name) if is_flag else hide
        if hide and (equals or not is_flag):
            yield f"{name}={MASK}" if is_flag else MASK
        else:
            yield without_secrets(word)


def without_secrets(text: str) -> str:
    """The text without the user and password of a URL, and without the values of a JSON object's secret members."""
    return _MEMBER.sub(_member, _USERINFO.sub(f"://{MASK}@", text))


def is_secret_variable(name: str) -> bool:
    """Whether a word of a variable's name says that it carries a key."""
    return not SECRET.isdisjoint(_words(name)) or "tokens" in _words(name)


def _member(match: re.Match[str]) -> str:
    return f'"{match[1]}"{match[2]}"{MASK}"' if _words(match[1])[-1] in SECRET else match[0]


def _is_secret(flag: str) -> bool:
    """Whether the last word of a flag's name is one of SECRET."""
    return _words(flag)[-1] in SECRET


def _words(name: str) -> list[str]:
    return re.split(r"[-_.]", name.lower())
