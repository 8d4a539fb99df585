"""The code of one vLLM version of the catalog, and a process of it that judges jobs (worker.py)."""

import atexit
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from conftest import missing

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "tests/engine/worker.py"

Jobs = Iterable[dict[str, Any]]
Verdicts = dict[str, dict[str, Any]]


def installer() -> ModuleType:
    """docker/engine-cpu/install_source.py, which knows where a version's Python lies."""
    sys.path.insert(0, str(ROOT / "docker/engine-cpu"))
    try:
        import install_source
    finally:
        del sys.path[0]
    return install_source  # type: ignore[no-any-return, unused-ignore]


def built_version() -> str:
    """The vLLM that is built for CPU in this environment; empty where there is none."""
    if importlib.util.find_spec("vllm") is None:
        return ""
    return importlib.metadata.version("vllm").partition("+")[0]


class EngineCode:
    """One version's code in this environment: the built one, or the Python of an sdist over its packages."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - close() closes it

    @property
    def lacking(self) -> str:
        """The command that brings what is missing; empty where nothing is."""
        if not built_version():
            return "docker/engine-cpu/install_engine.py installs it into this environment (3.4 GB)"
        if self.version == built_version() or installer().is_installed(Path(sys.prefix), self.version):
            return ""
        known = self.version in installer().versions()
        command = "docker/engine-cpu/install_source.py" if known else f".ci/add-engine {self.version}"
        return f"python {command} brings it (60 MB)" if known else f"{command} brings it (60 MB)"

    @property
    def tree(self) -> Path:
        """The folder that its `vllm` is imported from."""
        if self.version != built_version():
            return Path(installer().place(Path(sys.prefix), self.version))
        spec = importlib.util.find_spec("vllm")
        assert spec
        assert spec.origin
        return Path(spec.origin).parents[1]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that runs this code."""
        if self.version == built_version():
            return dict(os.environ)
        return os.environ | installer().variables(self.tree)

    def run(self, *words: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a Python script of ours with this code."""
        options = {"capture_output": True, "text": True, "timeout": 600} | options
        return subprocess.run(
            [sys.executable, *words], env=self.environment | options.pop("env", {}), **options
        )

    @cached_property
    def _worker(self) -> "subprocess.Popen[str]":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
        return subprocess.Popen([sys.executable, WORKER], env=self.environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def judged(self, jobs: Jobs) -> Verdicts:
        """The verdict on each job by its id; one process, which imports vLLM once, judges all of a test run."""
        return {job["id"]: self._verdict(job) for job in jobs}

    def _verdict(self, job: dict[str, Any]) -> dict[str, Any]:
        pipe, answers = self._worker.stdin, self._worker.stdout
        assert pipe
        assert answers
        print(json.dumps(job), file=pipe, flush=True)
        line = answers.readline()
        if not line:
            # The next job has a process of its own.
            del self.__dict__["_worker"]
            self._stderr.seek(0)
            raise AssertionError(
                f"vLLM {self.version} ended at {job['id']!r}:\n{self._stderr.read()[-3000:]}"
            )
        verdict: dict[str, Any] = json.loads(line)
        return verdict

    def close(self) -> None:
        """End the process, if there is one."""
        if worker := self.__dict__.get("_worker"):
            worker.stdin.close()
            worker.stdout.close()
            worker.wait(timeout=60)
        self._stderr.close()


@cache
def shared(version: str) -> EngineCode:
    """The code of one version, whose process is that of all files of a test run: to import vLLM takes long."""
    made = EngineCode(version)
    atexit.register(made.close)
    return made


def code_of(version: str) -> EngineCode:
    """The code of one version; where it is missing, the test that asks is skipped or fails."""
    made = shared(version)
    if made.lacking:
        missing(f"The code of vLLM {made.version}", made.lacking)
    return made
