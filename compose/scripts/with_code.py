"""Fetches a model with code of its own: the command behind --before must approve that code before any weights."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import run, say


def main(words: list[str]) -> None:
    """Fetch as the words before --before say; the command gets the snapshot's folder and a place for its record."""
    at = words.index("--before")
    own, command = words[:at], words[at + 1 :]

    def approve(folder: Path, record: Path) -> None:
        code = subprocess.run([*command, str(folder), str(record)], check=False).returncode  # noqa: S603 - the stack's
        if code < 0:
            say(f"fetch: {command[0]} was ended by signal {-code} before the weights", sys.stderr)
        if code:
            raise SystemExit(code if code > 0 else 128 - code)

    if any(word.startswith("--weights") for word in own):
        import own_folder as fetch
    else:
        import fetch  # type: ignore[no-redef]
    fetch.main(own, approve)


if __name__ == "__main__":
    sys.exit(run("fetch", main))
