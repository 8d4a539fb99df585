"""A lock for the tests: digests and commits that are recognised at a glance."""

from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.lock import Lock, LockedFile, LockedModel, LockFile
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.stack.locking import images_of

COMMIT = "c0" * 20


def lock_of(request: Request) -> Lock:
    """A lock that holds the whole stack of a request."""
    plan = resolve(Catalog(), request)
    images = images_of(plan)
    digests = {name: "sha256:" + f"{number + 1:x}" * 64 for number, name in enumerate(images)}
    model = LockedModel(
        commit=COMMIT,
        revisions={plan.revision: COMMIT},
        files={
            "config.json": LockedFile(700, "git:" + "a" * 40),
            "model.safetensors": LockedFile(9_000, "sha256:" + "b" * 64),
        },
    )
    return Lock(kit="0.9.0", engine=plan.engine, images=digests, models={plan.model.hf_id: model})


def lock_file(request: Request) -> LockFile:
    """The same as a rendering names it."""
    return LockFile("ernie.lock", lock_of(request))
