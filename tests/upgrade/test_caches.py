"""What an engine compiles lies apart from what another compiled, so that going back starts warm."""

import pytest
import yaml
from conftest import rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.render.committed import requests
from ernie_deploy.stack.volumes import KERNELS

CATALOG = Catalog()
ENGINES = CATALOG.ids("engines")
MOUNT = "/cache/engine"


def plans(engine: str) -> list[Plan]:
    from msgspec.structs import replace

    return [resolve(CATALOG, replace(request, engine=engine)) for request in requests(CATALOG)]


def test_each_engine_has_its_own_volume_of_each_model_and_vendor() -> None:
    assert len(ENGINES) > 1
    for of_all in zip(*map(plans, ENGINES), strict=True):
        names = [plan.engine_volume for plan in of_all]
        assert len(set(names)) == len(ENGINES), names
        matches = [KERNELS.fullmatch(name) for name in names]
        # What `volumes` takes for another version of the same.
        assert {match and match["of"] for match in matches} == {names[0].rpartition("-")[0]}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", ["h100", "mi300x"])
def test_all_that_is_compiled_lies_on_that_volume(engine: str, target: str) -> None:
    stack = yaml.safe_load(rendered(target, engine=engine))
    assert stack["volumes"]["engine-cache"]["name"].endswith(f"-{engine}")
    serve = stack["services"]["serve"]
    places = [
        mount.partition("}:")[2] for mount in serve["volumes"] if mount.startswith("${ENGINE_CACHE_DIR")
    ]
    assert MOUNT in places
    vendor = CATALOG.target(target).vendor
    for cache in CATALOG.engine(engine).caches:
        value = serve["environment"].get(cache.variable, "") if cache.variable else ""
        mounted = value.startswith(f"{MOUNT}/") or any(place.endswith(cache.folder) for place in places)
        assert mounted or not cache.is_of(vendor), cache
