"""The benchmark of what the gateway costs runs and prints what it is asked for; its figures are this machine's."""

import re
import subprocess
import sys

from conftest import ROOT
from gateway import haproxy


def test_the_cost_is_measured_in_pairs_and_printed() -> None:
    haproxy.binary()
    words = ["--streams", "8", "--events", "20", "--interval-ms", "20", "--pairs", "2"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/gateway_cost.py", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"time under way, median: .* [+-][0-9.]+ ms", done.stdout)
    # A busy machine slows both sides: only what no noise explains fails here.
    ratio = re.search(r"ratio ([0-9.]+)", done.stdout)
    assert ratio
    assert float(ratio[1]) > 0.5
    assert re.search(r"memory of HAProxy, at most: [0-9.]+ MiB", done.stdout)
