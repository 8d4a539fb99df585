"""What README and docs show is the catalog's, their commands work, and their links lead somewhere."""

import re
from pathlib import Path

import pytest
from conftest import ROOT, kit
from readme_tables import disagreement_table, model_table

from ernie_deploy.catalog import Catalog

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMAND = r"ernie-deploy (?:render|plan)\b[^`#>|\n]+"
MOST_LINES = 150


def commands(page: Path) -> set[str]:
    """The commands that write or explain a stack, in code spans and in code blocks."""
    text = page.read_text(encoding="utf-8")
    lines = rf"^(?:    |[^`|\n]*\$ )({COMMAND})"
    return {
        found.strip() for found in re.findall(rf"`({COMMAND})`", text) + re.findall(lines, text, re.MULTILINE)
    }


@pytest.mark.parametrize("table", [model_table, disagreement_table], ids=lambda table: table.__name__)
def test_readme_tables_are_the_catalogs(table: object) -> None:
    made = table(Catalog())  # type: ignore[operator]
    assert made in README.read_text(encoding="utf-8"), f"put this into README.md:\n\n{made}"


@pytest.mark.parametrize("command", sorted(set().union(*map(commands, (README, *PAGES)))))
def test_each_command_of_the_docs_works(command: str, tmp_path: Path) -> None:
    words = command.split()[1:]
    if "TARGET" in words:
        words[words.index("TARGET")] = "mi300x"
    whole = "--all" in words
    done = kit(*words, *["--check"] * whole, cwd=ROOT if whole else tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_readme_begins_with_the_two_commands_and_is_short() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line.partition("  ")[0] for line in lines[2:6]] == [
        "```", "pip install . && ernie-deploy render mi300x > compose.yml", "pip install -e '.[test]' && pytest", "```",
    ]  # fmt: skip
    assert len(lines) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_page_begins_with_a_command_and_is_named_in_the_readme(page: Path) -> None:
    title, blank, first = page.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ")
    assert not blank
    assert re.match(r"    (ernie-deploy|docker|lint-imports) ", first), f"{page.name} begins with: {first}"
    assert f"(docs/{page.name})" in README.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The headings as GitHub links to them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_no_heading_stands_twice_in_a_page(page: Path) -> None:
    titles = re.findall(r"^#+ .+$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_each_link_to_a_file_of_the_project_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_changelog_names_the_version() -> None:
    from ernie_deploy import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
