"""Code of a model's own repository: what it needs beside the image, and the words of the scripts that deal with it."""

from collections.abc import Sequence

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.package_schema import PACKAGES, Package
from ernie_deploy.catalog.schema import Model
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.serve import WEIGHTS_MOUNT
from ernie_deploy.plan.settings import Setting


class RemoteCode(Struct, frozen=True, kw_only=True):
    """Code that vLLM runs because of --trust-remote-code, and the packages that `fetch` brings for it.

    `left_out` are those that it is told not to bring. `model` and `revision` are where `serve` finds the code,
    `tokenizer` is where `bench` does.
    """

    packages: tuple[Package, ...]
    left_out: tuple[Package, ...]
    model: str
    revision: str
    tokenizer: str

    @property
    def warnings(self) -> list[str]:
        """What follows where packages are left out."""
        return [_LEFT_OUT.format(titles=_titles(self.left_out))] if self.left_out else []

    @property
    def notes(self) -> list[str]:
        """What the user should know, one sentence each."""
        machines = [_MACHINE.format(title=p.title, machine=p.machine) for p in self.packages if p.machine]
        size = sum(package.size_bytes for package in self.packages) / 1e6
        brought = _BROUGHT.format(titles=_titles(self.packages), size=size) if self.packages else ""
        return [STAND_IN, READ, *filter(None, [brought]), *machines]

    @property
    def bring_words(self) -> list[str]:
        """Arguments of docker/scripts/packages.py; none where nothing is brought."""
        wanted = [package.requirement for package in self.packages]
        return ["bring", f"--into={PACKAGES}", *wanted, "--"] if wanted else []

    @property
    def judge_words(self) -> list[str]:
        """Arguments of docker/scripts/judge.py: what the code will find beside the image's modules."""
        return [
            *self._paths,
            *(f"--file={package.places.name}" for package in self.packages if package.places),
        ]

    @property
    def import_words(self) -> dict[str, str]:
        """Arguments of docker/scripts/dry_import.py wherever it runs, by a name for each."""
        paths = {f"{p.id}-path": f"--path={p.folder}" for p in self.packages if p.modules}
        placed = ((p, p.places) for p in self.packages if p.places)
        return paths | {f"{p.id}-file": f"--file={p.placed_path}=sha256:{file.sha256}" for p, file in placed}

    @property
    def serve_words(self) -> list[str]:
        """Its further arguments in `serve`."""
        revision = [f"--revision={self.revision}"] if self.revision else []
        return [f"--model={self.model}", *revision]

    @property
    def bench_words(self) -> list[str]:
        """The same for the benchmark's client, which takes the tokenizer from a folder."""
        return [f"--model={self.tokenizer}"]

    @property
    def _paths(self) -> list[str]:
        return [f"--path={package.folder}" for package in self.packages if package.modules]


STAND_IN = (
    "Served with a stand-in; the published processor was not run by us: its repository cannot be reached from where the"
    " kit is tested, so what it imports and downloads is known from a stored copy and from public reports."
)
READ = (
    "`fetch` reads the model's own code before the first gigabyte, without running it, and `serve` imports it once, with"
    " a time limit, before vLLM starts: a missing package or a request to the network is then a one-line error."
)
_BROUGHT = (
    "`fetch` brings {titles} for that code ({size:.0f} MB in all, pinned by hash, onto the volume ernie-packages), so that"
    " `serve` needs no way out. Without a way to a package index: copy the archives into the folder `archives` of PACKAGES_DIR."
)
_MACHINE = (
    "{title} is published for {machine} alone: on another processor, use your own image that has it and render with"
    " --extra-packages none."
)
_LEFT_OUT = (
    "--extra-packages none: {titles} are not brought. Unless the image has what the model's own code imports, `fetch` refuses"
    " it before the weights; the published processor then downloads a font from `serve`, which REMOTE_CODE_NETWORK=allow"
    " lets pass, so that the stack does not start without a way out."
)


def _titles(packages: Sequence[Package]) -> str:
    return " and ".join(package.title for package in packages)


def remote_code(
    catalog: Catalog, model: Model, request: Request, settings: Sequence[Setting], bench: Sequence[Setting]
) -> RemoteCode | None:
    """The model's own code where vLLM is told to run it, as the flags of server and benchmark client say."""
    flags = {setting.name: setting.value for setting in settings}
    if not (model.trust_remote_code and flags.get("trust-remote-code") is True):
        return None
    packages, brings = catalog.packages_of(model), request.extra_packages == "fetch"
    local = bool(request.weights)
    return RemoteCode(
        packages=packages if brings else (),
        left_out=() if brings else packages,
        model=WEIGHTS_MOUNT if local else model.hf_id,
        revision="" if local else str(flags.get("revision", model.revision)),
        tokenizer=next((str(s.value) for s in bench if s.name == "tokenizer"), model.hf_id),
    )
