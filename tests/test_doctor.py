"""`doctor`: every check against recorded hosts, .env without a lost byte, and the command on this machine."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest
from conftest import ENGINE, ROOT, rendered
from container_scripts import loaded
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.host import examine, settings
from ernie_deploy.host.facts import read_log, read_sockets
from ernie_deploy.host.findings import Report, as_json, as_text
from ernie_deploy.host.link import Link, read_link
from ernie_deploy.host.machine_checks import CLOSE, KEEP_OUT
from ernie_deploy.host.probes import (
    ADDRESSES,
    COMMANDS,
    NOT_FOUND,
    NOTHING,
    READS,
    TIMED_OUT,
    LocalHost,
    Ran,
    Stat,
    index_of,
    natural,
    route_to,
)
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.sizes import size_bytes

HOSTS = Path(__file__).parent / "host"
KINDS = {"regular": "file", "directory": "folder", "character": "device"}


class FixtureHost:
    """A recorded machine; a folder says what differs from its base."""

    def __init__(self, name: str) -> None:
        self.folders = list(_lineage(HOSTS / name))
        said = [tomllib.loads((folder / "files.toml").read_text()) for folder in self.folders]
        self.files = {k: v for one in reversed(said) for k, v in one.get("files", {}).items()}
        self.stats = {k: v for one in reversed(said) for k, v in one.get("stat", {}).items()}
        self.free = {k: v for one in reversed(said) for k, v in one.get("free", {}).items()}
        self.ran: dict[str, Ran] = {}
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], env: Mapping[str, str] = NOTHING) -> Ran:
        self.asked.append(tuple(argv))
        if tuple(argv) == index_of(argv[4:]):
            self.index_env = dict(env)
            return self.ran.get("index", Ran(0, "packages: listed at index.example\n"))
        asked = COMMANDS | {"addresses": ADDRESSES, "route": route_to(argv[-1])}
        name = next(name for name, known in asked.items() if known == tuple(argv))
        if name in self.ran:
            return self.ran[name]
        folder = next((f for f in self.folders if list(f.glob(f"{name}.*"))), None)
        if folder is None:
            return Ran(NOT_FOUND, "", f"{argv[0]}: command not found")
        texts = [
            f.read_text() if (f := folder / f"{name}.{end}").exists() else ""
            for end in ("rc", "stdout", "stderr")
        ]
        return Ran(int(texts[0] or 0), *texts[1:])

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def stat(self, path: str) -> Stat | None:
        if path not in self.stats:
            return Stat(kind="file", mode=0o444) if path in self.files else None
        kind, *rest = self.stats[path].replace(" special file", "").replace(" file", "").split()
        mode, uid, gid, size = rest
        return Stat(kind=KINDS.get(kind, kind), mode=int(mode, 8), uid=int(uid), gid=int(gid), size=int(size))  # type: ignore[arg-type]

    def glob(self, pattern: str) -> list[str]:
        found = (path for path in {*self.files, *self.stats} if fnmatch(path, pattern))
        return sorted((p for p in found if p.count("/") == pattern.count("/")), key=natural)

    def free_bytes(self, path: str) -> int | None:
        return self.free.get(path)


def _lineage(folder: Path) -> Iterator[Path]:
    yield folder
    if base := tomllib.loads((folder / "files.toml").read_text()).get("base"):
        yield from _lineage(HOSTS / base)


def examined(
    host: "FixtureHost | str",
    target: str = "",
    env: str = "",
    environ: dict[str, str] | None = None,
    **options: object,
) -> Report:
    host = FixtureHost(host) if isinstance(host, str) else host
    subject = examine.inspect(host, Catalog(), Request(target=target, **options))  # type: ignore[arg-type]
    return examine.judge(subject, env, environ or {})


def lines(report: Report) -> list[str]:
    """The text with each run of spaces as one, so that a column's width is nobody's business."""
    return [re.sub(" +", " ", line) for line in click.unstyle(as_text(report)).splitlines()]


def has(report: Report, *expected: str) -> None:
    """Each line is there, and nothing else is wrong."""
    told = lines(report)
    for line in expected:
        assert line in told, "\n".join(told)
    wrong = [line for line in told if line.startswith("FAIL")]
    assert wrong == [line for line in expected if line.startswith("FAIL")]


H100 = f"""\
looks like: h100 (8 x NVIDIA H100 80GB HBM3 with 79.6 GiB)
ERNIE 4.5 21B-A3B for h100 on 1 of 8 GPUs, vLLM {ENGINE}
ok    docker          Docker Engine 28.3.3 answers.
ok    compose         Compose 2.39.1.
ok    cgroup          cgroup v2 (systemd).
ok    driver          NVIDIA driver 580.65.06; the image needs 580.
ok    gpu-containers  Docker has the runtime nvidia.
ok    gpus            8 x NVIDIA H100 80GB HBM3; the plan uses GPU 0.
ok    gpu-memory      79.6 GiB on each; the plan counts with 79.6 GiB.
ok    gpu-free        Nobody holds memory of these GPUs.
ok    gpu-errors      The kernel's log shows no GPU error.
ok    host            Linux 6.8.0-64-generic on x86_64.
ok    clock           The clock is synchronised.
ok    memory          2,015.6 GiB of memory, 1,990.4 GiB available.
ok    shared-memory   SHM_SIZE=16g.
ok    disk            3,072.0 GiB are free at /var/lib/docker; the weights take 40.9 GiB.
ok    port            127.0.0.1:8000 is free.
ok    token           No token: the ERNIE checkpoints need none.
ok    cache           Weights are kept in the volume ernie-hf-cache.
17 checks: 17 ok
"""
MI300X = f"""\
looks like: mi300x (8 x AMD Instinct MI300X OAM with 192.0 GiB)
ERNIE 4.5 21B-A3B for mi300x on 4 of 8 GPUs, vLLM {ENGINE}
ok    docker          Docker Engine 27.5.1 answers.
ok    compose         Compose 2.33.0.
ok    cgroup          cgroup v2 (systemd).
ok    driver          amdgpu 30.10 (module 6.14.14); no floor is known of vllm/vllm-openai-rocm:v0.32.0.
ok    devices         /dev/kfd and 8 render nodes.
ok    groups          Devices belong to group 993; the container serves as root, who owns them.
ok    gpus            8 x AMD Instinct MI300X OAM; the plan uses GPU 0,1,2,3.
ok    gpu-memory      192.0 GiB on each; the plan counts with 192 GiB.
ok    gpu-free        Nobody holds memory of these GPUs.
ok    gpu-errors      The kernel's log shows no GPU error.
warn  numa-balancing  NUMA balancing is on; AMD asks to switch it off, since it stalls GPUs.
                      next: sudo sysctl kernel.numa_balancing=0, and the same line in /etc/sysctl.d to keep it
ok    host            Linux 5.15.0-142-generic on x86_64.
ok    clock           The clock is synchronised.
ok    memory          2,267.7 GiB of memory, 2,232.6 GiB available.
ok    disk            6,553.6 GiB are free at /var/lib/docker; the weights take 40.9 GiB.
ok    port            127.0.0.1:8000 is free.
ok    token           No token: the ERNIE checkpoints need none.
ok    cache           Weights are kept in the volume ernie-hf-cache.
18 checks: 17 ok, 1 warning
"""
LAPTOP = f"""\
looks like: cpu (no GPU of NVIDIA or AMD)
ERNIE 4.5 0.3B for cpu, vLLM {ENGINE}
ok    docker         Docker Engine 20.10.24+dfsg1 answers.
ok    compose        Compose 2.40.3.
ok    cgroup         cgroup v1 (cgroupfs), which Docker calls deprecated since 29.
ok    host           Linux 6.18.44 on x86_64.
?     clock          Nothing tells whether the clock is synchronised.
ok    memory         23.5 GiB of memory, 22.8 GiB available; the plan puts about 7.3 GiB there.
warn  shared-memory  SHM_SIZE=16g is more than half of this host's 23.5 GiB.
                     next: ernie-deploy doctor --write-env cpu
ok    disk           75.4 GiB are free at /var/lib/docker; the weights take 0.7 GiB.
ok    port           127.0.0.1:8000 is free.
ok    token          No token: the ERNIE checkpoints need none.
ok    cache          Weights are kept in the volume ernie-hf-cache.
11 checks: 9 ok, 1 warning, 1 unknown
"""


@pytest.mark.parametrize(("name", "expected"), [("h100", H100), ("mi300x", MI300X), ("laptop", LAPTOP)])
def test_a_healthy_host_is_recognised_and_has_no_error(name: str, expected: str) -> None:
    report = examined(name)
    assert click.unstyle(as_text(report)) + "\n" == expected
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("name", "target", "code", "expected"),
    [
        ("broken-driver", "h100", 1, [
            ("FAIL driver nvidia-smi fails: the driver in the kernel and its libraries are of different versions,"
            " as after an unfinished update."),
            " next: reboot; or, with nothing on the GPUs: sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && nvidia-smi",
        ]),
        ("broken-driver", "", 1, [
            "has GPUs of NVIDIA that no driver shows; checked as h100",
            ("FAIL driver nvidia-smi fails: the driver in the kernel and its libraries are of different versions,"
            " as after an unfinished update."),
        ]),
        ("driver-not-loaded", "h100", 1, [
            "FAIL driver nvidia-smi fails: the driver's module is not loaded, as after a kernel update.",
            " next: sudo modprobe nvidia; where that fails: sudo dkms autoinstall, then reboot",
        ]),
        ("no-toolkit", "", 1, [
            "ok driver NVIDIA driver 580.65.06; the image needs 580.",
            "FAIL gpu-containers Docker has neither the runtime nvidia nor CDI devices.",
            (" next: install the NVIDIA Container Toolkit, then:"
            " sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"),
        ]),
        ("below-floor", "h100", 1, [
            f"FAIL driver NVIDIA driver 570.158.01 is below 580, which vllm/vllm-openai:v{ENGINE} needs.",
            " next: update the driver to 580 or newer, or: ernie-deploy render h100 --cuda 12.9",
        ]),
        ("busy-gpu", "h100", 1, [
            "FAIL gpu-free GPU 0: 61.3 GiB of 79.6 GiB are held by python3 (pid 48213); vLLM asks for 73.3 GiB at start.",
            " next: stop it (sudo kill 48213), or choose idle ones with --gpus 2",
        ]),
        ("full-disk", "h100", 1, [
            "FAIL disk 35.5 GiB are free at /var/lib/docker; the weights take 40.9 GiB, with a margin 42.9 GiB.",
            " next: make room, or set HF_CACHE_DIR in .env to a folder of a larger disk",
        ]),
        ("old-docker", "cpu", 6, [
            "FAIL docker Docker Engine 19.03.15 is older than 20.10.",
            " next: install Docker Engine 20.10 or newer with its Compose plugin, from your distribution or Docker itself",
            "FAIL compose `docker compose` is missing.",
            " next: install the Compose plugin: the package docker-compose-plugin or docker-compose-v2",
            "? cgroup Docker does not say which cgroup version it uses.",
            "11 checks: 6 ok, 1 warning, 2 errors, 2 unknown",
        ]),
        ("laptop", "h100", 1, [
            "FAIL driver nvidia-smi is missing; NVIDIA GPUs on the PCI bus: 0.",
            " next: choose the target that this host is: ernie-deploy targets",
            "FAIL gpu-containers Docker has neither the runtime nvidia nor CDI devices.",
            "? gpu-errors This user may not read the kernel's log.",
            " next: sudo dmesg | grep -i -e xid -e amdgpu",
        ]),
        ("h100", "mi300x", 1, [
            "FAIL driver amdgpu is not loaded; AMD GPUs on the PCI bus: 0.",
        ]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_next_command(
    name: str, target: str, code: int, expected: list[str]
) -> None:
    report = examined(name, target)
    has(report, *expected)
    assert report.exit_code == code


def test_the_serving_user_must_be_in_the_devices_groups() -> None:
    report = examined("wrong-gids", "mi300x", user="1000:1000")
    has(
        report,
        "FAIL groups Devices belong to group 992, and the container joins 109 and 44 (RENDER_GID, VIDEO_GID).",
        " next: ernie-deploy doctor --write-env mi300x --user 1000:1000",
    )
    assert report.environment == {"RENDER_GID": "992", "VIDEO_GID": "44", "SERVE_MEMORY": "2126g"}
    has(
        examined("wrong-gids", "mi300x", env="RENDER_GID=992\n", user="1000:1000"),
        "ok groups Devices belong to group 992, which the container joins.",
    )
    has(
        examined(
            "wrong-gids", "mi300x", env="RENDER_GID=992\n", environ={"RENDER_GID": "1"}, user="1000:1000"
        ),
        "FAIL groups Devices belong to group 992, and the container joins 1 and 44 (RENDER_GID, VIDEO_GID).",
    )


def test_a_control_device_of_another_group_takes_the_second_place() -> None:
    host = FixtureHost("wrong-gids")
    host.stats["/dev/kfd"] = "character special file 660 0 500 0"
    env = "RENDER_GID=992\nVIDEO_GID=500\n"
    report = examined(host, "mi300x", env=env, user="1000:1000")
    assert report.environment == {"RENDER_GID": "992", "VIDEO_GID": "500", "SERVE_MEMORY": "2126g"}
    has(report, "ok groups Devices belong to group 500, 992, which the container joins.")


def test_devices_open_to_all_need_no_group() -> None:
    host = FixtureHost("mi300x")
    host.stats |= {
        path: said.replace("660", "666") for path, said in host.stats.items() if path.startswith("/dev")
    }
    has(
        examined(host, "mi300x", user="1000:1000"),
        "ok groups Devices belong to group any, which the container joins.",
    )


DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: "
    'Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.50/info": dial unix /var/run/docker.sock: connect: permission denied\n'
)
DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
EMPTY = '{"ID":"","Containers":0,"SecurityOptions":null,"ClientInfo":{"Version":"28.2.2"}}\n'


@pytest.mark.parametrize(
    ("ran", "code", "line", "remedy"),
    [
        (Ran(NOT_FOUND, "", "docker: command not found"), 6, "FAIL docker Docker is not installed.", "install Docker"),
        (Ran(1, EMPTY, DENIED), 1, "FAIL docker-api This user may not talk to Docker's engine.", "usermod -aG docker"),
        (Ran(0, EMPTY, DOWN), 1, "FAIL docker-api Docker's engine does not run.", "sudo systemctl start docker"),
        (Ran(124, "", "docker: no answer within 20 s"), 1,
         "FAIL docker-api Docker's engine does not answer: docker: no answer within 20 s", "docker info"),
        (Ran(0, '{"host": {"arch": "amd64"}}', ""), 1,
         "FAIL docker-api Docker's engine does not answer: its answer has no version; is `docker` another program here?",
         "docker info"),
        (Ran(0, "not json", ""), 1,
         "FAIL docker-api Docker's engine does not answer: its answer has no version; is `docker` another program here?",
         "docker info"),
    ],
)  # fmt: skip
def test_an_engine_that_does_not_answer_is_told_apart(ran: Ran, code: int, line: str, remedy: str) -> None:
    host = FixtureHost("laptop")
    host.ran["docker-info"] = ran
    report = examined(host, "cpu")
    has(report, line)
    assert report.exit_code == code
    assert any(remedy in told for told in lines(report))
    disk = "? disk The free space of Docker's data folder could not be read; the weights take 0.7 GiB."
    assert disk in lines(report)


def test_an_old_compose_and_a_remote_engine() -> None:
    host = FixtureHost("h100")
    host.ran["compose-version"] = Ran(0, "v2.24.3\n")
    report = examined(host, "h100", environ={"DOCKER_HOST": "ssh://node"})
    has(
        report,
        "FAIL compose Compose 2.24.3 is older than 2.24.4.",
        "warn docker-host DOCKER_HOST is ssh://node: containers run there, while files and devices were checked here.",
    )
    assert report.exit_code == 6


CDI = '"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}],'


@pytest.mark.parametrize(
    ("version", "more", "options", "line"),
    [
        ("29.0.1", CDI, {}, "ok gpu-containers Docker has CDI devices of NVIDIA."),
        ("28.3.3", CDI, {}, "FAIL gpu-containers Docker has CDI devices of NVIDIA, and no runtime nvidia, which the plan asks for."),
        ("28.3.3", CDI, {"gpus_cdi": True}, "ok gpu-containers Docker has CDI devices of NVIDIA."),
        ("28.3.3", "", {"gpus_cdi": True}, "FAIL gpu-containers There are no CDI devices of NVIDIA, which --gpus-cdi asks for."),
        ("20.10.24", "", {"gpus_cdi": True}, "FAIL gpu-containers Docker Engine 20.10.24 has no CDI, which --gpus-cdi asks for."),
    ],
)  # fmt: skip
def test_gpus_come_into_containers_by_runtime_or_cdi(
    version: str, more: str, options: dict[str, bool], line: str
) -> None:
    host = FixtureHost("no-toolkit")
    host.ran["docker-info"] = Ran(0, f'{{{more} "ServerVersion": "{version}", "Runtimes": {{"runc": {{}}}}}}')
    has(examined(host, "h100", **options), line)


def test_the_toolkit_works_without_being_a_runtime_of_docker() -> None:
    host = FixtureHost("no-toolkit")
    host.files["/usr/bin/nvidia-container-runtime-hook"] = ""
    has(examined(host, "h100"), "ok gpu-containers The NVIDIA Container Toolkit is installed.")


def test_amd_devices_by_cdi() -> None:
    line = "FAIL devices There are no CDI devices of AMD, which --gpus-cdi asks for."
    has(
        examined("mi300x", "mi300x", gpus_cdi=True),
        line,
        " next: sudo amd-ctk cdi generate --output=/etc/cdi/amd.json",
    )
    host = FixtureHost("mi300x")
    host.files["/etc/cdi/amd.json"] = "{}"
    has(examined(host, "mi300x", gpus_cdi=True), "ok devices Docker has CDI devices of AMD.")


def test_amd_without_module_or_devices() -> None:
    host = FixtureHost("mi300x")
    host.files = {p: t for p, t in host.files.items() if "amdgpu" not in p and "/drm/" not in p}
    host.stats = {p: t for p, t in host.stats.items() if not p.startswith(("/dev", "/sys"))}
    has(
        examined(host, "mi300x"),
        "FAIL driver amdgpu is not loaded; AMD GPUs on the PCI bus: 8.",
        " next: sudo modprobe amdgpu; where that fails, install AMD's amdgpu-dkms",
    )
    host.stats["/sys/module/amdgpu"] = "directory 755 0 0 0"
    has(
        examined(host, "mi300x"),
        "ok driver amdgpu of the kernel; no floor is known of vllm/vllm-openai-rocm:v0.32.0.",
        "FAIL devices amdgpu is loaded, and /dev/kfd and /dev/dri/renderD* is missing.",
    )


def _gpus(*rows: str) -> Ran:
    return Ran(0, "\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("0, NVIDIA A100-SXM4-40GB, GPU-1, 580.65.06, 40960, 1, Disabled", [
            "FAIL gpu-memory GPU 0 has 40.0 GiB; the plan counts with 79.6 GiB (h100).",
            "warn gpu-kind The plan is for H100, and these are NVIDIA A100-SXM4-40GB.",
        ]),
        # 3 % less is what ECC and firmware keep; more is another card.
        ("0, NVIDIA H100 80GB HBM3, GPU-1, 580.65.06, 79300, 1, Disabled", [
            "ok gpu-memory 77.4 GiB on each; the plan counts with 79.6 GiB.",
        ]),
        ("0, NVIDIA H100 80GB HBM3, GPU-1, 580.65.06, 78800, 1, Disabled", [
            "FAIL gpu-memory GPU 0 has 77.0 GiB; the plan counts with 79.6 GiB (h100).",
        ]),
        ("0, NVIDIA H100 NVL, GPU-1, 580.65.06, 95830, 1, Disabled", [
            "ok gpu-memory 93.6 GiB on each; the plan counts with 79.6 GiB.",
        ]),
        ("0, NVIDIA H100 80GB HBM3, GPU-1, 580.65.06, 81559, 1, Enabled", [
            "FAIL gpu-partition GPU 0 is partitioned (MIG), and the plan counts whole GPUs.",
            " next: sudo nvidia-smi -i 0 -mig 0",
        ]),
        ("0, NVIDIA H100 80GB HBM3, GPU-1, 580.65.06, 81559, 3000, Disabled", [
            ("warn gpu-free GPU 0: 2.9 GiB of 79.6 GiB are held by a process that is not shown;"
            " vLLM starts, with less room."),
            " next: stop it, or take less with --gpu-memory-utilization",
        ]),
        ("0, NVIDIA H100 80GB HBM3, GPU-1, 580.65.06, [N/A], [N/A], [N/A]", [
            "? gpu-memory The driver does not tell how much memory the GPUs have.",
            "? gpu-free The driver does not tell how much GPU memory is in use.",
        ]),
    ],
)  # fmt: skip
def test_gpus_are_counted_measured_and_found_whole(row: str, expected: list[str]) -> None:
    host = FixtureHost("h100")
    host.ran["nvidia-gpus"] = _gpus(row)
    has(examined(host, "h100"), *expected)


def test_a_plan_for_more_gpus_than_there_are() -> None:
    host = FixtureHost("h100")
    host.ran["nvidia-gpus"] = _gpus(*host.run(COMMANDS["nvidia-gpus"]).stdout.splitlines()[:2])
    has(
        examined(host, "h100", tp=4),
        "FAIL gpus 2 x NVIDIA H100 80GB HBM3, and the plan uses GPU 0,1,2,3.",
        " next: choose those that are there with --gpus 0,1, or a smaller model",
    )


def test_partitions_and_holders_of_amd() -> None:
    host = FixtureHost("mi300x")
    device = "/sys/class/drm/card1/device"
    host.files |= {
        f"{device}/current_compute_partition": "CPX\n",
        f"{device}/mem_info_vram_used": f"{150 * 2**30}\n",
        "/sys/class/kfd/kfd/proc/777": "",
        "/sys/class/kfd/kfd/proc/777/vram_4711": f"{150 * 2**30}\n",
        "/proc/777/comm": "vllm\x1b[2J\n",
    }
    has(
        examined(host, "mi300x"),
        "FAIL gpu-partition GPU 0 is partitioned (CPX), and the plan counts whole GPUs.",
        " next: sudo amd-smi set --compute-partition SPX",
        "FAIL gpu-free GPU 0: 150.0 GiB of 192.0 GiB are held by vllm\\x1b[2J (pid 777);"
        " vLLM asks for 172.8 GiB at start.",
        " next: stop it (sudo kill 777), or choose idle ones with --gpus 1,2,3,4",
    )


def test_a_stack_that_runs_holds_its_own_port_memory_and_weights() -> None:
    host = FixtureHost("busy-gpu")
    host.free["/var/lib/docker"] = 0
    host.files["/proc/net/tcp"] += " 9: 0100007F:1F40 00000000:0000 0A\n"
    row = {"Names": "ernie-21b-serve-1", "Ports": "127.0.0.1:8000->8000/tcp",
           "Labels": "a=b,com.docker.compose.project=ernie-21b,c=d"}  # fmt: skip
    host.ran["docker-ps"] = Ran(0, json.dumps(row) + "\n")
    has(
        examined(host, "h100"),
        "ok gpu-free GPU 0 is held by this stack, which runs.",
        "ok disk The weights are there already; 0.0 GiB are free at /var/lib/docker.",
        "ok port 127.0.0.1:8000 is published by this stack, which runs.",
    )
    has(
        examined(host, "h100", model="vl-28b", gpus=(5,)),
        "FAIL disk 0.0 GiB are free at /var/lib/docker; the weights take 54.8 GiB, with a margin 57.5 GiB.",
        "FAIL port 127.0.0.1:8000 is taken by the container ernie-21b-serve-1.",
        " next: set another PORT in .env, or see: docker stop ernie-21b-serve-1",
    )


def test_a_stack_of_the_same_name_in_another_folder_is_named(tmp_path: Path) -> None:
    host = FixtureHost("h100")
    label = "com.docker.compose.project"
    row = {"Names": "ernie-21b-serve-1", "Ports": "127.0.0.1:9000->8000/tcp",
           "Labels": f"{label}=ernie-21b,{label}.working_dir=/srv/first"}  # fmt: skip
    former = {"Names": "ernie-21b-h100-serve-1", "Ports": "", "Labels": f"{label}=ernie-21b-h100"}
    host.ran["docker-ps"] = Ran(0, f"{json.dumps(row)}\n{json.dumps(former)}\n")
    has(
        examined(host, "h100"),
        "warn stack-name A stack named ernie-21b runs from /srv/first: `up` here would replace its containers.",
        " next: name this one otherwise: ernie-deploy render h100 --name ernie-21b-b",
        "warn stack-name A stack under the former name ernie-21b-h100 runs beside this one.",
        " next: docker compose --project-name ernie-21b-h100 down",
    )
    assert "stack-name" not in as_text(examined(host, "h100", name="a"))


def test_the_folder_of_a_stack_is_known_by_any_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    host, label = FixtureHost("h100"), "com.docker.compose.project"
    row = {"Names": "ernie-21b-serve-1", "Ports": "127.0.0.1:8000->8000/tcp",
           "Labels": f"{label}=ernie-21b,{label}.working_dir={tmp_path}/link"}  # fmt: skip
    host.ran["docker-ps"] = Ran(0, json.dumps(row) + "\n")
    subject = examine.inspect(host, Catalog(), Request(target="h100"))
    for folder in (tmp_path / "real", tmp_path / "link", tmp_path / "link" / ".." / "real"):
        report = examine.judge(subject, "", {}, folder)
        assert "stack-name" not in as_text(report), folder


def test_verified_weights_need_no_room() -> None:
    host = FixtureHost("full-disk")
    stamp = "/var/lib/docker/volumes/ernie-hf-cache/_data/ernie/baidu--ERNIE-4.5-21B-A3B-PT@main.json"
    host.stats[stamp] = "regular file 644 2000 0 100"
    line = "ok disk The weights are there already; 35.5 GiB are free at /var/lib/docker."
    has(examined(host, "h100"), line)


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ("PORT=9000", "ok port 127.0.0.1:9000 is free."),
        ("PORT=8000", "FAIL port 127.0.0.1:8000 is taken by another process."),
        ("PORT=8001", "FAIL port 127.0.0.1:8001 is taken by another process."),
        ("PORT=8002", "FAIL port 127.0.0.1:8002 is taken by another process."),
        ("PORT=8003", "ok port 127.0.0.1:8003 is free."),
        ("PORT=http", "FAIL port PORT=http is not a port."),
        ("PORT=70000", "FAIL port PORT=70000 is not a port."),
        ("SHM_SIZE=lots", "FAIL shared-memory SHM_SIZE=lots is not a size."),
        ("SHM_SIZE=", "ok shared-memory SHM_SIZE=16g."),
        ("HF_CACHE_DIR=models", "FAIL cache HF_CACHE_DIR=models is neither a path nor the volume hf-cache; Compose refuses it."),
        ("HF_CACHE_DIR=/data/new/hf", "ok cache /data/new/hf will be made, and handed to 2000:0."),
        ("HF_CACHE_DIR=/data/new/hf", "ok disk 100.0 GiB are free at /data; the weights take 40.9 GiB."),
        ("HF_CACHE_DIR=/data", "FAIL cache HF_CACHE_DIR=/data belongs to root and holds empty, which the kit did not create: fetch refuses it."),
        ("HF_CACHE_DIR=/srv/hf", "ok cache /srv/hf belongs to root; fetch hands it to 2000:0."),
        ("ENGINE_CACHE_DIR=/srv/hf", "FAIL engine-cache ENGINE_CACHE_DIR=/srv/hf belongs to root and holds hub, which the kit did not create: fetch refuses it."),
        ("ENGINE_CACHE_DIR=/srv/disk", "ok engine-cache /srv/disk belongs to root; fetch hands it to 2000:0."),
        ("ENGINE_CACHE_DIR=/srv/handed", "ok engine-cache /srv/handed belongs to root; fetch hands it to 2000:0."),
        ("ENGINE_CACHE_DIR=/data/ours", "FAIL engine-cache /data/ours belongs to 1000:1000 (0755) and is closed to the server, 2000:0."),
        ("HF_CACHE_DIR=/data/mine", "FAIL cache /data/mine belongs to 1000:1000 (0700) and is closed to the server, 2000:0."),
        ("HF_CACHE_DIR=/data/ours", "ok cache /data/ours belongs to 1000:1000; the server, 2000:0, can read it."),
        ("HF_CACHE_DIR=/data/token", "FAIL cache HF_CACHE_DIR=/data/token is not a folder."),
        ("HF_TOKEN_FILE=/data/token", "ok token /data/token is private (0600)."),
        ("HF_TOKEN_FILE=/data/open", "warn token Everybody on this host can read /data/open (0644)."),
        ("HF_TOKEN_FILE=/data/empty", "ok token /data/empty is empty: the hub is asked anonymously."),
        ("HF_TOKEN_FILE=/data/none", "FAIL token HF_TOKEN_FILE=/data/none does not exist; Compose refuses to start."),
        ("HF_TOKEN_FILE=/data", "FAIL token HF_TOKEN_FILE=/data is a folder."),
        ("HF_TOKEN_FILE=/root/t", "? token This user has no access to /root/t."),
    ],
)  # fmt: skip
def test_settings_of_the_stack_against_the_host(env: str, line: str) -> None:
    host = FixtureHost("h100")
    host.files["/proc/net/tcp"] += (
        " 5: 0100007F:1F40 0:0 0A\n 6: 00000000:1F41 0:0 0A\n 7: 0200007F:1F43 0:0 0A\n"
    )
    host.files["/proc/net/tcp6"] += " 0: 00000000000000000000000000000000:1F42 0:0 0A\n"
    host.stats |= {
        "/data": "directory 755 0 0 0",
        "/data/mine": "directory 700 1000 1000 0",
        "/srv/hf": "directory 755 0 0 0",
        "/srv/hf/hub": "directory 755 0 0 0",
        "/srv/hf/token": "regular file 600 0 0 0",
        "/srv/disk": "directory 755 0 0 0",
        "/srv/disk/lost+found": "directory 700 0 0 0",
        "/srv/handed": "directory 2775 0 0 0",
        "/srv/handed/vllm": "directory 755 0 0 0",
        "/data/ours": "directory 755 1000 1000 0",
        "/data/token": "regular file 600 1000 1000 37",
        "/data/open": "regular file 644 1000 1000 37",
        "/data/empty": "regular file 644 1000 1000 0",
        "/root/t": "closed 0 0 0 0",
    }
    host.free |= {"/data": 100 * 2**30, "/data/ours": 2**40, "/data/mine": 2**40, "/data/token": 2**40}
    has(examined(host, "h100", env=f"{env}\n" if "PORT" in env else f"PORT=9000\n{env}\n"), line)


@pytest.mark.parametrize(
    ("said", "options", "line"),
    [
        ("", {}, "FAIL api-key API_KEY_FILE=./api-key.yaml does not exist; Compose refuses to start."),
        ("regular file 400 2000 1000 20", {}, "ok api-key ./api-key.yaml is readable by the server, 2000:0."),
        ("regular file 640 1000 0 20", {}, "ok api-key ./api-key.yaml is readable by the server, 2000:0."),
        ("regular file 644 1000 1000 20", {}, "warn api-key Everybody on this host can read ./api-key.yaml (0644)."),
        ("regular file 400 2000 1000 0", {}, "FAIL api-key ./api-key.yaml is empty."),
        ("regular file 600 1000 1000 20", {},
         "FAIL api-key ./api-key.yaml belongs to 1000:1000 (0600); the server, 2000:0, may not read it."),
        ("regular file 600 1000 1000 20", {"user": "1000:1000"},
         "ok api-key ./api-key.yaml is readable by the server, 1000:1000."),
    ],
)  # fmt: skip
def test_the_server_can_read_its_key_and_nobody_else(said: str, options: dict[str, str], line: str) -> None:
    host = FixtureHost("h100")
    if said:
        host.stats["./api-key.yaml"] = said
    has(examined(host, "h100", api_key_file=True, **options), line)


@pytest.mark.parametrize(
    ("stat", "text", "lines"),
    [
        ("regular file 400 2000 1000 14", "api-key: sk-a\n", ("ok api-key ./api-key.yaml is readable by the server, 2000:0.",)),
        ("regular file 400 2000 1000 9", "api-key:\n", ("FAIL api-key ./api-key.yaml has an empty key.",)),
        ("regular file 400 2000 1000 14", "api-key: 0123\n",
         ("FAIL api-key ./api-key.yaml has a key that YAML reads as a number, a date or a boolean.", " next: put the key in quotes")),
        ("regular file 400 2000 1000 16", "# \ufffd\napi-key: a\n", ("FAIL api-key ./api-key.yaml is not YAML.",)),
        ("regular file 400 2000 1000 4097", "",
         ("FAIL api-key ./api-key.yaml is larger than 4 KiB.", " next: write the one line `api-key: YOUR-KEY` there, and nothing else")),
        ("directory 755 0 0 0", "", ("FAIL api-key API_KEY_FILE=./api-key.yaml is not a file.",)),
        ("fifo 644 0 0 0", "", ("FAIL api-key API_KEY_FILE=./api-key.yaml is not a file.",)),
    ],
)  # fmt: skip
def test_a_key_that_the_server_refuses_is_known_before(stat: str, text: str, lines: tuple[str, ...]) -> None:
    host = FixtureHost("h100")
    host.stats["./api-key.yaml"], host.files["./api-key.yaml"] = stat, text
    has(examined(host, "h100", api_key_file=True), *lines)


def test_root_in_a_container_without_capabilities_is_one_user_among_others() -> None:
    host = FixtureHost("mi300x")
    host.stats["./api-key.yaml"] = "regular file 600 1000 1000 20"
    line = "FAIL api-key ./api-key.yaml belongs to 1000:1000 (0600); the server, 0:0, may not read it."
    has(examined(host, "mi300x", api_key_file=True), line)


def test_weights_of_the_users_own() -> None:
    host = FixtureHost("full-disk")
    line = "FAIL weights --weights /data/ernie is not a folder of this host."
    has(examined(host, "h100", weights="/data/ernie"), line)
    host.stats["/data/ernie"] = "directory 700 1000 1000 0"
    line = "FAIL weights /data/ernie belongs to 1000:1000 (0700) and is closed to the server, 2000:0."
    has(examined(host, "h100", weights="/data/ernie"), line, " next: chmod -R o+rX /data/ernie")
    host.stats["/data/ernie"] = "directory 755 1000 1000 0"
    has(
        examined(host, "h100", weights="/data/ernie"),
        "ok weights /data/ernie is readable by the server, 2000:0.",
    )


def test_every_address_is_taken_where_one_of_them_is() -> None:
    host = FixtureHost("h100")
    host.files["/proc/net/tcp"] += " 7: 0200007F:1F43 0:0 0A\n"
    report = examined(host, "h100", "PORT=8003\nBIND_ADDR=0.0.0.0\n", accept_open_routes=True)
    has(report, "FAIL port 0.0.0.0:8003 is taken by another process.")


def listening(host: FixtureHost, *ports: int) -> FixtureHost:
    """The host with somebody on these ports of its loopback."""
    rows = (f" 9: 0100007F:{port:04X} 00000000:0000 0A\n" for port in ports)
    host.files["/proc/net/tcp"] += "".join(rows)
    return host


def test_the_ports_of_a_gateway_and_of_the_monitoring_are_looked_at() -> None:
    host = listening(FixtureHost("h100"), 9090, 3000, 8443)
    report = examined(host, "h100", gateway=True, monitoring=True)
    about = [line for line in lines(report) if " port " in line or "PORT" in line]
    assert about == [
        "ok port 127.0.0.1:8000 is free.",
        "FAIL port 127.0.0.1:9090 is taken by another process.",
        " next: set another PROMETHEUS_PORT in .env, or see: sudo ss -ltnp 'sport = :9090'",
        "FAIL port 127.0.0.1:3000 is taken by another process.",
        " next: set another GRAFANA_PORT in .env, or see: sudo ss -ltnp 'sport = :3000'",
    ]
    # Those of Prometheus and Grafana are on the loopback, wherever the gateway is; and 0.0.0.0 has the loopback too.
    env = "BIND_ADDR=0.0.0.0\nPORT=8443\nPROMETHEUS_PORT=9091\nGRAFANA_PORT=x\n"
    report = examined(listening(FixtureHost("h100"), 8443), "h100", env, gateway=True, monitoring=True)
    ports = [line for line in lines(report) if " port " in line]
    assert ports == [
        "FAIL port 0.0.0.0:8443 is taken by another process.",
        "ok port 127.0.0.1:9091 is free.",
        "FAIL port GRAFANA_PORT=x is not a port.",
    ]
    assert not [line for line in lines(examined("h100", "h100")) if "9090" in line or "3000" in line]


def test_two_services_of_a_stack_cannot_have_one_port() -> None:
    report = examined("h100", "h100", "PORT=3000\n", monitoring=True)
    has(report, "FAIL port PORT and GRAFANA_PORT are both 3000.", " next: set another GRAFANA_PORT in .env")


def test_a_stack_that_runs_holds_those_ports_that_its_containers_publish() -> None:
    host = listening(FixtureHost("h100"), 8000, 9090, 3000)
    label = "com.docker.compose.project=ernie-21b"
    rows = [
        {"Names": "ernie-21b-serve-1", "Ports": "127.0.0.1:8000->8000/tcp", "Labels": label},
        {"Names": "ernie-21b-prometheus-1", "Ports": "127.0.0.1:9090->9090/tcp", "Labels": label},
    ]
    host.ran["docker-ps"] = Ran(0, "".join(f"{json.dumps(row)}\n" for row in rows))
    has(
        examined(host, "h100", monitoring=True),
        "ok port 127.0.0.1:8000 is published by this stack, which runs.",
        "ok port 127.0.0.1:9090 is published by this stack, which runs.",
        "FAIL port 127.0.0.1:3000 is taken by another process.",
    )


def test_a_published_address_without_a_key() -> None:
    has(
        examined("h100", "h100", bind="0.0.0.0"),
        "FAIL exposure The API is published on 0.0.0.0, and requires no key.",
        f" next: {CLOSE}",
    )
    has(
        examined("h100", "h100", bind="0.0.0.0", accept_open_routes=True),
        "warn exposure The API is published on 0.0.0.0, and requires no key: --accept-open-routes says that this is meant.",
        f" next: {KEEP_OUT}",
    )
    # The API is the head's: nothing of a worker's address is published.
    worker = examined("h100", "h100", "NODE_RANK=1\nBIND_ADDR=10.0.0.5\n", model="300b", nodes=2)
    assert not [line for line in lines(worker) if "exposure" in line]


def test_a_published_address_with_a_key() -> None:
    found = "\n".join(lines(examined("h100", "h100", bind="0.0.0.0", api_key_file=True)))
    assert "FAIL exposure The API is published on 0.0.0.0, and /invocations, /generative_scoring, " in found
    assert "/docs" not in found
    kept = lines(examined("h100", "h100", api_key_file=True, env="BIND_ADDR=127.0.0.2\n"))
    assert not [line for line in kept if "exposure" in line]


def test_the_machine_itself() -> None:
    host = FixtureHost("mi300x")
    host.ran |= {"kernel": Ran(0, "Linux 6.8.0 aarch64\n"), "clock": Ran(0, "no\n")}
    host.files["/proc/sys/kernel/numa_balancing"] = "0\n"
    has(
        examined(host, "mi300x"),
        f"FAIL host Linux 6.8.0 on aarch64; vllm/vllm-openai-rocm:v{ENGINE} is published for x86_64.",
        "warn clock The clock is not synchronised; downloads fail where it is wrong.",
        "ok numa-balancing NUMA balancing is off.",
    )


@pytest.mark.parametrize(
    ("available", "kv", "word"),
    [(23_000_000, "4", "ok"), (4_000_000, "4", "warn"), (23_000_000, "40", "FAIL")],
)
def test_memory_of_a_host_that_serves_itself(available: int, kv: str, word: str) -> None:
    host = FixtureHost("laptop")
    host.files["/proc/meminfo"] = f"MemTotal: 24684096 kB\nMemAvailable: {available} kB\n"
    told = lines(examined(host, "cpu", env=f"CPU_KV_CACHE_GIB={kv}\n"))
    assert [line.split()[0] for line in told if " memory " in line] == [word]


def test_offloaded_weights_are_memory_of_the_host() -> None:
    line = "ok memory 2,015.6 GiB of memory, 1,990.4 GiB available; the plan puts about 400.0 GiB there."
    has(examined("h100", "h100", model="vl-424b", profiles=("cpu-offload",)), line)


def test_errors_in_the_kernels_log() -> None:
    log = (
        "[1.0] NVRM: Xid (PCI:0000:1b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.\n"
        "[2.0] NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
        "[3.0] NVRM: Xid (PCI:0000:43:00): 31, pid=99, name=python3, Ch 00000008, MMU Fault\n"
        "[4.0] amdgpu 0000:05:00.0: amdgpu: GPU reset begin!\n"
    )
    assert read_log(log) == {"Xid 79 on 1b:00": 2, "GPU reset on 0000:05:00.0": 1}
    host = FixtureHost("h100")
    host.ran["kernel-log"] = Ran(0, log)
    report = examined(host, "h100")
    has(
        report,
        "warn gpu-errors The kernel's log tells of Xid 79 on 1b:00 (2x), GPU reset on 0000:05:00.0 (1x).",
    )
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("row", "guess"),
    [
        ("0, NVIDIA H200, GPU-1, 580, 143771, 1, Disabled", "looks like: h200 (1 x NVIDIA H200 with 140.4 GiB)"),
        ("0, NVIDIA A100-SXM4-80GB, GPU-1, 580, 81920, 1, Disabled", "looks like: a100 (1 x NVIDIA A100-SXM4-80GB with 80.0 GiB)"),
        ("0, NVIDIA B200, GPU-1, 580, 183359, 1, Disabled", "looks like: b200 (1 x NVIDIA B200 with 179.1 GiB)"),
        ("0, NVIDIA A100-PCIE-40GB, GPU-1, 580, 40960, 1, Disabled",
         "looks like no target (1 x NVIDIA A100-PCIE-40GB with 40.0 GiB); checked as cpu"),
        ("0, NVIDIA GeForce RTX 3060 Laptop GPU, GPU-1, 580, 6144, 1, [N/A]",
         "looks like no target (1 x NVIDIA GeForce RTX 3060 Laptop GPU with 6.0 GiB); checked as cpu"),
    ],
)  # fmt: skip
def test_a_host_is_guessed_by_name_and_memory(row: str, guess: str) -> None:
    host = FixtureHost("h100")
    host.ran["nvidia-gpus"] = _gpus(row)
    assert examined(host).guess == guess


@pytest.mark.parametrize(("size", "target"), [(274861129728, "mi325x"), (309220868096, "mi355x")])
def test_amd_cards_without_a_name_are_guessed_by_memory(size: int, target: str) -> None:
    host = FixtureHost("mi300x")
    host.files |= {p: f"{size}\n" for p in host.files if p.endswith("vram_total")}
    host.files = {p: t for p, t in host.files.items() if not p.endswith("product_name")}
    assert examined(host).guess.startswith(f"looks like: {target} (8 x AMD GPU with ")


def test_what_is_refused_is_refused_without_a_probe() -> None:
    host = FixtureHost("h100")
    with pytest.raises(Refused):
        examined(host, "cpu", model="300b")
    assert host.asked == []


def test_json_says_the_same() -> None:
    report = examined("wrong-gids", "mi300x", user="1000:1000")
    data = json.loads(as_json(report))
    assert data["exit_code"] == 1
    assert data["environment"] == {"RENDER_GID": "992", "VIDEO_GID": "44", "SERVE_MEMORY": "2126g"}
    assert {finding["id"]: finding["severity"] for finding in data["findings"]}["groups"] == "error"


def test_sizes_and_sockets() -> None:
    assert [size_bytes(text) for text in ("16g", "16GB", "1.5m", "512", "1 GiB", "g", "")] == [
        16 * 2**30, 16 * 2**30, 3 * 2**19, 512, 2**30, None, None,
    ]  # fmt: skip
    table = "head\n 0: 0100007F:1F40 00000000:0000 0A 0\n 1: 0100007F:1F41 0100007F:1F40 01 0\n"
    assert [(s.address, s.port) for s in read_sockets(table)] == [("127.0.0.1", 8000)]
    table = "head\n 0: 00000000000000000000000001000000:0016 0:0 0A 0\n"
    assert [(s.address, s.port) for s in read_sockets(table)] == [("::1", 22)]


# --- .env ---

ENV = """\
# mine
PORT=9000   # ours

# Numeric group of /dev/dri/renderD*
#RENDER_GID=109

export HTTP_PROXY='http://u:p@proxy
VIDEO_GID=7'
this is no assignment
  VIDEO_GID = "44"   # the old one
LAST=1"""


def test_env_is_edited_in_place_below_its_comment_or_at_the_end() -> None:
    new = settings.edited(ENV, {"RENDER_GID": "992", "VIDEO_GID": "500", "SHM_SIZE": "8g"})
    assert new == (
        ENV.replace("#RENDER_GID=109\n", "#RENDER_GID=109\nRENDER_GID=992\n").replace('= "44"', "= 500")
        + "\nSHM_SIZE=8g\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "A=2\n"),
        ("B=1", "B=1\nA=2\n"),
        ("B=1\r\n", "B=1\r\nA=2\r\n"),
        ("A=1\r\nB=1\r\n", "A=2\r\nB=1\r\n"),
        ("A=1\nA=1\n", "A=1\nA=2\n"),
        ("A\nB=1\n", "A=2\nB=1\n"),
        ("export A = 'x y' # z\n", "export A = 2 # z\n"),
        ("A=x y # z\n", "A=2 # z\n"),
        ("\n\n A=\n", "\n\n A=2\n"),
        ("AA=1\nXA=1\n", "AA=1\nXA=1\nA=2\n"),
        ('A="un closed\nB=1\n', 'A="un closed\nB=1\nA=2\n'),
    ],
)
def test_every_other_byte_stays(before: str, after: str) -> None:
    assert settings.edited(before, {"A": "2"}) == after


@given(st.text(alphabet="AB='\"#\\ \n\rx$\t", max_size=40))
def test_no_text_loses_a_line_and_the_value_is_read_back(text: str) -> None:
    from dotenv import dotenv_values

    new = settings.edited(text, {"RENDER_GID": "992"})
    assert new.replace("RENDER_GID=992\n", "").replace("RENDER_GID=992\r\n", "").startswith(text)
    assert dotenv_values(stream=io.StringIO(new), interpolate=False).get("RENDER_GID") == "992"


def test_write_env_keeps_mode_link_and_every_other_line(tmp_path: Path) -> None:
    real, link = tmp_path / "settings", tmp_path / ".env"
    real.write_text("# mine\r\nHTTP_PROXY=http://u:p@proxy\r\n", newline="")
    real.chmod(0o600)
    link.symlink_to(real)
    subject = examine.inspect(FixtureHost("wrong-gids"), Catalog(), Request(target="mi300x"))
    limit = "SERVE_MEMORY=2126g  # of 2268 GiB 142 are left to the system; not run on hardware"
    assert examine.write_env(subject, link, {}) == {
        "RENDER_GID": "992",
        "VIDEO_GID": "44",
        "SERVE_MEMORY": "2126g",
    }
    assert link.is_symlink()
    assert (
        real.read_bytes()
        == b"# mine\r\nHTTP_PROXY=http://u:p@proxy\r\nRENDER_GID=992\r\nVIDEO_GID=44\r\n"
        + (f"{limit}\r\n".encode())
    )
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == [".env", "settings"]
    stamp = real.stat().st_mtime_ns
    assert examine.write_env(subject, link, {}) == {}
    assert real.stat().st_mtime_ns == stamp


def test_write_env_makes_a_file_and_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    subject = examine.inspect(FixtureHost("laptop"), Catalog(), Request(target="cpu"))
    assert examine.write_env(subject, tmp_path / "new" / ".env", {}) == {"SHM_SIZE": "11g"}
    assert (tmp_path / "new" / ".env").read_text() == "SHM_SIZE=11g\n"
    (tmp_path / "bad").write_bytes(b"A=\xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        examine.write_env(subject, tmp_path / "bad", {})
    assert (tmp_path / "bad").read_bytes() == b"A=\xff\n"


# --- the limit of host memory ---


def proposed(host: str, target: str, env: dict[str, str] | None = None, **options: object) -> str | None:
    subject = examine.inspect(FixtureHost(host), Catalog(), Request(target=target, **options))  # type: ignore[arg-type]
    return examine.judge(subject, "", env or {}).environment.get("SERVE_MEMORY")


def test_a_gpu_nodes_memory_less_a_reserve_is_proposed() -> None:
    assert proposed("h100", "h100") == "1889g"
    assert proposed("h100", "h100", model="vl-424b", profiles=("cpu-offload",)) == "1889g"


@pytest.mark.parametrize("limit", ["100g", "2000g", "0"])
def test_a_limit_that_is_set_stays(limit: str, tmp_path: Path) -> None:
    """Zero is the user's decision for none."""
    assert proposed("h100", "h100", {"SERVE_MEMORY": limit}) is None
    (tmp_path / ".env").write_text(f"SERVE_MEMORY={limit}\n")
    subject = examine.inspect(FixtureHost("h100"), Catalog(), Request(target="h100"))
    examine.write_env(subject, tmp_path / ".env", {})
    assert f"SERVE_MEMORY={limit}\n" in (tmp_path / ".env").read_text()


def test_an_empty_limit_is_none_yet() -> None:
    assert proposed("h100", "h100", {"SERVE_MEMORY": ""}) == "1889g"


def test_nothing_is_proposed_that_the_plans_estimate_exceeds() -> None:
    offloaded = {"model": "vl-424b", "profiles": ("cpu-offload",), "pairs": ("cpu-offload-gb=240",)}
    assert proposed("h100", "h100", **offloaded) is None


def test_the_processors_limit_is_the_renderings_own() -> None:
    assert proposed("laptop", "cpu") is None
    assert "mem_limit: ${SERVE_MEMORY:-12g}" in rendered("cpu")
    assert "mem_limit: ${SERVE_MEMORY:-0}" in rendered("h100")


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ("SERVE_MEMORY=lots", "FAIL memory-limit SERVE_MEMORY=lots is not a size."),
        ("CPU_KV_CACHE_GIB=12",
         "FAIL memory-limit SERVE_MEMORY=12g is less than the 15.3 GiB that the plan puts there: the server would be killed."),
    ],
)  # fmt: skip
def test_a_limit_that_would_kill_the_server_is_an_error(env: str, line: str) -> None:
    has(examined("laptop", "cpu", env=env), line)


# --- more than one node ---

TWO = {"model": "300b", "nodes": 2, "rdma": True}
OF_HEAD = {"NODE_RANK": "0", "HEAD_ADDR": "10.0.0.4"}
OF_WORKER = {"NODE_RANK": "1", "HEAD_ADDR": "10.0.0.4"}


@pytest.mark.parametrize(
    ("host", "place", "written"),
    [
        ("two-nodes-head", OF_HEAD, {**OF_HEAD, "HOST_IP": "10.0.0.4", "NIC": "bond0", "COMPOSE_PROFILES": "head"}),
        ("two-nodes-worker", OF_WORKER,
         {**OF_WORKER, "HOST_IP": "10.0.0.5", "NIC": "bond0", "COMPOSE_PROFILES": "worker"}),
        ("two-nodes-no-route", OF_WORKER, {}),
        ("two-nodes-worker", {}, {}),
    ],
)  # fmt: skip
def test_write_env_completes_what_a_node_is(
    host: str, place: dict[str, str], written: dict[str, str], tmp_path: Path
) -> None:
    subject = examine.inspect(FixtureHost(host), Catalog(), Request(target="h100", **TWO))  # type: ignore[arg-type]
    # The other nodes' is copied from the head, which makes it.
    secret = {"GROUP_SECRET_FILE": "./group-secret/secret"} if place == OF_HEAD else {}
    written = {**written, **secret}
    assert examine.write_env(subject, tmp_path / ".env", place) == {**written, "SERVE_MEMORY": "1889g"}
    assert (tmp_path / "group-secret").exists() is bool(secret)
    if written:
        text = (tmp_path / ".env").read_text()
        limit, *lines_ = text.splitlines()
        assert limit.startswith("SERVE_MEMORY=1889g  # ")
        assert lines_ == [f"{name}={value}" for name, value in written.items()]
        report = examine.judge(subject, text, {})
        assert not [f for f in report.findings if f.id == "node" and f.severity != "ok"]
        assert examine.write_env(subject, tmp_path / ".env", {}) == {}


def test_the_secret_of_a_group_is_made_once_and_copied(tmp_path: Path) -> None:
    catalog, request = Catalog(), Request(target="h100", **TWO)  # type: ignore[arg-type]
    head, worker = tmp_path / "head", tmp_path / "worker"
    subject = examine.inspect(FixtureHost("two-nodes-head"), catalog, request)
    examine.write_env(subject, head / ".env", OF_HEAD)
    secret = head / "group-secret/secret"
    first = secret.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}\n", first)
    assert first.strip() not in (head / ".env").read_text()
    # Docker mounts the file as it is, for whoever serves; the folder keeps everybody else of this host out.
    assert (secret.stat().st_mode & 0o777, secret.parent.stat().st_mode & 0o777) == (0o444, 0o700)
    (head / ".env").unlink()
    examine.write_env(subject, head / ".env", OF_HEAD)
    assert secret.read_text() == first
    shutil.copytree(head / "group-secret", worker / "group-secret")
    (worker / "group-secret").chmod(0o755)
    subject = examine.inspect(FixtureHost("two-nodes-worker"), catalog, request)
    written = examine.write_env(subject, worker / ".env", OF_WORKER)
    assert written["GROUP_SECRET_FILE"] == "./group-secret/secret"
    assert (worker / "group-secret").stat().st_mode & 0o777 == 0o700


def test_no_umask_closes_the_secret_to_those_who_serve(tmp_path: Path) -> None:
    subject = examine.inspect(FixtureHost("two-nodes-head"), Catalog(), Request(target="h100", **TWO))  # type: ignore[arg-type]
    before = os.umask(0o077)
    try:
        examine.write_env(subject, tmp_path / ".env", OF_HEAD)
    finally:
        os.umask(before)
    secret = tmp_path / "group-secret/secret"
    assert (secret.stat().st_mode & 0o777, secret.parent.stat().st_mode & 0o777) == (0o444, 0o700)


@pytest.mark.parametrize(
    "text", ["", "short\n", "x" * 31, "x" * 31 + "\n", " " * 40, "x" * 32, f" {'x' * 32}\n", "ä" * 16]
)
def test_doctor_and_the_nodes_take_the_same_for_a_secret(text: str, tmp_path: Path) -> None:
    place = tmp_path / "secret"
    place.write_text(text)
    place.chmod(0o444)
    tmp_path.chmod(0o700)
    read_secret = loaded("group").read_secret
    read_secret.__globals__["SECRET"] = place
    host = FixtureHost("two-nodes-worker")
    host.stats[str(place)] = f"regular 444 1000 1000 {len(text.encode())}"
    host.stats[str(tmp_path)] = "directory 700 1000 1000 0"
    host.files[str(place)] = text
    report = examined(host, "h100", env_of(**OF_WORKER, GROUP_SECRET_FILE=str(place)), **TWO)
    (finding,) = [f for f in report.findings if f.id == "group-secret"]
    assert (finding.severity == "ok") == bool(read_secret()), finding


SECRET_FILE = "./group-secret/secret"


@pytest.mark.parametrize(
    ("path", "stats", "severity", "sentence"),
    [
        ("/dev/null", {}, "error", "This node has no secret of its group; a stranger could take its rank."),
        (SECRET_FILE, {}, "error", f"GROUP_SECRET_FILE={SECRET_FILE} does not exist; Compose refuses to start."),
        (SECRET_FILE, {SECRET_FILE: "regular 600 1000 1000 65"}, "error",
         f"User 2000:0, who serves, cannot read {SECRET_FILE}."),
        (SECRET_FILE, {SECRET_FILE: "regular 444 1000 1000 6"}, "error",
         f"{SECRET_FILE} is shorter than 32 bytes, and the nodes take no such secret."),
        (SECRET_FILE, {SECRET_FILE: "regular 644 1000 1000 65", "group-secret": "directory 755 1000 1000 0"}, "warning",
         f"Everybody on this host can read {SECRET_FILE} (0644)."),
        (SECRET_FILE, {SECRET_FILE: "regular 644 1000 1000 65", "group-secret": "directory 700 1000 1000 0"}, "ok",
         f"{SECRET_FILE} is the secret of this group."),
    ],
)  # fmt: skip
def test_the_secret_of_a_group_is_there_and_private(
    path: str, stats: dict[str, str], severity: str, sentence: str
) -> None:
    host = FixtureHost("two-nodes-worker")
    host.stats |= stats
    report = examined(host, "h100", env_of(**OF_WORKER, GROUP_SECRET_FILE=path), **TWO)
    assert [(f.severity, f.sentence) for f in report.findings if f.id == "group-secret"] == [
        (severity, sentence)
    ]


def of_nodes(report: Report) -> list[str]:
    return [line for line in lines(report) if re.match(r"\S+ (node|rdma|node-ports|port) ", line)]


def env_of(**values: str) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def test_a_head_and_a_worker_as_they_should_be() -> None:
    head = env_of(**OF_HEAD, HOST_IP="10.0.0.4", NIC="bond0")
    assert of_nodes(examined("two-nodes-head", "h100", head, **TWO)) == [
        "ok port 127.0.0.1:8000 is free.",
        "ok node Rank 0 of 2 nodes; 10.0.0.4 on bond0 is the head.",
        "ok rdma InfiniBand or RoCE devices: mlx5_0, mlx5_1, mlx5_10.",
        "ok node-ports The ports 29501, 29502 for the other nodes are free.",
    ]
    worker = env_of(**OF_WORKER, HOST_IP="10.0.0.5", NIC="bond0")
    assert of_nodes(examined("two-nodes-worker", "h100", worker, **TWO)) == [
        "ok node Rank 1 of 2 nodes; 10.0.0.5 on bond0 leads to the head 10.0.0.4.",
        "ok rdma InfiniBand or RoCE devices: mlx5_0, mlx5_1, mlx5_10.",
    ]


@pytest.mark.parametrize(
    ("host", "values", "fault"),
    [
        ("two-nodes-worker", {},
         "This node does not know its rank and its head yet (NODE_RANK and HEAD_ADDR in .env)."),
        ("two-nodes-worker", {**OF_WORKER, "NODE_RANK": "2"}, "NODE_RANK=2 is not a number from 0 to 1."),
        ("two-nodes-no-route", OF_WORKER,
         "There is no route to the head 10.0.0.4: RTNETLINK answers: Network is unreachable."),
        ("two-nodes-worker", OF_HEAD,
         "NODE_RANK=0, but HEAD_ADDR=10.0.0.4 is another host, and rank 0 is the head alone."),
        ("two-nodes-head", OF_WORKER,
         "NODE_RANK=1, but HEAD_ADDR=10.0.0.4 is this very host, and rank 0 is the head alone."),
        ("two-nodes-worker", {**OF_WORKER, "HOST_IP": "10.0.0.9", "NIC": "eno1"},
         "HOST_IP=10.0.0.9 and NIC=eno1 in .env, but this host reaches 10.0.0.4 from 10.0.0.5 on bond0."),
    ],
)  # fmt: skip
def test_what_keeps_a_node_out_is_said(host: str, values: dict[str, str], fault: str) -> None:
    report = examined(host, "h100", env_of(**values), **TWO)
    rank, head = values.get("NODE_RANK", "R"), values.get("HEAD_ADDR", "ADDR")
    remedy = (
        f"ernie-deploy doctor --write-env --node-rank {rank} --head {head} h100 --model 300b --nodes 2 --rdma"
    )
    assert [(f.severity, f.sentence, f.remedy) for f in report.findings if f.id == "node"] == [
        ("error", fault, remedy)
    ]


def test_rdma_unused_and_rdma_missing_are_said() -> None:
    worker = env_of(**OF_WORKER, HOST_IP="10.0.0.5", NIC="bond0")
    unused = examined("two-nodes-worker", "h100", worker, model="300b", nodes=2)
    assert (
        "warn rdma The devices mlx5_0, mlx5_1, mlx5_10 stay unused: between the nodes everything goes over TCP."
        in lines(unused)
    )
    host = FixtureHost("two-nodes-worker")
    host.stats = {path: said for path, said in host.stats.items() if "infiniband" not in path}
    missing_ = examined(host, "h100", worker, **TWO)
    assert (
        "FAIL rdma The plan hands over /dev/infiniband, but this host has no InfiniBand or RoCE device."
        in lines(missing_)
    )


def test_a_taken_port_of_the_head_is_said() -> None:
    host = FixtureHost("two-nodes-head")
    row = "   1: 00000000:733E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
    host.files["/proc/net/tcp"] = host.files["/proc/net/tcp"].rstrip("\n") + "\n" + row
    head = env_of(**OF_HEAD, HOST_IP="10.0.0.4", NIC="bond0")
    assert "FAIL node-ports Port 29502, where the other nodes will look for the head, is taken." in lines(
        examined(host, "h100", head, **TWO)
    )


@given(st.text(), st.text(), st.integers(0, 2))
def test_whatever_ip_prints_is_a_link_or_its_fault(route: str, addresses: str, code: int) -> None:
    link = read_link(Ran(code, route, ""), Ran(0, addresses, ""), ())
    assert isinstance(link, Link)
    assert link.fault or link.address or not link.interface


def test_one_node_has_no_place_among_several(tmp_path: Path) -> None:
    done = doctor("h100", "--node-rank", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "--node-rank and --head are about more than one node." in done.stderr
    asked = doctor("h100", "--model", "300b", "--nodes", "2", "--head", "10.0.0.4", "--dry-run", cwd=tmp_path)
    assert asked.stdout.splitlines().count("ip -j route get 10.0.0.4") == 1
    assert "ip -j address show" in asked.stdout


# --- this machine ---

DOCTOR = """
import sys
from ernie_deploy import cli
cli.COMMANDS.setdefault("doctor", ("doctor", ""))
cli.main(sys.argv[1:])
"""


# --- the packages of a model's own code

ARCHIVES = [(p.archive, p.size_bytes) for p in Catalog().packages.values()]
BOTH = "decord 0.6.0 and font-roboto 0.0.1"
REFUSED = Ran(53, "", f"packages: {ARCHIVES[0][0]} cannot be had from the package index at index.example (HTTP 403): check PIP_"
              "INDEX_URL, and so on, then run `docker compose up -d`\n")  # fmt: skip
COPY = "next: check PIP_INDEX_URL, HTTPS_PROXY and CA_BUNDLE in .env, or copy {} into the folder `archives` of PACKAGES_DIR"


def with_archives(folder: str, *, many: int = 2) -> "FixtureHost":
    host = FixtureHost("h100")
    host.stats[folder] = "directory 755 0 0 4096"
    for name, size in ARCHIVES[:many]:
        host.stats[f"{folder}/archives/{name}"] = f"regular file 644 0 0 {size}"
    return host


def test_an_index_that_lists_the_packages_is_asked_as_fetch_will() -> None:
    host = FixtureHost("h100")
    env = "PIP_INDEX_URL=https://index.example/simple\nHTTPS_PROXY=http://proxy:3128\nCA_BUNDLE=/etc/ca.pem\n"
    has(examined(host, "h100", env, model="vl-28b"), f"ok packages The package index lists {BOTH}.")
    assert host.index_env == {
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_CONFIG_FILE": "/dev/null",
        "HTTPS_PROXY": "http://proxy:3128",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    wanted = [package.requirement for package in Catalog().packages.values()]
    assert index_of(wanted) in host.asked


@pytest.mark.parametrize("options", [{}, {"model": "vl-28b", "extra_packages": "none"}])
def test_where_nothing_is_brought_no_index_is_asked(options: dict[str, object]) -> None:
    host = FixtureHost("h100")
    assert "packages" not in "\n".join(lines(examined(host, "h100", **options)))
    assert not any("find" in argv for argv in host.asked)


@pytest.mark.parametrize(
    ("env", "folder"),
    [("", "/var/lib/docker/volumes/ernie-packages/_data"), ("PACKAGES_DIR=/srv/packages", "/srv/packages")],
)
def test_archives_that_lie_here_need_no_index(env: str, folder: str) -> None:
    host = with_archives(folder)
    has(examined(host, "h100", env, model="vl-28b"), f"ok packages {BOTH} are in PACKAGES_DIR already.")
    assert not any("find" in argv for argv in host.asked)


def test_only_what_is_lacking_is_asked_for_and_named() -> None:
    host = with_archives("/srv/packages", many=1)
    host.ran["index"] = REFUSED
    report = examined(host, "h100", "PACKAGES_DIR=/srv/packages", model="vl-28b")
    sentence = f"{ARCHIVES[0][0]} cannot be had from the package index at index.example (HTTP 403)."
    has(report, f"FAIL packages {sentence}")
    assert COPY.format(ARCHIVES[1][0]) in "\n".join(lines(report))
    assert report.exit_code == 1
    (asked,) = [argv for argv in host.asked if "find" in argv]
    assert [word.partition("#")[0] for word in asked[4:]] == [ARCHIVES[1][0]]


def test_a_volume_that_cannot_be_seen_may_have_them() -> None:
    host = FixtureHost("h100")
    host.ran["index"] = REFUSED
    report = examined(host, "h100", model="vl-28b")
    assert f"warn packages {ARCHIVES[0][0]} cannot be had from the package index at index.example (HTTP 403), and whether the volume has it could not be seen." in lines(report)  # fmt: skip
    assert report.exit_code == 0


def test_an_index_that_never_answers_is_unknown() -> None:
    host = FixtureHost("h100")
    host.ran["index"] = Ran(TIMED_OUT)
    has(
        examined(host, "h100", model="vl-28b"),
        f"? packages The package index did not say in time whether it lists {BOTH}.",
    )


def test_packages_of_another_processor_are_refused_before_the_start() -> None:
    host = FixtureHost("h100")
    host.ran["kernel"] = Ran(0, "Linux 6.8.0 aarch64\n")
    report = examined(host, "h100", model="vl-28b")
    has(
        report,
        "FAIL packages decord 0.6.0, which the model's own code imports, is published for x86_64 alone.",
    )
    assert "next: use an image of your own that has decord, and: ernie-deploy render h100 --model vl-28b --extra-packages none" in "\n".join(lines(report))  # fmt: skip


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ("PACKAGES_DIR=elsewhere", "FAIL packages PACKAGES_DIR=elsewhere is neither a path nor the volume packages; Compose refuses it."),
        ("PACKAGES_DIR=/dev/kfd", "FAIL packages PACKAGES_DIR=/dev/kfd is not a folder."),
        ("PIP_CONFIG_FILE=/none/pip.conf", "FAIL pip-config PIP_CONFIG_FILE=/none/pip.conf does not exist; Compose refuses to start."),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_told(env: str, line: str) -> None:
    host = FixtureHost("h100")
    host.stats["/dev/kfd"] = "character special file 660 0 109 0"
    has(examined(host, "h100", env, model="vl-28b"), line)


def doctor(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the real command, whether or not the list of commands has it yet."""
    return subprocess.run(
        [sys.executable, "-c", DOCTOR, "doctor", *words],
        capture_output=True, text=True, timeout=120, cwd=cwd, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_command_examines_this_machine(tmp_path: Path) -> None:
    done = doctor("cpu", cwd=tmp_path)
    assert done.stderr == ""
    told = done.stdout.splitlines()
    assert told[0] == f"ERNIE 4.5 0.3B for cpu, vLLM {ENGINE}"
    assert re.fullmatch(r"\d+ checks: \d+ ok.*", told[-1])
    assert all(re.match(r"(ok|warn|FAIL|\?) +[a-z-]+ +\S|  +next: \S", line) for line in told[1:-1])
    report = json.loads(doctor("cpu", "--json", cwd=tmp_path).stdout)
    assert done.returncode == report["exit_code"]
    assert done.returncode in (0, 1, 6)
    assert list(tmp_path.iterdir()) == []


def test_write_env_on_this_machine_touches_nothing_but_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# mine\nPORT=9000\n")
    done = doctor("cpu", "--write-env", cwd=tmp_path)
    assert re.match(r"wrote .* to \.env\n|\.env is already right for this host\n", done.stderr)
    assert (tmp_path / ".env").read_text().startswith("# mine\nPORT=9000\n")
    assert [path.name for path in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize(("target", "times"), [("", 2), ("h100", 2), ("mi300x", 0), ("cpu", 0)])
def test_dry_run_prints_exactly_what_would_be_asked(target: str, times: int, tmp_path: Path) -> None:
    done = doctor(*([target] if target else []), "--dry-run", "--json", cwd=tmp_path)
    data = json.loads(done.stdout)
    host = FixtureHost("h100")
    examined(host, target)
    assert sorted(map(tuple, data["commands"])) == sorted(host.asked)
    assert sum(argv[0] == "nvidia-smi" for argv in data["commands"]) == times
    assert data["reads"] == list(READS)
    text = doctor("--dry-run", cwd=tmp_path).stdout
    assert "docker info --format '{{json .}}'\n" in text
    assert "# reads /proc/meminfo\n" in text


def test_a_broken_request_is_told_as_everywhere(tmp_path: Path) -> None:
    done = doctor("h10", cwd=tmp_path)
    assert done.returncode == 3
    assert "did you mean 'h100'?" in done.stderr
    assert doctor("cpu", "--model", "300b", "--dry-run", cwd=tmp_path).returncode == 4


def test_this_machine_answers_like_a_recorded_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = LocalHost()
    assert host.run(["no-such-command-here"]).rc == NOT_FOUND
    assert host.run([sys.executable, "-c", "print(1); raise SystemExit(3)"]) == Ran(3, "1\n", "")
    monkeypatch.setattr("ernie_deploy.host.probes.LONGEST_S", 0.2)
    assert host.run(["sleep", "5"]) == Ran(124, "", "sleep: no answer within 0.2 s")
    for number in (10, 9):
        (tmp_path / f"card{number}").write_text("a\r\n", newline="")
    assert host.glob(f"{tmp_path}/card*") == [f"{tmp_path}/card9", f"{tmp_path}/card10"]
    assert host.read(f"{tmp_path}/card9") == "a\r\n"
    assert host.read(f"{tmp_path}/none") is None
    found = host.stat(f"{tmp_path}/card9")
    assert found is not None
    assert (found.kind, found.size) == ("file", 3)
    assert host.stat(f"{tmp_path}/none") is None
    assert host.stat("a\0b") is None
    assert (host.free_bytes(str(tmp_path)) or 0) > 0
    assert host.free_bytes(f"{tmp_path}/none") is None


def test_every_host_has_its_line_in_the_list() -> None:
    listed = set(re.findall(r"`([a-z0-9-]+)`", (HOSTS / "README.md").read_text().partition("|---")[2]))
    assert {path.name for path in HOSTS.iterdir() if path.is_dir()} <= listed


def test_doctor_and_fetch_know_the_same_hub_cache() -> None:
    from ernie_deploy.host import file_checks

    script = (Path(__file__).parents[1] / "docker" / "scripts" / "fetch.py").read_text(encoding="utf-8")
    names = re.search(r"(?s)^HF_HOME = re\.compile\((.*?)^\)", script, re.MULTILINE)
    assert names
    assert "".join(re.findall(r'r"(.*)"', names[1])) == file_checks.HF_HOME.pattern
    assert f"HANDED_MODE = 0o{file_checks.HANDED_MODE:o}" in script
