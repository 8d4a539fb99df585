"""Hands the API key of a vLLM configuration file to a client that reads it from its environment."""

import os
import re
import sys


def api_key(text: str) -> str:
    """The first key of the line `api-key: KEY` (quoted or not, alone or in a list)."""
    found = re.search(r"""^api-key:\s*(?:-\s*|\[\s*)?["']?([^\s"',\]]+)""", text, re.MULTILINE)
    if not found:
        sys.exit("bench: the file of API_KEY_FILE has no line `api-key: KEY`.")
    return found.group(1)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        os.environ["OPENAI_API_KEY"] = api_key(file.read())
    os.execvp(sys.argv[2], sys.argv[2:])
