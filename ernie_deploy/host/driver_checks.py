"""Whether the image of a plan runs on the host's driver, and the command that asks for one that does."""

from ernie_deploy.catalog.engine_schema import Variant
from ernie_deploy.catalog.vendor_schema import DriverFacts
from ernie_deploy.host import drivers
from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, ok, unknown


def judge(examination: Examination, driver: DriverFacts, version: str) -> Finding:
    """The finding on a driver that is loaded and tells this version."""
    release = drivers.release_of(version, driver)
    have = f"{driver.title} {_shown(version, release)}"
    variant = _variant(examination, driver)
    if variant is None or not variant.min_driver:
        return ok("driver", f"{have}; no floor is known of {examination.plan.image}.")
    if not release:
        sentence = f"{have} tells no release; {examination.plan.image} needs {variant.min_driver}."
        return unknown("driver", sentence, _remedy(examination, driver, release, variant))
    if drivers.runs(variant, release):
        return ok("driver", f"{have}; the image needs {variant.min_driver}.")
    sentence = f"{have} is below {variant.min_driver}, which {examination.plan.image} needs."
    return error("driver", sentence, _remedy(examination, driver, release, variant))


def _shown(version: str, release: str) -> str:
    return f"{release} (module {version})" if release and release != version else version


def _variant(examination: Examination, driver: DriverFacts) -> Variant | None:
    """The published image that the plan has; None where the user names one."""
    request, image = examination.plan.request, examination.engine.images[examination.plan.target.vendor]
    version = getattr(request, driver.option) or image.platform
    return None if request.image else image.variants.get(version)


def _remedy(examination: Examination, driver: DriverFacts, release: str, variant: Variant) -> str:
    """A newer driver, or the command for an image that runs on this one: of the same engine if it has one."""
    update = f"update the driver to {variant.min_driver} or newer"
    vendor, engines = examination.plan.target.vendor, (examination.engine, *examination.engines)
    fields = next(drivers.choices(engines, vendor, driver, release), None)
    if fields is None:
        return update
    if fields["engine"] == examination.engine.version:
        fields["engine"] = examination.plan.request.engine
    return f"{update}, or: {examination.command('render', **fields)}"
