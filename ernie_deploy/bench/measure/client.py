"""The command line of vLLM's own benchmark client for one cell; no load is generated here."""

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.bench.journal.record import Cell
from ernie_deploy.plan.bench import PICTURES

# Where the container finds the folder for its result, and a dataset of the user's.
RESULTS_MOUNT = "/results"
DATASET_MOUNT = "/dataset"
WARM_UP_TOKENS = 32
MOST_WARM_UP_PROMPTS = 16

# What the cell decides; a base command that says otherwise is overruled.
DECIDED = frozenset({
    "backend", "endpoint", "dataset-name", "dataset-path", "input-len", "output-len", "random-input-len",
    "random-output-len", "random-range-ratio", "request-rate", "num-prompts", "max-concurrency", "seed", "ignore-eos",
    "goodput", "percentile-metrics", "metric-percentiles", "save-result", "save-detailed", "result-dir",
    "result-filename", "disable-tqdm", "num-warmups", "ready-check-timeout-sec", "custom-output-len",
    "sharegpt-output-len", "random-mm-base-items-per-request", "random-mm-num-mm-items-range-ratio",
    "random-mm-limit-mm-per-prompt", "random-mm-bucket-config",
})  # fmt: skip


class Place(Struct, frozen=True, kw_only=True):
    """Where the client finds its dataset and leaves its result, as the client sees it."""

    results: str = RESULTS_MOUNT
    dataset: str = DATASET_MOUNT


def base_words(command: Iterable[str]) -> list[str]:
    """The stack's own benchmark command without what a cell decides: model, address, tokenizer stay."""
    return [word for word in command if word.removeprefix("--").partition("=")[0] not in DECIDED]


def words(base: Sequence[str], cell: Cell, seed: int, filename: str, place: Place) -> list[str]:
    """Every argument of `vllm bench serve` for one attempt at a cell."""
    return [
        *base,
        *_dataset(cell, place),
        f"--num-prompts={cell.num_prompts}",
        f"--request-rate={cell.rate}",
        *([f"--max-concurrency={cell.max_concurrency}"] if cell.max_concurrency else []),
        f"--seed={seed}",
        *_goodput(cell),
        *_kept(filename, place),
    ]


def warm_up_words(base: Sequence[str], cell: Cell, seed: int, filename: str, place: Place) -> list[str]:
    """A short run of the same shape with prompts of its own; its figures are thrown away."""
    short = warm_up_cell(cell)
    shape = [f"--random-input-len={short.input_len}", f"--random-output-len={short.output_len}"]
    return [
        *base, "--backend=openai", "--endpoint=/v1/completions", "--dataset-name=random", *shape, "--ignore-eos",
        "--random-range-ratio=0", f"--num-prompts={short.num_prompts}", "--request-rate=inf", f"--seed={seed}",
        *_kept(filename, place),
    ]  # fmt: skip


def warm_up_cell(cell: Cell) -> Cell:
    """The same shape with few prompts and few tokens."""
    count, length = min(MOST_WARM_UP_PROMPTS, cell.num_prompts), min(WARM_UP_TOKENS, cell.output_len)
    return replace(cell, num_prompts=count, output_len=length, request_rate=None)


def _dataset(cell: Cell, place: Place) -> list[str]:
    lengths = [f"--random-input-len={cell.input_len}", f"--random-output-len={cell.output_len}"]
    fixed = [*lengths, "--random-range-ratio=0", "--ignore-eos"]
    completions = ["--backend=openai", "--endpoint=/v1/completions"]
    file = f"--dataset-path={place.dataset}"
    return {
        "random": [*completions, "--dataset-name=random", *fixed],
        "random-mm": [*PICTURES, *fixed],
        "sharegpt": [*completions, "--dataset-name=sharegpt", file],
        "custom": [*completions, "--dataset-name=custom", file, f"--custom-output-len={cell.output_len}"],
    }[cell.dataset]


def _goodput(cell: Cell) -> list[str]:
    # A list option of argparse: its values are words of their own, so another option must follow.
    pairs = [f"{name}:{value:g}" for name, value in sorted(cell.goodput.items())]
    return ["--goodput", *pairs] if pairs else []


def _kept(filename: str, place: Place) -> list[str]:
    return [
        "--percentile-metrics=ttft,tpot,itl,e2el", "--metric-percentiles=50,90,95,99", "--save-result",
        "--save-detailed", f"--result-dir={place.results}", f"--result-filename={filename}", "--disable-tqdm",
    ]  # fmt: skip
