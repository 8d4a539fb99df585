"""Feeds argv words to vLLM's own parser and configuration step, one JSON line a job, one a verdict.

Each job runs in a fork of a process that has vLLM imported: the configuration step writes os.environ
(LD_PRELOAD, LOCAL_WORLD_SIZE, ...), reconfigures logging and keeps in lru_caches what it has warned of
and which files it has read. A fork forgets all of that and costs milliseconds; no list of caches to
clear would stay complete from one vLLM to the next.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import gc
import io
import json
import logging
import os
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Before vLLM is imported: otherwise its log goes to stdout, and its hub client to the network.
os.environ.update(
    VLLM_LOGGING_STREAM="ext://sys.stderr",
    VLLM_NO_USAGE_STATS="1",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
)

from checkpoint import MODEL_TYPES

Job = dict[str, Any]
Verdict = dict[str, Any]

ERNIE_CLASSES = (
    "Ernie4_5ForCausalLM",
    "Ernie4_5_MoeForCausalLM",
    "Ernie4_5_VLMoeForConditionalGeneration",
    "ErnieMTPModel",
)

# Read from vLLM's config by path, reported by name.
FACTS = {
    "scheduler_config": "max_num_batched_tokens max_num_scheduled_tokens max_num_seqs",
    "model_config": "max_model_len quantization trust_remote_code revision enforce_eager",
    "model_config.multimodal_config": "language_model_only",
    "cache_config": "enable_prefix_caching gpu_memory_utilization",
    "offload_config.uva": "cpu_offload_gb",
    "parallel_config": "tensor_parallel_size pipeline_parallel_size data_parallel_size"
    " data_parallel_size_local enable_expert_parallel distributed_executor_backend nnodes node_rank master_addr",
    "speculative_config": "method num_speculative_tokens",
    "": "shutdown_timeout",
}


class RefusedError(Exception):
    """An argv that vLLM does not take, and the stage at which it said so."""

    def __init__(self, stage: str, error: str) -> None:
        super().__init__(error)
        self.stage = stage


def record_warnings() -> list[str]:
    """Collects whatever is logged at WARNING or above from here on."""
    messages: list[str] = []
    handle = logging.Logger.handle

    def recording(logger: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            messages.append(record.getMessage())
        handle(logger, record)

    # The configuration step replaces vLLM's handlers, so the hook sits before any handler.
    swap(logging.Logger, "handle", recording, what="logging.Logger.handle")
    logging.captureWarnings(True)
    return messages


def preload() -> None:
    """Imports what jobs need, so that it is paid for, and warned about, before the first."""
    import vllm.benchmarks.serve
    import vllm.entrypoints.cli.serve  # noqa: F401
    from transformers import CONFIG_MAPPING
    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging_if_needed
    from vllm.model_executor.layers.quantization import get_quantization_config
    from vllm.model_executor.models import registry
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    # Half of a job's time otherwise: each setting of a level empties the caches of all loggers.
    configure_logging_if_needed(LoggingConfig())
    serve_parser()
    bench_parser()
    get_quantization_config("fp8_per_tensor")
    models = registry.ModelRegistry.models
    for name in ERNIE_CLASSES:
        # A class not yet loaded is looked at in a process of its own, which imports vLLM anew: 17 s.
        models[name] = registry._RegisteredModel.from_model_cls(models[name].load_model_cls())
    for kind in MODEL_TYPES.values():
        CONFIG_MAPPING[kind]  # imports the class of the configuration
    # Else the collector of each fork writes to every page that it shares with this process.
    gc.freeze()


@cache
def serve_parser() -> argparse.ArgumentParser:
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = FlexibleArgumentParser(prog="vllm")
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    return parser


@cache
def bench_parser() -> argparse.ArgumentParser:
    from vllm.benchmarks.serve import add_cli_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    return parser


def reason(error: BaseException) -> str:
    # pydantic's text ends in a dump of its input and a link; the messages alone are the sentence.
    if callable(errors := getattr(error, "errors", None)):
        return "; ".join(item["msg"] for item in errors())
    if isinstance(error, KeyError):
        return str(error.args[0])
    return str(error) or type(error).__name__


def parse_words(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parser.parse_args(words)
    except SystemExit:
        text = complaint.getvalue().rpartition("error: ")[2].strip()
        raise RefusedError("parse", text or "exits without serving") from None
    except Exception as error:
        raise RefusedError("parse", reason(error)) from error


def parse_serve(words: list[str]) -> argparse.Namespace:
    try:
        from vllm.entrypoints.common.cli_args import validate_parsed_serve_args
    except ImportError:  # where it was until vLLM 0.33.0
        from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    args = parse_words(serve_parser(), ["serve", *words])
    try:
        validate_parsed_serve_args(args)
    except Exception as error:
        raise RefusedError("parse", reason(error)) from error
    return args


def engine_config(args: argparse.Namespace, *, headless: bool) -> Any:
    """What vLLM's three launchers do up to the point where processes start."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.launcher import validate_api_server_args
    from vllm.usage.usage_lib import UsageContext

    if not headless:
        validate_api_server_args(args)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    return engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER, headless=headless)


def configure(args: argparse.Namespace) -> Any:
    """Runs vLLM's own `serve` command with its launchers replaced by the configuration step."""
    from vllm.entrypoints.cli import serve

    made: list[Any] = []

    async def run_server(args: argparse.Namespace) -> None:
        made.append(engine_config(args, headless=False))

    def with_api(args: argparse.Namespace) -> None:
        made.append(engine_config(args, headless=False))

    def without_api(args: argparse.Namespace) -> None:
        made.append(engine_config(args, headless=True))

    swap(serve, "run_server", run_server, what=f"{serve.__name__}.run_server")
    swap(serve, "run_multi_api_server", with_api, what=f"{serve.__name__}.run_multi_api_server")
    swap(serve, "run_headless", without_api, what=f"{serve.__name__}.run_headless")
    serve.ServeSubcommand.cmd(args)
    return made[0]


def read_facts(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"port": args.port, "api_keys": args.api_key}
    for path, names in FACTS.items():
        section = config
        for step in filter(None, path.split(".")):
            section = getattr(section, step, None)
        found |= {name: getattr(section, name, None) for name in names.split()}
    found["speculative_method"] = found.pop("method")
    return found


def serve_verdict(job: Job) -> Verdict:
    args = parse_serve(job["argv"])
    if job.get("model_dir") is None:
        return {}
    swap(args, "model_tag", job["model_dir"], what="args.model_tag")
    try:
        config = configure(args)
    except (Exception, SystemExit) as error:
        raise RefusedError("config", reason(error)) from error
    return {"world_size": config.parallel_config.world_size, "facts": read_facts(config, args)}


def keys_verdict(job: Job) -> Verdict:
    """For each content of the configuration, the keys that vLLM's middleware would ask for (register.py)."""
    parser, keys = serve_parser(), []
    for content in job["contents"]:
        stand_in({job["argv"][job["argv"].index("--config") + 1]: content})
        args = parse_words(parser, ["serve", *job["argv"]])
        keys.append([key for key in (args.api_key or ()) if key])
    return {"keys": keys}


def routes_verdict(job: Job) -> Verdict:
    """The status of every route of the server's app to somebody without the key; nothing is behind the app."""
    from starlette.testclient import TestClient
    from vllm.entrypoints.launchers.app import build_app

    app = build_app(parse_serve(job["argv"]), ("generate", "render"))
    client = TestClient(app, raise_server_exceptions=False)
    asked = dict(routes_of(app.routes))
    statuses = {path: client.request(methods[0], path).status_code for path, methods in asked.items()}
    return {"statuses": statuses, "methods": asked}


def metrics_verdict(job: Job) -> Verdict:
    """The labels of each metric that the engine's logger for Prometheus makes, by its name on the wire."""
    from prometheus_client import REGISTRY
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    args = parse_serve(job["argv"])
    swap(args, "model_tag", job["model_dir"], what="args.model_tag")
    logger = PrometheusStatLogger(configure(args), [0])
    logger.log_engine_initialized()
    labels: dict[str, set[str]] = {}
    for family in REGISTRY.collect():
        for sample in family.samples:
            # Of a histogram without its endings, of a counter with the one that it gets.
            name = family.name if family.type == "histogram" else sample.name
            labels.setdefault(name, set()).update(set(sample.labels) - {"le"})
    return {"labels": {name: sorted(names) for name, names in labels.items()}}


def routes_of(routes: list[Any]) -> Iterator[tuple[str, list[str]]]:
    """Path and methods of each route; FastAPI keeps those of a router together."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes)
        else:
            yield route.path, sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"})


def bench_verdict(job: Job) -> Verdict:
    """What the client's parser makes of the words, as Python writes it: some have keys that JSON does not."""
    arguments = vars(parse_words(bench_parser(), job["argv"]))
    return {"arguments": {name: repr(value) for name, value in arguments.items()}}


def switches_verdict(job: Job) -> Verdict:
    """For each [flag, opposite], what the two set otherwise: destination -> [by the flag, by its opposite]."""
    parser = serve_parser()
    differences: dict[str, dict[str, Any]] = {}
    for flag, opposite in job["pairs"]:
        on, off = (vars(parse_words(parser, ["serve", "m", word])) for word in (flag, opposite))
        differences |= {opposite: {name: [on[name], off[name]] for name in on if on[name] != off[name]}}
    return {"differences": differences}


def stages_verdict(job: Job) -> Verdict:
    """How many layers each stage of a pipeline has."""
    from vllm.distributed.utils import get_pp_indices

    ends = (get_pp_indices(job["layers"], stage, job["size"]) for stage in range(job["size"]))
    return {"layers": [last - first for first, last in ends]}


def script_verdict(job: Job) -> Verdict:
    """What a script of ours prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(job["script"], run_name="__main__")
    return {"printed": printed.getvalue()}


VERDICTS: dict[str, Callable[[Job], Verdict]] = {
    "serve": serve_verdict,
    "bench": bench_verdict,
    "keys": keys_verdict,
    "metrics": metrics_verdict,
    "routes": routes_verdict,
    "switches": switches_verdict,
    "stages": stages_verdict,
    "script": script_verdict,
}


def swap(owner: Any, name: str, value: Any, *, what: str) -> None:
    """Put something in the place of what vLLM has; raises RefusedError where the list of substitutions lacks it."""
    if what not in substitutions():
        raise RefusedError("swap", f"{what} is not in ernie_deploy/catalog/substitutions.toml")
    setattr(owner, name, value)


@cache
def substitutions() -> set[str]:
    """What the tests with the real vLLM may swap."""
    text = (Path(__file__).parents[2] / "ernie_deploy/catalog/substitutions.toml").read_text(encoding="utf-8")
    return {one["what"] for one in tomllib.loads(text)["substitution"] if one["where"] == "engine"}


def stand_in(files: dict[str, str]) -> None:
    """Let these very paths be read as if the files were there; every other path is the machine's."""

    def opened(file: Any, *args: Any, **options: Any) -> Any:
        return io.StringIO(files[file]) if file in files else io.open(file, *args, **options)  # noqa: UP020 - the builtin is this

    swap(builtins, "open", opened, what="builtins.open")


def judge(job: Job) -> Verdict:
    os.environ.update(job.get("env") or {})
    stand_in(job.get("files") or {})
    warnings = record_warnings()
    verdict: Verdict = {"id": job["id"], "ok": True, "stage": None, "error": "", "world_size": 0, "facts": {}}
    try:
        verdict |= VERDICTS[job["kind"]](job)
    except RefusedError as refused:
        verdict |= {"ok": False, "stage": refused.stage, "error": str(refused)}
    return verdict | {"warnings": warnings}


def run_child(job: Job, answer: int) -> None:
    try:
        with os.fdopen(answer, "w") as pipe:
            pipe.write(json.dumps(judge(job), default=str))
    finally:
        sys.stderr.flush()
        # Not sys.exit: the parent's exit handlers are not the child's to run.
        os._exit(0)


def in_fork(job: Job) -> Verdict:
    question, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(question)
        run_child(job, answer)
    os.close(answer)
    with os.fdopen(question) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        raise RuntimeError(f"job {job['id']!r} gave no verdict (wait status {status}); see stderr")
    verdict: Verdict = json.loads(text)
    return verdict


def main() -> None:
    # Only verdicts go to stdout, whatever a library prints.
    with os.fdopen(os.dup(1), "w") as verdicts:
        os.dup2(2, 1)
        preload()
        for line in filter(str.strip, sys.stdin):
            print(json.dumps(in_fork(json.loads(line))), file=verdicts, flush=True)


if __name__ == "__main__":
    main()
