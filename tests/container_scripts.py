"""The scripts of a stack as a container has them: in one folder, run by path, with constants that a test can wait for."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parents[1] / "docker" / "scripts"


def copied(folder: Path, **constants: object) -> Path:
    """A folder with all scripts; each constant stands in one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {path.name: path.read_text() for path in SCRIPTS.glob("*.py")}
    for name, value in constants.items():
        count = 0
        for file, text in texts.items():
            texts[file], changes = re.subn(rf"(?m)^{name} = .*", lambda _: f"{name} = {value}", text)  # noqa: B023
            count += changes
        assert count == 1, name
    for file, text in texts.items():
        (folder / file).write_text(text)
    return folder


def loaded(name: str, folder: Path = SCRIPTS) -> ModuleType:
    """One script as a module of its own; it finds the others beside it, which are in `sys.modules` then."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path[:] = before
