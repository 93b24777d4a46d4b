"""Packages that onnxruntime runs, exported in long runs: tests/portable runs the same graphs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sddusr.export import package as exporter
from sddusr.export.card import table_row, write_card
from sddusr.export.package import export_package
from sddusr.export.parity import GraphReport, check_parity
from sddusr.export.specs import list_graphs
from sddusr.imaging.images import read_picture, write_png
from sddusr.inference import super_resolve
from sddusr.inference.memory import Plan
from sddusr.model.evidence import EMPTY, FULL
from sddusr.portable.memory import PortablePlan
from sddusr.portable.package import FORMAT, MANIFEST, Package
from sddusr.portable.upscale import super_resolve as run_package
from tests.export.exporting import ROOT, least, seeded, small, whole_network, write_package
from tests.portable.pictures import BOX, LR, REF, check_agreement, decibel

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.timeout(900)

PLAN = Plan(78, 32, 64, torch.float32, kept_maps=0)
PORTABLE_PLAN = PortablePlan(78, 32, 24)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Without mask, dictionary and detail skip: their graphs have tests of their own."""
    out = tmp_path_factory.mktemp("packages") / "baseline"
    return write_package("least", "baseline", "onnx", "float32", out)


@pytest.mark.long
def test_a_package_makes_the_networks_picture(package):
    wanted = super_resolve(seeded(least("baseline")), LR, REF, BOX, plan=PLAN, matching="exact")
    made = run_package(Package(package, threads=1), LR, REF, BOX, plan=PORTABLE_PLAN)
    check_agreement(made.sr, wanted.sr)


HIDDEN = """
import sys

class NoTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"{name} is hidden")

sys.meta_path.insert(0, NoTorch)
"""
"""Not a None in sys.modules: a library may look there for what was imported."""


def run_without_pytorch(model: Path, folder: Path) -> dict:
    """`sddusr upscale` where PyTorch cannot be imported; returns the record."""
    for name, pixels in (("wide", LR), ("tele", REF)):
        write_png(str(folder / f"{name}.png"), pixels)
    command = [
        *("upscale", "wide.png", "tele.png", "--runtime", "onnx", "--out", "sr.png", "--explain"),
        *("--model", str(model), "--box", *map(str, BOX)),
    ]
    code = f"sys.argv[1:] = {command!r}; from sddusr.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "sr.json").read_text())


@pytest.mark.long
def test_the_command_runs_a_package_without_pytorch(package, tmp_path):
    record = run_without_pytorch(package, tmp_path)
    assert record["made_from"]["runtime"] == "onnx"
    assert (tmp_path / "sr.explain.jpg").exists()
    made = read_picture(str(tmp_path / "sr.png")).pixels
    wanted = super_resolve(
        seeded(least("baseline")), LR, REF, BOX, dtype=np.uint8, matching="exact"
    )
    check_agreement(made / 255, wanted.sr / 255)


def run_example(package: Path, folder: Path) -> np.ndarray:
    """The example's picture of LR without Ref, in 0..1."""
    write_png(str(folder / "wide.png"), LR)
    script = ROOT / "examples" / "run_exported.py"
    command = [sys.executable, str(script), str(package), "wide.png", "example.png"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return read_picture(str(folder / "example.png")).pixels / np.float32(255)


@pytest.mark.long
def test_the_example_needs_the_manifest_alone(package, tmp_path):
    made = run_example(package, tmp_path)
    wanted = super_resolve(
        seeded(least("baseline")), LR, REF, BOX, without_ref=True, dtype=np.uint8
    )
    check_agreement(made, wanted.sr / np.float32(255))


@pytest.mark.long
def test_damage_and_other_folders_are_one_line(package, tmp_path):
    with pytest.raises(ValueError, match="no exported package"):
        Package(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in package.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "features.onnx").write_bytes(b"x")
    damaged = Package(copy)
    with pytest.raises(ValueError, match="not the file that the manifest names"):
        damaged.first("features", np.zeros((1, 3, 8, 8)))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"to": "pt2"}))
    with pytest.raises(ValueError, match="need 'onnx'"):
        Package(copy)
    (copy / MANIFEST).write_text('{"made_by": "sddusr export", "format": 99}')
    with pytest.raises(ValueError, match=f"this version reads {FORMAT}"):
        Package(copy)


def report_of(**changes) -> GraphReport:
    report = GraphReport(
        name="tile",
        file="tile.onnx",
        num_bytes=1000,
        operators={"Conv": 2, "Add": 1},
        max_error=1e-7,
        decibel=130.0,
        torch_ms=1.0,
        graph_ms=0.5,
    )
    return replace(report, **changes)


def test_a_graph_that_differs_is_refused():
    check_parity(report_of(), "float32")
    check_parity(report_of(max_error=0.01, decibel=51.0), "float16")
    with pytest.raises(ValueError, match=r"tile differs .* by 2.0e-04"):
        check_parity(report_of(max_error=2e-4), "float32")
    with pytest.raises(ValueError, match=r"float16 is within 49.0 dB"):
        check_parity(report_of(decibel=49.0), "float16")
    with pytest.raises(ValueError, match="differs"):
        check_parity(report_of(max_error=float("nan")), "float32")


def test_a_refused_graph_leaves_the_earlier_package(monkeypatch, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text('{"made_by": "sddusr export"}')
    monkeypatch.setattr(exporter, "_export_graph", lambda *args: report_of(max_error=1.0))
    config = least("baseline")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no package is written"):
        export_package(seeded(config), config, out, network="baseline", checkpoint_sha256="0")
    assert [file.name for file in out.iterdir()] == [MANIFEST]
    assert list(tmp_path.iterdir()) == [out]

    def refuse(*_):
        raise ValueError("no graphs of this network")

    monkeypatch.setattr(exporter, "list_graphs", refuse)
    with pytest.raises(ValueError, match="no graphs"):
        export_package(seeded(config), config, out, network="baseline", checkpoint_sha256="0")
    assert list(tmp_path.iterdir()) == [out]


def test_the_card_has_a_line_for_each_graph(tmp_path):
    path = write_card(tmp_path, "demo", "float32", [report_of()])
    assert "| tile | 0.00 | 1.0e-07 | 130.0 | 1.00 | 0.50 | Conv 2, Add 1 |" in path.read_text()
    assert "1.0e-07" in table_row(report_of())


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("preset", ["demo", "compact", "paper"])
def test_whole_networks(preset, tmp_path):
    out = write_package("whole", preset, "onnx", "float32", tmp_path / "package")
    model = seeded(whole_network(preset))
    opened = Package(out, threads=1)
    wanted = super_resolve(model, LR, REF, BOX, plan=PLAN, matching="exact")
    made = run_package(opened, LR, REF, BOX, plan=PORTABLE_PLAN)
    check_agreement(made.sr, wanted.sr)
    assert (made.matches.key_index == wanted.matches.key_index).mean() > 0.99
    without = super_resolve(model, LR, REF, BOX, without_ref=True, dtype=np.uint8)
    check_agreement(run_example(out, tmp_path), without.sr / np.float32(255))
    run_without_pytorch(out, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_float16_is_within_its_bound(tmp_path):
    half = write_package("small", "demo", "onnx", "float16", tmp_path / "half")
    graphs = json.loads((half / MANIFEST).read_text())["graphs"]
    assert "Cast" in graphs["tile"]["operators"]
    made = run_package(Package(half, threads=1), LR, REF, BOX)
    wanted = super_resolve(seeded(small("demo")), LR, REF, BOX, matching="exact")
    assert decibel(made.sr, wanted.sr) > 50


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_programs_of_torch_export(tmp_path):
    programs = write_package("small", "demo", "pt2", "float32", tmp_path / "programs")
    program = torch.export.load(programs / "features.pt2").module()
    picture = torch.rand(1, 3, 30, 26)
    wanted = seeded(small("demo")).matching.features(picture)
    torch.testing.assert_close(program(picture), wanted)


def test_the_example_of_evidence_passes_both_sides_of_its_gate():
    """Where Ref is the enlarged centre nothing of it is shown; a graph without that differs."""
    config = least("baseline")
    config = replace(config, detail=replace(config.detail, enabled=True))
    (spec,) = (x for x in list_graphs(seeded(config), config) if x.name == "evidence")
    ref, enlarged = spec.example({"h": 40, "w": 48})
    strength = (ref - enlarged).abs().mean(1)
    assert not strength[..., :12].any()
    assert EMPTY < strength[..., 12:24].mean() < FULL
    assert strength[..., 28:].mean() > 10 * FULL


def test_evidence_of_a_ref_that_is_the_centre_is_finite_in_a_graph(tmp_path):
    """The exporter drops an addend of 1e-8, which left 0 / 0 there."""
    config = least("baseline")
    config = replace(config, detail=replace(config.detail, enabled=True))
    (spec,) = (x for x in list_graphs(seeded(config), config) if x.name == "evidence")
    report = exporter._export_graph(spec, tmp_path, "onnx", "float32")
    check_parity(report, "float32")
