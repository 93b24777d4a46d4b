"""A package's picture is the network's, tiled or not, with Ref and without."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sddusr.geometry.box import Box
from sddusr.imaging.images import read_picture, write_png
from sddusr.inference import super_resolve
from sddusr.inference.memory import Plan
from sddusr.portable.package import MANIFEST, Package
from sddusr.portable.upscale import PortablePlan
from sddusr.portable.upscale import super_resolve as run_package
from tests.conftest import textured
from tests.export.exporting import ROOT, seeded, small, write_package

pytest.importorskip("onnxruntime")

PRESETS = ("demo", "compact", "paper")
HR = textured(136, 156, seed=3)
LR = HR[::2, ::2].copy()
BOX = Box(37, 101, 42, 119)  # at no phase of the matching grid
REF = HR[BOX.y0 : BOX.y1, BOX.x0 : BOX.x1].copy()


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {name: write_package(name, "onnx", "float32", folder / name) for name in PRESETS}


def agree(made: np.ndarray, wanted: np.ndarray) -> None:
    """One level of 255 in 99.99 % of the pixels, and 60 dB."""
    error = np.abs(made - wanted)
    assert (error <= 1 / 255).mean() >= 0.9999
    assert -10 * math.log10(max(float(np.square(error).mean()), 1e-12)) >= 60


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("region_px", "tile_px"), [(78, 78), (78, 32)])
def test_the_package_makes_the_networks_picture(packages, preset, region_px, tile_px):
    model = seeded(small(preset))
    plan = Plan(region_px, tile_px, 64, torch.float32, kept_maps=0)
    wanted = super_resolve(model, LR, REF, BOX, plan=plan, matching="exact")
    made = run_package(
        Package(packages[preset], threads=1),
        LR,
        REF,
        BOX,
        plan=PortablePlan(region_px, tile_px, 24),
    )
    agree(made.sr, wanted.sr)
    assert made.box == wanted.box
    same = made.matches.key_index == wanted.matches.key_index
    assert same.mean() > 0.99
    if wanted.trust is not None:
        assert made.trust is not None
        np.testing.assert_allclose(made.trust, wanted.trust, atol=1e-3)


def test_without_ref_and_with_half_the_trust(packages):
    model = seeded(small("demo"))
    package = Package(packages["demo"], threads=1)
    for options in ({"without_ref": True}, {"trust": 0.5}):
        wanted = super_resolve(model, LR, REF, BOX, matching="exact", **options)
        made = run_package(package, LR, REF, BOX, **options)
        agree(made.sr, wanted.sr)
        assert made.without_ref == wanted.without_ref


def test_regions_with_sampled_pools(packages):
    lr = textured(100, 104, seed=5)
    ref, box = textured(80, 80, seed=6), Box(60, 140, 60, 140)
    model = seeded(small("demo"))
    plan = Plan(64, 64, 64, torch.float32, kept_maps=0)
    wanted = super_resolve(model, lr, ref, box, plan=plan, matching="exact")
    made = run_package(
        Package(packages["demo"], threads=1), lr, ref, box, plan=PortablePlan(64, 64, 64)
    )
    agree(made.sr, wanted.sr)


def test_the_command_runs_a_package_without_pytorch(packages, tmp_path):
    for name, pixels in (("wide", LR), ("tele", REF)):
        write_png(str(tmp_path / f"{name}.png"), pixels)
    hidden = "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; "
    command = [
        *("upscale", "wide.png", "tele.png", "--runtime", "onnx", "--out", "sr.png", "--explain"),
        *("--model", str(packages["demo"]), "--box", *map(str, BOX)),
    ]
    code = f"{hidden}sys.argv[1:] = {command!r}; from sddusr.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_picture(str(tmp_path / "sr.png")).pixels.shape == (136, 156, 3)
    record = json.loads((tmp_path / "sr.json").read_text())
    assert record["made_from"]["runtime"] == "onnx"
    assert (tmp_path / "sr.explain.jpg").exists()


def test_the_example_needs_the_manifest_alone(packages, tmp_path):
    write_png(str(tmp_path / "wide.png"), LR)
    script = ROOT / "examples" / "run_exported.py"
    command = [sys.executable, str(script), str(packages["demo"]), "wide.png", "sr.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = read_picture(str(tmp_path / "sr.png")).pixels.astype(np.float32) / 255
    wanted = super_resolve(seeded(small("demo")), LR, REF, BOX, without_ref=True)
    agree(made, wanted.sr.clip(0, 1))


def test_float16_and_pt2_are_within_their_bounds(tmp_path):
    half = write_package("demo", "onnx", "float16", tmp_path / "half")
    graphs = json.loads((half / MANIFEST).read_text())["graphs"]
    assert "Cast" in graphs["tile"]["operators"]
    made = run_package(Package(half, threads=1), LR, REF, BOX)
    wanted = super_resolve(seeded(small("demo")), LR, REF, BOX, matching="exact")
    error = np.square(made.sr - wanted.sr).mean()
    assert -10 * math.log10(error) > 45
    programs = write_package("demo", "pt2", "float32", tmp_path / "programs")
    with pytest.raises(ValueError, match="need 'onnx'"):
        Package(programs)
    program = torch.export.load(programs / "features.pt2").module()
    picture = torch.rand(1, 3, 30, 26)
    wanted_features = seeded(small("demo")).matching.features(picture)
    torch.testing.assert_close(program(picture), wanted_features)


def test_damage_and_other_folders_are_one_line(packages, tmp_path):
    with pytest.raises(ValueError, match="no exported package"):
        Package(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in packages["demo"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "features.onnx").write_bytes(b"x")
    package = Package(copy)
    with pytest.raises(ValueError, match="not the file that the manifest names"):
        package.first("features", np.zeros((1, 3, 8, 8)))
    (copy / MANIFEST).write_text('{"made_by": "sddusr export", "format": 99}')
    with pytest.raises(ValueError, match="this version reads 1"):
        Package(copy)
