"""Writes the scripts given as NAME TEXT pairs into FOLDER, then execs the command after `--`."""

import os
import sys
from pathlib import Path

folder, *words = sys.argv[1:]
end = words.index("--")
Path(folder).mkdir(parents=True, exist_ok=True)
for name, text in zip(words[:end:2], words[1:end:2], strict=True):
    fresh = Path(folder, f"{name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(Path(folder, name))
os.execvp(words[end + 1], words[end + 1 :])
