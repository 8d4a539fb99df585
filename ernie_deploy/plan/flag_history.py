"""Which releases of vLLM have a flag of `vllm serve`, from 0.6.0 to the newest that the catalog knows."""

from functools import cache

from ernie_deploy.catalog.engine_schema import FlagHistory, FlagRun, RemovedFlag, RemovedFlags
from ernie_deploy.catalog.load import load
from ernie_deploy.paths import CATALOG

Version = tuple[int, int, int]


def numbers(release: str) -> Version:
    """`0.6.6.post1` -> (0, 6, 6)."""
    major, minor, patch = (*release.split("."), "0", "0")[:3]
    return int(major), int(minor), int(patch)


class History:
    """The runs of releases that have each flag; names are without dashes."""

    def __init__(self, facts: FlagHistory, removed: list[RemovedFlag]) -> None:
        self.releases = facts.releases
        self._order = [numbers(release) for release in facts.releases]
        self._flags = {name.removeprefix("--"): run for name, run in facts.flags.items()}
        self._removed = {row.flag: row for row in removed}

    @property
    def oldest(self) -> str:
        """The first release whose flags are known."""
        return self.releases[0]

    @property
    def newest(self) -> str:
        """The last release whose flags are known."""
        return self.releases[-1]

    def run(self, name: str) -> FlagRun | None:
        """The releases of a flag, or of what `--no-` switches off; None where no release has it."""
        return self._flags.get(name) or self._flags.get(name.removeprefix("no-"))

    def has(self, name: str, version: Version) -> bool:
        """Whether `version` takes the flag, or may: one of the known releases on either side of it does."""
        run = self.run(name)
        return run is not None and any(self._holds(run, near) for near in self._around(version))

    def first(self, name: str) -> str:
        """The release with which the flag came; empty for a flag that no release has."""
        run = self.run(name)
        return run.spans[0][0] if run else ""

    def end(self, name: str, version: Version) -> str:
        """The first known release without a flag that was there before `version`; empty where it was not."""
        run = self.run(name)
        lasts = [span[1] for span in run.spans if len(span) > 1 and numbers(span[1]) < version] if run else []
        return self.releases[self.releases.index(lasts[-1]) + 1] if lasts else ""

    def again(self, name: str) -> str:
        """The release that took a removed flag back; empty where none did."""
        run = self.run(name)
        return run.spans[-1][0] if run and len(run.spans) > 1 else ""

    def remedy(self, name: str) -> str:
        """What to write instead of a removed flag; empty where the catalog has no advice."""
        row = self._removed.get(name)
        return row.remedy if row else ""

    def _around(self, version: Version) -> list[Version]:
        below = [release for release in self._order if release <= version]
        above = [release for release in self._order if release >= version]
        return [*below[-1:], *above[:1]]

    def _holds(self, run: FlagRun, version: Version) -> bool:
        ends = ((span[0], span[1] if len(span) > 1 else self.newest) for span in run.spans)
        return any(numbers(first) <= version <= numbers(last) for first, last in ends)


@cache
def history() -> History:
    """The catalog's history of flags, with what replaced the removed ones."""
    folder = CATALOG / "engines"
    removed = load(folder / "removed.toml", RemovedFlags).removed
    return History(load(folder / "history.toml", FlagHistory), removed)
