"""Which release a host's driver is, and which image of an engine runs on it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ernie_deploy.catalog.engine_schema import Engine, Image, Variant
from ernie_deploy.catalog.schema import Vendor
from ernie_deploy.catalog.vendor_schema import DriverFacts
from ernie_deploy.host.docker_checks import version_of

# 7.1.3.31500000 and 6.19.14.31400000-2370381: two digits each of the release, and two that it has not.
STAMPED = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}\.(\d\d)(\d\d)(\d\d)\d\d(?:-\d{1,20})?")
PLAIN = re.compile(r"\d{1,4}(?:\.\d{1,8}){1,3}")
# AMD's releases are counted from 30 on, and the modules' first numbers are the kernel's.
FIRST_RELEASE = 30


def release_of(version: str, driver: DriverFacts) -> str:
    """The release that a driver's version means; empty where it means none, as that of the kernel's own driver."""
    if stamped := STAMPED.fullmatch(version):
        return ".".join(str(int(part)) for part in stamped.groups())
    if not PLAIN.fullmatch(version):
        return ""
    if not driver.modules or version_of(version)[0] >= FIRST_RELEASE:
        return version
    rows = (row for row in driver.modules if version_of(row.module) <= version_of(version))
    return next((row.release for row in rows), "")


def runs(variant: Variant, release: str) -> bool:
    """Whether an image is known to run on this release of the driver, or no floor is known of it."""
    return version_of(release) >= version_of(variant.min_driver)


def fitting(image: Image, release: str) -> str | None:
    """The CUDA or ROCm of the first image that runs on the release; None where none does."""
    return next((version for version, variant in image.variants.items() if runs(variant, release)), None)


def choices(
    engines: Sequence[Engine], vendor: Vendor, driver: DriverFacts, release: str
) -> Iterator[dict[str, Any]]:
    """Fields of requests whose images run on the release, the first engine first; no field for what is the default."""
    for engine in engines:
        version = fitting(engine.images[vendor], release)
        if version is not None:
            default = version == engine.images[vendor].platform
            yield {"engine": engine.version, driver.option: "" if default else version}
