"""Where a benchmark happens: a stack of compose services, or any server that a local client is pointed at."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from ernie_deploy.bench.measure import local_client
from ernie_deploy.bench.measure.client import Place
from ernie_deploy.bench.measure.server import Endpoint, ModelCard
from ernie_deploy.errors import ExtraMissing, ServerDied, ToolMissing, UsageError
from ernie_deploy.stack.compose import started
from ernie_deploy.stack.waiting import poll_until

if TYPE_CHECKING:
    import subprocess


class Deployment(Protocol):
    """What the runner needs of a place; a server that cannot be restarted has `can_restart` False."""

    can_restart: bool

    @property
    def endpoint(self) -> Endpoint:
        """The server's address; raises `ServerDied` where it has none."""

    def base_words(self) -> Sequence[str]:
        """Arguments of `vllm bench serve` that name model, tokenizer and address."""

    def place(self, results: Path, dataset: Path | None) -> Place:
        """Where the client sees the folder for its result and its dataset."""

    def client(
        self, words: Sequence[str], results: Path, dataset: Path | None, log: IO[str]
    ) -> "AbstractContextManager[subprocess.Popen[str]]":
        """Run vLLM's client beside the block; it is gone when the block ends."""

    def command(self, words: Sequence[str], results: Path, dataset: Path | None) -> list[str]:
        """The exact command that `client` runs."""

    def facts(self) -> dict[str, Any]:
        """Fields of `Environment` that only this place knows."""

    def clear_leftovers(self) -> None:
        """End the client of a run that was killed; it would go on loading the server."""

    def alive(self) -> bool:
        """Whether the server's container or process is running."""

    def wait_healthy(self, limit_s: float) -> None:
        """Wait for a server that restarts by itself; raises `ServerDied` at the limit."""

    def restart(self) -> None:
        """Restart the server and wait for it."""

    def log_tail(self) -> tuple[str, ...]:
        """The last lines of the server's log."""


class Attached:
    """A server somewhere else; the client is the `vllm` on this machine's PATH."""

    can_restart = False

    def __init__(
        self, url: str, *, tokenizer: str, trust_remote_code: bool = False, api_key: str = ""
    ) -> None:
        self._endpoint = Endpoint(url=checked(url), api_key=api_key)
        self._tokenizer, self._trusts = tokenizer, trust_remote_code
        self._card: ModelCard | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The address that was named."""
        return self._endpoint

    def card(self) -> ModelCard:
        """The served model's entry in /v1/models, asked once."""
        self._card = self._card or self.endpoint.model_card()
        return self._card

    def base_words(self) -> list[str]:
        """Name, tokenizer and address; of these the server decides the name alone, which only it reads."""
        trust = ["--trust-remote-code"] if self._trusts else []
        return [
            f"--base-url={self.endpoint.url}", f"--model={self.card().id}", f"--tokenizer={self._tokenizer}", *trust,
            "--temperature=0",
        ]  # fmt: skip

    def place(self, results: Path, dataset: Path | None) -> Place:
        """The host's own paths, whole: the client has a working directory of its own."""
        return Place(results=str(results.absolute()), dataset=str(dataset.absolute()) if dataset else "")

    def command(self, words: Sequence[str], results: Path, dataset: Path | None) -> list[str]:  # noqa: ARG002 - the deployment's shape
        """vLLM's own client."""
        return ["vllm", "bench", "serve", *words]

    @contextmanager
    def client(
        self, words: Sequence[str], results: Path, dataset: Path | None, log: IO[str]
    ) -> "Iterator[subprocess.Popen[str]]":
        """Run the local client in an empty folder; raises `ExtraMissing` where there is no vLLM."""
        environment = local_client.environment(self.endpoint.url, api_key=self.endpoint.api_key)
        command = self.command(words, results, dataset)
        try:
            with (
                local_client.empty_folder() as nowhere,
                started(command, output=log, env=environment, cwd=nowhere, bound=True) as process,
            ):
                yield process
        except ToolMissing as fault:
            from ernie_deploy.catalog import Catalog

            raise ExtraMissing(
                "There is no `vllm` on this machine's PATH.",
                cause="--attach runs vLLM's own client as a local process",
                next_step=f"pip install vllm=={Catalog().engine().version}, or run the benchmark on the stack without --attach",
            ) from fault

    def facts(self) -> dict[str, Any]:
        """What the server says of itself; the rest is not to be seen from here."""
        card = self.card()
        return {
            "hf_id": card.root or card.id,
            "max_model_len": card.max_model_len or 0,
            "client_version": local_client.version(),
        }

    def clear_leftovers(self) -> None:
        """Nothing is known of other clients here; a server that they keep busy is not measured."""

    def alive(self) -> bool:
        """Whether anything answers."""
        return self.endpoint.server.is_healthy()

    def wait_healthy(self, limit_s: float) -> None:
        """Wait until it answers again."""
        wait_until(self.alive, limit_s, f"the server at {self.endpoint.url}")

    def restart(self) -> None:
        """Not this deployment's to do."""
        raise NotImplementedError

    def log_tail(self) -> tuple[str, ...]:
        """A server elsewhere keeps its log."""
        return ()


def checked(url: str) -> str:
    """The URL without a slash at its end; raises `UsageError` where it is none of a server's."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or parts.username or parts.password or " " in url:
        raise UsageError(
            "--attach takes a URL such as http://10.0.0.5:8000, without a name or password in it.",
            cause="a key is read from a file: --api-key-file",
        )
    return url.rstrip("/")


def wait_until(met: Callable[[], bool], limit_s: float, what: str) -> None:
    """Poll until it is met; raises `ServerDied` at the limit."""
    if not poll_until(met, limit_s):
        raise ServerDied(
            f"{what[:1].upper()}{what[1:]} did not come back within {limit_s:g} s.",
            next_step="read its log; `ernie-deploy bench run` resumes where it stopped",
        )
