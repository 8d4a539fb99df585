"""Times the command line against the bare imports it cannot do without, in one interleaved run."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROUNDS = 15
KIT = [str(Path(sys.executable).with_name("ernie-deploy"))]
IMPORT_RENDER = [sys.executable, "-c", "import click, msgspec, jinja2"]
IMPORT_HELP = [sys.executable, "-c", "import click"]
MATRIX = (
    "import time; t = time.perf_counter()\n"
    "from ernie_deploy.catalog import Catalog\n"
    "from ernie_deploy.render.committed import files\n"
    "n = len(files(Catalog())); print(n, time.perf_counter() - t)"
)


# As a user has it: Python keeps bytecode, and the kit what it made of its templates and catalog beside it.
KEEPING = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(words: list[str]) -> float:
    """Processor time of one whole process, user and system: other work on the machine disturbs it least."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=KEEPING)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return usage.ru_utime + usage.ru_stime


def interleaved(one: list[str], other: list[str]) -> tuple[float, float, float]:
    """Median seconds of each, and the median of the ratios pair by pair."""
    seconds(one), seconds(other)  # warm the file cache
    pairs = [(seconds(one), seconds(other)) for _ in range(ROUNDS)]
    ones, others = zip(*pairs, strict=True)
    return statistics.median(ones), statistics.median(others), statistics.median(a / b for a, b in pairs)


def line(name: str, goal: float, words: list[str], against: list[str]) -> str:
    """One row of the table."""
    mine, bare, ratio = interleaved(words, against)
    return f"{name:<16} {mine * 1000:7.0f} ms   bare imports {bare * 1000:5.0f} ms   ratio {ratio:.2f} (goal {goal})"


def main() -> None:
    """Print medians and ratios, then the whole matrix and the peak memory."""
    print(line("render mi300x", 1.25, [*KIT, "render", "mi300x"], IMPORT_RENDER))
    print(line("--help", 1.3, [*KIT, "--help"], IMPORT_HELP))
    done = subprocess.run([sys.executable, "-c", MATRIX], capture_output=True, text=True, check=True)
    count, matrix_s = done.stdout.split()
    print(f"{'whole matrix':<16} {float(matrix_s):7.2f} s    {count} files in memory (goal 2 s)")
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{'peak memory':<16} {peak_mib:7.0f} MiB  of any of these processes (goal 60 MiB)")


if __name__ == "__main__":
    main()
