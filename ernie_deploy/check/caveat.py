"""What a finding about flags admits where the catalog lacks the version's own flag table."""

from ernie_deploy.check.service import Service
from ernie_deploy.check.values import NEWEST, shown
from ernie_deploy.check.versions import spelled


def caveat(service: Service) -> str:
    """What the tag says of the version: `this tag is 0.29.1`, `latest may be newer`."""
    engine, tag = service.engine, shown(service.image.tag or "no tag")
    if engine is None:
        return "the version in use is unknown"
    return f"{tag} may be newer" if engine == NEWEST else f"this tag is {spelled(engine)}"
