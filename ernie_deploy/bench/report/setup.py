"""What was measured with what: the report's title, the environment, and the commands that repeat it."""

import shlex
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ernie_deploy.bench.compare.repeats import Series
from ernie_deploy.bench.journal.cells import changes
from ernie_deploy.bench.journal.record import Cell
from ernie_deploy.bench.report.verdict import machine
from ernie_deploy.bench.report.wording import TIMES, counted, listed, moment

UNSEEN = "not seen"


class Fact(Struct, frozen=True, kw_only=True):
    """A name and what is known by it; `code` where it is a command or an identifier."""

    name: str
    value: str
    code: bool = False


def title(measured: Series) -> tuple[str, str]:
    """The model, and where, with what and when it was measured."""
    environment = measured.environment
    engine = f"vLLM {environment.vllm_version}" if environment.vllm_version else "vLLM of unknown version"
    return environment.hf_id or "Unknown model", " · ".join([machine(environment), engine, _when(measured)])


def _when(measured: Series) -> str:
    times = [at for a in measured.attempts for at in (a.start_unix_s, a.end_unix_s)]
    if not times:
        return "nothing ended"
    first, last = moment(min(times)), moment(max(times))
    # Of a run within one day the date stands once.
    return f"{first[:-4]} to {last[11:] if first[:10] == last[:10] else last}"


def environment_facts(measured: Series) -> Iterator[Fact]:
    """Everything captured about the server, in an order a reader looks for it."""
    e = measured.environment
    parallel = (
        f"tensor {e.tensor_parallel_size}, pipeline {e.pipeline_parallel_size}, data {e.data_parallel_size}"
    )
    kv = f"{e.kv_cache_tokens:,} tokens" if e.kv_cache_tokens else ""
    yield from _facts(
        ("Model", f"{e.hf_id} at {e.revision}" if e.revision else e.hf_id),
        ("Coherence question", e.coherence),
        ("GPUs", ", ".join(f"{e.gpus.count(name)} {TIMES} {name}" for name in dict.fromkeys(e.gpus))),
        ("Driver", e.driver),
        ("Parallel sizes", parallel),
        ("vLLM of the server", e.vllm_version),
        ("vLLM of the client", e.client_version),
        ("KV cache", kv),
        ("Longest context", f"{e.max_model_len:,} tokens" if e.max_model_len else ""),
        ("Server starts measured", str(measured.server_starts)),
        ("Server started", e.server_started),
        ("Kit", f"ernie-deploy {e.kit_version}" if e.kit_version else ""),
    )
    yield from _facts(
        ("Image", e.image),
        ("Image digest", e.image_digest),
        ("Compose file, SHA-256", e.compose_sha256),
        ("Served command", shlex.join(e.argv)),
        ("Variables", " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(e.variables.items())) or "none"),
        ("Cache settings", " ".join(f"{name}={value}" for name, value in sorted(e.cache.items()))),
        code=True,
    )  # fmt: skip


def _facts(*pairs: tuple[str, str], code: bool = False) -> Iterator[Fact]:
    for name, value in pairs:
        yield Fact(name=name, value=value or UNSEEN, code=code and bool(value))


def commands(measured: Series) -> Iterator[Fact]:
    """The kit's command for the whole, then vLLM's own client for each cell."""
    cells = [group.cell for group in measured.groups]
    repeats = max((a.cell.repeat for a in measured.attempts), default=1)
    for cell in {_settings(cell): cell for cell in cells}.values():
        same = [other for other in cells if _settings(other) == _settings(cell)]
        yield Fact(name="All of it, checked", value=shlex.join(_run_words(same, repeats)), code=True)
    for group in measured.groups:
        if group.attempts and group.attempts[0].argv:
            first = group.attempts[0]
            yield Fact(name=first.cell.name, value=shlex.join(first.argv), code=True)


def _settings(cell: Cell) -> tuple[object, ...]:
    """What one command of the kit has once."""
    slos = tuple(sorted(cell.goodput.items()))
    return (
        cell.rate,
        cell.max_concurrency,
        cell.cold,
        cell.dataset,
        cell.dataset_sha256,
        cell.preset,
        cell.seed,
        slos,
    )


def _run_words(cells: Sequence[Cell], repeats: int) -> list[str]:
    cell = cells[0]
    shapes = dict.fromkeys(_shape(cell) for cell in cells)
    counts = sorted({cell.num_prompts for cell in cells})
    words = ["--shapes", ",".join(shapes), "--num-prompts", ",".join(map(str, counts))]
    words += ["--rate", cell.rate, "--repeat", str(repeats), "--cold", cell.cold]
    words += ["--max-concurrency", str(cell.max_concurrency)] if cell.max_concurrency else []
    words += ["--dataset", cell.dataset] if cell.dataset != "random" else []
    words += ["--preset", cell.preset] if cell.preset else []
    words += ["--seed", str(cell.seed)] if cell.seed is not None and not cell.preset else []
    words += (
        ["--goodput", ",".join(f"{k}:{v:g}" for k, v in sorted(cell.goodput.items()))] if cell.goodput else []
    )
    return ["ernie-deploy", "bench", "run", *words]


def _shape(cell: Cell) -> str:
    from ernie_deploy.catalog import Catalog

    known = Catalog().matrix.shapes.get(cell.shape)
    lengths = cell.input_len, cell.output_len
    return cell.shape if known and tuple(known) == lengths else "/".join(map(str, lengths))


def other_series(all_series: Sequence[Series]) -> Iterator[str]:
    """Earlier configurations in the same journal, which this report leaves out."""
    newest = all_series[-1].environment
    for earlier in all_series[:-1]:
        changed = changes(earlier.environment, newest)
        yield f"{counted(len(earlier.groups), 'cell')} of another configuration ({listed(changed, 3)})"
