"""A rendering is pure, self-contained, read back unchanged, and in step with what is committed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ENGINE, FULL, ROOT, kit, planned, rendered
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.plan.settings import words
from ernie_deploy.render import folder
from ernie_deploy.render.folder import OF_TLS, VARIABLE
from ernie_deploy.render.yaml import comment, scalar

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
DEFAULTS = Catalog().defaults


def interpolated(text: str, environment: dict[str, str] | None = None) -> str:
    """What Compose makes of a text's `$`: variables by their defaults, `$$` as `$`."""
    known = environment or {}

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        said = known.get(match["name"], "")
        return (match["other"] if said else "") if match["sign"] == ":+" else said or match["other"]

    pattern = r"(?P<escaped>\$\$)|\$\{(?P<name>[A-Z0-9_]+)(?P<sign>:[-+])(?P<other>[^}]*)\}"
    return re.sub(pattern, value, text)


def services(text: str) -> dict[str, dict[str, object]]:
    """The services of a rendering as Compose sees them without any .env."""
    loaded: dict[str, dict[str, object]] = yaml.safe_load(interpolated(text))["services"]
    return loaded


def named(words_: object) -> list[str]:
    """Words with each script by its name alone."""
    assert isinstance(words_, list)
    return [re.sub(r"^/scripts/[0-9a-f]{12}/", "", word) for word in words_]


@given(ANY_TEXT)
def test_scalar_gives_any_text_back(text: str) -> None:
    assert interpolated(yaml.safe_load(f"- {scalar(text)}  # comment")[0]) == text


@given(ANY_TEXT)
def test_comment_stays_on_its_line(text: str) -> None:
    assert yaml.safe_load(f"a: 1  # {comment(text)}\nb: 2") == {"a": 1, "b": 2}


def test_serve_command_of_the_default_amd_stack_line_by_line() -> None:
    text = rendered("mi300x")
    block = text[text.index("    command: [baidu/") : text.index("    environment:\n      VLLM_ROCM")]
    assert block.splitlines() == [
        "    command: [baidu/ERNIE-4.5-21B-A3B-PT,",
        "      --tensor-parallel-size=4,  # recipe Ernie4.5.md:181",
        "      --gpu-memory-utilization=0.9,  # recipe Ernie4.5.md:182",
        "      # The stack's own.",
        "      --shutdown-timeout=60, --disable-fastapi-docs]",
    ]


def test_json_stays_one_word() -> None:
    command = services(rendered("h100", profiles=("mtp",)))["serve"]["command"]
    assert '--speculative-config={"method":"mtp","num_speculative_tokens":1}' in command  # type: ignore[operator]


def test_line_one_is_the_command_that_makes_the_file() -> None:
    options = {
        "model": "300b", "engine": "0.32.0", "profiles": ("mtp", "expert-parallel"), "tp": 8, "gpus": (0, 1, 2, 3, 4, 5, 6, 7),
        "max_model_len": 65536, "gpu_memory_utilization": 0.93, "cuda": "12.9", "user": "2000:0",
        "security": "vendor", "api_key_file": True, "bind": "0.0.0.0", "accept_open_routes": True, "gpus_cdi": True,
        "weights": "/data/my weights", "pairs": ("max-num-seqs=64",), "extra": ("--seed", "7"),
    }  # fmt: skip
    first = rendered("h100", **options).splitlines()[0]
    assert first == (
        "# ernie-deploy render h100 --model 300b --engine 0.32.0 --profile mtp --profile expert-parallel --tp 8"
        " --gpus 0,1,2,3,4,5,6,7 --max-model-len 65536 --gpu-memory-utilization 0.93 --cuda 12.9"
        " --weights '/data/my weights' --user 2000:0 --gpus-cdi --security vendor --api-key-file"
        " --bind 0.0.0.0 --accept-open-routes --set max-num-seqs=64 -- --seed 7"
    )


def test_no_blank_runs_no_tabs_no_trailing_space_and_one_final_newline() -> None:
    for options in ({}, {"api_key_file": True}, {"weights": "/data/w"}, {"model": "vl-28b"}):
        text = rendered("h100", **options)
        assert "\t" not in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        # The inlined Python keeps its own two blank lines.
        yaml_text = re.sub(r"\|\n(?: {2,}.*\n|\n)+", "|\n", text)
        assert "\n\n\n" not in yaml_text
        assert not re.search(r"[ ]\n", text)


@pytest.mark.parametrize(("target", "user"), [("h100", "2000:0"), ("mi300x", None), ("cpu", None)])
def test_hardening_of_every_service(target: str, user: str | None) -> None:
    made = services(rendered(target, security="strict"))
    assert set(made) == {"fetch", "serve", "bench"}
    for service in made.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert service["init"] is True
        assert service["ipc"] == "private"
        assert service["pids_limit"] == 4096
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}  # type: ignore[index]
        assert "privileged" not in service
        assert "network_mode" not in service
    assert made["serve"].get("user") == user
    assert [name for name, service in made.items() if "cap_add" in service] == ["fetch"]
    assert [name for name, service in made.items() if "secrets" in service] == ["fetch"]
    assert made["serve"]["ports"] == ["127.0.0.1:8000:8000"]
    assert made["serve"]["restart"] == "unless-stopped"
    assert made["serve"]["stop_grace_period"] == "90s"
    assert made["serve"]["depends_on"] == {"fetch": {"condition": "service_completed_successfully"}}


def test_devices_are_the_ones_asked_for() -> None:
    def reserved(**options: object) -> object:
        serve = services(rendered("h100", **options))["serve"]
        return serve["deploy"]["resources"]["reservations"]["devices"]  # type: ignore[index]

    assert reserved() == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}]
    assert reserved(gpus=(3, 5))[0]["device_ids"] == ["3", "5"]  # type: ignore[index]
    amd = services(rendered("mi300x"))["serve"]
    assert amd["devices"] == ["/dev/kfd", "/dev/dri"]
    assert amd["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"  # type: ignore[index]
    assert "group_add" not in services(rendered("mi300x", security="strict"))["serve"]
    cdi = services(rendered("mi300x", gpus_cdi=True, gpus=(1, 2)))["serve"]
    assert cdi["devices"] == ["amd.com/gpu=1", "amd.com/gpu=2"]
    assert "devices" not in services(rendered("cpu"))["serve"]


def test_another_user_on_amd_joins_the_device_groups_by_number() -> None:
    serve = services(rendered("mi300x", user="1000:1000"))["serve"]
    assert serve["user"] == "1000:1000"
    assert serve["group_add"] == ["109", "44"]
    assert serve["environment"]["USER"] == "vllm"  # type: ignore[index]


@pytest.mark.parametrize(
    ("target", "options", "project"),
    [
        ("h100", {}, "ernie-21b"),
        ("mi300x", {"model": "300b", "profiles": ("mtp",)}, "ernie-300b"),
        ("cpu", {}, "ernie-03b"),
        ("h100", {"name": "a", "nodes": 2, "model": "300b"}, "a"),
    ],
)
def test_a_stack_has_one_name_whatever_is_rendered_into_it(
    target: str, options: dict[str, object], project: str
) -> None:
    assert yaml.safe_load(rendered(target, **options))["name"] == project


@pytest.mark.parametrize("name", ["-a", "A", "a b", "a.b", "a" * 41, "ä", "a\n"])
def test_a_name_that_compose_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a stack"):
        rendered("h100", name=name)


NNP = "no-new-privileges:true"
OPENED = {"ipc", "security_opt", "cap_add", "group_add", "shm_size"}


@pytest.mark.parametrize(
    ("target", "security", "opened"),
    [
        ("mi300x", "", {"ipc": "host", "security_opt": [NNP, "seccomp=unconfined"], "group_add": ["109", "44"]}),
        ("mi300x", "recipe", {"ipc": "host", "security_opt": [NNP, "seccomp=unconfined"], "group_add": ["109", "44"]}),
        ("mi300x", "strict", {"ipc": "private", "security_opt": [NNP], "shm_size": "16g"}),
        ("mi300x", "vendor", {"ipc": "host", "security_opt": [NNP, "seccomp=unconfined"], "group_add": ["109", "44"],
                              "cap_add": ["SYS_PTRACE"]}),
        ("h100", "", {"ipc": "private", "security_opt": [NNP], "shm_size": "16g"}),
        ("h100", "vendor", {"ipc": "host", "security_opt": [NNP]}),
        ("cpu", "", {"ipc": "private", "security_opt": [NNP], "shm_size": "16g"}),
    ],
)  # fmt: skip
def test_each_security_set_opens_what_it_says_and_nothing_more(
    target: str, security: str, opened: dict[str, object]
) -> None:
    serve = services(rendered(target, security=security))["serve"]
    assert {key: value for key, value in serve.items() if key in OPENED} == opened
    assert (serve["cap_drop"], serve["read_only"]) == (["ALL"], True)
    assert not {"privileged", "network_mode", "pid", "userns_mode"} & serve.keys()
    if target == "mi300x":
        assert serve["devices"] == ["/dev/kfd", "/dev/dri"]


def test_a_security_set_that_a_vendor_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no --security recipe for nvidia"):
        rendered("h100", security="recipe")


def test_local_weights_need_no_hub() -> None:
    text = rendered("h100", model="vl-28b", weights="/data/ernie")
    made = services(text)
    assert "${HF_" not in text
    assert "hf-cache" not in text
    assert made["serve"]["command"][:2] == ["/weights", "--served-model-name=baidu/ERNIE-4.5-VL-28B-A3B-PT"]  # type: ignore[index]
    assert not [w for w in made["serve"]["command"] if "revision" in w]  # type: ignore[attr-defined]
    assert "--tokenizer=/weights" in made["bench"]["command"]  # type: ignore[operator]
    mount = made["serve"]["volumes"][0]  # type: ignore[index]
    assert mount == {
        "type": "bind", "source": "/data/ernie", "target": "/weights", "read_only": True,
        "bind": {"create_host_path": False},
    }  # fmt: skip


def test_an_api_key_stays_a_file() -> None:
    made: Any = services(rendered("h100", api_key_file=True))
    assert made["serve"]["secrets"] == made["bench"]["secrets"] == ["vllm_config"]
    once = ["python3", "-I", "with_api_key.py"]
    secret, config = "/run/secrets/vllm_config", "/tmp/vllm_config.yaml"
    # Read once, before anything else; what vLLM and the health check are given is what was read then.
    assert named(made["serve"]["entrypoint"])[:6] == [*once, "serve", secret, config]
    assert named(made["bench"]["entrypoint"]) == [*once, "bench", secret, "vllm", "bench", "serve"]
    assert made["serve"]["command"][-2:] == ["--config", config]
    assert made["serve"]["healthcheck"]["test"][-1] == config


def test_the_api_key_is_the_heads_alone() -> None:
    made: Any = services(rendered("h100", model="300b", nodes=2, api_key_file=True))
    head, worker = named(made["serve"]["entrypoint"]), made["worker"]
    assert head[2:6] == ["with_api_key.py", "serve", "/run/secrets/vllm_config", "/tmp/vllm_config.yaml"]
    assert head[6:10] == ["python3", "-IS", "node.py", "head"]
    assert worker["secrets"] == ["group_secret"]
    assert not [
        w for w in (*worker["entrypoint"], *worker["command"]) if "vllm_config" in w or "KEY_FILE" in w
    ]


def test_a_revision_is_fetched_and_served_alike() -> None:
    made = services(rendered("h100", model="vl-28b"))
    assert "--revision=refs/pr/17" in made["fetch"]["command"]  # type: ignore[operator]
    assert "--revision=refs/pr/17" in made["serve"]["command"]  # type: ignore[operator]
    assert "--tokenizer=/cache/hf/ernie/ERNIE-4.5-VL-28B-A3B-PT" in made["bench"]["command"]  # type: ignore[operator]


NODE_OPTIONS = [
    "--rank=", "--head=", "--host-ip=", "--nic=", "--secret-file=/dev/null", "--nodes=2", "--port=29501",
    "--beacon-port=29502", "--",
]  # fmt: skip


def test_the_services_of_two_nodes_line_by_line() -> None:
    made = services(rendered("h100", model="300b", nodes=2))
    assert set(made) == {"bench", "serve", "worker", "beacon", "fetch"}
    shared = [
        "baidu/ERNIE-4.5-300B-A47B-PT", "--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=2",
        "--node-rank=", "--master-addr=", "--master-port=29501",
    ]  # fmt: skip
    head, worker, beacon = made["serve"], made["worker"], made["beacon"]
    assert head["command"] == [
        *shared,
        "--host=127.0.0.1",
        "--port=8000",
        "--shutdown-timeout=60",
        "--disable-fastapi-docs",
    ]
    assert worker["command"] == [*shared, "--shutdown-timeout=60", "--headless"]
    run = ["python3", "-IS"]
    assert named(beacon["entrypoint"]) == [*run, "group.py", "beacon", "", "29502", "127.0.0.1:8000"]
    assert named(worker["healthcheck"]["test"]) == ["CMD", *run, "group.py", "probe", "", "29502", "", ""]  # type: ignore[index]
    assert named(head["healthcheck"]["test"]) == [  # type: ignore[index]
        "CMD", *run, "canary.py", "http://127.0.0.1:8000", "baidu/ERNIE-4.5-300B-A47B-PT",
    ]  # fmt: skip
    for role, service in (("head", head), ("worker", worker)):
        assert named(service["entrypoint"]) == [
            *run, "node.py", role, *NODE_OPTIONS,
            *run, "serve.py", "/cache/hf/ernie/baidu--ERNIE-4.5-300B-A47B-PT@main.json", "vllm", "serve",
        ]  # fmt: skip
        assert service["environment"] == head["environment"]
        assert service["environment"].items() >= {  # type: ignore[attr-defined]
            "VLLM_HOST_IP": "", "NCCL_SOCKET_IFNAME": "", "GLOO_SOCKET_IFNAME": "",
        }.items()  # fmt: skip
    assert {name: service.get("profiles") for name, service in made.items()} == {
        "bench": ["bench"], "serve": ["head"], "worker": ["worker"], "beacon": ["head"], "fetch": None,
    }  # fmt: skip


def test_several_nodes_open_the_hosts_network_and_nothing_else() -> None:
    made = services(rendered("h100", model="300b", nodes=2))
    for name, service in made.items():
        assert service.get("network_mode") == (None if name == "fetch" else "host")
        assert "ports" not in service
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["ipc"] == "private"
    assert [name for name, service in made.items() if "cap_add" in service] == ["fetch"]
    assert {name: service["secrets"] for name, service in made.items() if "secrets" in service} == {
        "fetch": ["hf_token"], "worker": ["group_secret"], "beacon": ["group_secret"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "options", "devices", "capabilities"),
    [
        ("h100", {}, ["/dev/infiniband"], ["IPC_LOCK"]),
        ("h100", {"gpus_cdi": True, "gpus": (1,)}, ["nvidia.com/gpu=1", "/dev/infiniband"], ["IPC_LOCK"]),
        ("mi300x", {}, ["/dev/kfd", "/dev/dri", "/dev/infiniband"], ["IPC_LOCK"]),
        ("mi300x", {"security": "vendor"}, ["/dev/kfd", "/dev/dri", "/dev/infiniband"], ["SYS_PTRACE", "IPC_LOCK"]),
    ],
)  # fmt: skip
def test_rdma_needs_its_devices_and_locked_memory(
    target: str, options: dict[str, object], devices: list[str], capabilities: list[str]
) -> None:
    made = services(rendered(target, dp=2, nodes=2, rdma=True, **options))
    for name in ("serve", "worker"):
        assert made[name]["devices"] == devices
        assert made[name]["cap_add"] == capabilities
        assert made[name]["ulimits"] == {"memlock": -1}
    assert "devices" not in made["beacon"]


def test_ray_is_built_into_the_file_and_joined_by_its_workers() -> None:
    made = services(rendered("h100", model="300b", nodes=2, multi_node="ray"))
    dockerfile = (ROOT / "docker/ray/Dockerfile").read_text(encoding="utf-8")
    for name in ("serve", "worker"):
        assert made[name]["image"] == f"ernie-deploy/vllm-ray:{ENGINE}-nvidia"
        assert made[name]["build"] == {
            "args": {"BASE": f"vllm/vllm-openai:v{ENGINE}"}, "dockerfile_inline": dockerfile,
        }  # fmt: skip
    assert made["fetch"]["image"] == made["beacon"]["image"] == f"vllm/vllm-openai:v{ENGINE}"
    command = made["serve"]["command"]
    assert "--distributed-executor-backend=ray" in command  # type: ignore[operator]
    assert not [word for word in command if "nnodes" in word or "node-rank" in word]  # type: ignore[attr-defined]
    assert named(made["serve"]["entrypoint"])[:15] == [
        "python3", "-IS", "node.py", "head", "--rank=", "--head=", "--host-ip=", "--nic=", "--secret-file=/dev/null", "--nodes=2", "--port=6379",
        "--beacon-port=29502", "--ray", "--gpus=8", "--",
    ]  # fmt: skip
    assert made["worker"]["entrypoint"][-2:] == ["ray", "start"]  # type: ignore[index]
    assert made["worker"]["command"] == [
        "--address=:6379", "--node-ip-address=", "--num-gpus=8", "--object-store-memory=4000000000",
        "--disable-usage-stats", "--block",
    ]  # fmt: skip


def test_a_file_for_more_nodes_is_no_longer() -> None:
    sizes = {nodes: len(rendered("h100", model="300b", nodes=nodes).splitlines()) for nodes in (2, 4, 8, 16)}
    assert len(set(sizes.values())) == 1
    assert sizes[2] - len(rendered("h100", model="300b").splitlines()) < 760


def test_the_line_of_several_nodes_reads_back() -> None:
    options = {"model": "300b", "nodes": 2, "multi_node": "ray", "rdma": True, "tp": 8, "pp": 2}
    first = rendered("h100", **options).splitlines()[0]
    assert first == "# ernie-deploy render h100 --model 300b --nodes 2 --multi-node ray --rdma --tp 8 --pp 2"


EVERY_FORM = [
    ("mi300x", {"user": "1000:1000"}), ("h100", {"api_key_file": True}), ("cpu", {}), ("h100", {}),
    ("h100", {"model": "300b", "nodes": 2}), ("h100", {"model": "vl-28b"}),
    ("h100", {"registry": "mirror.example", "image": "me/vllm:v0.32.0"}), ("h100", {"gateway": True}),
    ("h100", {"monitoring": True}),
]  # fmt: skip


def test_env_example_lists_every_variable_and_nothing_else() -> None:
    listed = set(dotenv_values(ROOT / ".env.example"))
    read = {name for target, options in EVERY_FORM for name in VARIABLE.findall(rendered(target, **options))}
    # What `tls install` reads of .env stands in no compose file.
    assert listed == read | OF_TLS == {variable.name for variable in Catalog().variables}
    assert not read & OF_TLS


def test_env_example_as_env_changes_nothing() -> None:
    values = {name: value or "" for name, value in dotenv_values(ROOT / ".env.example").items()}
    for target, options in EVERY_FORM:
        text = rendered(target, **options)
        unset = {"CA_BUNDLE": ""}  # /dev/null as a certificate file is the one default that is not neutral
        assert interpolated(text, {**values, **unset}) == interpolated(text)


VALUES = st.one_of(
    ANY_TEXT, st.sampled_from(["a'b", 'a"b', "a\\b", "$HOME", "${X}", "#", " x ", "ü", "x" * 10_000])
)


@given(VALUES)
def test_an_env_value_is_read_back_or_refused(value: str) -> None:
    plan, catalog = planned("cpu"), Catalog()
    try:
        made = folder.files(plan, catalog, {"HF_CACHE_DIR": value})
    except UsageError as told:
        assert "cannot be written to .env" in str(told)
        return
    import io

    assert dotenv_values(stream=io.StringIO(made[".env"]), interpolate=False) == {"HF_CACHE_DIR": value}


NASTY = st.one_of(
    ANY_TEXT, st.sampled_from(["'", '"', "\n", "$X", "${X:-y}", "$$", "x" * 10_000, "é", "\u2028", "\x85"])
)


@given(
    NASTY,
    st.sampled_from(["served-model-name", "chat-template", "max-num-seqs", "override-generation-config"]),
)
@settings(max_examples=200 if FULL else 60)
def test_any_setting_yields_a_correct_file_or_a_clear_refusal(value: str, key: str) -> None:
    try:
        plan = planned("h100", pairs=(f"{key}={value}",))
        text = rendered("h100", pairs=(f"{key}={value}",))
    except KitError as told:
        assert key in str(told) or "GiB for the KV cache" in str(told)
        return
    command = services(text)["serve"]["command"]
    assert command == [plan.positional_model, *words(plan.settings)]


@given(st.lists(NASTY, max_size=3), NASTY)
@settings(max_examples=200 if FULL else 60)
def test_any_extra_words_and_names_yield_a_file_or_a_refusal(extra: list[str], name: str) -> None:
    for options in ({"extra": tuple(extra)}, {"model": name}, {"profiles": (name,)}, {"weights": name},
                    {"user": name}, {"cuda": name}):  # fmt: skip
        try:
            services(rendered("h100", **options))
        except KitError as told:
            assert len(str(told)) < 2000


RENDERED_DIGESTS = """
import hashlib
from conftest import planned
from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError
from ernie_deploy.render.compose import compose_file
from ernie_deploy.render.kubernetes import manifests
for target in Catalog().targets():
    for options in {}, {"model": "vl-28b"}, {"model": "300b", "nodes": 2}, {"profiles": ("mtp",), "api_key_file": True}:
        try:
            plan = planned(target.id, **options)
        except KitError:
            continue
        for form in compose_file, manifests:
            print(target.id, options, hashlib.sha256(form(plan, Catalog().defaults).encode()).hexdigest())
"""


def test_the_same_request_gives_the_same_bytes_in_every_process() -> None:
    """Within one process sets keep their order, and what is cached is not made again."""
    first, second = (
        subprocess.run(
            [sys.executable, "-c", RENDERED_DIGESTS], cwd=ROOT / "tests", check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout.splitlines()
        for seed in ("1", "2")
    )  # fmt: skip
    assert len(first) > 20
    assert first == second


def test_what_belongs_to_a_stack_is_on_a_volume_of_its_own_and_kernels_on_one_of_their_kind() -> None:
    made = [
        yaml.safe_load(rendered(target, model=model))
        for target in ("h100", "h200")
        for model in ("21b", "300b")
    ]
    assert all("name" not in stack["volumes"]["state"] for stack in made)
    names = [stack["volumes"]["engine-cache"]["name"] for stack in made]
    assert names == [f"ernie-engine-21b-nvidia-{ENGINE}", f"ernie-engine-300b-nvidia-{ENGINE}"] * 2
    # Compose offers to recreate, empty, a volume whose declaration is another than the one it was made with.
    assert [stack["volumes"]["hf-cache"] for stack in made] == [{"name": "ernie-hf-cache"}] * 4
    assert made[0]["volumes"]["engine-cache"] == made[2]["volumes"]["engine-cache"]
    for stack in made:
        for service in ("fetch", "serve"):
            assert "state:/stack" in stack["services"][service]["volumes"]


def mounted(volume: object) -> tuple[str, str]:
    """Source and place of one mount, of either of Compose's forms."""
    if isinstance(volume, dict):
        return volume["source"], volume["target"]
    source, target = re.fullmatch(r"(\$\{[^}]*\}|[^:]+):([^:]+)(?::ro)?", str(volume)).groups()  # type: ignore[union-attr]
    return source, target


@pytest.mark.parametrize("target", ["h100", "mi300x", "cpu"])
def test_code_that_a_container_left_behind_is_not_run_by_the_next(target: str, tmp_path: Path) -> None:
    serve = yaml.safe_load(rendered(target))["services"]["serve"]
    # Where something that was written is still there for the next container: the volumes, but not /tmp around one.
    kept = [place for _, place in map(mounted, serve["volumes"]) if not place.startswith("/tmp")]
    said = {name: str(value) for name, value in serve["environment"].items()}
    here = {name: re.sub(r"^(?=/)", str(tmp_path), value) for name, value in said.items()}
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for place in kept:
        site = tmp_path / place[1:] / ".local/lib" / version / "site-packages"
        site.mkdir(parents=True)
        (site / "usercustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    # Outside a virtual environment, as in the vendors' images.
    python = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([python, "-c", "pass"], env=here, check=True)
    assert not (tmp_path / "ran").exists()
    assert not said["HF_MODULES_CACHE"].startswith(tuple(kept))


@pytest.mark.parametrize("target", ["h100", "mi300x", "cpu"])
def test_what_is_compiled_lies_where_it_may_execute(target: str) -> None:
    serve = yaml.safe_load(rendered(target))["services"]["serve"]
    engine = Catalog().engine()
    caches = [cache for cache in engine.caches if cache.is_of(Catalog().target(target).vendor)]
    volumes = [place for source, place in map(mounted, serve["volumes"]) if "ENGINE_CACHE_DIR" in source]
    for cache in caches:
        place = serve["environment"][cache.variable] if cache.variable else f"/tmp/{cache.folder}"
        assert place.startswith(tuple(volumes)), cache
    assert {"h100": "FLASHINFER_WORKSPACE_BASE", "mi300x": "", "cpu": "TVM_FFI_CACHE_DIR"}[target] in [
        cache.variable for cache in caches
    ]


# --- what is published is said ---


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (["--bind", "0.0.0.0"], ["no key is required"]),
        (["--bind", "10.1.2.3", "--api-key-file"], ["on 10.1.2.3", "/invocations", "/tokenize", "/metrics"]),
        (["--bind", "10.1.2.3", "--api-key-file", "--nodes", "2", "--model", "300b"], ["/invocations"]),
        (["--api-key-file"], []),
        (["--bind", "127.0.0.2"], []),
        (["--bind", "::1"], []),
    ],
)
@pytest.mark.parametrize("command", ["render", "init"])
def test_what_is_published_beyond_this_host_is_warned_of(
    command: str, words: list[str], warned: list[str], tmp_path: Path
) -> None:
    folder = [str(tmp_path / "s")] if command == "init" else []
    done = kit(command, *folder, "h100", *words, *(["--accept-open-routes"] if warned else []))
    assert done.returncode == 0, done.stderr
    loud = [line for line in done.stderr.splitlines() if line.startswith("warning: The API is published")]
    assert len(loud) == bool(warned)
    assert all(word in loud[0] for word in warned)
    assert "/docs" not in done.stderr


def test_the_plan_says_what_a_key_leaves_open() -> None:
    (note,) = [note for note in planned("h100", api_key_file=True).notes if "/invocations" in note]
    assert note.startswith("vLLM's API key guards /v1, /v2, /inference, /cohere alone: ")
    opened = planned("h100", api_key_file=True, pairs=("disable-fastapi-docs=false",)).notes
    assert [note for note in opened if "/openapi.json" in note]
    published = planned("h100", api_key_file=True, bind="0.0.0.0")
    assert [w for w in published.warnings if "/invocations" in w and "ssh" in w]
    assert not [note for note in planned("h100").notes if "/invocations" in note]
