"""The rehearsal's remote code asks for what the published one asks for: each fault is seen, and gone with its remedy."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_checkpoints import SCRIPTS, checkpoints, hub
from test_dry_import import HANGS, NOT_IMPORTED, SCRIPT, fails

FONT = b"\0\1\0\0 a font"
MODULE = "processing_ernie4_5_vl.py"
ADDRESS = "http://hub:8080/materials/"


class Materials(hub.Hub):  # type: ignore[name-defined,misc]
    """The rehearsal's hub, which notes who asked for a material."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), {}, "hf_token")
        self.folder, self.asked = folder, 0
        self.RequestHandlerClass = Noting

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/materials/"


class Noting(hub.Handler):  # type: ignore[name-defined,misc]
    server: Materials

    def send_material(self, name: str) -> None:
        self.server.asked += 1
        super().send_material(name)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def materials(tmp_path: Path) -> Iterator[Materials]:
    (tmp_path / "materials").mkdir()
    (tmp_path / "materials/Roboto-Regular.ttf").write_bytes(FONT)
    server = Materials(tmp_path / "materials")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Model:
    """A tiny checkpoint without its weights, whose remote code downloads from the test's own hub."""

    def __init__(self, folder: Path, materials: Materials) -> None:
        self.folder, self.modules = folder / "vl", folder / "modules"
        self.site, self.font = folder / "site", folder / "font/Roboto-Regular.ttf"
        self.materials = materials
        for path in (self.folder, self.site, self.font.parent):
            path.mkdir()
        self.font.write_bytes(FONT)
        (self.site / "decord.py").write_text("class VideoReader: ...\n")
        figures = checkpoints.KINDS["vl"]
        checkpoints.write_json(self.folder / "config.json", checkpoints.config(figures))
        checkpoints.write_tokenizer(self.folder, figures)

    def imported(
        self, *, without: tuple[str, ...] = (), packages: bool = True, font: bool = True, limit_s: int = 60
    ) -> subprocess.CompletedProcess[str]:
        """Try the dry import with some of the demands, and some of the remedies."""
        checkpoints.write_remote_code(self.folder, without)
        module = self.folder / MODULE
        module.write_text(module.read_text().replace(ADDRESS, self.materials.address))
        words = ["--model", str(self.folder), "--timeout-s", str(limit_s)]
        words += ["--path", str(self.site)] if packages else []
        words += ["--file", f"{self.font}=sha256:{hashlib.sha256(FONT).hexdigest()}"] if font else []
        return subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, *words, "--", "echo", "engine"],
            capture_output=True, text=True, timeout=300,
            env={"PATH": os.environ["PATH"], "HF_MODULES_CACHE": str(self.modules), "NO_PROXY": "*"},
        )  # fmt: skip

    @property
    def fonts(self) -> set[bytes]:
        """What stands beside the modules for a font."""
        return {path.read_bytes() for path in self.modules.rglob("*.ttf")}


@pytest.fixture
def model(tmp_path: Path, materials: Materials) -> Model:
    for name in ("transformers", "torch", "sentencepiece"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    return Model(tmp_path, materials)


@pytest.mark.timeout(300)
def test_with_both_remedies_it_is_imported_and_nothing_is_downloaded(model: Model) -> None:
    result = model.imported()
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["engine"]), result.stderr
    assert (model.fonts, model.materials.asked) == ({FONT}, 0)


@pytest.mark.timeout(300)
def test_without_the_package_it_is_not_imported(model: Model) -> None:
    fails(model.imported(packages=False), NOT_IMPORTED, "needs decord, a Python package")
    result = model.imported(packages=False, without=("decord",))
    assert result.returncode == 0, result.stderr


@pytest.mark.timeout(300)
def test_without_the_font_it_hangs_where_nobody_answers(model: Model) -> None:
    line = (model_text := (SCRIPTS / "remote_code" / MODULE).read_text()).splitlines()
    number = next(count for count, text in enumerate(line, 1) if "requests.get(FONT_ADDRESS)" in text)
    assert "timeout" not in model_text
    fails(model.imported(font=False, limit_s=8), HANGS, f"stands at {MODULE}:{number}")
    assert model.materials.asked == 1


@pytest.mark.timeout(300)
def test_without_the_font_a_page_becomes_one(model: Model) -> None:
    model.materials.materials = hub.PAGE
    assert model.imported(font=False).returncode == 0
    assert model.fonts == {b'{"error": "no Roboto-Regular.ttf"}'}


@pytest.mark.timeout(300)
def test_without_the_font_it_is_downloaded_where_it_can_be(model: Model) -> None:
    model.materials.materials = str(model.materials.folder)
    assert model.imported(font=False).returncode == 0
    assert model.fonts == {FONT}
    assert model.materials.asked > 0


@pytest.mark.timeout(300)
def test_code_that_looks_for_no_font_downloads_none(model: Model) -> None:
    result = model.imported(font=False, without=("font", "sentencepiece"))
    assert result.returncode == 0, result.stderr
    assert (model.fonts, model.materials.asked) == (set(), 0)


@pytest.mark.parametrize("without", [(), *((name,) for name in checkpoints.NEEDS), checkpoints.NEEDS])
def test_each_demand_can_be_left_out(without: tuple[str, ...]) -> None:
    text = checkpoints.remote_code(SCRIPTS / "remote_code" / MODULE, without)
    compile(text, MODULE, "exec")
    for name in checkpoints.NEEDS:
        assert (f"# needs: {name}" in text) == (name not in without)


def test_the_checkpoints_script_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    checkpoints.main([str(tmp_path), "vl", "--without", "decord", "--without", "font"])
    text = (tmp_path / "vl" / MODULE).read_text()
    assert "import decord" not in text
    assert "import sentencepiece" in text
