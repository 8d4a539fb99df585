"""The default one-node stack of each vendor, parsed: no field that keeps it safe or alive changes unseen."""

import difflib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, rendered

GOLDEN = ROOT / "tests" / "golden"
RENEW = "if that is what you meant, renew it with: python tests/test_golden.py"


class Plain(yaml.SafeDumper):
    """Anchors are a convenience of the file: here each service has its fields in full."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def shortened(stack: dict[str, Any]) -> dict[str, Any]:
    """The stack with each script by its name alone, whose bytes other tests compare."""
    fetch = stack["services"]["fetch"]
    fetch["entrypoint"] = [word for word in fetch["entrypoint"] if "\n" not in word]
    return {key: value for key, value in stack.items() if not key.startswith("x-")}


def golden(target: str) -> str:
    """The parsed default stack of a target as YAML again, with the scripts' digest blanked."""
    stack = shortened(yaml.load(rendered(target), yaml.CSafeLoader))
    text: str = yaml.dump(stack, Dumper=Plain, sort_keys=False, width=110)
    return re.sub(r"/scripts/[0-9a-f]{12}\b", "/scripts/DIGEST", text)


def path_of(target: str) -> Path:
    """Where the golden stack of a target is kept."""
    return GOLDEN / f"{target}.yml"


TARGETS = ("h100", "mi300x", "cpu")


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_stack_is_the_golden_one(target: str) -> None:
    kept, now = (text.splitlines() for text in (path_of(target).read_text(encoding="utf-8"), golden(target)))
    difference = "\n".join(
        difflib.unified_diff(kept, now, f"tests/golden/{target}.yml", "rendered", lineterm="")
    )
    assert not difference, f"the default stack changed; {RENEW}\n{difference}"


if __name__ == "__main__":
    for name in TARGETS:
        path_of(name).write_text(golden(name), encoding="utf-8")
