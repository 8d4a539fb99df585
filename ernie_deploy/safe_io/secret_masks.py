"""Blanks out what may be a secret in a text for others: tokens, keys, passwords, Authorization headers."""

import re
from collections.abc import Iterable

from ernie_deploy.safe_io.redaction import MASK, redacted

# Hugging Face, OpenAI-like, the gateway's, GitHub, GitLab, AWS, Slack, JSON Web Tokens, NVIDIA NGC.
TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:hf_[A-Za-z0-9]{8,200}|sk-[A-Za-z0-9_-]{8,200}|ek_[A-Za-z0-9_-]{43}|gh[pousr]_[A-Za-z0-9]{20,200}"
    r"|github_pat_\w{20,200}|glpat-[\w-]{16,100}|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,200}|nvapi-[\w-]{16,200}"
    r"|(?<!-)eyJ[\w-]{8,2000}\.[\w-]{4,4000}\.[\w-]{0,2000})"
)
HEADER = re.compile(
    r"(?i)(?P<name>\b(?:proxy-)?authorization\b|\bx-api-key\b|\bapi-key\b|\bcookie\b)(?P<sign>['\"]?\s{0,5}[:=]\s{0,5}['\"]?)(?P<kind>(?:bearer|basic|token)\s{1,5})?(?P<value>[^\s'\",}{][^\n'\",}{]{0,2000})"
)
# `NAME=value`, `"name": "value"`, `--name value`; a path, a variable or a number is no secret.
NAMED = re.compile(
    r"(?i)(?P<name>(?:\b|_|--)(?:api[-_]?key|token|password|passwd|secret|secret[-_]?key|access[-_]?key|credentials?)\b)(?P<sign>['\"]?(?:\s{0,5}[:=]\s{0,5}|\s{1,5}(?=\S))['\"]?)(?P<value>[^\s'\",;}{\]\[)(]{6,2000})"
)
NO_VALUE = re.compile(
    r"(?i)(?:[/~.$<*].*|[\d.]+|none|null|true|false|unset|empty|file\b.*|required|refused|named?|names)"
)

# The name of a Secret, not what is in it, as the kubelet tells of one that is not there.
NAME_OF_SECRET = re.compile(
    r'[Ss]ecret "[a-z0-9][a-z0-9.-]{0,252}" not found|(?<=in )Secret [a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}(?![^\s",;])'
)


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with each of `secrets`, and all that looks like one, blanked out; line by line the same otherwise."""
    for secret in sorted({word for word in secrets if word}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = redacted(text)
    text = TOKEN.sub(MASK, text)
    text = HEADER.sub(_header, text)
    return NAMED.sub(_named, text)


def _header(match: "re.Match[str]") -> str:
    if NO_VALUE.fullmatch(match["value"]):
        return match[0]
    return f"{match['name']}{match['sign']}{match['kind'] or ''}{MASK}"


def _named(match: "re.Match[str]") -> str:
    # Words of a sentence ("token was refused") hold neither digits nor signs.
    plain = match["value"].isalpha() and not match["sign"].strip(" '\"")
    if plain or NO_VALUE.fullmatch(match["value"]) or NAME_OF_SECRET.match(match.string, match.start()):
        return match[0]
    return f"{match['name']}{match['sign']}{MASK}"
