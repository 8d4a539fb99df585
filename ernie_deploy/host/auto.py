"""A request for the host at hand: its target by its GPUs, its image by its driver."""

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import Refused
from ernie_deploy.host import drivers
from ernie_deploy.host.docker_checks import version_of
from ernie_deploy.host.facts import Facts, collect
from ernie_deploy.host.guess import guess
from ernie_deploy.host.probes import Host
from ernie_deploy.plan.request import Request


def of_host(host: Host, catalog: Catalog, request: Request) -> tuple[Request, str]:
    """The request with the host's target and an image for its driver, and the sentence that says why.

    Raises `Refused` where the host looks like no target, or no image of the engine runs on its driver.
    """
    facts = collect(host)
    guessed = guess(facts, catalog)
    if not guessed.certain:
        raise Refused(
            f"This host {guessed.sentence}.",
            cause="`auto` plans for the GPUs that it finds",
            next_step="name a target; ernie-deploy targets lists them",
        )
    return with_image(facts, catalog, replace(request, target=guessed.target)), guessed.sentence


def with_image(facts: Facts, catalog: Catalog, request: Request) -> Request:
    """The request with --cuda or --rocm where the default image is too new for the host's driver.

    Raises `Refused` where every image of the engine is. A driver that tells no release decides nothing.
    """
    vendor, engine = catalog.vendor(catalog.target(request.target).vendor), catalog.engine(request.engine)
    driver = vendor.driver
    version = facts.drivers[vendor.id]
    release = drivers.release_of(version, driver) if driver and version else ""
    if driver is None or not release or request.image or request.cuda or request.rocm:
        return request
    fields = next(drivers.choices([engine], vendor.id, driver, release), None)
    if fields is None:
        least = min((v.min_driver for v in engine.images[vendor.id].variants.values()), key=version_of)
        raise Refused(
            f"No image of vLLM {engine.version} runs on {driver.title} {release}.",
            cause=f"it needs {least} or newer",
            next_step=f"update the driver{_other_engine(catalog, request, release)}",
        )
    return replace(request, **{driver.option: fields[driver.option]})


def _other_engine(catalog: Catalog, request: Request, release: str) -> str:
    """The words that ask for the newest engine with an image for this driver; '' where none has one."""
    vendor = catalog.vendor(catalog.target(request.target).vendor)
    engines = [catalog.engine(version) for version in reversed(catalog.ids("engines"))]
    fields = (
        next(drivers.choices(engines, vendor.id, vendor.driver, release), None) if vendor.driver else None
    )
    words = [f"--{option} {value}" for option, value in (fields or {}).items() if value]
    return f", or ask for {' '.join(words)}" if words else ""
