"""`check`: each rule against a bad and a good sample, the kit's own files, and whatever else is no compose file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from check_files import of_sample
from conftest import FULL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import RULE_MODULES, judge, report, rules
from ernie_deploy.check.document import load
from ernie_deploy.check.interpolate import resolved
from ernie_deploy.check.stacks import MAX_SERVICES
from ernie_deploy.check.tree import MAX_BYTES
from ernie_deploy.check.values import seconds, version
from ernie_deploy.cli import main
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.plan.sizes import size_bytes
from ernie_deploy.render.committed import files
from ernie_deploy.render.compose import compose_file

FOLDER = Path(__file__).parent / "check"
SAMPLES = yaml.safe_load((FOLDER / "rules.yml").read_text())
CATALOG = Catalog()
MARK = "# <-"

# What a rendering of the kit may carry, with the reason.
ALLOWED_WARNINGS = {
    "ED119": "VL models need their repository's code; commits are pinned by a later lock, not by the catalog",
}


def found(text, name="compose.yml"):
    return judge(text.encode(), name, CATALOG)


def ids(text):
    return {finding.id for finding in found(text)}


def marked_line(text, service):
    lines = text.splitlines()
    marked = [number for number, line in enumerate(lines, 1) if line.endswith(MARK)]
    return (
        marked[0] if marked else next(n for n, line in enumerate(lines, 1) if line.strip() == f"{service}:")
    )


def serve(*extra, command="baidu/ERNIE-4.5-21B-A3B-PT", image="vllm/vllm-openai:v0.32.0"):
    lines = [f"image: {image}", *([f"command: {command}"] if command else []), *extra]
    return "services:\n  serve:\n" + "".join(f"    {line}\n" for line in lines)


# --- rules


def test_every_rule_has_a_sample_and_every_sample_a_rule():
    assert list(SAMPLES) == [rule.id for rule in rules()]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_a_bad_sample_is_found_on_its_line(rule):
    text, every = of_sample(SAMPLES[rule.id], "bad")
    findings = [finding for finding in every if finding.id == rule.id]
    assert [f.line for f in findings] == [marked_line(text, f.service) for f in findings]
    assert len(findings) == 1, f"{rule.id} found {findings}"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_a_good_sample_is_not_found(rule):
    assert rule.id not in {finding.id for finding in of_sample(SAMPLES[rule.id], "good")[1]}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_a_rule_says_what_to_do_and_where_the_fact_is_from(rule):
    assert rule.sentence.endswith(".")
    assert rule.remedy
    assert not rule.remedy.endswith(".")
    assert rule.source
    assert (rule.search.__doc__ or "").endswith(".")


def test_ids_tell_the_floor_of_their_rule():
    floors = {
        "ED1": "engine value command model code lock wiring hardware orchestration environment ernie health client",
        "ED2": "security secret publishing request front front_file",
        "ED3": "lifecycle storage",
        "ED4": "input",
    }
    for rule in rules():
        module = rule.search.__module__.rpartition(".")[2].removesuffix("_rules")
        assert module in floors[rule.id[:3]].split()
    assert {rule.search.__module__ for rule in rules()} == {module.__name__ for module in RULE_MODULES}


VL = "[baidu/ERNIE-4.5-VL-28B-A3B-PT, --trust-remote-code]"


@pytest.mark.parametrize(
    ("lines", "image"),
    [
        ([], "vllm/vllm-openai:latest"),
        ([], "registry.example/vllm/vllm-openai-rocm:v0.32.0"),
        (["environment: {OTHER: decorder}"], "vllm/vllm-openai:v0.32.0"),
        (["volumes: [/data:/data]"], "vllm/vllm-openai:v0.32.0"),
    ],
)
def test_a_stock_image_without_the_package_is_warned_of(lines, image):
    assert "ED123" in ids(serve(*lines, command=VL, image=image))


@pytest.mark.parametrize(
    ("lines", "image", "command"),
    [
        ([], "registry.example/ours:1", VL),
        (["build: ."], "vllm/vllm-openai:v0.32.0", VL),
        (["environment: [PYTHONPATH=/extra]"], "vllm/vllm-openai:v0.32.0", VL),
        (["volumes: [./packages:/usr/local/lib/python3.12/dist-packages/extra]"], "vllm/vllm-openai:v0.32.0", VL),
        (["volumes: [./decord:/srv]"], "vllm/vllm-openai:v0.32.0", VL),
        (["entrypoint: [sh, -c, 'pip install decord==0.6.0 && exec vllm serve baidu/ERNIE-4.5-VL-28B-A3B-PT --trust-remote-code']"],
         "vllm/vllm-openai:v0.32.0", ""),
        ([], "vllm/vllm-openai:v0.32.0", "[baidu/ERNIE-4.5-21B-A3B-PT, --trust-remote-code]"),
    ],
)  # fmt: skip
def test_where_somebody_thought_of_the_package_nothing_is_said(lines, image, command):
    assert "ED123" not in ids(serve(*lines, command=command, image=image))


@pytest.mark.parametrize("options", [{}, {"nodes": 2, "model": "vl-424b"}, {"weights": "/data/ernie"}])
def test_a_rendering_without_the_packages_is_warned_of_and_one_with_them_is_not(options):
    request = {"target": "h100", "model": "vl-28b", **options}
    with_them, without = (
        compose_file(resolve(CATALOG, Request(**request, extra_packages=choice)), CATALOG.defaults)
        for choice in ("fetch", "none")
    )
    assert unexpected(with_them) == []
    assert {id_ for _, id_, _ in unexpected(without)} == {"ED123"}


@pytest.mark.parametrize(
    "command",
    ["[/weights, --tensor-parallel-size=8]", "[baidu/ERNIE-4.5-VL-28B-A3B-PT, --hf-overrides.a=1]", VL,
     '["${MODEL}"]', "[baidu/ERNIE-4.5-21B-A3B-PT]"],
)  # fmt: skip
def test_without_remote_code_only_the_published_checkpoint_is_hopeless(command):
    assert "ED124" not in ids(serve(command=command))


# --- whole files


def unexpected(text):
    allowed = {("warning", id_) for id_ in ALLOWED_WARNINGS}
    # What the recipe and vLLM's documentation open on AMD, and the default set with them.
    allowed |= {("note", "ED208"), ("note", "ED209")} if "vllm-openai-rocm" in text else set()
    return [(f.severity, f.id, f.sentence) for f in found(text) if (f.severity, f.id) not in allowed]


@pytest.mark.parametrize("name", sorted(name for name in files(CATALOG) if name.endswith(".yml")))
def test_nothing_is_found_in_what_the_kit_renders(name, rendered):
    assert unexpected(rendered[name]) == []


@pytest.fixture(scope="module")
def rendered():
    return files(CATALOG)


REQUESTS = [
    Request(target="h100", model="300b", profiles=("mtp",), api_key_file=True),
    Request(target="mi300x", user="1000:1000"),
    Request(target="h100", gpus_cdi=True, dp=4),
    Request(target="h200", model="vl-424b", weights="/srv/weights"),
    Request(target="h100", model="21b-thinking", profiles=("tools", "reasoning")),
    Request(target="h100", engine="0.32.0", cuda="12.9"),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.target)
def test_nothing_is_found_in_what_options_render(request_):
    text = compose_file(resolve(CATALOG, request_), CATALOG.defaults)
    assert unexpected(text) == []


def test_the_published_settings_carry_what_is_wrong_with_them():
    text = compose_file(resolve(CATALOG, Request(target="mi300x", profiles=("published",))), CATALOG.defaults)
    opened = {("ED208", "note"), ("ED209", "note")}
    assert {(f.id, f.severity) for f in found(text)} == {("ED118", "warning")} | opened


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(("api_key_file", "id_"), [(False, "ED201"), (True, "ED202")])
def test_a_rendering_for_every_address_is_an_error_with_a_key_too(nodes, api_key_file, id_):
    request = Request(target="h100", model="300b", bind="0.0.0.0", api_key_file=api_key_file, nodes=nodes)
    text = compose_file(resolve(CATALOG, request), CATALOG.defaults)
    assert [(f.id, f.severity) for f in found(text)] == [(id_, "error")]
    if api_key_file:
        (finding,) = found(text)
        assert "/invocations" in finding.sentence
        assert "/docs" not in finding.sentence


@pytest.mark.parametrize(("api_key_file", "id_"), [(False, "ED201"), (True, "ED202")])
def test_open_routes_that_somebody_accepted_are_a_warning(api_key_file, id_):
    request = Request(target="h100", bind="0.0.0.0", api_key_file=api_key_file, accept_open_routes=True)
    text = compose_file(resolve(CATALOG, request), CATALOG.defaults)
    assert [(f.id, f.severity) for f in found(text)] == [(id_, "warning")]
    withdrawn = text.replace("x-accept-open-routes: true", "x-accept-open-routes: false")
    assert [(f.id, f.severity) for f in found(withdrawn)] == [(id_, "error")]


def open_routes(text):
    return [finding.sentence for finding in found(text) if finding.id == "ED202"]


def test_what_a_key_leaves_open_is_named():
    ports = 'ports: ["8000:8000"]'
    (named,) = open_routes(serve(ports, command="m --api-key sk-a"))
    assert {"/invocations,", "/tokenize,", "/metrics,", "/openapi.json"} <= set(named.split())
    (fewer,) = open_routes(serve(ports, command="m --api-key sk-a --disable-fastapi-docs"))
    assert "/invocations" in fewer
    assert "/openapi.json" not in fewer
    (again,) = open_routes(
        serve(ports, command="m --api-key sk-a --disable-fastapi-docs --no-disable-fastapi-docs")
    )
    assert "/openapi.json" in again
    assert ids(serve(ports, command="m --ssl-cert-reqs 2")).isdisjoint({"ED201", "ED202"})
    assert ids(serve('ports: ["127.0.0.1:8000:8000"]', command="m --api-key a")).isdisjoint(
        {"ED201", "ED202"}
    )


def test_a_gateway_before_vllm_is_no_error():
    text = serve(command="m --api-key sk-a") + '  gateway:\n    image: caddy:2\n    ports: ["443:443"]\n'
    assert ids(text).isdisjoint({"ED201", "ED202"})


def test_a_configuration_that_vllm_passes_over_holds_no_key():
    ports = 'ports: ["8000:8000"]'
    assert {"ED133", "ED201"} <= ids(serve(ports, command="m --config=/c.yaml"))
    assert "ED133" not in ids(serve(ports, command="m --config /c.yaml"))
    assert "ED133" not in ids(serve(ports, command="m --config ${CONFIG}"))


@pytest.mark.parametrize(
    ("target", "security", "expected"),
    [
        ("h100", "vendor", {("ED208", "warning")}),
        ("mi300x", "", {("ED208", "note"), ("ED209", "note")}),
        ("mi300x", "strict", set()),
        ("mi300x", "vendor", {("ED205", "warning"), ("ED208", "note"), ("ED209", "note")}),
    ],
)
def test_what_a_security_set_opens_is_named(target, security, expected):
    text = compose_file(resolve(CATALOG, Request(target=target, security=security)), CATALOG.defaults)
    assert {(f.id, f.severity) for f in found(text)} == expected
    assert all("--security strict" in f.sentence for f in found(text) if f.severity == "note")


def test_the_vendors_docker_run():
    findings = found((FOLDER / "vendor.yml").read_text())
    by_severity = {
        severity: sorted({f.id for f in findings if f.severity == severity})
        for severity in ("error", "warning", "note")
    }
    assert by_severity == {
        "error": ["ED202", "ED203", "ED205", "ED206", "ED220"],
        # ED102: 0.33.0 takes --disable-log-requests again, and `latest` may be older.
        "warning": [
            "ED102", "ED118", "ED205", "ED207", "ED223", "ED224",
            "ED301", "ED303", "ED305", "ED306", "ED312", "ED321", "ED324", "ED325", "ED328",
        ],
        "note": ["ED208", "ED209", "ED225", "ED323", "ED329"],
    }  # fmt: skip


def test_a_flag_in_a_script_is_found_on_its_own_line():
    text = (FOLDER / "vendor.yml").read_text()
    line = next(n for n, line in enumerate(text.splitlines(), 1) if "--disable-log-requests" in line)
    assert [f.line for f in found(text) if f.id == "ED102"] == [line]


@pytest.mark.parametrize("name", ["ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "BPF"])
def test_each_capability_that_is_the_hosts_root_is_an_error(name):
    assert severities(serve(f"cap_add: [{name}]"), "ED205") == ["error"]


@pytest.mark.parametrize(("size", "wide"), [(8, False), (16, True)])
def test_a_whole_node_is_not_wide(size, wide):
    assert ("ED113" in ids(serve(command=f"baidu/ERNIE-4.5-300B-A47B-PT -tp {size}"))) is wide


def test_a_good_file_by_hand_in_short_spellings():
    assert found((FOLDER / "community.yml").read_text()) == []


# --- what the rules must not say


@pytest.mark.parametrize(
    "command",
    [
        "m -tp=2 --max-model-len 32k --seed -1 -O3 -O 2 -cc.mode=3",
        "m --tensor-par 2 --no_trust_remote_code",
        "m --hf-overrides.rope_scaling.factor 4 --api-key a b",
        "m --enable-prefix-caching --no-enable-prefix-caching --hf-token",
        "m --limit-mm-per-prompt '{\"image\": 2}' --dtype bfloat16",
    ],
)
def test_spellings_that_the_parser_takes(command):
    # Each of them was given to vLLM 0.32.0's own parser.
    assert not ids(serve(command=json.dumps(command))) & {"ED101", "ED104", "ED105"}


@pytest.mark.parametrize(
    ("command", "identity"),
    [
        ("m -tp4", "ED101"),
        ("m --trust-remote-code=true", "ED105"),
        ("m --trust-remote-code true", "ED105"),
        ("m extra", "ED105"),
        ("m --port", "ED105"),
        ("m --dtype fp8", "ED104"),
        ("m --tensor-parallel-size 4x", "ED104"),
        ("m --gpu-memory-utilization 1.2", "ED104"),
        ("m --model m", "ED103"),
        ("m --speculative-config.method ernie_mtp", "ED103"),
    ],
)
def test_spellings_that_the_parser_refuses(command, identity):
    assert identity in ids(serve(command=json.dumps(command)))


def test_an_old_cuda_image_has_the_module_for_its_entrypoint():
    text = serve(command="--model baidu/ERNIE-4.5-21B-A3B-PT", image="vllm/vllm-openai:v0.11.0")
    assert not ids(text) & {"ED103", "ED105", "ED106"}


@pytest.mark.parametrize(
    "lines",
    [
        ["entrypoint: python3 -m vllm.entrypoints.openai.api_server", "command: --model m -tp 99 --nnodes 2"],
        [
            "entrypoint: [bash, -lc]",
            "command: ['source /env && exec vllm serve m -tp 99 --nnodes 2 2>&1 | tee /log']",
        ],
        ["entrypoint: [python3, -c, 'wrap()', vllm, serve]", "command: [m, -tp, '99', --nnodes, '2']"],
        ["command: [bash, -c, 'vllm serve m -tp 99 --nnodes 2']", "entrypoint: ''"],
        ["command: /venv/bin/vllm serve m -tp 99 --nnodes 2", "entrypoint: []"],
    ],
)
def test_a_server_is_recognised_however_it_is_started(lines):
    text = serve(*lines, command="", image="my/vllm:1")
    service = load(text.encode(), "x", CATALOG).services["serve"]
    assert service.serve is not None
    assert service.serve.number("tensor-parallel-size") == 99
    assert service.model_word.text == "m"
    assert "ED105" not in ids(text)


def test_what_only_the_host_knows_is_not_judged():
    text = serve(
        "ports: ['${BIND}:${PORT}:${INNER}']", "shm_size: ${SHM}", "stop_grace_period: ${GRACE}",
        "user: ${WHO}", "restart: ${RESTART}", "group_add: ['${GID}']",
        command="${MODEL} -tp ${TP} --shutdown-timeout ${S} --dtype ${D} ${MORE}",
    )  # fmt: skip
    wanted = {
        "ED104",
        "ED105",
        "ED110",
        "ED112",
        "ED113",
        "ED131",
        "ED201",
        "ED226",
        "ED303",
        "ED304",
        "ED307",
    }
    assert not ids(text) & (wanted | {"ED324", "ED325"})


def test_a_part_in_another_file_silences_rules_of_absence():
    text = serve("extends: {file: base.yml, service: base}")
    absences = {rule.id for rule in rules() if rule.of_absence}
    assert ids(serve()) & absences
    assert not ids(text) & absences


def test_extends_in_the_same_file_is_followed():
    base = "  base: {image: 'vllm/vllm-openai:v0.32.0', ipc: host, cap_drop: [ALL], command: [m]}\n"
    text = f"services:\n{base}  serve:\n    extends: base\n    cap_drop: [NET_RAW]\n    command: [other]\n"
    service = load(text.encode(), "x", CATALOG).services["serve"]
    assert [word.text for word in service.words("cap_drop")] == ["ALL", "NET_RAW"]
    assert [word.text for word in service.command] == ["other"]
    assert service.text("ipc") == "host"


def severities(text, identity):
    return [finding.severity for finding in found(text) if finding.id == identity]


def test_a_removed_flag_is_named_once():
    assert ids(serve(command="m --disable-log-requests")) & {"ED101", "ED102"} == {"ED102"}


def test_the_module_has_no_other_way_to_name_the_model():
    module = "entrypoint: python3 -m vllm.entrypoints.openai.api_server"
    assert "ED103" not in ids(serve(module, command="--model m"))


def test_one_node_may_use_ray():
    assert "ED117" not in ids(serve(command="m --distributed-executor-backend ray --nnodes 1"))


def test_development_mode_is_an_error_where_it_is_published():
    mode = "environment: {VLLM_SERVER_DEV_MODE: 1}"
    assert severities(serve(mode), "ED211") == ["warning"]
    assert severities(serve(mode, "ports: ['127.0.0.1:8000:8000']"), "ED211") == ["error"]


def test_a_key_from_the_host_is_passed_through_and_not_in_clear():
    for text in (serve("environment: [HF_TOKEN]"), serve(command="m --api-key ${VLLM_API_KEY}")):
        assert ids(text) & {"ED220", "ED221"} == {"ED221"}


def test_an_open_api_with_an_env_file_may_have_its_key_there():
    ports = "ports: ['8000:8000']"
    assert severities(serve(ports), "ED201") == ["error"]
    assert severities(serve(ports, "env_file: .env"), "ED201") == ["warning"]
    assert severities(serve(ports, command="m --api-key ''"), "ED201") == ["error"]
    assert severities(serve("network_mode: host"), "ED201") == ["error"]
    assert severities(serve("network_mode: host", command="m --host 127.0.0.1"), "ED201") == []


@pytest.mark.parametrize(
    ("image", "severity"), [("vllm/vllm-openai:v0.32.0", "error"), ("ghcr.io/x/ui:1", "warning")]
)
def test_another_image_may_bring_its_own_health_check(image, severity):
    text = (
        f"services:\n  a: {{image: '{image}'}}\n  b: {{depends_on: {{a: {{condition: service_healthy}}}}}}\n"
    )
    assert severities(text, "ED310") == [severity]


def test_a_check_of_health_and_of_a_token_is_deep_enough():
    check = "curl -f http://localhost:8000/health && curl -f http://localhost:8000/v1/completions -d {}"
    assert "ED302" not in ids(serve(f"healthcheck: {{test: '{check}'}}"))


def test_one_port_on_two_addresses_is_no_collision():
    one, other = "127.0.0.1:8000:8000", "127.0.0.2:8000:8000"
    text = "services:\n  a: {image: 'x:1', ports: ['%s']}\n  b: {image: 'x:1', ports: ['%s']}\n"
    assert "ED326" not in ids(text % (one, other))
    assert "ED326" in ids(text % (one, one))


def test_the_innermost_mount_holds_a_cache():
    inside = ["tmpfs: [/root]", "volumes: ['code:/root/.cache/vllm', 'triton:/root/.triton']"]
    assert "ED322" not in ids(serve(*inside))
    assert "ED322" in ids(serve(*inside[:1]))
    assert "ED322" not in ids(serve("tmpfs: ['/root:size=1g,exec']"))


@pytest.mark.parametrize(
    ("lines", "short"),
    [
        (["gpus: [{count: 2}]"], True),
        (["gpus: [{count: all}]"], False),
        (["gpus: [{count: -1}]"], False),
        (["gpus: all", "environment: {HIP_VISIBLE_DEVICES: '0'}"], True),
        (["gpus: [{device_ids: ['0', '1', '2', '3']}]"], False),
        (["gpus: [{device_ids: ['${GPUS}']}]"], False),
        (["gpus: [{count: 8}]", "environment: {CUDA_VISIBLE_DEVICES: '0,1'}"], True),
        (["devices: [nvidia.com/gpu=0, nvidia.com/gpu=1]"], True),
        (["devices: [nvidia.com/gpu=all]"], False),
        (["devices: [/dev/kfd, /dev/dri]"], False),
        (["devices: [/dev/kfd, /dev/dri/renderD128, /dev/dri/renderD136]"], True),
    ],
)
def test_gpus_are_counted_in_every_spelling(lines, short):
    judged = ids(serve(*lines, command="m -tp 4"))
    assert ("ED112" in judged) == short
    assert "ED114" not in judged


def test_other_services_are_not_held_to_vllms_standard():
    text = "services:\n  db: {image: 'postgres:17.1', cap_add: [SYS_ADMIN], environment: {POSTGRES_PASSWORD: x}}\n"
    assert ids(text) == set()


def test_a_secret_is_never_printed(capsys, tmp_path):
    planted = "hf_" + "Qx7" * 12
    path = tmp_path / "compose.yml"
    path.write_text(serve(f"environment: {{HF_TOKEN: {planted}}}", command=f"m --api-key {planted}"))
    for option in ((), ("--json",), ("--sarif",)):
        code, out, err = run(capsys, "check", str(path), *option)
        assert code == 10
        assert "Qx7" not in out + err


# --- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A:-b}", "b"),
        ("${A-b}c", "bc"),
        ("${A}", "${A}"),
        ("$A-", "${A}-"),
        ("${A:?no}", "${A}"),
        ("${A:+x}", ""),
        ("$$A $${A}", "$A ${A}"),
        ("${A:-${B:-c}}/${D:-}", "c/"),
        ("${A:-${B}}", "${B}"),
        ("${broken", "${broken"),
        ("5$", "5$"),
    ],
)
def test_variables_are_resolved_by_their_defaults(text, expected, monkeypatch):
    monkeypatch.setenv("A", "from the environment")
    assert resolved(text) == expected


def test_values():
    assert [seconds(t) for t in ("90s", "1m30s", "1h", "500ms", "90", "")] == [90, 90, 3600, 0.5, None, None]
    assert [size_bytes(t) for t in ("16g", "64M", "1gb", "1024", "x")] == [
        16 << 30,
        64 << 20,
        1 << 30,
        1024,
        None,
    ]
    assert [version(t) for t in ("v0.32.0-cu129", "0.9.2", "v1.2", "main")] == [
        (0, 32, 0),
        (0, 9, 2),
        (1, 2, 0),
        None,
    ]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

NO_COMPOSE_FILES = {
    "empty": (b"", "1"),
    "a list": (b"- a\n- b\n", "1"),
    "no services": (b"volumes: {}\n", "1"),
    "services is a list": (b"services:\n  - a\n", "2"),
    "a service is a text": (b"services:\n  a: b\n", "2"),
    "not YAML": (b"services:\n  a: [\n", "3"),
    "a tab": (b"services:\n\ta: b\n", "2"),
    "two documents": (b"services: {}\n---\nservices: {}\n", "2"),
    "binary": (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "1"),
    "not UTF-8": (b"services:\n  a:\n    image: \xff\n", "3"),
    "NUL": (b"services:\n  a: \x00\n", "2"),
    "a bomb": (BOMB.encode(), "1"),
    "a cycle": (b"services: &a\n  x: *a\n", "1"),
    "a cycle by merging": (b"services: &a\n  <<: *a\n", "1"),
    "a key that is a list": (b"services:\n  ? [a, b]\n  : c\n", "2"),
    "a merge of a text": (b"services:\n  a:\n    <<: text\n", "3"),
    "deep": (b"a: " + b"[" * 5000, "1"),
    "deep mappings": (b"{a: " * 3000 + b"}" * 3000, "1"),
    "too large": (b"#" * (MAX_BYTES + 1), ""),
    "an impossible character": (b'a: "\\UFFFFFFFF"\n', "1"),
    "an unknown alias": (b"services: *nowhere\n", "1"),
    "services that extend each other to a bomb": (
        b"services:\n  b: {command: [%s]}\n" % b",".join([b"x"] * 5000)
        + b"".join(b"  a%d: {extends: b}\n" % n for n in range(99)),
        "1",
    ),
    "many services": (b"services:\n" + b"".join(b" s%d: {}\n" % n for n in range(MAX_SERVICES + 1)), "2"),
}


SAID = {
    "a bomb": "grows to more",
    "a cycle": "contains itself",
    "a cycle by merging": "contains itself",
    "deep": "deeply",
}


@pytest.mark.parametrize("case", NO_COMPOSE_FILES)
def test_what_is_no_compose_file_is_a_clear_error_with_its_line(case):
    data, line = NO_COMPOSE_FILES[case]
    with pytest.raises(UsageError) as caught:
        judge(data, "compose.yml", CATALOG)
    assert caught.value.what.startswith(f"compose.yml:{line}" if line else "compose.yml")
    assert SAID.get(case, "") in caught.value.what
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        serve("1: 2", "null: ~", "true: [x]"),
        serve("labels: !reset null", "environment: !override {A: b}"),
        serve(f"environment: {{A: {'x' * 10_000}}}", command="y" * 10_000),
        serve("<<: [{ipc: host}, {ipc: private}]"),
        serve('hostname: "\\ud800"', command='["\\ud800", "--\\u202e"]'),
        serve(command='"\'an open quote"'),
        serve("command: m2"),
        "services: {}\n",
        "services: {a: , b: {}}\n",
    ],
)
def test_odd_files_are_judged(text):
    findings = found(text)
    for written in (
        report.as_text(findings, ["a"]),
        report.as_json(findings),
        report.as_sarif(findings, rules(), "1"),
    ):
        written.encode()


def test_open_quotes_and_repeated_keys_are_what_compose_refuses():
    assert "ED320" in ids(serve(command='"\'an open quote"'))
    assert "ED320" in ids(serve("command: m2"))


WORDS = st.sampled_from(
    [
        "vllm",
        "serve",
        "bench",
        "-c",
        "sh",
        "bash",
        "python3",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--tensor-parallel-size=8",
        "-tp",
        "0",
        "-1",
        "--nnodes",
        "--max-model-len",
        "1e400",
        "∞",
        "²",
        "127.0.0.1:80:80",
        "8000:8000",
        "host",
        "none",
        "0",
        "true",
        "${A:-${B}",
        "$$",
        "${",
        "::",
        "/tmp",
        "/dev/shm",
        "baidu/ERNIE-4.5-21B-A3B-PT",
        "vllm/vllm-openai:v0.32.0",
        "vllm/vllm-openai-rocm",
        "http://[",
        "http://localhost:99999/health",
        "--speculative-config={}",
        "--speculative-config=[]",
        "--base-url=http://[",
        "--config",
        "--api-key=",
        "ALL",
        "CMD",
        "NONE",
        "9999999999999h",
    ]
)
KEYS = st.sampled_from(
    [
        "image",
        "command",
        "entrypoint",
        "environment",
        "ports",
        "volumes",
        "tmpfs",
        "devices",
        "deploy",
        "resources",
        "reservations",
        "gpus",
        "count",
        "device_ids",
        "healthcheck",
        "test",
        "interval",
        "retries",
        "start_period",
        "depends_on",
        "serve",
        "condition",
        "extends",
        "service",
        "secrets",
        "configs",
        "source",
        "read_only",
        "restart",
        "stop_grace_period",
        "shm_size",
        "ipc",
        "network_mode",
        "user",
        "group_add",
        "cap_add",
        "security_opt",
        "logging",
        "driver",
        "options",
        "profiles",
        "host_ip",
        "published",
        "target",
        "file",
        "<<",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | WORDS
TREES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=6) | st.dictionaries(KEYS | st.text(max_size=5), below, max_size=8)
    ),
    max_leaves=30,
)
SERVICE = st.fixed_dictionaries(
    {"image": WORDS},
    optional=dict.fromkeys(("command", "entrypoint", "environment", "ports", "volumes", "deploy"), TREES)
    | {"command": st.lists(WORDS, max_size=12), "healthcheck": TREES, "depends_on": TREES, "extends": TREES},
)
QUIET = settings(max_examples=150 if FULL else 60, suppress_health_check=[HealthCheck.too_slow])


def judged(data):
    try:
        findings = judge(data, "f.yml", CATALOG)
    except UsageError as fault:
        assert str(fault).startswith("f.yml")
        return
    report.as_sarif(findings, rules(), "1").encode()
    report.as_text(findings, ["f.yml"]).encode()
    assert all(finding.line >= 1 for finding in findings)


@QUIET
@given(st.dictionaries(st.sampled_from(["serve", "bench", "x"]), SERVICE | TREES, min_size=1))
def test_any_services_are_judged_or_refused(services):
    judged(yaml.safe_dump({"services": services}, allow_unicode=True).encode("utf-8", "surrogatepass"))


@QUIET
@given(TREES)
def test_any_yaml_is_judged_or_refused(tree):
    judged(yaml.safe_dump(tree).encode())


@QUIET
@given(st.binary(max_size=300) | st.text(alphabet="&*a:[]{}<-? \n\t'\"|>!%#,$", max_size=80).map(str.encode))
def test_any_bytes_are_judged_or_refused(data):
    judged(data)
    judged(b"services:\n  a:\n    command: " + data)


@QUIET
@given(st.text(alphabet="$${}:-?+AB \n'\"\\;&|#", max_size=60))
def test_any_script_is_judged(script):
    judged(
        yaml.safe_dump(
            {"services": {"a": {"entrypoint": ["sh", "-c"], "command": [f"vllm serve {script}"]}}}
        ).encode()
    )


# --- the command


def run(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_a_target_is_rendered_and_judged(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "check", "cpu", "h100") == (0, "2 files: nothing found\n", "")
    assert list(tmp_path.iterdir()) == []


def test_errors_exit_10_and_warnings_0(capsys, tmp_path):
    bad, good = tmp_path / "bad.yml", tmp_path / "good.yml"
    bad.write_text((FOLDER / "vendor.yml").read_text())
    good.write_text(serve("ipc: host"))
    code, out, err = run(capsys, "check", str(good), str(bad))
    assert (code, err) == (10, "")
    unwrapped = " ".join(out.split())
    assert unwrapped.index(f"{bad}:9: error ED203 ernie: ") < unwrapped.index(f"{good}:2: warning")
    assert out.splitlines()[-1].startswith("2 files: 5 errors, ")
    assert run(capsys, "check", str(good))[0] == 0


def test_json_is_a_list_of_findings(capsys, tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(serve("privileged: true"))
    code, out, _ = run(capsys, "check", str(path), "--json")
    finding = next(f for f in json.loads(out) if f["id"] == "ED203")
    assert code == 10
    assert (finding["line"], finding["service"], finding["severity"]) == (5, "serve", "error")
    assert set(finding) == {"id", "severity", "file", "line", "service", "sentence", "remedy"}


def test_sarif_names_rules_and_places(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a b.yml").write_text(serve("privileged: true"))
    code, out, _ = run(capsys, "check", "a b.yml", "--sarif")
    log = json.loads(out)
    (one,) = log["runs"]
    driver = one["tool"]["driver"]
    assert (code, log["version"], driver["name"]) == (10, "2.1.0", "ernie-deploy")
    assert [rule["id"] for rule in driver["rules"]] == [rule.id for rule in rules()]
    for result in one["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        physical = result["locations"][0]["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "a%20b.yml"
        assert physical["region"]["startLine"] >= 1


def test_an_unknown_name_exits_3_with_close_matches(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("compose.yml").write_text(serve())
    code, _, err = run(capsys, "check", "mi300")
    assert code == 3
    assert "mi300x" in err
    assert "did you mean compose.yml" in run(capsys, "check", "compos.yml")[2]


@pytest.mark.parametrize("name", [".", "x" * 5000, "\x1b[31m", "a\0b"])
def test_names_that_are_no_file(capsys, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "check", name)
    assert code in (2, 3)
    assert out == ""
    assert "\x1b" not in err
    assert len(err) < 1000


def test_standard_input_is_read(capsys, monkeypatch):
    process = subprocess.run(
        [sys.executable, "-m", "ernie_deploy", "check", "-"],
        input=serve("privileged: true").encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert process.returncode == 10
    assert process.stdout.startswith(b"-:5: error ED203 ")


def test_the_rules_are_listed(capsys):
    code, out, _ = run(capsys, "check", "--list")
    assert code == 0
    assert all(rule.id in out and rule.remedy in out for rule in rules())
    listed = json.loads(run(capsys, "check", "--list", "--json")[1])
    assert [rule["id"] for rule in listed] == list(SAMPLES)


@pytest.mark.parametrize("argv", [["check"], ["check", "cpu", "--json", "--sarif"]])
def test_usage(capsys, argv):
    assert run(capsys, *argv)[0] == 2


def test_help_imports_neither_yaml_nor_the_rules():
    code = "import sys; from ernie_deploy.commands.check import check; print('yaml' in sys.modules, 'ernie_deploy.check' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )
