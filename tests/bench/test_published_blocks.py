"""The two published result blocks pass through the same checks as a record, and so do corrupted copies."""

import pytest
from bench.good import changed, failed

from ernie_deploy.bench import validity
from ernie_deploy.catalog import Catalog


def test_the_published_text_block_passes():
    checks = validity.judge(validity.published_evidence(Catalog().baselines[0]))
    assert validity.status_of(checks) == "valid"
    assert len(checks) >= 14


def test_the_published_vision_block_has_merged_chunks():
    checks = validity.judge(validity.published_evidence(Catalog().baselines[1]))
    assert validity.status_of(checks) == "suspect"
    (found,) = (check for check in checks if not check.ok)
    assert found.id == "merged-chunks"
    assert found.text.startswith("1.117 tokens a stream event")


@pytest.mark.parametrize(("figure", "factor", "check"), [
    ("completed", 0.5, "completed"), ("duration", 1.3, "output-throughput"), ("duration", 0.9, "wall-time"),
    ("total_input_tokens", 1.3, "input-tokens"), ("total_output_tokens", 0.85, "output-tokens"),
    ("request_throughput", 1.3, "request-throughput"), ("output_throughput", 1.001, "output-throughput"),
    ("total_token_throughput", 1.001, "total-token-throughput"), ("mean_tpot_ms", 1.3, "wall-time"),
    ("mean_ttft_ms", 3.0, "wall-time"), ("median_ttft_ms", 2.0, "ordering"), ("p99_tpot_ms", 0.7, "ordering"),
    ("mean_itl_ms", 1.3, "merged-chunks"), ("p99_itl_ms", -1.0, "positive"),
])  # fmt: skip
def test_a_corrupted_copy_of_the_published_text_block_is_caught(figure, factor, check):
    text = validity.published_evidence(Catalog().baselines[0])
    assert check in failed(changed(text, **{figure: text.figures[figure] * factor}))
