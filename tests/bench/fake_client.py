"""Stands in for `vllm bench serve` where vLLM is missing: as trusting as the real one, and always ends with 0.

Success is a first chunk, an error within a stream is skipped, and without a usage the length is what came.
"""

import json
import random
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any


def main(words: list[str]) -> None:
    options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    count, length = int(options["num-prompts"]), int(options["random-input-len"])
    rng = random.Random(int(options["seed"]))
    prompts = ["".join(rng.choices("abcdefghij", k=length)) for _ in range(count)]
    outputs: list[dict[str, Any]] = [{} for _ in prompts]
    threads = []
    begun = time.perf_counter()
    slots = threading.Semaphore(int(options.get("max-concurrency") or count))
    for number, prompt in enumerate(prompts):
        # All at once, as the real client has it: what waits for a slot is queued.
        due = begun if options["request-rate"] == "inf" else time.perf_counter()
        slots.acquire()
        outputs[number]["start"] = time.perf_counter()
        outputs[number]["queued"] = time.perf_counter() - due if "max-concurrency" in options else 0.0
        thread = threading.Thread(target=ask, args=(options, prompt, outputs[number], slots))
        thread.start()
        threads.append(thread)
        if options["request-rate"] != "inf":
            time.sleep(1 / float(options["request-rate"]))
    for thread in threads:
        thread.join()
    # Without what a busy test machine adds before the first request and after the last.
    spans = [(o["start"], o["start"] + o["latency"]) for o in outputs]
    result = result_of(
        options, outputs, max(end for _, end in spans) - min(start for start, _ in spans) + 0.0005
    )
    Path(options["result-dir"], options["result-filename"]).write_text(json.dumps(result))


def ask(options: dict[str, str], prompt: str, output: dict[str, Any], slots: threading.Semaphore) -> None:
    start = output["start"]
    output |= {"ok": False, "ttft": 0.0, "itl": [], "latency": 0.0, "tokens": 0, "error": "",
               "prompt_len": len(prompt)}  # fmt: skip
    body = {
        "model": options["model"],
        "prompt": prompt,
        "max_tokens": int(options["random-output-len"]),
        "stream": True,
    }
    request = urllib.request.Request(f"{options['base-url']}/v1/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    last = start
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            for raw in answer:
                event = raw.decode().removeprefix("data: ").strip()
                if not event or event == "[DONE]":
                    continue
                data = json.loads(event)
                now = time.perf_counter()
                if data.get("choices"):
                    output["itl"].append(now - last) if output["ttft"] else output.update(ttft=now - start)
                    last, output["tokens"] = now, output["tokens"] + 1
                elif "usage" in data:
                    output["tokens"] = data["usage"]["completion_tokens"]
        output["ok"] = bool(output["ttft"])
    except (OSError, ValueError) as fault:
        output["error"] = str(fault)
    output["latency"] = last - start
    slots.release()


def result_of(options: dict[str, str], outputs: list[dict[str, Any]], duration: float) -> dict[str, Any]:
    from bench.client_figures import _summary

    good = [output for output in outputs if output["ok"]]
    inputs, made = sum(o["prompt_len"] for o in good), sum(o["tokens"] for o in good)
    values = {
        "ttft": [o["ttft"] for o in good],
        "tpot": [(o["latency"] - o["ttft"]) / (o["tokens"] - 1) for o in good if o["tokens"] > 1],
        "itl": [gap for o in good for gap in o["itl"]],
        "e2el": [o["latency"] for o in good],
    }
    statistics = {}
    for name, numbers in values.items():
        statistics |= _summary(name, [(value, 1) for value in sorted(numbers or [0.0])])
    rate = options["request-rate"]
    limit = options.get("max-concurrency")
    slos_ms = {
        name: float(limit)
        for name, _, limit in (w.partition(":") for w in sys.argv)
        if name in ("ttft", "tpot")
    }
    met = [all(1000 * took(o, name) <= limit for name, limit in slos_ms.items()) for o in good]
    goodput = sum(met) / duration if slos_ms else None
    return {
        "date": "20261122-000000", "endpoint_type": options["backend"], "backend": options["backend"], "label": None,
        "model_id": options["model"], "tokenizer_id": options.get("tokenizer", ""), "num_prompts": len(outputs),
        "request_rate": rate if rate == "inf" else float(rate), "burstiness": 1.0,
        "max_concurrency": int(limit) if limit else None, "duration": duration, "completed": len(good),
        "failed": len(outputs) - len(good), "total_input_tokens": inputs, "total_output_tokens": made,
        "request_throughput": len(good) / duration, "request_goodput": goodput, "output_throughput": made / duration,
        "total_token_throughput": (inputs + made) / duration, "rtfx": 0.0,
        "input_lens": [o["prompt_len"] for o in outputs],
        "output_lens": [o["tokens"] if o["ok"] else 0 for o in outputs], "ttfts": [o["ttft"] for o in outputs],
        "itls": [o["itl"] for o in outputs], "latencies": [o["latency"] for o in outputs],
        "start_times": [o["start"] for o in outputs], "queue_times": [o["queued"] for o in outputs],
        "generated_texts": ["x"] * len(outputs), "errors": [o["error"] for o in outputs],
        **peaks(good), **statistics,
    }  # fmt: skip


def took(output: dict[str, Any], metric: str) -> float:
    tpot = (output["latency"] - output["ttft"]) / max(1, output["tokens"] - 1)
    return float({"ttft": output["ttft"], "tpot": tpot}[metric])


def peaks(good: list[dict[str, Any]]) -> dict[str, float]:
    """The client's buckets of one second."""
    from collections import Counter

    tokens, busy = Counter[int](), Counter[int]()
    start = min((o["start"] for o in good), default=0.0)
    for o in good:
        at = o["start"] + o["ttft"]
        tokens[int(at - start)] += 1
        for gap in o["itl"]:
            at += gap
            tokens[int(at - start)] += 1
        busy.update(range(int(o["start"] - start), int(o["start"] + o["latency"] - start) + 1))
    return {
        "max_output_tokens_per_s": float(max(tokens.values(), default=0)),
        "max_concurrent_requests": max(busy.values(), default=0),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    assert sys.argv[1:3] == ["bench", "serve"], sys.argv
    main(sys.argv[3:])
