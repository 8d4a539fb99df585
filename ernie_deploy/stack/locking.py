"""Makes a lock from what registries and hub say, and says where one of them says something else today."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from ernie_deploy import __version__
from ernie_deploy.errors import KitError
from ernie_deploy.plan.lock import Lock, LockedModel, short
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.references import COMMIT
from ernie_deploy.plan.sources import REVISIONS
from ernie_deploy.stack import registry
from ernie_deploy.stack.hub import Hub, NotThere

if TYPE_CHECKING:
    from docker import DockerClient

# moved and gone: what the lock names is something else now; local: this machine has something else by the same tag;
# unasked: nobody answered.
Kind: TypeAlias = Literal["moved", "gone", "local", "unasked"]


class Difference(Struct, frozen=True):
    """One place where a lock and today differ, or could not be compared."""

    kind: Kind
    sentence: str


class Sources(Struct, frozen=True):
    """Who is asked; `place` gives a rendered image reference as this host pulls it (IMAGE_REGISTRY)."""

    engine: "DockerClient"
    hub: Hub
    place: Callable[[str], str]


def images_of(plan: Plan) -> list[str]:
    """The images of a plan that was made without a lock, but for those that name a digest already."""
    other_images = [plan.gateway.image] if plan.gateway else []
    other_images += [exporter.reference for exporter in plan.monitoring]
    return sorted({image for image in (plan.image, plan.bench_image, *other_images) if "@" not in image})


def revisions_of(plan: Plan) -> list[str]:
    """The revisions of its model, that of the weights first; none with --weights."""
    if plan.request.weights:
        return []
    named = (str(setting.value) for setting in plan.settings if setting.name in REVISIONS)
    return list(dict.fromkeys([plan.revision, *named]))


def made(plan: Plan, sources: Sources, kept: Lock | None = None) -> Lock:
    """A lock of a plan that was made without one; what `kept` holds is not asked for again. Raises `KitError`."""
    images, models = (kept.images, kept.models) if kept else ({}, {})
    known = plan.model.hf_id in models and set(revisions_of(plan)) <= {
        models[plan.model.hf_id].commit,
        *models[plan.model.hf_id].revisions,
    }
    return Lock(
        kit=__version__,
        engine=plan.engine,
        images={
            image: images.get(image) or registry.digest_of(sources.engine, sources.place(image))
            for image in images_of(plan)
        },
        models={plan.model.hf_id: models[plan.model.hf_id] if known else _model(plan, sources.hub)}
        if revisions_of(plan)
        else {},
    )


def _model(plan: Plan, hub: Hub) -> LockedModel:
    first, *others = revisions_of(plan)
    seen = hub.revision_info(plan.model.hf_id, first)
    commits = {first: seen.commit} | {
        name: hub.revision_info(plan.model.hf_id, name).commit for name in others
    }
    names = {name: commit for name, commit in commits.items() if not COMMIT.fullmatch(name)}
    return LockedModel(commit=seen.commit, revisions=names, files=seen.files)


def moves(before: Lock, after: Lock) -> list[str]:
    """What another lock says otherwise, a line each."""
    lines = [
        _move(name, before.images.get(name), after.images.get(name))
        for name in sorted({*before.images, *after.images})
        if before.images.get(name) != after.images.get(name)
    ]
    old, new = _commits(before), _commits(after)
    lines += [
        _move(name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    pairs = (("kit", before.kit, after.kit), ("vLLM", before.engine, after.engine))
    return lines + [f"{what} {one} -> {other}" for what, one, other in pairs if one != other]


def _commits(lock: Lock) -> dict[str, str]:
    return {
        f"{hf_id} {name}": commit
        for hf_id, model in lock.models.items()
        for name, commit in (model.revisions or {"commit": model.commit}).items()
    }


def _move(name: str, before: str | None, after: str | None) -> str:
    if before is None or after is None:
        return f"{name} {'no longer there' if after is None else f'new at {short(after)}'}"
    return f"{name} {short(before)} -> {short(after)}"


def differences(lock: Lock, sources: Sources) -> Iterator[Difference]:
    """Where registries, this machine and the hub differ from a lock today; those that do not answer are named."""
    silent: set[str] = set()
    for image, digest in sorted(lock.images.items()):
        yield from _of_image(sources, sources.place(image), digest, silent)
    for hf_id, model in sorted(lock.models.items()):
        yield from _of_model(sources.hub, hf_id, model)


def _of_image(sources: Sources, placed: str, digest: str, silent: set[str]) -> Iterator[Difference]:
    """An image at its registry, but for those that are `silent`, and on this machine."""
    # A firewall that drops packets costs the whole limit: once is enough for `up`.
    if (host := registry.registry_of(placed)) not in silent:
        try:
            now = registry.digest_of(sources.engine, placed)
        except registry.NotThere as fault:
            yield Difference("gone", f"{fault.what} The lock has {short(digest)}.")
        except KitError as fault:
            silent.update([host] if isinstance(fault, registry.Silent) else [])
            yield Difference("unasked", f"{fault.what} ({fault.cause})")
        else:
            if now != digest:
                sentence = f"{placed} moved: the registry has {short(now)} now, the lock {short(digest)}."
                yield Difference("moved", sentence)
    here = registry.local_digests(sources.engine, placed)
    if here and digest not in here:
        sentence = (
            f"This machine has another image by the tag {placed}: {short(here[0])}, the lock {short(digest)}."
        )
        yield Difference("local", sentence)


def _of_model(hub: Hub, hf_id: str, model: LockedModel) -> Iterator[Difference]:
    try:
        seen = hub.revision_info(hf_id, model.commit)
        if seen.commit != model.commit or model.files != seen.files:
            yield Difference(
                "moved", f"The hub lists other files than the lock for {hf_id} at {short(model.commit)}."
            )
    except NotThere:
        sentence = f"The commit {short(model.commit)} of {hf_id} is gone from the hub: what is not downloaded yet cannot be."
        yield Difference("gone", sentence)
    except KitError as fault:
        yield Difference("unasked", f"{fault.what} ({fault.cause})")
        return
    for name, commit in model.revisions.items():
        yield from _of_revision(hub, hf_id, name, commit)


def _of_revision(hub: Hub, hf_id: str, name: str, commit: str) -> Iterator[Difference]:
    try:
        now = hub.revision_info(hf_id, name).commit
    except NotThere:
        yield Difference(
            "gone", f"The revision {name} of {hf_id} is gone from the hub; the lock has {short(commit)}."
        )
    except KitError as fault:
        yield Difference("unasked", f"{fault.what} ({fault.cause})")
    else:
        if now != commit:
            sentence = f"{hf_id} {name} moved: the hub has {short(now)} now, the lock {short(commit)}."
            yield Difference("moved", sentence)
