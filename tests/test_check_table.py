"""`check` over files as people write them: everything that is wrong is found, and nothing else is said."""

import re

import pytest
from check_table import FORMS, forms, table
from conftest import ROOT

from ernie_deploy.cli import main

PAGE = ROOT / "docs" / "check.md"
AT_LEAST = 30
JUDGED = forms()


@pytest.mark.parametrize("name", JUDGED)
def test_a_form_has_what_is_wrong_with_it_and_nothing_else(name):
    wanted, found = JUDGED[name]
    assert found == wanted


def test_there_are_enough_forms_and_each_is_another():
    texts = [str(form["services"]) for form in FORMS]
    assert len(set(texts)) == len(texts) >= AT_LEAST


def test_the_page_shows_the_table_as_it_is_today():
    assert f"\n{table()}\n" in PAGE.read_text(encoding="utf-8"), "run: python tests/check_table.py"


def test_the_page_shows_what_check_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    blocks = re.findall(r"```(?:yaml)?\n(.*?)```\n", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "compose.yml").write_text(blocks[0])
    with pytest.raises(SystemExit):
        main(["check", "compose.yml"])
    assert capsys.readouterr().out == blocks[1]


def test_no_rule_is_wrong_over_the_forms():
    rows = [row.split(" | ") for row in table().splitlines()[2:]]
    assert {(missed, false) for *_, missed, false, _ in rows} == {("0", "0")}
