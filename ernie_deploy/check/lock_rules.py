"""ED163: what the lock of a stack has otherwise, and images that one service names by digest and another by tag."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.remark import Remark
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.values import shown
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.lock import Lock, read_lock, unlocked_image, unlocked_revision
from ernie_deploy.stack.rendered import lock_path, names_lock

if TYPE_CHECKING:
    from ernie_deploy.stack.locking import Difference

RULE = "ED163"
UPGRADE = "the locked stack still starts unchanged; ernie-deploy lock --upgrade takes what is there now"
# Where a lock and registries, hub and this machine differ today: asked for with --online alone, for it sends.
Ask: TypeAlias = Callable[[Lock, Path], "Iterable[Difference]"]


@rule(
    RULE,
    "warning",
    "The stack and its lock differ.",
    remedy="ernie-deploy lock keeps what is locked, adds what is not, and says how to render the stack with it",
    source="ernie.lock beside the file; with --online the registries, the hub and the images of this machine",
)
def not_as_locked(service: Service) -> Iterator[Spot]:
    """Images and revisions that are not those of the lock; an image by its tag that stands by its digest elsewhere."""
    lock, line = service.stack.lock, service.line_of("image")
    if not service.uses_vllm or not known(service.image.reference):
        return
    if lock is None:
        yield from _half_pinned(service, line)
        return
    if service.value("build") is None and (fault := unlocked_image(service.image.reference, lock)):
        yield Spot(line, shown(fault, 200))
    if service.serve and (word := service.model_word) and (fault := _of_revision(service, word.text, lock)):
        yield Spot(line, shown(fault, 200))


def _half_pinned(service: Service, line: int) -> Iterator[Spot]:
    image = service.image
    others = (other.image for other in service.stack.services.values())
    if not image.digest and any(o.digest and (o.name, o.tag) == (image.name, image.tag) for o in others):
        yield Spot(line, f"{shown(image.reference)} names no digest, and another service of the stack does")


def _of_revision(service: Service, hf_id: str, lock: Lock) -> str:
    named = service.serve.text("revision") if service.serve else None
    return unlocked_revision(hf_id, named or "main", lock)


def join(stack: Stack, file: Path, ask: Ask | None) -> None:
    """Give a stack the lock of its file, and remark on one that is missing or damaged, or that no longer holds."""
    try:
        path = lock_path(file)
        if not path.is_file() and not names_lock(file):
            return
        stack.lock = read_lock(path)
    except OSError:
        return
    except UsageError as fault:
        stack.remarks.append(Remark(RULE, 1, shown(fault.what.rstrip("."), 200), remedy=fault.next_step))
        return
    for found in ask(stack.lock, file) if ask else ():
        stack.remarks.append(Remark(RULE, 1, found.sentence.rstrip("."), remedy=UPGRADE))
