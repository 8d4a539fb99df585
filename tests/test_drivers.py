"""The driver of a host chooses the image: which release it is, what runs on it, and the way where nothing does."""

from typing import Any

import pytest
from conftest import kit, planned
from hypothesis import given
from hypothesis import strategies as st
from test_doctor import FixtureHost, examined, lines

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.vendor_schema import DriverFacts
from ernie_deploy.errors import Refused
from ernie_deploy.host import auto, drivers
from ernie_deploy.host.docker_checks import version_of
from ernie_deploy.host.probes import Ran
from ernie_deploy.plan.request import Request

CATALOG = Catalog()
OLD, NEW = "0.32.0", "0.33.0"
ROCM = "vllm/vllm-openai-rocm:v"
CUDA = "vllm/vllm-openai:v"


def driver_of(vendor: str) -> DriverFacts:
    driver = CATALOG.vendor(vendor).driver  # type: ignore[arg-type]
    assert driver
    return driver


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("7.1.3.31500000", "31.50.0"),
        ("6.19.14.31400000-2370381", "31.40.0"),
        ("6.19.14.31400100", "31.40.1"),
        ("31.50.0", "31.50.0"),
        ("30.30.3", "30.30.3"),
        ("6.18.3", "31.10"),
        ("6.16.13", "30.30"),
        ("6.16.6", "30.20"),
        ("6.14.14", "30.10"),
        ("6.12.12", ""),
        ("of the kernel", ""),
        ("6.17.0-35", ""),
        ("", ""),
    ],
)
def test_the_release_behind_what_amdgpu_says_of_itself(version: str, release: str) -> None:
    assert drivers.release_of(version, driver_of("amd")) == release


def test_nvidia_says_its_release_itself() -> None:
    assert drivers.release_of("580.65.06", driver_of("nvidia")) == "580.65.06"


def test_the_modules_of_releases_stand_newest_first() -> None:
    rows = driver_of("amd").modules
    assert rows == sorted(rows, key=lambda row: version_of(row.module), reverse=True)
    assert rows == sorted(rows, key=lambda row: version_of(row.release), reverse=True)


@given(st.sampled_from(["nvidia", "amd"]), st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}", fullmatch=True))
def test_what_is_chosen_runs_and_nothing_before_it_does(vendor: Any, release: str) -> None:
    for engine in map(CATALOG.engine, CATALOG.ids("engines")):
        image = engine.images[vendor]
        chosen = drivers.fitting(image, release)
        order = list(image.variants)
        before = order[: order.index(chosen)] if chosen is not None else order
        assert chosen is None or drivers.runs(image.variants[chosen], release)
        assert not any(drivers.runs(image.variants[version], release) for version in before)


# Host, engine, the words that `auto` adds, the image that it takes.
CHOSEN = [
    ("amdgpu-30", OLD, {}, f"{ROCM}{OLD}"),
    ("amdgpu-30", NEW, {"rocm": "7.2"}, f"{ROCM}{NEW}-rocm72"),
    ("amdgpu-31", OLD, {}, f"{ROCM}{OLD}"),
    ("amdgpu-31", NEW, {}, f"{ROCM}{NEW}"),
    ("h100", OLD, {}, f"{CUDA}{OLD}"),
    ("h100", NEW, {}, f"{CUDA}{NEW}"),
    ("below-floor", OLD, {"cuda": "12.9"}, f"{CUDA}{OLD}-cu129"),
]


@pytest.mark.parametrize(("host", "engine", "fields", "image"), CHOSEN)
def test_auto_takes_the_image_that_the_driver_runs(
    host: str, engine: str, fields: dict[str, str], image: str
) -> None:
    request, sentence = auto.of_host(FixtureHost(host), CATALOG, Request(target="auto", engine=engine))
    target = "mi300x" if host.startswith("amdgpu") else "h100"
    assert request == Request(target=target, engine=engine, **fields)  # type: ignore[arg-type]
    assert sentence.startswith(f"looks like: {target}")
    assert planned(target, engine=engine, **fields).image == image
    # `doctor` without a target judges what `auto` renders.
    assert not [line for line in lines(examined(host, engine=engine)) if line.startswith("FAIL")]


def test_no_image_for_the_driver_is_an_error_with_the_way() -> None:
    with pytest.raises(Refused) as refusal:
        auto.of_host(FixtureHost("below-floor"), CATALOG, Request(target="auto", engine=NEW))
    assert refusal.value.what == f"No image of vLLM {NEW} runs on NVIDIA driver 570.158.01."
    assert refusal.value.cause == "it needs 580 or newer"
    assert refusal.value.next_step == f"update the driver, or ask for --engine {OLD} --cuda 12.9"


def test_auto_keeps_what_was_asked_for() -> None:
    asked = Request(target="auto", engine=NEW, rocm="10.0")
    request, _ = auto.of_host(FixtureHost("amdgpu-30"), CATALOG, asked)
    assert request.rocm == "10.0"


GAMING = "0, NVIDIA GeForce RTX 4090, GPU-0, 580.65.06, 24564, 1, Disabled\n"


@pytest.mark.parametrize(("host", "ran"), [("broken-driver", {}), ("h100", {"nvidia-gpus": Ran(0, GAMING)})])
def test_auto_does_not_guess_at_gpus_it_does_not_know(host: str, ran: dict[str, Ran]) -> None:
    machine = FixtureHost(host)
    machine.ran |= ran
    with pytest.raises(Refused, match=r"This host (looks like no target|has GPUs of NVIDIA)"):
        auto.of_host(machine, CATALOG, Request(target="auto"))


@pytest.mark.parametrize(
    ("host", "target", "engine", "expected"),
    [
        ("amdgpu-30", "mi300x", OLD, f"ok driver amdgpu 30.30 (module 6.16.13); no floor is known of {ROCM}{OLD}."),
        ("amdgpu-30", "mi300x", NEW,
         (f"FAIL driver amdgpu 30.30 (module 6.16.13) is below 31.50.0, which {ROCM}{NEW} needs.\n"
         f" next: update the driver to 31.50.0 or newer, or: ernie-deploy render mi300x --engine {NEW} --rocm 7.2")),
        ("amdgpu-31", "mi300x", OLD,
         f"ok driver amdgpu 31.50.0 (module 7.1.3.31500000); no floor is known of {ROCM}{OLD}."),
        ("amdgpu-31", "mi300x", NEW, "ok driver amdgpu 31.50.0 (module 7.1.3.31500000); the image needs 31.50.0."),
        ("amdgpu-in-tree", "mi300x", NEW,
         (f"? driver amdgpu of the kernel tells no release; {ROCM}{NEW} needs 31.50.0.\n"
         f" next: update the driver to 31.50.0 or newer, or: ernie-deploy render mi300x --engine {NEW} --rocm 7.2")),
        ("below-floor", "h100", OLD,
         (f"FAIL driver NVIDIA driver 570.158.01 is below 580, which {CUDA}{OLD} needs.\n"
         f" next: update the driver to 580 or newer, or: ernie-deploy render h100 --engine {OLD} --cuda 12.9")),
        ("below-floor", "h100", NEW,
         (f"FAIL driver NVIDIA driver 570.158.01 is below 580, which {CUDA}{NEW} needs.\n"
         f" next: update the driver to 580 or newer, or: ernie-deploy render h100 --engine {OLD} --cuda 12.9")),
        ("h100", "h100", OLD, "ok driver NVIDIA driver 580.65.06; the image needs 580."),
        ("h100", "h100", NEW, "ok driver NVIDIA driver 580.65.06; the image needs 580."),
    ],
)  # fmt: skip
def test_doctor_judges_the_driver_against_the_image(
    host: str, target: str, engine: str, expected: str
) -> None:
    report = "\n".join(lines(examined(host, target, engine=engine)))
    assert expected in report


@pytest.mark.parametrize("name", ["amd-version", "amd-driver"])
def test_the_tools_tell_the_driver_where_its_file_does_not(name: str) -> None:
    said = {
        "amd-version": "AMDSMI Tool: 27.0.0 | ROCm version: 10.0.0 | amdgpu version: 7.1.3.31500000 | hsmp version: N/A\n",
        "amd-driver": "======== ROCm System Management Interface ========\nDriver version: 7.1.3.31500000\n",
    }
    host = FixtureHost("amdgpu-31")
    host.files["/sys/module/amdgpu/version"] = ""
    host.ran[name] = Ran(0, said[name])
    assert "ok driver amdgpu 31.50.0 (module 7.1.3.31500000); the image needs 31.50.0." in lines(
        examined(host, "mi300x", engine=NEW)
    )


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["render", "h100", "--rocm", "7.2"], "There is no nvidia image of vLLM 0.32.0 for ROCm 7.2."),
        (["render", "mi300x", "--cuda", "12.9"], "There is no amd image of vLLM 0.32.0 for CUDA 12.9."),
        (["plan", "h100", "--engine", NEW, "--cuda", "12.9"], "There is no nvidia image of vLLM 0.33.0 for CUDA 12.9."),
        (["render", "h100", "--image", "me/vllm:1", "--rocm", "7.2"], "--image and --rocm exclude each other"),
    ],
)  # fmt: skip
def test_an_image_that_is_not_published_is_refused(words: list[str], fault: str) -> None:
    done = kit(*words)
    assert done.returncode
    assert fault in done.stderr


def test_the_platforms_own_version_asks_for_the_default_image() -> None:
    assert planned("mi300x", engine=NEW, rocm="10.0").image == f"{ROCM}{NEW}"
    assert planned("h100", cuda="13.0").image == planned("h100").image


def test_kernels_of_another_platform_are_kept_apart() -> None:
    names = {planned("mi300x", engine=NEW, **fields).engine_volume for fields in ({}, {"rocm": "7.2"})} | {
        planned("h100", **fields).engine_volume for fields in ({}, {"cuda": "12.9"})
    }
    assert names == {
        f"ernie-engine-21b-amd-{NEW}", f"ernie-engine-21b-amd-{NEW}-rocm7.2",
        f"ernie-engine-21b-nvidia-{OLD}", f"ernie-engine-21b-nvidia-{OLD}-cuda12.9",
    }  # fmt: skip


def test_a_rendering_for_this_host_names_its_target() -> None:
    done = kit("render", "auto", "--model", "0.3b")
    assert done.stdout.startswith("# ernie-deploy render cpu --model 0.3b\n") or done.returncode
    assert "this host looks like: " in done.stderr or "This host " in done.stderr
