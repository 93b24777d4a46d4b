"""The wheel holds sddusr alone, with the weights that ship, and upscales without any extra."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sddusr.imaging.images import write_png
from tests.photos.test_api import TELE, WIDE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

OF_EXTRAS = ["ray", "mlflow", "lpips", "optuna", "jinja2", "markupsafe", "matplotlib", "yaml"]
OF_EXTRAS += ["skimage", "sklearn", "pandas", "scipy", "pillow_heif"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("sddusr", "pipelines", "tune"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", out, "."]
    subprocess.run([sys.executable, *command], cwd=source, check=True, timeout=240)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_sddusr_its_weights_and_its_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sddusr"}
    assert "sddusr/pretrained/compact/model.safetensors" in names
    assert "sddusr/py.typed" in names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sddusr").rglob("*.py")}
    assert modules <= set(names)


def test_the_wheel_has_the_command_and_every_extra(wheel):
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = [name for name in content.namelist() if name.endswith("/METADATA")]
        text = content.read(metadata).decode()
        entry_points = content.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert "sddusr = sddusr.cli.main:main" in entry_points
    for extra in PROJECT["optional-dependencies"]:
        assert f"Provides-Extra: {extra}" in text


def test_upscaling_needs_no_extra(wheel, tmp_path):
    """Run from the unpacked wheel, with the packages of all extras hidden."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for name, pixels in (("wide", WIDE), ("tele", TELE)):
        write_png(str(tmp_path / f"{name}.png"), pixels)
    script = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OF_EXTRAS!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
sys.path.insert(0, "site")
from sddusr.cli.main import main
import sddusr
assert sddusr.__file__.startswith({str(tmp_path)!r}), sddusr.__file__
sys.argv = ["sddusr", "upscale", "wide.png", "tele.png", "--out", "sr.png", "--centered"]
main()
"""
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sr.png").exists()
