"""Docker Compose command lines, and the one place that starts processes for a stack."""

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from ernie_deploy.errors import ToolFailed, ToolMissing
from ernie_deploy.safe_io.terminal import say
from ernie_deploy.stack.rendered import Rendered, rendered

QUICK_S = 60
TERMINATE_S = 20
MOST_CAUSE_CHARS = 300
NO_OUTPUT = "it printed nothing"
# What a container prints may be no text at all.
READ: Any = {"encoding": "utf-8", "errors": "replace"}


class Stack(Struct, frozen=True, kw_only=True, dict=True):
    """Compose files that make one project; an empty project is the file's own name for it.

    `implicit` files are those that Compose takes of itself: they are not named to it, so that it also reads what it
    would read beside them. `profiles` are those of every command: a file for several nodes has one for the head and
    one for workers.
    """

    files: tuple[Path, ...]
    implicit: bool = False
    project: str = ""
    env_file: Path | None = None
    profiles: tuple[str, ...] = ()

    @cached_property
    def made_by(self) -> Rendered | None:
        """The command that rendered its first file, read once; None where the kit did not."""
        return rendered(self.files[0])

    def words(self, *rest: str) -> list[str]:
        """Return `docker compose` with this stack's files, then `rest`."""
        named = ["--project-name", self.project] if self.project else []
        env = ["--env-file", str(self.env_file)] if self.env_file else []
        files = [word for file in self.files for word in ("--file", str(file)) if not self.implicit]
        profiles = [word for profile in self.profiles for word in ("--profile", profile)]
        return ["docker", "compose", *named, *env, *files, *profiles, *rest]

    def up(self, wait_timeout_s: int, *options: str, build: bool = False) -> list[str]:
        """Start everything and wait until it is healthy; `options` are Compose's own."""
        extra = ["--build"] if build else []
        return self.words("up", "--detach", *extra, *options, "--wait", "--wait-timeout", str(wait_timeout_s))

    def down(self, *options: str) -> list[str]:
        """Stop and remove the containers, those of inactive profiles too.

        Without Compose's `--volumes`, which removes the volumes that other stacks use too.
        """
        return self.words("--profile", "*", "down", *options)

    def logs(
        self, *services: str, follow: bool = False, tail: str = "all", options: Sequence[str] = ()
    ) -> list[str]:
        """Print the log of some services, or of all."""
        return self.words("logs", *(["--follow"] if follow else []), "--tail", tail, *options, *services)

    def bench(self, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Run the benchmark client once; the server is up already."""
        run = ["--profile", "bench", "run", "--rm", "--no-deps", "--no-TTY", *options]
        return self.words(*run, "bench", *arguments)

    def resolved(self) -> list[str]:
        """Print the resolved file, the services of every profile too."""
        return self.words("--profile", "*", "config", "--format", "json")

    def ps(self) -> list[str]:
        """List the containers, stopped ones too."""
        return self.words("ps", "--all", "--format", "json")


class Done(Struct, frozen=True):
    """How a process ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The end of its errors, or else of its output, on one line; a sentence of its own where it printed nothing."""
        return " ".join((self.stderr or self.stdout).split())[-MOST_CAUSE_CHARS:] or NO_OUTPUT


def ask(
    words: Sequence[str],
    *,
    timeout_s: float = QUICK_S,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run a command to its end and return what it said; `env` is its whole environment; raises `ToolMissing`."""
    _present(words[0])
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False, cwd=cwd, env=env, **READ
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise ToolFailed(f"`{shlex.join(words)}` did not end within {timeout_s:g} s.") from late
    return Done(done.returncode, done.stdout, done.stderr)


def demand(words: Sequence[str], *, timeout_s: float = QUICK_S) -> str:
    """Return a command's output; raises `ToolFailed` with its last words where it fails."""
    done = ask(words, timeout_s=timeout_s)
    if done.returncode:
        raise ToolFailed(
            f"`{shlex.join(words)}` ended with {done.returncode}.",
            cause=_last_line(done.stderr or done.stdout),
        )
    return done.stdout


@contextmanager
def started(
    words: Sequence[str],
    *,
    output: IO[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    bound: bool = False,
) -> "Iterator[subprocess.Popen[str]]":
    """Run a command beside the block, its output in a file or on one pipe; it never outlives the block.

    It has a process group of its own, so that the terminal's Ctrl-C reaches the kit alone. A `bound` one is killed
    by the kernel where the kit itself is killed, if util-linux can ask for that.
    """
    _present(words[0])
    process = subprocess.Popen(
        [*_binding(), *words] if bound else words, stdin=subprocess.DEVNULL, stdout=output or subprocess.PIPE, stderr=subprocess.STDOUT,
        env=env, cwd=cwd, process_group=0, **READ,
    )  # fmt: skip
    try:
        yield process
    finally:
        _end(process)


@contextmanager
def bytes_of(words: Sequence[str]) -> Iterator[IO[bytes]]:
    """What a command prints, as bytes; raises `ToolFailed` with its last words where it ends with an error.

    It is killed where the block does not read it to its end, and where the kit itself is killed.
    """
    _present(words[0])
    with tempfile.TemporaryFile("w+", **READ) as errors:
        process = subprocess.Popen(
            [*_binding(), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, process_group=0
        )  # fmt: skip
        try:
            assert process.stdout, "started with a pipe"
            with process.stdout as pipe:
                yield pipe
            process.wait()
        finally:
            _end(process)
        if process.returncode:
            errors.seek(0)
            raise ToolFailed(
                f"`{shlex.join(words)}` ended with {process.returncode}.", cause=_last_line(errors.read())
            )


def _binding() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def relay(words: Sequence[str], *, err: bool = False) -> int:
    """Run a command, print its lines cleaned as they come, and return its exit code."""
    with started(words) as process:
        for line in lines_of(process):
            say(line, err=err)
    return process.returncode


def lines_of(process: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines of a process whose output is a pipe, until it ends."""
    assert process.stdout, "started with a pipe"
    with process.stdout as pipe:
        yield from (line.rstrip("\n") for line in pipe)
    process.wait()


def _end(process: "subprocess.Popen[Any]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(TERMINATE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), NO_OUTPUT)


@cache
def _present(program: str) -> None:
    if shutil.which(program) is None:
        raise ToolMissing(
            f"`{program}` is not on this machine's PATH.",
            cause="the stack runs in Docker; rendering and planning do not need it",
            next_step="install Docker Engine 20.10 or newer with the Compose plugin",
        )


def require_compose() -> None:
    """Raise `ToolMissing` where the Compose plugin is missing."""
    done = ask(["docker", "compose", "version", "--short"])
    if done.returncode:
        raise ToolMissing(
            "Docker has no Compose plugin here.",
            cause=_last_line(done.stderr),
            next_step="install the docker-compose-plugin of your distribution, 2.24.4 or newer",
        )
