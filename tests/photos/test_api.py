"""`from sddusr import load, upscale`: what the README promises."""

import subprocess
import sys

import numpy as np
import pytest

import sddusr
from sddusr import load, upscale
from sddusr.geometry.box import Box, crop
from sddusr.imaging.images import read_picture, write_png
from sddusr.photos.api import UpscaleResult
from sddusr.photos.options import UpscaleOptions
from sddusr.registration import register
from tests.conftest import textured

SCENE = textured(192, 256, 0)
WIDE, TELE = SCENE[::2, ::2].copy(), SCENE[48:144, 64:192].copy()


@pytest.fixture(scope="module")
def from_arrays() -> UpscaleResult:
    return upscale(WIDE, TELE, centered=True)


def test_arrays_in_an_array_and_a_record_out(from_arrays):
    assert from_arrays.image.shape == (192, 256, 3)
    assert from_arrays.image.dtype == np.uint8
    assert from_arrays.path is None
    assert from_arrays.record["result"]["box"] == [48, 144, 64, 192]
    assert from_arrays.record["device"] in ("cpu", "cuda")


def test_paths_give_the_same_and_a_file_with_its_record(tmp_path, from_arrays):
    wide, tele, out = (tmp_path / f"{name}.png" for name in ("wide", "tele", "sr"))
    write_png(str(wide), WIDE)
    write_png(str(tele), TELE)
    steps = []
    result = upscale(
        wide,
        str(tele),
        out,
        options=UpscaleOptions(box=(48, 144, 64, 192)),
        progress=lambda phase, share: steps.append(phase),
        device="cpu",
    )
    assert result.path == str(out)
    assert np.array_equal(result.image, from_arrays.image)
    assert np.array_equal(read_picture(str(out)).pixels, result.image)
    assert (tmp_path / "sr.json").exists()
    assert "super-resolving" in steps


def test_a_loaded_network_runs_on_prepared_images():
    network = load("compact", device="cpu")
    made = network(WIDE, TELE, (48, 144, 64, 192))
    as_it_is = upscale(WIDE, TELE, centered=True, register_ref="none")
    assert np.array_equal(made.sr, as_it_is.image)
    assert network.config.model.dim == 24
    assert crop(made.sr, Box(*made.box)).shape == TELE.shape


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quality": 0}, "--quality is 0, need 1 to 100"),
        ({"centered": True, "box": (0, 8, 0, 8)}, "give one of them"),
        ({"memory": "much"}, "--memory is 'much', need a size such as 4GB"),
        ({"checkpoint": "no/such/run"}, "networks that ship: compact"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        upscale(WIDE, TELE, **given)
    assert "\n" not in str(error.value)


def test_arrays_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"float64 of shape \(8, 8, 3\), need uint8 or uint16"):
        upscale(np.zeros((8, 8, 3)), TELE)


def test_the_public_names_are_documented_and_load_late():
    for name in sddusr.__all__:
        if name not in ("PRESETS", "__version__"):
            assert getattr(sddusr, name).__doc__
    script = "import sys, sddusr; print('torch' in sys.modules, sddusr.__version__); dir(sddusr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split()[0] == "False", done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sddusr.nothing


def test_inference_imports_without_modules_of_unix_alone():
    script = """
import builtins, importlib, os, pkgutil, torch, psutil, pyarrow, cv2, tyro

def hiding(name, where=None, *rest):
    importer = (where or {}).get("__name__", "")
    if name in ("resource", "fcntl", "pwd", "grp") and importer.startswith("sddusr"):
        raise ModuleNotFoundError(name)
    return real(name, where, *rest)

real, builtins.__import__ = builtins.__import__, hiding
del os.getuid
import sddusr
from sddusr import load, upscale
import sddusr.cli.main
for module in pkgutil.walk_packages(sddusr.__path__, "sddusr."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tele_image_too_long_to_register_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(register, "MAX_SIDE_PX", 100)
    wide, tele = (str(tmp_path / f"{name}.png") for name in ("wide", "tele"))
    write_png(wide, WIDE)
    write_png(tele, TELE)
    with pytest.raises(ValueError, match=r"tele\.png: Ref is 96x128 pixels, need at most 100"):
        upscale(wide, tele, tmp_path / "sr.png", centered=True, device="cpu")
