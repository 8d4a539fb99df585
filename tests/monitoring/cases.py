"""Series for each alert, firing and not firing at the edge; of 21b on h100 (or mi300x) with the objectives below."""

from monitoring.promtool import Case, Series, flat, rising

SLO = ("ttft_p95=2s", "tpot_p95=50ms")
# The plan's numbers at 21b on h100, which test_rules.py holds against the plan itself.
SEQUENCES, WEIGHTS = 1024, 48_287_020_250
BASELINE_S, TOLERANCE = 0.0168, 1.05
DAY = 86400

VLLM = '{job="vllm",instance="serve:8000"}'
ENGINE = '{job="vllm",instance="serve:8000",engine="0",model_name="ernie"}'
UP = f"up{VLLM}"
RUNNING, WAITING = f"vllm:num_requests_running{ENGINE}", f"vllm:num_requests_waiting{ENGINE}"
STEPS, KV = f"vllm:iteration_tokens_total_count{ENGINE}", f"vllm:kv_cache_usage_perc{ENGINE}"
PREEMPTED = f"vllm:num_preemptions_total{ENGINE}"
FINE = 'http_requests_total{job="vllm",instance="serve:8000",handler="/v1/completions",method="POST",status="2xx"}'
FAILED = FINE.replace("2xx", "5xx")
BROKEN = 'vllm:request_success_total{job="vllm",instance="serve:8000",engine="0",finished_reason="error"}'
GATEWAY_UP = 'up{job="gateway",instance="gateway:8405"}'
SERVERS = 'haproxy_backend_active_servers{job="gateway",proxy="serve"}'
OPEN = 'haproxy_frontend_current_sessions{job="gateway",proxy="front"}'
MOST = 'haproxy_frontend_limit_sessions{job="gateway",proxy="front"}'
QUEUED = 'haproxy_backend_current_queue{job="gateway",proxy="serve"}'
DENIED = 'haproxy_frontend_requests_denied_total{job="gateway",proxy="front"}'
CERTIFICATE = 'ernie_certificate_not_after_seconds{job="certificate"}'
AVAILABLE = 'node_filesystem_avail_bytes{job="node",mountpoint="/disk/weights"}'
SIZE = 'node_filesystem_size_bytes{job="node",mountpoint="/disk/weights"}'
XID, ECC = 'DCGM_FI_DEV_XID_ERRORS{job="gpu",gpu="3"}', 'gpu_ecc_uncorrect_total{job="gpu",gpu_id="3"}'
HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "tpot": "vllm:request_time_per_output_token_seconds",
}


def responses(code: str) -> str:
    return f'haproxy_backend_http_responses_total{{job="gateway",proxy="serve",code="{code}"}}'


def front_responses(code: str) -> str:
    """All that the gateway answers: those without a key and the probes of load balancers too."""
    return f'haproxy_frontend_http_responses_total{{job="gateway",proxy="front",code="{code}"}}'


def latencies(metric: str, fast: float, minutes: float, requests: float = 100) -> Series:
    """So many requests a step, of which a share is faster than any objective here and the rest slower."""
    name, bounds = (
        HISTOGRAMS[metric],
        {"ttft": ("1.0", "2.5", "5.0"), "tpot": ("0.025", "0.05", "0.1")}[metric],
    )
    shares = (fast, fast, 1, 1)
    buckets = {le: share * requests for le, share in zip((*bounds, "+Inf"), shares, strict=True)}
    return {
        f'{name}_bucket{{job="vllm",instance="serve:8000",engine="0",le="{le}"}}': rising(by, minutes)
        for le, by in buckets.items()
    } | {f'{name}_count{{job="vllm",instance="serve:8000",engine="0"}}': rising(requests, minutes)}


def benchmark(tpot_s: float, running: float = 16, prompt: float = 8000) -> Series:
    """An hour at the load of the baseline, a request a step."""
    sums = {"vllm:request_time_per_output_token_seconds": tpot_s, "vllm:request_prompt_tokens": prompt}
    return {
        f"{name}_{part}{ENGINE}": rising(by, 60)
        for name, total in sums.items()
        for part, by in (("sum", total), ("count", 1))
    } | {RUNNING: flat(running, 60)}


def answers(ok: float, code: str, other: float, minutes: float = 20) -> Series:
    return {responses("2xx"): rising(ok, minutes), responses(code): rising(other, minutes)}


def then(*parts: str) -> str:
    return " ".join(parts)


FELL = {UP: then(flat(1, 10), flat(0, 20))}
STOPPED = {
    RUNNING: flat(3, 20),
    STEPS: then(rising(4, 5), flat(80, 15)),
    KV: then(rising(0.01, 5), flat(0.2, 15)),
}
LEFT = {SERVERS: then(flat(1, 5), flat(0, 5))}
FULL = {KV: flat(0.95, 20), WAITING: flat(2, 20), PREEMPTED: flat(7, 20)}
QUEUE = {WAITING: then(flat(0, 10), rising(1, 20, start=103))}
LOADS = {AVAILABLE: rising(-1e6, 20, WEIGHTS - 1), UP: flat(0, 20)}
TIGHT = {SIZE: flat(500e9, 90)}

CASES = [
    Case("ErnieDown", "12m", FELL, FELL, quiet_at="11m45s"),
    Case("ErnieDown", "30m", {UP: then(flat(1, 10), flat(0, 30))}, {UP: flat(0, 40)}),
    Case("ErnieNotStarted", "13m", {UP: flat(0, 20)}, {UP: flat(0, 20)}, quiet_at="12m45s"),
    Case(
        "ErnieRestarting", "15m",
        {UP: then(flat(1, 5), flat(0, 2), flat(1, 5), flat(0, 2), flat(1, 5))},
        {UP: then(flat(1, 5), flat(0, 2), flat(1, 12))},
    ),
    # A fresh start and one restart are no loop, though three changes.
    Case("ErnieRestarting", "18m", {UP: then(flat(0, 5), flat(1, 5), flat(0, 2), flat(1, 5), flat(0, 2))},
         {UP: then(flat(0, 5), flat(1, 5), flat(0, 2), flat(1, 7))}),
    # Two falls further apart than the window are two accidents.
    Case("ErnieRestarting", "15m", {UP: then(flat(1, 5), flat(0, 1), flat(1, 5), flat(0, 9))},
         {UP: then(flat(1, 5), flat(0, 1), flat(1, 70), flat(0, 9))}, quiet_at="80m"),
    # The last movement is at 5m: a minute's window and a minute more.
    Case("ErnieHung", "7m", STOPPED, STOPPED, quiet_at="6m45s"),
    Case("ErnieHung", "15m", STOPPED, STOPPED | {RUNNING: flat(0, 20)}),
    Case("ErnieHung", "15m", STOPPED, STOPPED | {STEPS: "0+0x3 1+0x3 2+0x3 3+0x3 4+0x3 5+0x3 6+0x3 7+0x3 8+0x3 9+0x3 10+0x3 11+0x3 12+0x3 13+0x3 14+0x3 15+0x3 16+0x3"}),
    Case("ErnieHung", "15m", STOPPED, STOPPED | {KV: rising(0.01, 20)}),
    Case("ErnieQueueGrowing", "25m", QUEUE, QUEUE, quiet_at="24m45s"),
    Case("ErnieQueueGrowing", "25m", QUEUE, {WAITING: then(flat(0, 10), rising(1, 20, start=100))}, quiet_at="25m"),
    Case("ErnieQueueGrowing", "25m", {WAITING: flat(SEQUENCES + 1, 30)}, {WAITING: flat(SEQUENCES, 30)}),
    Case("ErnieKvCacheFull", "5m", FULL, FULL, quiet_at="4m45s"),
    Case("ErnieKvCacheFull", "15m", FULL, FULL | {WAITING: flat(0, 20)}),
    Case("ErnieKvCacheFull", "15m", FULL | {WAITING: flat(0, 20), PREEMPTED: rising(1, 20)}, FULL | {KV: flat(0.9, 20)}),
    Case("ErnieErrors", "20m", {FINE: rising(98, 21), FAILED: rising(1, 21)}, {FINE: rising(100, 21), FAILED: rising(1, 21)}),
    Case("ErnieErrors", "20m", {FINE: rising(98, 21), BROKEN: rising(1, 21)}, {FINE: rising(101, 21), BROKEN: rising(1, 21)}),
    # Four failures are all there were.
    Case("ErnieErrors", "20m", {FAILED: rising(1, 21)}, {FAILED: then(flat(0, 10), "1 2 3 4", flat(4, 10))}),
    Case("ErnieGatewayDown", "1m", {GATEWAY_UP: flat(0, 5)}, {GATEWAY_UP: flat(0, 5)}, quiet_at="45s"),
    Case("ErnieGatewayNoServer", "7m", LEFT, LEFT, quiet_at="6m45s"),
    Case("ErnieGatewayNoServer", "9m", LEFT, {SERVERS: flat(1, 10)}),
    # The first download: no server has been there yet.
    Case("ErnieGatewayNoServer", "9m", LEFT, {SERVERS: flat(0, 10)}),
    Case("ErnieGatewayErrors", "12m", answers(36, "5xx", 2), answers(40, "5xx", 2)),
    Case("ErnieGatewayErrors", "12m", answers(0, "5xx", 1.1), answers(0, "5xx", 0.9)),
    # 505 for whoever asks by HTTP/1.7, and 503 for the probes of a load balancer while the server loads.
    Case("ErnieGatewayErrors", "12m", answers(36, "5xx", 2), answers(36, "5xx", 0) | {front_responses("5xx"): rising(20, 20)}),
    Case("ErnieGatewayErrors", "12m", answers(0, "5xx", 3), answers(0, "5xx", 0) | {front_responses("5xx"): rising(3, 20)}),
    # A hundred failed requests in five minutes beside 2,000 of strangers, who get 404.
    Case("ErnieGatewayErrors", "12m", answers(5, "5xx", 5) | {front_responses("4xx"): rising(100, 20), front_responses("5xx"): rising(5, 20)},
         answers(5, "5xx", 0) | {front_responses("4xx"): rising(100, 20)}),
    Case("ErnieGatewayLimited", "17m", answers(9, "4xx", 0) | {DENIED: rising(10, 20)}, answers(11, "4xx", 0) | {DENIED: rising(10, 20)}),
    # Refusals for want of a key are 4xx too, and no storm of 429s.
    Case("ErnieGatewayLimited", "17m", answers(0, "4xx", 0) | {DENIED: rising(10, 20)},
         answers(0, "4xx", 0) | {DENIED: flat(0, 20), front_responses("4xx"): rising(10, 20)}),
    # All 250 requests of five minutes are refused, beside a load balancer's probe a second.
    Case("ErnieGatewayLimited", "17m", answers(0, "4xx", 0) | {DENIED: rising(12.5, 20), front_responses("2xx"): rising(15, 20), front_responses("4xx"): rising(12.5, 20)},
         answers(13, "4xx", 0) | {DENIED: rising(12.5, 20), front_responses("2xx"): rising(15, 20), front_responses("4xx"): rising(12.5, 20)}),
    Case("ErnieGatewayQueue", "15m", {QUEUED: then(flat(0, 5), flat(1, 15))}, {QUEUED: then(flat(0, 5), flat(1, 15))}, quiet_at="14m45s"),
    Case("ErnieGatewayQueue", "15m", {QUEUED: flat(1, 20)}, {QUEUED: then(flat(1, 12), "0", flat(1, 8))}),
    Case("ErnieGatewayFull", "8m", {OPEN: then(flat(3600, 5), flat(3630, 5)), MOST: flat(4032, 12)}, {OPEN: then(flat(3600, 5), flat(3628, 5)), MOST: flat(4032, 12)}),
    # A burst that is over within two minutes.
    Case("ErnieGatewayFull", "8m", {OPEN: then(flat(0, 5), flat(4032, 5)), MOST: flat(4032, 12)}, {OPEN: then(flat(0, 5), flat(4032, 1), flat(9, 5)), MOST: flat(4032, 12)}),
    Case("ErnieCertificateEnds", "11m", {CERTIFICATE: flat(14 * DAY, 20)}, {CERTIFICATE: flat(14 * DAY + 700, 20)}),
    Case("ErnieSlowAnswers", "10m", latencies("ttft", 0.27, 12), latencies("ttft", 0.29, 12), labels=',slo="ttft_p95",severity="critical"'),
    Case("ErnieSlowAnswers", "10m", latencies("tpot", 0.27, 12), latencies("tpot", 0.29, 12), labels=',slo="tpot_p95",severity="critical"'),
    Case("ErnieSlowAnswers", "40m", latencies("ttft", 0.69, 42), latencies("ttft", 0.71, 42), labels=',slo="ttft_p95",severity="warning"'),
    # Nineteen slow requests say nothing about one in twenty.
    Case("ErnieSlowAnswers", "9m30s", latencies("ttft", 0, 10, 0.8), latencies("ttft", 0, 10, 0.5), labels=',slo="ttft_p95",severity="critical"'),
    Case("ErnieSlowerThanBaseline", "55m", benchmark(BASELINE_S * TOLERANCE * 1.001), benchmark(BASELINE_S * TOLERANCE * 0.999)),
    Case("ErnieSlowerThanBaseline", "55m", benchmark(0.02), benchmark(0.02, running=17)),
    Case("ErnieSlowerThanBaseline", "55m", benchmark(0.02), benchmark(0.02, prompt=8081)),
    Case("ErnieGpuError", "1m", {XID: flat(79, 5)}, {XID: flat(43, 5)}),
    # The last Xid is soon another one: 45, the cleanup after 48. Whatever a look caught counts for an hour.
    Case("ErnieGpuError", "64m", {XID: then(flat(0, 5), "48", flat(45, 80))}, {XID: then(flat(0, 5), "48", flat(45, 80))}, quiet_at="66m"),
    Case("ErnieGpuError", "1m", {XID: flat(119, 5)}, {XID: flat(45, 5)}),
    Case("ErnieGpuError", "1m", {'DCGM_FI_DEV_ROW_REMAP_FAILURE{job="gpu",gpu="3"}': flat(1, 5)}, {'DCGM_FI_DEV_ROW_REMAP_FAILURE{job="gpu",gpu="3"}': flat(0, 5)}),
    Case("ErnieGpuError", "10m", {ECC: then(flat(2, 5), flat(3, 10))}, {ECC: flat(2, 15)}, plan="amd"),
    Case("ErnieDiskFull", "11m", {AVAILABLE: flat(49e9, 20), SIZE: flat(1000e9, 20)}, {AVAILABLE: flat(51e9, 20), SIZE: flat(1000e9, 20)}),
    Case("ErnieDiskFull", "80m", TIGHT | {AVAILABLE: rising(-0.05e9, 90, WEIGHTS - 1)}, TIGHT | {AVAILABLE: rising(-0.01e9, 90, WEIGHTS - 1)}),
    Case("ErnieDiskFull", "5m15s", {AVAILABLE: flat(1e9, 20), SIZE: flat(1000e9, 20)}, {AVAILABLE: flat(1e9, 20), SIZE: flat(1000e9, 20)}, quiet_at="9m45s")
    ._replace(at="10m"),
    Case("ErnieNoRoomForWeights", "11m", LOADS, LOADS | {AVAILABLE: rising(-1e6, 20, WEIGHTS)}),
    Case("ErnieNoRoomForWeights", "11m", LOADS, LOADS | {UP: then("1", flat(0, 20))}),
    # The weights are there already: nothing is written.
    Case("ErnieNoRoomForWeights", "11m", LOADS, LOADS | {AVAILABLE: flat(WEIGHTS - 1, 20)}),
    Case("ErnieExporterDown", "5m", {'up{job="node"}': flat(0, 10)}, {'up{job="node"}': flat(0, 10)}, quiet_at="4m45s"),
    Case("ErnieExporterDown", "6m", {'up{job="certificate"}': flat(0, 10)}, {'up{job="certificate"}': flat(1, 10)}),
]  # fmt: skip
