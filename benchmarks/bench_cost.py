"""What the kit costs over a bare `vllm bench serve`: wall time a cell, and whether the figures are the same.

    python benchmarks/bench_cost.py URL TOKENIZER [--shape 80/40] [--num-prompts 8] [--pairs 4]

Runs take turns against one server, so that what drifts meets both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ernie_deploy.bench.journal import store
from ernie_deploy.bench.journal.cells import Choice, cells_of, derived_seed
from ernie_deploy.bench.journal.record import Attempt, Cell
from ernie_deploy.bench.measure import client, local_client
from ernie_deploy.bench.measure.deployment import Attached
from ernie_deploy.catalog import Catalog

FIGURES = ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "median_itl_ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("tokenizer")
    parser.add_argument("--shape", default="80/40")
    parser.add_argument("--num-prompts", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=4)
    options = parser.parse_args()
    choice = Choice(shapes=(options.shape,), num_prompts=(options.num_prompts,), request_rate=None)
    cell = cells_of(choice, Catalog().matrix)[0]
    with tempfile.TemporaryDirectory() as folder:
        bare, kit = _take_turns(options, cell, Path(folder))
    _print(bare, kit)


def _take_turns(
    options: argparse.Namespace, cell: Cell, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    bare, kit = [], []
    for number in range(options.pairs + 1):
        pair = (_bare(options, cell, folder, number), _kit(options, cell, folder / f"kit-{number}"))
        # The first pair pays for cold caches of the disk and the server.
        if number:
            bare.append(pair[0])
            kit.append(pair[1])
    return bare, kit


def _bare(options: argparse.Namespace, cell: Cell, folder: Path, number: int) -> dict[str, Any]:
    """One run of vLLM's client by itself, with the same arguments."""
    deployment = Attached(options.url, tokenizer=options.tokenizer)
    place, seed = deployment.place(folder, None), derived_seed("bare", number)
    words = client.words(deployment.base_words(), cell, seed, "bare.json", place)
    begun = time.monotonic()
    subprocess.run(
        ["vllm", "bench", "serve", *words],
        check=True,
        capture_output=True,
        env=local_client.environment(options.url),
    )
    result: dict[str, Any] = json.loads((folder / "bare.json").read_text())
    return {"wall_s": time.monotonic() - begun, **{name: result[name] for name in FIGURES}}


def _kit(options: argparse.Namespace, cell: Cell, folder: Path) -> dict[str, Any]:
    """The same cell by `ernie-deploy bench run`: from the notice of its start to that of its end."""
    words = [sys.executable, "-m", "ernie_deploy", "bench", "run", "--attach", options.url, "--tokenizer", options.tokenizer,
             "--shapes", options.shape, "--num-prompts", str(cell.num_prompts), "--rate", "inf", "--no-warm-up",
             "--skip-coherence", "--results", str(folder)]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True)
    attempt: Attempt = store.read(folder / store.NAME).attempts[-1]
    assert attempt.status in ("valid", "suspect"), attempt.reasons
    wall_s = attempt.end_unix_s - attempt.start_unix_s
    return {"wall_s": wall_s, **{name: attempt.result[name] for name in FIGURES}}


def _print(bare: list[dict[str, Any]], kit: list[dict[str, Any]]) -> None:
    added = statistics.median(k["wall_s"] for k in kit) - statistics.median(b["wall_s"] for b in bare)
    print(f"{len(bare)} pairs, added wall time {added:+.2f} s a cell (goal 2 s)")
    for name in ("wall_s", *FIGURES):
        one, other = ([run[name] for run in runs] for runs in (bare, kit))
        print(
            f"{name:<18} bare {_spread(one)}  kit {_spread(other)}  ratio {statistics.median(other) / statistics.median(one):.3f}"
        )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):9.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
