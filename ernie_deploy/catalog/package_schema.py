"""The catalog's types for what a model's remote code needs beside the image: packages, and a file beside the module."""

from msgspec import field

from ernie_deploy.catalog.schema import Fact

# Where a stack's containers see them; docker/scripts/packages.py unpacks each into a folder of its own.
PACKAGES = "/packages"


class PlacedFile(Fact, frozen=True):
    """A file that remote code looks for beside its own module; `path` is its place in the archive."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        """What the code calls it."""
        return self.path.rpartition("/")[2]


class Package(Fact, frozen=True):
    """One archive of the package index, pinned; `machine` is the only processor it is built for, empty for any.

    `modules` are what code can import from it; `places` is a file that has to lie beside the code.
    """

    id: str
    version: str
    archive: str
    sha256: str
    size_bytes: int
    unpacked_bytes: int
    reason: str
    source: str
    machine: str = ""
    modules: list[str] = field(default_factory=list)
    places: PlacedFile | None = None

    @property
    def title(self) -> str:
        """`decord 0.6.0`."""
        return f"{self.id} {self.version}"

    @property
    def folder(self) -> str:
        """Where the containers see it unpacked."""
        return f"{PACKAGES}/{self.id}-{self.version}"

    @property
    def requirement(self) -> str:
        """The archive and its hash, as a package index writes its links."""
        return f"{self.archive}#sha256={self.sha256}"

    @property
    def placed_path(self) -> str:
        """Where the containers see the file that is placed; empty where there is none."""
        return f"{self.folder}/{self.places.path}" if self.places else ""


class Packages(Fact, frozen=True):
    """Every package that some model needs."""

    packages: list[Package] = field(name="package")
