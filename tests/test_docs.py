"""The README's tables are the catalog's, and its commands work."""

import re

import pytest
from conftest import ROOT, kit
from readme_tables import disagreement_table, model_table

from ernie_deploy.catalog import Catalog

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [model_table, disagreement_table], ids=lambda table: table.__name__)
def test_readme_tables_are_the_catalogs(table: object) -> None:
    made = table(Catalog())  # type: ignore[operator]
    assert made in README, f"put this into README.md:\n\n{made}"


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"`ernie-deploy ((?:render|plan) [^`.]+)`", README)))
)
def test_each_command_of_the_readme_works(command: str) -> None:
    words = command.partition(" >")[0].split()
    if words[1] == "--all":
        words.append("--check")
    done = kit(*words)
    assert done.returncode == 0, done.stderr


def test_changelog_names_the_version() -> None:
    from ernie_deploy import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
