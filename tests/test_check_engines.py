"""`check` judges a file by the vLLM in its tags, whichever engine is the default, and each engine by its own facts."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from check_table import FOLDER, FORMS, text_of
from conftest import rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge
from ernie_deploy.paths import CATALOG

KNOWN = Catalog()
VERSIONS = KNOWN.ids("engines")
SERVED = '\n[[proofs]]\nstep = "served"\non = "2026-01-01"\nsource = "a test"\n'
FLAGS = {
    "--disable-log-requests": ("ED102", ""),
    "--swap-space=4": ("ED102", "ED102"),
    "--disable-prefix-caching": ("ED101", ""),
    "--enable-custom-all-reduce": ("ED101", ""),
    "--watchdog-config={}": ("ED101", ""),
    "--no-enable-prefix-caching": ("", ""),
    "--mamba-cache-mode=align": ("", "ED103"),
    "--ir-op-priority={}": ("", "ED103"),
    "--quantization=fp8": ("ED103", "ED103"),
    "--log-config-file=/l.json": ("ED103", "ED103"),
    "--disable-cascade-attn": ("ED103", "ED103"),
    '--structured-outputs-config={"backend":"lm-format-enforcer"}': ("", "ED103"),
    "--structured-outputs-config.backend=lm-format-enforcer": ("", "ED103"),
}


def written(version: str, *words: str, **more: object) -> str:
    """A file of one server of this version."""
    service = {
        "image": f"vllm/vllm-openai:v{version}",
        "command": ["baidu/ERNIE-4.5-21B-A3B-PT", *words],
        **more,
    }
    return yaml.safe_dump({"services": {"serve": service}})


WRITTEN = {
    **{
        f"{version}: {flag}": written(version, flag)
        for version in ("0.31.0", *VERSIONS, "0.34.0")
        for flag in FLAGS
    },
    **{form["form"]: text_of(form) for form in FORMS},
    **{path.name: path.read_text() for path in (FOLDER / "community.yml", FOLDER / "vendor.yml")},
    **{
        f"{target}, {v}": rendered(target, engine=v) for target in ("h100", "mi300x", "cpu") for v in VERSIONS
    },
}


def with_default(version: str, folder: Path) -> Catalog:
    """A copy of the catalog in which this engine alone was served."""
    shutil.copytree(CATALOG, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in VERSIONS:
        path = folder / "engines" / f"{name}.toml"
        text = re.sub(r'\[\[proofs\]\]\nstep = "served"\n(?:.+\n)*', "", path.read_text())
        path.write_text(text + (SERVED if name == version else ""))
    return Catalog(folder)


def test_the_default_engine_decides_nothing_of_what_check_finds(tmp_path: Path) -> None:
    catalogs = [with_default(version, tmp_path / version) for version in VERSIONS]
    assert [catalog.engine().version for catalog in catalogs] == VERSIONS
    for name, text in WRITTEN.items():
        verdicts = [judge(text.encode(), name, catalog) for catalog in catalogs]
        assert all(verdict == verdicts[0] for verdict in verdicts), name


@pytest.mark.parametrize("flag", FLAGS)
def test_each_version_has_its_own_flags(flag: str) -> None:
    for version, verdict in zip(("0.32.0", "0.33.0"), FLAGS[flag], strict=True):
        findings = judge(written(version, flag).encode(), "compose.yml", KNOWN)
        ids = [found.id for found in findings if found.id in ("ED101", "ED102", "ED103")]
        assert ids == [verdict] * bool(verdict), version


@pytest.mark.parametrize(
    "flag", ["--disable-fastapi-docs", "--no-disable-fastapi-docs", "--enable-fastapi-docs"]
)
def test_a_negative_of_0_33_opens_what_the_flag_closes(flag: str) -> None:
    """`--enable-fastapi-docs` is the opposite of the switch, not another name for it."""
    more = {"environment": {"VLLM_API_KEY": "${KEY}"}, "ports": ["0.0.0.0:8000:8000"]}
    findings = judge(written("0.33.0", flag, **more).encode(), "compose.yml", KNOWN)
    (found,) = (found for found in findings if found.id == "ED202")
    assert ("/docs" in found.sentence) == (flag != "--disable-fastapi-docs")
