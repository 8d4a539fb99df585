"""Reads the API key file, once and as its only reader, then execs the server or the client that needs the key.

`serve FILE CONFIG COMMAND...` writes the keys to CONFIG, JSON that vLLM reads as YAML and the health check as
JSON. FILE may change while the server starts; what was checked is what vLLM asks for.
`bench FILE COMMAND...` sets the first key in the client's environment.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import yaml

# Exit code; fetch.py and serve.py have 20 to 27, node.py and group.py 30 to 38.
UNFIT_KEY = 40
# The parser takes seconds for a larger file of brackets.
MOST_BYTES = 4 << 10
NAMES = ("api-key", "api_key")
TAG = "tag:yaml.org,2002:"
LINE = "write the one line `api-key: YOUR-KEY` there, and nothing else"


class KnownError(Exception):
    """A file without a usable key: what is wrong with it, never what is in it, and what to do."""

    def __init__(self, what: str, remedy: str = LINE) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what, self.remedy = what, remedy


def read_keys(path: Path) -> list[str]:
    """Every key that the file gives, the first first; raises KnownError for an unfit file, and OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise KnownError("is not a file", "name one in .env")
    with path.open("rb") as file:
        return keys_in(file.read(MOST_BYTES + 1))


def keys_in(content: bytes) -> list[str]:
    """The keys in a file's content; raises KnownError where vLLM might ask for another key, or for none."""
    pairs = mapping_in(content)
    if any(name.tag != f"{TAG}str" or name.value not in NAMES for name, _ in pairs):
        raise KnownError("contains settings other than `api-key`")
    if len(pairs) != 1:
        raise KnownError(f"gives the key {len(pairs)} times" if pairs else "has no key")
    return keys_of(pairs[0][1])


def mapping_in(content: bytes) -> list[tuple[Any, Any]]:
    """The content's one mapping as YAML nodes, which know what was a text and what was given twice."""
    if len(content) > MOST_BYTES:
        raise KnownError(f"is larger than {MOST_BYTES >> 10} KiB")
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        # The parser's own sentence would quote the key.
        raise KnownError("is not YAML") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode) or root.tag != f"{TAG}map":
        raise KnownError("does not say `api-key:`")
    pairs: list[tuple[Any, Any]] = root.value
    return pairs


def keys_of(node: Any) -> list[str]:
    """The keys of the one value: a text, or a list of texts while keys are exchanged."""
    values = node.value if node.tag == f"{TAG}seq" and isinstance(node.value, list) else [node]
    if not values:
        raise KnownError("has an empty list of keys")
    return [key_of(value) for value in values]


def key_of(node: Any) -> str:
    """One key, which every client can send and vLLM takes for no option of its own."""
    if node.tag == f"{TAG}null" or node.value == "":
        raise KnownError("has an empty key")
    if node.tag != f"{TAG}str":
        raise KnownError(
            "has a key that YAML reads as a number, a date or a boolean", "put the key in quotes"
        )
    key = str(node.value)
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise KnownError("has a key that no HTTP header can carry", "use letters and digits without accents")
    if key.startswith("-"):
        raise KnownError(
            "has a key that begins with `-`, as options of vLLM do",
            "choose one that starts with another character",
        )
    return key


def write_config(path: Path, keys: list[str]) -> None:
    """Write what vLLM reads in place of the file, for this user alone."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"api-key": keys}, file)
    fresh.replace(path)


def main(mode: str, source: str, *words: str) -> int:
    """Hand the keys over and become the command; an unfit file ends in a one-line error."""
    try:
        keys = read_keys(Path(source))
        if mode == "serve":
            write_config(Path(words[0]), keys)
            words = words[1:]
        else:
            os.environ["OPENAI_API_KEY"] = keys[0]
    except KnownError as error:
        fault = str(error)
    except OSError as error:
        fault = f"could not be read or handed on ({error.strerror}): the user {os.getuid()} must be able to read it"
    else:
        os.execvp(words[0], words)
    print(f"api-key: the file of API_KEY_FILE {fault}", file=sys.stderr)
    return UNFIT_KEY


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
