"""Every way to be fooled is caught by the check that is named for it, and no figure can be changed unseen."""

from typing import Any

import pytest
from bench.engine import Speed
from bench.good import GOOD, KINDS, RECIPE, changed, failed
from bench.simulate import environment, evidence, recipe_cell, server_of, simulate
from msgspec.structs import replace

from ernie_deploy.bench import validity
from ernie_deploy.bench.journal.derive import derive, reduce
from ernie_deploy.bench.journal.record import Cell, Evidence, Sample
from ernie_deploy.catalog import Catalog


def moved(proof: Evidence, **deltas: float) -> Evidence:
    server = proof.server
    after = server.after | {name: server.before.get(name, 0.0) + value for name, value in deltas.items()}
    return replace(proof, server=replace(server, after=after))


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_run_is_valid(kind):
    checks = validity.judge(GOOD[kind])
    assert [check for check in checks if not check.ok] == []
    assert validity.status_of(checks) == "valid"


@pytest.mark.parametrize(("share", "faults"), [(1e-15, []), (1e-3, ["ordering"])])
def test_the_median_is_the_fiftieth_percentile_but_for_rounding(share, faults):
    """Seen: a median TPOT of 20.12124314283678 beside a p50 of 20.121243142836775, as numpy took them."""
    proof = changed(RECIPE, p50_tpot_ms=RECIPE.figures["median_tpot_ms"] * (1 + share))
    assert [name for name in failed(proof) if name == "ordering"] == faults


def test_each_check_has_one_name_and_numbers():
    checks = [check for proof in GOOD.values() for check in validity.judge(proof)]
    names = [check.id for check in validity.judge(RECIPE)]
    assert len(names) == len(set(names))
    assert all(any(letter.isdigit() for letter in check.text) for check in checks if check.id not in WORDLESS)


WORDLESS = {"positive", "ordering"}


def test_every_check_is_met_by_some_record():
    """All functions apply somewhere, so that none of them is dead."""
    published = [validity.published_evidence(baseline) for baseline in Catalog().baselines]
    for check in validity.CHECKS:
        assert any(check(proof) for proof in (*GOOD.values(), *published)), check


# --- F1: what vllm bench serve calls done, with exit code 0 ---


def run_with(cell: Cell, **lists: Any) -> Evidence:
    """A run as vLLM's client would write it with some of its requests cut, failed or never begun."""
    raw = simulate(cell) | lists
    done = [i for i in range(cell.num_prompts) if raw["output_lens"][i]]
    tokens, inputs = sum(raw["output_lens"]), sum(raw["input_lens"][i] for i in done)
    raw |= {
        "completed": len(done), "failed": cell.num_prompts - len(done),
        "total_output_tokens": tokens, "total_input_tokens": inputs,
        "request_throughput": len(done) / raw["duration"], "output_throughput": tokens / raw["duration"],
        "total_token_throughput": (tokens + inputs) / raw["duration"],
    }  # fmt: skip
    result, itl = reduce(raw)
    server = server_of(result, cell)
    derived = derive(result, itl, server, environment(), seed=0)
    return Evidence(
        cell=cell, figures=result, itl=itl, server=server, derived=derived, environment=environment()
    )


def halved(cell: Cell, error: str) -> dict[str, Any]:
    """Every second request without a token."""
    raw, half = simulate(cell), range(0, cell.num_prompts, 2)
    lists = {name: list(raw[name]) for name in ("output_lens", "ttfts", "latencies", "itls", "errors")}
    for i in half:
        for name, value in (
            ("output_lens", 0),
            ("ttfts", 0.0),
            ("latencies", 0.0),
            ("itls", []),
            ("errors", error),
        ):
            lists[name][i] = value
    return lists


CELL = Cell(shape="200/40", input_len=200, output_len=40, num_prompts=8)


def test_nothing_listening():
    none = {"output_lens": [0] * 8, "errors": ["Cannot connect to host"] * 8, "itls": [[]] * 8}
    zeros = {"ttfts": [0.0] * 8, "latencies": [0.0] * 8}
    proof = run_with(CELL, **none, **zeros)
    proof = changed(proof, **{key: 0.0 for key in proof.figures if key.endswith("_ms")})
    found = failed(proof)
    assert {"completed", "output-tokens", "positive", "errors"} <= set(found)
    assert found["completed"].text == "0 of 8 requests completed, 8 failed"
    assert validity.status_of(validity.judge(proof)) == "invalid"


def test_half_of_the_requests_fail():
    found = failed(run_with(CELL, **halved(CELL, "Internal Server Error")))
    assert found["completed"].text == "4 of 8 requests completed, 4 failed"
    assert found["output-tokens"].text == "160 output tokens of 320 asked for"
    assert found["errors"].text.startswith("request 0: Internal Server Error; request 2")


def test_errors_within_the_stream_are_seen_by_the_token_count_alone():
    raw = simulate(CELL)
    short = [40, 22] * 4
    itls = [gaps[: n - 1] for gaps, n in zip(raw["itls"], short, strict=True)]
    took = [ttft + sum(gaps) for ttft, gaps in zip(raw["ttfts"], itls, strict=True)]
    proof = run_with(CELL, output_lens=short, itls=itls, latencies=took)
    assert proof.figures["completed"] == 8
    assert proof.figures["failed"] == 0
    found = failed(proof)
    assert found["output-tokens"].text == "248 output tokens of 320 asked for"
    assert found["output-lengths"].text == "4 answers are not 40 tokens long, but 22 to 22"
    assert "completed" not in found


def test_the_engine_killed_in_the_run():
    """16 completed, 0 failed, 13,673 of 32,000 tokens: exit code 0, and 1542.8 tokens/s on the console."""
    cell = Cell(shape="100/2000", input_len=100, output_len=2000, num_prompts=16)
    lengths = [438 + 39 * k for k in range(16)]
    lengths[-1] += 13_673 - sum(lengths)
    proof = run_with(cell, output_lens=lengths)
    found = failed(proof)
    assert proof.figures["completed"] == 16
    assert found["output-tokens"].text == "13,673 output tokens of 32,000 asked for"
    assert validity.status_of(tuple(found.values())) == "invalid"


def test_the_wall_time_alone_gives_the_killed_engine_away():
    """B1, with the published block's figures and the time a killed engine took."""
    text = validity.published_evidence(Catalog().baselines[0])
    found = failed(changed(text, duration=13_673 / 1542.8, total_output_tokens=13_673))
    assert {"output-tokens", "wall-time", "output-throughput"} <= set(found)


# --- the prefix cache ---


@pytest.mark.parametrize(("cell", "share", "ok"), [
    ({"cold": "seed"}, 0.019, True), ({"cold": "seed"}, 0.021, False), ({"cold": "seed"}, 0.48, False),
    ({"cold": "reset"}, 0.0049, True), ({"cold": "reset"}, 0.0051, False), ({"cold": "restart"}, 0.0051, False),
    ({"preset": "published"}, 0.0625, False), ({"preset": "published"}, 0.0051, False),
])  # fmt: skip
def test_a_warm_cache_is_named(cell, share, ok):
    proof = replace(RECIPE, cell=replace(RECIPE.cell, **cell))
    proof = moved(proof, prefix_cache_hits=round(share * 128_000))
    proof = replace(proof, derived=replace(proof.derived, prefix_hit_share=round(share * 128_000) / 128_000))
    assert set(failed(proof)) == (set() if ok else {"warm-cache"})
    assert validity.status_of(validity.judge(proof)) == ("valid" if ok else "invalid")


def test_texts_that_share_by_nature_are_suspect_with_a_seed_and_told_after_a_reset():
    for cold, status in (("seed", "suspect"), ("reset", "valid")):
        proof = replace(RECIPE, cell=replace(RECIPE.cell, dataset="sharegpt", cold=cold))
        proof = moved(proof, prefix_cache_hits=12_800)
        proof = replace(proof, derived=replace(proof.derived, prefix_hit_share=0.1))
        assert validity.status_of(validity.judge(proof)) == status


def test_without_counters_a_cold_cache_is_not_proven():
    server = RECIPE.server
    kept = {name: value for name, value in server.after.items() if "prefix" not in name}
    known = {name: server.before[name] for name in kept}
    proof = replace(RECIPE, server=replace(server, before=known, after=kept))
    proof = replace(proof, derived=replace(proof.derived, prefix_hit_share=None))
    assert failed(proof)["warm-cache"].level == "soft"


def test_a_server_that_caches_no_prefixes_is_cold():
    proof = moved(RECIPE, prefix_cache_queries=0)
    proof = replace(proof, derived=replace(proof.derived, prefix_hit_share=None))
    assert failed(proof) == {}


# --- the server's counters ---


@pytest.mark.parametrize(("deltas", "check"), [
    ({"generation_tokens": 15_999}, "server-generation-tokens"),
    ({"generation_tokens": 16_001}, "server-generation-tokens"),
    ({"prompt_tokens": 130_000}, "server-prompt-tokens"), ({"prompt_tokens": 126_000}, "server-prompt-tokens"),
    ({"request_success_length": 15, "request_success_stop": 1}, "server-finished"),
    ({"request_success_abort": 1}, "server-aborted"), ({"request_success_error": 1}, "server-aborted"),
    ({"num_preemptions": 2}, "preemptions"), ({"generation_tokens": -5.0}, "counters-rise"),
])  # fmt: skip
def test_a_counter_that_disagrees(deltas, check):
    assert check in failed(moved(RECIPE, **deltas))


def test_one_canary_is_known_and_two_are_not():
    one = moved(RECIPE, generation_tokens=16_001, prompt_tokens=128_004, request_success=17, request_success_length=17,
                prefix_cache_queries=128_004)  # fmt: skip
    assert {"server-generation-tokens", "server-finished"} <= set(failed(one))
    assert failed(replace(one, server=replace(one.server, canary_requests=1))) == {}
    long = moved(one, prompt_tokens=128_000 * 1.01 + 65, prefix_cache_queries=128_000 * 1.01 + 65)
    assert set(failed(replace(long, server=replace(long.server, canary_requests=1)))) == {
        "server-prompt-tokens"
    }
    two = moved(one, generation_tokens=16_002)
    assert "server-generation-tokens" in failed(replace(two, server=replace(two.server, canary_requests=1)))


@pytest.mark.parametrize(("kv_cache_use", "faults"), [(0.99, set()), (0.91, set()), (0.89, {"preemptions"})])
def test_preemptions_belong_to_a_full_cache(kv_cache_use, faults):
    samples = tuple(Sample(elapsed_s=s.elapsed_s, running=s.running, waiting=s.waiting, kv_cache_use=kv_cache_use,
                           generation_tokens=s.generation_tokens) for s in RECIPE.server.samples)  # fmt: skip
    proof = moved(RECIPE, num_preemptions=2)
    assert set(failed(replace(proof, server=replace(proof.server, samples=samples)))) == faults


def test_latencies_that_their_parts_do_not_make_up_are_no_measurement():
    ttft = RECIPE.figures["mean_ttft_ms"]
    assert failed(changed(RECIPE, mean_ttft_ms=ttft + 100.0))["latency-identity"].level == "hard"


# --- hardware, chunks, the client ---


def test_faster_than_the_memory_is_impossible_and_faster_than_uniform_routing_suspect():
    fast = evidence(recipe_cell(), speed=Speed(slowdown=0.6))
    assert set(failed(fast)) == {"physics-uniform-floor"}
    faster = Speed(slowdown=0.2)
    assert set(failed(evidence(recipe_cell(), speed=faster))) == {
        "physics-collapsed-floor",
        "physics-uniform-floor",
    }
    at_once = evidence(recipe_cell(request_rate=None), speed=faster)
    assert failed(at_once)["physics-prefill"].text.startswith("16 prompts were read within 0.6")
    assert failed(evidence(recipe_cell(), speed=Speed(slowdown=0.2), env=environment(rehearsal=True))) == {}


def test_merged_chunks_are_suspect_unless_tokens_were_drafted():
    assert "merged-chunks" not in failed(GOOD["speculative"])
    proof = GOOD["speculative"]
    without = {name: value for name, value in proof.figures.items() if not name.startswith("spec_decode")}
    server = replace(proof.server, after={k: v for k, v in proof.server.after.items() if not k.startswith("spec")},
                     before={k: v for k, v in proof.server.before.items() if not k.startswith("spec")})  # fmt: skip
    derived = replace(proof.derived, acceptance_length=None)
    assert set(failed(replace(proof, figures=without, server=server, derived=derived))) == {"merged-chunks"}


def test_the_role_of_a_chat_is_an_event_without_a_token():
    """In chat there is one stream event more, at once before the first token."""
    itl, figures = RECIPE.itl, RECIPE.figures
    more = replace(itl, counts=tuple(n + 1 for n in itl.counts), histogram={0: 16, **itl.histogram})
    spoken = {"mean_itl_ms": figures["mean_itl_ms"] * 999 / 1000}
    proof = replace(changed(RECIPE, **spoken), itl=more)
    assert set(failed(rederived(proof))) == {"chunk-counts"}
    mixed = replace(RECIPE, derived=replace(RECIPE.derived, tokens_per_chunk=1.1))
    assert "merged-chunks" not in failed(mixed)
    assert "merged-chunks" in failed(replace(mixed, cell=replace(mixed.cell, dataset="sharegpt")))
    assert failed(rederived(changed(proof, backend="openai-chat"))) == {}


def test_a_client_that_was_late_is_suspect_and_out_of_order_invalid():
    starts = list(RECIPE.figures["start_times"])
    late = [at + (0.015 if i > 12 else 0.0) for i, at in enumerate(starts)]
    assert "send-lag" in failed(rederived(changed(RECIPE, start_times=late)))
    starts[3], starts[9] = starts[9], starts[3]
    assert failed(rederived(changed(RECIPE, start_times=starts)))["start-times"].level == "hard"


def test_another_seed_than_the_one_recorded_is_noticed():
    assert "send-lag" in failed(rederived(RECIPE, seed=4))


def rederived(proof: Evidence, seed: int = 3) -> Evidence:
    again = derive(proof.figures, proof.itl, proof.server, proof.environment, seed=seed)
    return replace(proof, derived=again)


def test_images_add_tokens_and_texts_of_a_file_have_their_own_lengths():
    more = {"total_input_tokens": 150_000, "input_lens": [9375] * 16,
            "total_token_throughput": 166_000 / RECIPE.figures["duration"]}  # fmt: skip
    proof = moved(changed(RECIPE, **more), prompt_tokens=150_000, prefix_cache_queries=150_000)
    proof = rederived(replace(proof, floor=None))
    assert set(failed(proof)) == {"input-tokens"}
    assert failed(replace(proof, cell=replace(proof.cell, dataset="random-mm"))) == {}
    assert failed(replace(proof, cell=replace(proof.cell, dataset="custom"))) == {}


def test_few_requests_have_a_note_about_their_p99_and_stay_valid():
    (tail,) = (check for check in validity.judge(RECIPE) if check.id == "tail")
    assert tail.ok
    assert tail.text == "16 requests: the p99 lies at the slowest ones, and takes 459 to be known"


@pytest.mark.parametrize(
    "figures", [{}, {"completed": "16"}, {"duration": None, "completed": 16}, {"errors": []}]
)
def test_a_result_without_figures_is_invalid_and_raises_nothing(figures):
    proof = Evidence(cell=CELL, figures=figures)
    assert validity.status_of(validity.judge(proof)) == "invalid"
