"""What each service of a compose file mounts, as words of YAML."""

from msgspec import Struct

from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.yaml import mount


class Volumes(Struct, frozen=True, kw_only=True):
    """The mounts of one stack; `host` are the `${VAR:-default}` of what a host may change, `scripts` is ready to mount."""

    plan: Plan
    host: dict[str, str]
    scripts: str

    @property
    def serve(self) -> list[str]:
        """Weights and packages to read; what is compiled, and the stack's own state, to write."""
        return [*self._to_read, *self._compiled, *self._in_home, "state:/stack", self.scripts]

    @property
    def bench(self) -> list[str]:
        """What the client reads; scripts where it starts with one."""
        runs_a_script = self.plan.request.api_key_file or self.plan.code
        return [*self._to_read, *([self.scripts] if runs_a_script else [])]

    @property
    def fetch(self) -> list[str]:
        """What it downloads to, and every volume that it hands to the serving user."""
        local, packages = self.plan.request.weights, bool(self.plan.packages)
        weights = [mount(local, "/weights")] if local else [self._of_host("HF_CACHE_DIR", "/cache/hf")]
        brought = [self._of_host("PACKAGES_DIR", "/packages")] if packages else []
        authority = [] if local and not packages else [self._of_host("CA_BUNDLE", "/run/ca.pem:ro")]
        scripts = self.scripts if self.scripts.startswith("./") else "scripts:/scripts"
        return [*weights, *brought, *authority, *self._compiled, "state:/stack", scripts]

    @property
    def _to_read(self) -> list[str]:
        local = self.plan.request.weights
        weights = mount(local, "/weights") if local else self._of_host("HF_CACHE_DIR", "/cache/hf:ro")
        return [weights, *([self._of_host("PACKAGES_DIR", "/packages:ro")] if self.plan.packages else [])]

    @property
    def _compiled(self) -> list[str]:
        return [self._of_host("ENGINE_CACHE_DIR", "/cache/engine")]

    @property
    def _in_home(self) -> list[str]:
        return [self._of_host("ENGINE_CACHE_DIR", folder) for folder in self.plan.home_caches]

    def _of_host(self, variable: str, target: str) -> str:
        return f'"{self.host[variable]}:{target}"'
