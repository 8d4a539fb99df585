"""A rendered stack as the place of a benchmark: the service `bench` against the service `serve`."""

import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ernie_deploy.bench.measure.client import DATASET_MOUNT, RESULTS_MOUNT, Place, base_words
from ernie_deploy.bench.measure.deployment import wait_until
from ernie_deploy.bench.measure.gpus import visible_gpus
from ernie_deploy.bench.measure.secrecy import is_secret_variable, masked, without_secrets
from ernie_deploy.bench.measure.server import Endpoint
from ernie_deploy.errors import ServerDied, UsageError
from ernie_deploy.safe_io.reading import MIB, read_bounded
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand, started
from ernie_deploy.stack.servers import servers

if TYPE_CHECKING:
    import subprocess

    from docker import DockerClient

RESTART_S = 3600
LOG_LINES = 40
CLIENT_NAME = re.compile(r"-bench-[0-9a-f]{8}$")
# Variables of the server that change its speed.
SPEED = ("VLLM_", "CUDA_", "HIP_", "ROCR_", "NCCL_", "RCCL_", "OMP_", "SAFETENSORS_", "TORCH", "TRITON_")


class ComposeDeployment:
    """One stack; what needs its server raises `ServerDied` where it is not up."""

    can_restart = True

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.config: dict[str, Any] = json.loads(demand(stack.resolved()))
        self._services = self.config["services"]
        self._found: Endpoint | None = None
        for name in ("serve", "bench"):
            if name not in self._services:
                raise UsageError(
                    f"The stack has no service `{name}`.",
                    cause="the benchmark is the service `bench` of a rendered stack",
                    next_step="render one with `ernie-deploy render TARGET`, or use --attach URL",
                )

    @cached_property
    def _engine(self) -> "DockerClient":
        return containers.client()

    @property
    def endpoint(self) -> Endpoint:
        """The stack's server, at its port or inside; after a restart port or container may be another one."""
        self._found = self._found or self._server()
        return self._found

    @property
    def project(self) -> str:
        """Compose's name for the stack."""
        return str(self.config["name"])

    @property
    def rehearsal(self) -> bool:
        """Whether the weights are a tiny checkpoint from the local hub of a rehearsal."""
        return "hub" in self._services

    def serving(self) -> containers.State:
        """The container that serves; raises `ServerDied` where there is none."""
        states = containers.states(self._engine, self.project)
        serve = next(
            (state for state in states if state.service == "serve" and state.status == "running"), None
        )
        if serve is None:
            raise ServerDied(
                f"The stack {self.project} does not serve.",
                cause="its container is not running",
                next_step="start it with: ernie-deploy up",
            )
        return serve

    def base_words(self) -> list[str]:
        """The command of the service `bench` without what a cell decides."""
        return base_words(self._services["bench"]["command"] or ())

    def place(self, results: Path, dataset: Path | None) -> Place:  # noqa: ARG002 - the deployment's shape
        """The container's mounts."""
        return Place()

    def command(self, words: Sequence[str], results: Path, dataset: Path | None) -> list[str]:
        """`docker compose run` of the service `bench` with the result folder mounted."""
        mounts = [f"{results.resolve()}:{RESULTS_MOUNT}"]
        mounts += [f"{dataset.resolve()}:{DATASET_MOUNT}:ro"] if dataset else []
        volumes = [word for mount in mounts for word in ("--volume", mount)]
        return self.stack.bench(*words, options=["--name", self._client_name(results), *volumes])

    @contextmanager
    def client(
        self, words: Sequence[str], results: Path, dataset: Path | None, log: IO[str]
    ) -> "Iterator[subprocess.Popen[str]]":
        """Run the client's container; it is removed with the block, however that ends."""
        # The container's user is not this one: its folder is open, and lies in one that is not.
        results.chmod(0o777)
        try:
            with started(self.command(words, results, dataset), output=log) as process:
                try:
                    yield process
                finally:
                    if process.poll() is None:
                        self._remove(self._client_name(results))
        finally:
            results.chmod(0o700)

    def clear_leftovers(self) -> None:
        """Remove the clients of a run that was killed."""
        label = [f"{containers.PROJECT}={self.project}", f"{containers.SERVICE}=bench"]
        clients = self._engine.containers.list(all=True, filters={"label": label})
        for container in clients:
            # Not what the user ran by hand with `docker compose run`.
            if CLIENT_NAME.search(container.name or ""):
                self._remove(container.id or "")

    def facts(self) -> dict[str, Any]:
        """Image, arguments, variables and GPUs of the running container."""
        serve = self._engine.containers.get(self.serving().id)
        settings = serve.attrs["Config"]
        gpus, driver = visible_gpus(serve)
        return {
            "hf_id": _model_of(settings["Cmd"] or ()),
            "image": settings["Image"],
            "image_digest": _digest(serve.image),
            "argv": tuple(masked(settings["Cmd"] or ())),
            "variables": speed_variables(settings["Env"] or []),
            "gpus": gpus,
            "driver": driver,
            "compose_sha256": hashlib.sha256(
                b"".join(read_bounded(file, 16 * MIB) for file in self.stack.files)
            ).hexdigest(),
            "server_started": serve.attrs["State"]["StartedAt"],
            "rehearsal": self.rehearsal,
        }

    def alive(self) -> bool:
        """Whether the serving container runs and is not on its way out."""
        with suppress(ServerDied):
            return self.serving().health != "unhealthy"
        return False

    def wait_healthy(self, limit_s: float) -> None:
        """Wait for Docker's restart policy to do its work; the published port may be another one then.

        A server whose engine died says goodbye for a quarter of a minute, healthy by Docker's last look.
        """

        def healthy() -> bool:
            self._found = None
            with suppress(ServerDied):
                return self.serving().health == "healthy" and self.endpoint.server.is_healthy()
            return False

        wait_until(healthy, limit_s, f"the stack {self.project}")

    def restart(self) -> None:
        """A new container, waited for."""
        demand(
            self.stack.words("up", "--detach", "--no-deps", "--force-recreate", "--wait", "serve"),
            timeout_s=RESTART_S,
        )
        self._found = None

    def log_tail(self) -> tuple[str, ...]:
        """The end of the server's log."""
        states = containers.states(self._engine, self.project)
        serve = containers.of_service(states, "serve")
        return tuple(containers.log(self._engine, serve.id, LOG_LINES).splitlines()) if serve else ()

    def _server(self) -> Endpoint:
        server = servers(self._engine, self._services, [self.serving()])[0]
        return Endpoint(url=server.url, api_key=self._api_key(), inside=server)

    def _api_key(self) -> str:
        """The key of a guarded stack, from the file that Compose hands to its containers."""
        from ernie_deploy.stack.api_key import key_in

        source = self.config.get("secrets", {}).get("vllm_config", {}).get("file")
        return key_in(Path(source)) if source else ""

    def _client_name(self, results: Path) -> str:
        return f"{self.project}-bench-{results.name}"

    def _remove(self, name: str) -> None:
        ask(["docker", "rm", "--force", name])


def fresh_name() -> str:
    """A short name for one client's folder and container."""
    return secrets.token_hex(4)


def speed_variables(pairs: Sequence[str]) -> dict[str, str]:
    """Of `NAME=value` words those that change speed, and no secret."""
    known = dict(pair.split("=", 1) for pair in pairs)
    return {
        name: without_secrets(value)
        for name, value in sorted(known.items())
        if name.startswith(SPEED) and not is_secret_variable(name)
    }


def _model_of(command: Sequence[str]) -> str:
    return command[0] if command and not command[0].startswith("-") else ""


def _digest(image: Any) -> str:
    """The registry's digest, or for an image built here its id."""
    digests = image.attrs.get("RepoDigests") or []
    return digests[0].partition("@")[2] if digests else str(image.id)
