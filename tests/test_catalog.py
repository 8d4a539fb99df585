"""The catalog is complete, true to its sources, and says all of a file's faults at once."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, planned
from container_scripts import loaded
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.load import load
from ernie_deploy.catalog.package_schema import Package
from ernie_deploy.catalog.schema import Bench, Model, Row, SupportTable
from ernie_deploy.errors import CatalogError, KitError
from ernie_deploy.plan import recipe
from ernie_deploy.plan.memory import kv_bytes_per_token, parameters
from ernie_deploy.plan.settings import text
from ernie_deploy.plan.topology import Topology

RECIPES = ROOT / "tests" / "recipes"
COMMANDS = [*Catalog().recipes.serve, *Catalog().recipes.bench]


@pytest.mark.parametrize(
    ("model_id", "count"),
    [
        ("0.3b", 360_748_032),
        ("21b", 21_825_437_888),
        ("300b", 299_484_163_264),
        ("vl-28b", 29_399_294_336),
        ("vl-424b", 423_526_285_184),
    ],
)
def test_architecture_figures_give_the_published_parameter_count(
    catalog: Catalog, model_id: str, count: int
) -> None:
    assert parameters(catalog.model(model_id)).total == count


@pytest.mark.parametrize(
    ("model_id", "bytes_per_token"),
    [("0.3b", 18_432), ("21b", 57_344), ("vl-28b", 57_344), ("300b", 221_184), ("vl-424b", 221_184)],
)
def test_kv_cache_bytes_a_token_of_the_whole_model(
    catalog: Catalog, model_id: str, bytes_per_token: int
) -> None:
    assert kv_bytes_per_token(catalog.model(model_id), Topology()) == bytes_per_token


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.id)
def test_each_recipe_row_says_what_its_lines_say(command: Row | Bench) -> None:
    lines = (RECIPES / command.recipe).read_text(encoding="utf-8").splitlines()
    first, last = command.lines
    words = shlex.split(
        " ".join(line.rstrip("\\") for line in lines[first - 1 : last] if not line.startswith("#"))
    )
    environment = dict(word.split("=") for word in words if re.fullmatch(r"[A-Z_]+=\w+", word))
    assert environment == getattr(command, "environment", {})
    flags = words[words.index("serve") + 1 :]
    if isinstance(command, Row):
        assert flags.pop(0) == Catalog().model(command.model).hf_id
    assert _pairs(flags) == {name: _said(value) for name, value in command.settings.items()}


def _pairs(words: list[str]) -> dict[str, str | bool]:
    """Flags of a published command; JSON loses its spaces."""
    pairs: dict[str, str | bool] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            pairs[name] = value or True
        else:
            pairs[name] = re.sub(r"\s", "", word)
    return pairs


def _said(value: object) -> str | bool:
    return value if isinstance(value, bool) else text(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.id)
def test_each_published_flag_is_cited_by_the_line_it_stands_on(command: Row | Bench) -> None:
    lines = (RECIPES / command.recipe).read_text(encoding="utf-8").splitlines()
    cited = recipe.settings_of(command)
    cited += recipe.environment_of(command) if isinstance(command, Row) else []
    for setting in cited:
        number = int(setting.origin.rpartition(":")[2])
        assert setting.name in lines[number - 1], setting


def test_every_serve_command_of_the_recipes_has_a_row() -> None:
    written = sum(
        path.read_text(encoding="utf-8").count("vllm serve baidu") for path in RECIPES.glob("Ernie*.md")
    )
    assert written == len(Catalog().recipes.serve) == 11


@pytest.mark.parametrize("baseline", Catalog().baselines, ids=lambda baseline: baseline.id)
def test_published_results_are_quoted_to_the_digit(baseline: object) -> None:
    first, last = baseline.lines  # type: ignore[attr-defined]
    block = (RECIPES / baseline.recipe).read_text(encoding="utf-8").splitlines()[first - 1 : last]  # type: ignore[attr-defined]
    printed = [float(n) for line in block for n in re.findall(r":\s+([\d.]+)\s*$", line)]
    printed.pop(1)  # the request rate, which is the cell's
    assert printed == list(baseline.figures.values())  # type: ignore[attr-defined]


def test_support_lists_every_target_of_every_model_once(catalog: Catalog) -> None:
    table = load(catalog.folder / "support.toml", SupportTable).models
    assert set(table) == set(catalog.ids("models"))
    for row in table.values():
        assert sorted([*row.recipe, *row.derived, *row.refused]) == catalog.ids("targets")


def test_support_says_of_every_pair_what_the_plan_does(catalog: Catalog) -> None:
    for model in catalog.models():
        for target in catalog.targets():
            support = catalog.support(model.id, target.id)
            if support.state == "refused":
                assert support.reason
                with pytest.raises(KitError):
                    planned(target.id, model=model.id)
            else:
                row = planned(target.id, model=model.id).row
                assert (support.state == "recipe") == bool(row), (model.id, target.id)


def test_recipe_rows_on_one_node_are_all_reached(catalog: Catalog) -> None:
    for row in catalog.recipes.serve:
        for target in row.targets if row.nodes == 1 else []:
            assert planned(target, model=row.model, profiles=tuple(row.variant)).row == row.id


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "models" / "x.toml"
    path.parent.mkdir()
    good = (ROOT / "ernie_deploy/catalog/models/21b.toml").read_text(encoding="utf-8")
    path.write_text(
        good.replace("layers = 28", 'layers = "28"')
        .replace("hf_id", "hfid")
        .replace("count = 64", "count = 64\nsize = 1")
    )
    with pytest.raises(CatalogError) as told:
        load(path, Model)
    assert str(told.value).splitlines()[:5] == [
        "The catalog has 4 faults:",
        "  models/x.toml: hfid: unknown key",
        "  models/x.toml: hf_id: missing",
        "  models/x.toml: figures.layers: Expected `int`, got `str`",
        "  models/x.toml: experts.size: unknown key",
    ]
    assert told.value.exit_code == 3


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "models" / "x.toml"
    path.parent.mkdir()
    path.write_text("id = x\n")
    with pytest.raises(CatalogError, match=r"models/x.toml: .*line 1"):
        load(path, Model)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "21-b", "21b\0", "x" * 10_000])
def test_an_unknown_id_is_refused_with_what_is_known(catalog: Catalog, name: str) -> None:
    with pytest.raises(CatalogError) as told:
        catalog.model(name)
    assert "ernie-deploy models" in str(told.value)
    assert len(str(told.value)) < 500


# --- what remote code needs ---


@pytest.mark.parametrize("model", Catalog().models(), ids=lambda model: model.id)
def test_a_model_with_remote_code_names_what_that_needs_and_no_other_does(
    catalog: Catalog, model: Model
) -> None:
    assert bool(model.packages) == model.trust_remote_code
    assert [package.id for package in catalog.packages_of(model)] == model.packages


def test_every_package_is_some_models(catalog: Catalog) -> None:
    assert set(catalog.packages) == {name for model in catalog.models() for name in model.packages}


@pytest.mark.parametrize("package", Catalog().packages.values(), ids=lambda package: package.id)
def test_the_script_unpacks_a_package_where_the_catalog_says(package: Package) -> None:
    script = loaded("packages")
    archive = script.pinned(package.requirement)
    assert f"/packages/{archive.folder}" == package.folder
    assert archive.fits("x86_64")
    assert archive.fits("aarch64") == (package.machine == "")
    assert package.size_bytes <= script.MOST_ARCHIVE_BYTES
    assert package.unpacked_bytes <= script.MOST_UNPACKED_BYTES
    assert package.modules or package.places
    if package.places:
        assert re.fullmatch("[0-9a-f]{64}", package.places.sha256)


def test_a_package_that_is_not_there_is_named(catalog: Catalog) -> None:
    model = replace(catalog.model("vl-28b"), packages=["decord", "decrod"])
    with pytest.raises(CatalogError, match="There is no package 'decrod'"):
        catalog.packages_of(model)
