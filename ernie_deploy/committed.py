"""The committed set: one compose file a supported pair and the .env.example, kept in step."""

from pathlib import Path

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import OutOfDate
from ernie_deploy.folder import env_example
from ernie_deploy.paths import write_whole
from ernie_deploy.plan import resolve
from ernie_deploy.render import compose_file
from ernie_deploy.request import Request

COMMAND = "ernie-deploy render --all --out-dir"


def requests(catalog: Catalog) -> list[Request]:
    """Each supported pair in its default form."""
    return [
        Request(target=target.id, model=model.id)
        for target in catalog.targets()
        for model in catalog.models()
        if catalog.support(model.id, target.id).state != "refused"
    ]


def files(catalog: Catalog) -> dict[str, str]:
    """File name -> text of every committed file."""
    plans = (resolve(catalog, request) for request in requests(catalog))
    stacks = {f"{plan.name}.yml": compose_file(plan, catalog.defaults) for plan in plans}
    return {**stacks, "../.env.example": env_example(catalog)}


def write(folder: Path, wanted: dict[str, str]) -> None:
    """Write the set and remove rendered files that no pair stands behind any more."""
    for name, text in wanted.items():
        write_whole(folder / name, text, force=True)
    for orphan in _orphans(folder, wanted):
        orphan.unlink()


def differences(folder: Path, wanted: dict[str, str]) -> None:
    """Raise `OutOfDate` naming every file that is stale, missing or orphaned."""
    found = [f"missing: {folder / name}" for name in wanted if not (folder / name).exists()]
    found += [
        f"stale: {folder / name}"
        for name, text in wanted.items()
        if (folder / name).exists() and (folder / name).read_text(encoding="utf-8") != text
    ]
    found += [f"orphaned: {path}" for path in _orphans(folder, wanted)]
    if found:
        raise OutOfDate(
            "\n".join(found),
            cause="the catalog or a template changed and the files were not rendered again",
            next_step=f"{COMMAND} {folder}",
        )


def _orphans(folder: Path, wanted: dict[str, str]) -> list[Path]:
    """Files that the kit once wrote (line 1 says so) and no longer would."""
    return [
        path
        for path in sorted(folder.glob("*.yml"))
        if path.name not in wanted and path.read_text(encoding="utf-8").startswith("# ernie-deploy ")
    ]
