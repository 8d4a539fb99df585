"""Adds a version of vLLM to the catalog, from its sdist: .ci/add-engine VERSION [--force]."""

# ruff: noqa: S603 - the commands are this script's own words

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGINES = ROOT / "ernie_deploy/catalog/engines"
sys.path[:0] = [str(ROOT / "docker/engine-cpu"), str(ROOT / ".ci")]

import install_source as source  # noqa: E402 - it lies in another folder
from engine_file import Decisions, Step  # noqa: E402
from flag_history import with_release  # noqa: E402

LOCK_HEAD = "# Written by .ci/add-engine; not to be edited.\n"
RELEASE = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}")


def say(text: str) -> None:
    """Say what was done, or comes next."""
    print(f"add-engine: {text}", flush=True)


def stop(text: str) -> SystemExit:
    """The end of the command, with what happened and what to do; nothing was written."""
    return SystemExit(f"add-engine: {text}")


def numbers(release: str) -> list[int]:
    """A release's numbers, to sort by."""
    return [int(part) for part in release.split(".")]


def previous(release: str) -> str:
    """The newest version of the catalog before this one."""
    names = [path.name.removesuffix(".flags.toml") for path in ENGINES.glob("*.flags.toml")]
    older = sorted((name for name in names if numbers(name) < numbers(release)), key=numbers)
    if not older:
        raise stop(
            f"the catalog has no version before {release}, and a new one is derived from the one before"
        )
    return older[-1]


def built() -> str:
    """The version that is built for CPU in this environment, whose packages every other one borrows."""
    try:
        return version("vllm").partition("+")[0]
    except PackageNotFoundError:
        raise stop(
            "vLLM for CPU is missing: python docker/engine-cpu/install_engine.py installs it"
        ) from None


def tree(release: str) -> Path:
    """The folder that a version's `vllm` is imported from in this environment."""
    if release != built():
        return source.place(Path(sys.prefix), release)
    found = subprocess.run(
        [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('vllm').origin)"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Path(found.stdout.strip()).parents[1]


def fetch(release: str) -> str:
    """Bring a version's sdist into this environment; returns its lock."""
    with tempfile.TemporaryDirectory() as folder:
        source.download(sys.executable, release, Path(folder), f"vllm=={release}")
        sdist = next(Path(folder).glob("*.tar.gz")).read_bytes()
        digest = hashlib.sha256(sdist).hexdigest()
        say(f"the sdist of vLLM {release}, {len(sdist) / 1e6:.1f} MB, SHA-256 {digest}")
        lock = f"{LOCK_HEAD}vllm=={release} \\\n    --hash=sha256:{digest}\n"
        stamp = lock + source.lock_of(source.EXTRAS).read_text()
        if not source.is_laid(Path(sys.prefix), release, stamp):
            source.lay(sys.executable, Path(folder), source.place(Path(sys.prefix), release), stamp)
    return lock


def flag_table(release: str) -> str:
    """The flag table that the version's own parsers give."""
    environment = {} if release == built() else source.variables(tree(release))
    made = subprocess.run(
        [sys.executable, ROOT / ".ci/flag_table.py"],
        check=False, capture_output=True, text=True, env=os.environ | environment,
    )  # fmt: skip
    if made.returncode == 0:
        return made.stdout
    reason = made.stderr.strip().splitlines()[-1]
    if module := re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", reason):
        lock = source.lock_of(source.EXTRAS).relative_to(ROOT)
        raise stop(
            f"vLLM {release} imports {module[1]}, which vLLM for CPU lacks: pin it with its hashes in {lock}"
        )
    raise stop(f".ci/flag_table.py does not read the parsers of vLLM {release}: {reason}")


def made_of(release: str, lock: str) -> dict[Path, str]:
    """The files that no person writes."""
    history = ENGINES / "history.toml"
    return {
        source.lock_of(release): lock,
        ENGINES / f"{release}.flags.toml": flag_table(release),
        history: with_release(history.read_text(encoding="utf-8"), release, tree(release)),
    }


def write(release: str, step: Step, files: dict[Path, str]) -> None:
    """Write what was made, and the catalog's file where a person has not written one already."""
    kept = ENGINES / f"{release}.toml"
    if not kept.exists():
        files[kept] = step.derived((ENGINES / f"{step.old}.toml").read_text(encoding="utf-8"))
    for path, text in files.items():
        unchanged = path.exists() and path.read_text(encoding="utf-8") == text
        path.write_text(text, encoding="utf-8")
        say(f"{path.relative_to(ROOT)} {'is the same as before' if unchanged else 'written'}")
    if kept not in files:
        say(f"{kept.relative_to(ROOT)} is yours and stays as it is")


def shown(*words: str, **environment: str) -> int:
    """Run a command of this project with its output shown; returns its exit code."""
    say(f"$ {' '.join(words)}")
    return subprocess.run(
        [sys.executable, "-m", *words], check=False, cwd=ROOT, env=os.environ | environment
    ).returncode


def judge(release: str) -> bool:
    """Hold the matrix of rendered command lines against the version's own code."""
    words = ["pytest", "-q", "-n0", "tests/test_engine.py", "-k", release, "--timeout=1800"]
    return shown(*words, ERNIE_DEPLOY_NOTHING_MISSING="1") == 0


def show_decisions(release: str, decisions: Decisions) -> None:
    """List what nobody can derive."""
    say(f"a person must decide, in ernie_deploy/catalog/engines/{release}.toml:")
    for table, sentences in decisions.items():
        print(f"  {table}: {sentences[0]}")
        for sentence in sentences[1:]:
            print(f"    {sentence}")


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; stops on a version that is none, or is there already."""
    parser = argparse.ArgumentParser(prog=".ci/add-engine", description=__doc__)
    parser.add_argument("version", help="a release of vLLM on the package index, such as 1.2.3")
    parser.add_argument("--force", action="store_true", help="make again what the command makes of a version")
    parser.add_argument("--no-matrix", action="store_true", help="leave the verdict to the tests")
    options = parser.parse_args(arguments)
    if not RELEASE.fullmatch(options.version):
        parser.error(f"{options.version!r} is not a release such as 1.2.3")
    if (ENGINES / f"{options.version}.toml").exists() and not options.force:
        raise stop(f"the catalog has vLLM {options.version} already. Make its flag table again with --force")
    return options


def main(arguments: list[str]) -> int:
    """Add the version, and say what is left to a person."""
    options = options_of(arguments)
    release: str = options.version
    before, _ = previous(release), built()
    lock = fetch(release)
    step = Step(before, release, tree(before), tree(release))
    write(release, step, made_of(release, lock))
    shown("ernie_deploy", "diff", before, release)
    accepted = options.no_matrix or judge(release)
    show_decisions(release, step.decisions((ENGINES / f"{before}.toml").read_text(encoding="utf-8")))
    if not options.no_matrix:
        say(f"verdict: vLLM {release} {'takes' if accepted else 'does not take'} every command line")
    return 0 if accepted else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
