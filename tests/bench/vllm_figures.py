"""Run by a Python that has vLLM: its client's own figures for the raw result on standard input, as JSON."""

import contextlib
import json
import sys

from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
from vllm.benchmarks.serve import calculate_metrics

PERCENTILES = [50.0, 90.0, 95.0, 99.0]
NAMES = (
    "completed", "failed", "request_throughput", "request_goodput", "output_throughput", "total_token_throughput",
    "max_output_tokens_per_s", "max_concurrent_requests", "rtfx",
)  # fmt: skip

raw = json.load(sys.stdin)
outputs = [
    RequestFuncOutput(
        success=True, prompt_len=raw["input_lens"][i], output_tokens=raw["output_lens"][i], ttft=raw["ttfts"][i],
        itl=raw["itls"][i], latency=raw["latencies"][i], start_time=raw["start_times"][i],
    )
    for i in range(raw["num_prompts"])
]  # fmt: skip
with contextlib.redirect_stdout(sys.stderr):
    metrics, _ = calculate_metrics([], outputs, raw["duration"], None, PERCENTILES, raw["goodput"])
figures = {name: float(getattr(metrics, name)) for name in NAMES}
for metric in ("ttft", "tpot", "itl", "e2el"):
    for kind in ("mean", "median", "std"):
        figures[f"{kind}_{metric}_ms"] = float(getattr(metrics, f"{kind}_{metric}_ms"))
    for percentile, value in getattr(metrics, f"percentiles_{metric}_ms"):
        figures[f"p{percentile:g}_{metric}_ms"] = float(value)
print(json.dumps(figures))
