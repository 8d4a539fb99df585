"""The kit's own stacks under two vLLM versions: each model on each target, plain and with each profile."""

from collections.abc import Callable, Iterator

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.argv import Tool
from ernie_deploy.diff.change import Change, Key, Touched
from ernie_deploy.diff.compare import changes_of, in_order
from ernie_deploy.diff.facts import Facts
from ernie_deploy.diff.flags import OFF, ON
from ernie_deploy.diff.memory import rows
from ernie_deploy.errors import KitError, Refused
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import decide
from ernie_deploy.plan.settings import text
from ernie_deploy.plan.words import find

# So many names are written out.
MOST_NAMES = 6


def touched(catalog: Catalog, old: str, new: str) -> tuple[tuple[str, ...], tuple[Touched, ...]]:
    """The names of all stacks, and each change with those that it touches."""
    stacks: dict[str, Request] = {}
    touches: dict[Change, list[str]] = {}
    for request in requests(catalog):
        before, after = (_facts(catalog, request, version) for version in (old, new))
        if len(before) <= 1 and before == after:
            # Neither of them serves it.
            continue
        stacks[_name(request)] = request
        for change in changes_of(before, after):
            touches.setdefault(change, []).append(_name(request))
    return tuple(stacks), tuple(
        Touched(change=change, stacks=tuple(touches[change]), where=_where(touches[change], stacks, catalog))
        for change in in_order(touches)
    )


def _where(names: list[str], stacks: dict[str, Request], catalog: Catalog) -> str:
    """The stacks in a few words: all of them, or those of a vendor, of some targets or of some pairs."""
    if len(names) == len(stacks):
        return "all"
    kinds: list[tuple[str, Callable[[Request], str]]] = [
        ("all on ", lambda request: catalog.target(request.target).vendor),
        ("all on ", lambda request: request.target),
        ("all of ", lambda request: request.model),
        ("all of ", lambda request: f"{request.model}-{request.target}"),
    ]
    touched_here = set(names)
    for words, kind in kinds:
        groups = {kind(stacks[name]) for name in names}
        if {name for name, request in stacks.items() if kind(request) in groups} == touched_here:
            return _some(words, sorted(groups))
    return _some("", names)


def _some(words: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{words}{', '.join(names[:MOST_NAMES])}{more}"


def requests(catalog: Catalog) -> Iterator[Request]:
    """Each supported pair, plain and with one profile; some of them are refused."""
    for model in catalog.models():
        for target in catalog.targets():
            if catalog.support(model.id, target.id).state != "refused":
                yield Request(target=target.id, model=model.id)
                for profile in catalog.ids("profiles"):
                    yield Request(target=target.id, model=model.id, profiles=(profile,))


def _name(request: Request) -> str:
    return "-".join((request.model, request.target, *request.profiles))


def _facts(catalog: Catalog, request: Request, version: str) -> Facts:
    """A plan's facts; of one that is refused that alone, nothing where it cannot be asked for."""
    from msgspec.structs import replace

    try:
        return facts_of_plan(decide(catalog, replace(request, engine=version)))
    except Refused as refusal:
        return {Key("services", "", "refused"): refusal.what}
    except KitError:
        return {}


def facts_of_plan(plan: Plan) -> Facts:
    """What a plan decides; the volume of compiled kernels, which is another for each engine, is left out."""
    return {
        Key("image", "serve", "image"): plan.serve_image,
        Key("image", "bench", "image"): plan.bench_image,
        Key("security", "serve", "user"): plan.user,
        **dict(_of_settings("serve", plan)),
        **dict(_of_settings("bench", plan)),
        **{Key("variables", "serve", setting.name): text(setting.value) for setting in plan.environment},
        **{Key("memory", "", name): value for name, value in rows(plan.memory)},
        **{Key("volumes", "serve", folder): "engine-cache" for folder in plan.home_caches},
        **{Key("ports", "", port.summary): str(port.number) for port in plan.ports},
    }


def _of_settings(tool: Tool, plan: Plan) -> Iterator[tuple[Key, str]]:
    """The flags of one command as the plan's vLLM reads them: `--disable-x` is x, switched off."""
    for setting in plan.settings if tool == "serve" else plan.bench:
        if setting.value is not False:
            found = find(f"--{setting.name}", plan.engine, tool)
            name = found[0] if found else setting.name
            off = found is not None and found[1].kind == "boolean" and name.startswith("no-")
            value = OFF if off else ON if setting.value is True else text(setting.value)
            yield Key("flags", tool, f"--{name.removeprefix('no-') if off else name}"), value
