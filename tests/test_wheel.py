"""The wheel holds sddusr alone, with the weights that ship, and works without any extra."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sddusr.imaging.images import write_png
from tests.photos.test_api import TELE, WIDE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

COMMANDS = [*(f"pipelines/{name}.py" for name in ("preprocess", "train", "evaluate")),
            *(f"pipelines/{name}.py" for name in ("super_resolve", "report", "demo")),
            "tune/search_tokens.py"]  # fmt: skip


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


def core_distributions() -> list[metadata.Distribution]:
    """What the core of `pip install sddusr` brings, as it is installed here."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(text) for text in PROJECT["dependencies"]]
    while waiting:
        wanted = waiting.pop()
        environments = [{"extra": extra} for extra in ("", *wanted.extras)]
        if canonicalize_name(wanted.name) in found and not wanted.extras:
            continue
        try:
            dist = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            continue  # of another platform or extra
        found[canonicalize_name(wanted.name)] = dist
        for text in dist.requires or []:
            needed = Requirement(text)
            if not needed.marker or any(map(needed.marker.evaluate, environments)):
                waiting.append(needed)
    return list(found.values())


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory) -> Path:
    """The commands of an environment that holds the wheel and its core dependencies alone, linked
    from where the tests run, so that nothing is downloaded or copied."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for dist in core_distributions():
        for name in {file.parts[0] for file in dist.files or []} - {"..", "bin", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(dist.locate_file(name))))
    run([sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps",
         "--no-index", "--quiet", wheel], folder)  # fmt: skip
    return folder / "bin"


def run(command: list, folder: Path, wanted: int = 0) -> str:
    """What a command says, elsewhere than in the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == wanted, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def pair(tmp_path) -> Path:
    for name, pixels in (("wide", WIDE), ("tele", TELE)):
        write_png(str(tmp_path / f"{name}.png"), pixels)
    return tmp_path


def test_upscaling_needs_no_extra(core, pair):
    assert run([core / "sddusr", "--version"], pair) == f"sddusr {PROJECT['version']}\n"
    command = [core / "sddusr", "upscale", "wide.png", "tele.png", "--out", "sr.png", "--centered"]
    run(command, pair)
    assert (pair / "sr.png").exists()


@pytest.mark.long
def test_info_and_python_need_no_extra(core, pair):
    assert "checkpoint" in run([core / "sddusr", "info"], pair)
    code = """
from sddusr import load, upscale
print(upscale("wide.png", "tele.png", centered=True).image.shape)
print(type(load("compact")).__name__, load.__module__)
"""
    said = run([core / "python", "-c", code], pair)
    assert f"({2 * WIDE.shape[0]}, {2 * WIDE.shape[1]}, 3)" in said
    assert "Network" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_its_extra_names_it(core, tmp_path, command):
    said = run([core / "python", ROOT / command, "demo"], tmp_path, wanted=2)
    assert said.count("\n") == 1
    assert said.startswith("error: ray, ")
    assert "pip install 'sddusr[pipeline]'" in said
