"""Metrics of other libraries: against a literal formula, by name, and never without weights."""

import re
import socket

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sddusr.evaluation import other_metrics
from sddusr.evaluation.other_metrics import LEARNED, METRICS, choose, measure_others
from sddusr.evaluation.results import ImageScores, gains, summarize, to_text
from sddusr.evaluation.scoring import EvaluationConfig, score_triplet
from sddusr.evaluation.tables import read_tables, write_tables
from sddusr.evaluation.without_truth import score_without_truth
from sddusr.geometry.box import Box
from sddusr.imaging.images import write_png
from sddusr.inference import bicubic, to_tensor
from tests.conftest import make_triplet, textured

pytest.importorskip("piq", reason="the extra metrics is not installed")
pytest.importorskip("skimage", reason="the extra metrics is not installed")

TRUTH = textured(192, 224, seed=1)
BLURRED = cv2.GaussianBlur(TRUTH, (0, 0), 1.2)


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    """No metric may ask for anything."""

    def refuse(*_):
        raise AssertionError("a metric opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def gmsd(left: np.ndarray, right: np.ndarray) -> float:
    """Xue et al. 2014 as they write it, for 8-bit pictures of even sides, in float64."""

    def gradient(picture: np.ndarray) -> np.ndarray:
        luma = picture.astype(np.float64) @ [0.299, 0.587, 0.114]
        half = (luma[::2, ::2] + luma[1::2, ::2] + luma[::2, 1::2] + luma[1::2, 1::2]) / 4
        padded = np.pad(half, 1)
        rows, cols = half.shape
        sums = np.zeros((2, rows, cols))
        for y in range(3):
            for x in range(3):
                shifted = padded[y : y + rows, x : x + cols]
                sums += np.array([(1 - x) / 3, (1 - y) / 3])[:, None, None] * shifted
        return np.sqrt((sums**2).sum(0))

    ours, theirs = gradient(left), gradient(right)
    similarity = (2 * ours * theirs + 170) / (ours**2 + theirs**2 + 170)
    return float(np.sqrt(((similarity - similarity.mean()) ** 2).mean()))


def test_gmsd_is_the_papers_formula():
    made = measure_others(["piq:gmsd"], to_tensor(BLURRED), to_tensor(TRUTH), "a")["piq:gmsd"]
    assert made == pytest.approx(gmsd(BLURRED, TRUTH), abs=2e-6)
    assert 0.01 < made < 0.3


def measurable() -> list[str]:
    return [
        f"{library}:{function}"
        for library, functions in METRICS.items()
        for function, metric in functions.items()
        if not metric.weights
    ]


def test_every_metric_prefers_the_truth_as_it_says():
    names = measurable()
    blurred = measure_others(names, to_tensor(BLURRED), to_tensor(TRUTH), "a")
    sharp = measure_others(names, to_tensor(TRUTH), to_tensor(TRUTH), "a")
    assert list(blurred) == names
    for name in names:
        library, _, function = name.partition(":")
        better = METRICS[library][function].better
        assert np.isfinite([blurred[name], sharp[name]]).all()
        if better != "neither":
            assert (sharp[name] > blurred[name]) == (better == "higher"), name
    for name in ("piq:gmsd", "piq:multi_scale_gmsd"):
        assert sharp[name] == pytest.approx(0, abs=1e-6)
    for name in ("piq:fsim", "piq:vsi", "piq:haarpsi", "piq:multi_scale_ssim"):
        assert sharp[name] == pytest.approx(1, abs=1e-4)


def test_values_are_rounded_to_8_bits_first():
    shifted = to_tensor(TRUTH) + 0.3 / 255
    names = ["piq:gmsd", "skimage:blur_effect"]
    assert measure_others(names, shifted, to_tensor(TRUTH), "a") == measure_others(
        names, to_tensor(TRUTH), to_tensor(TRUTH), "a"
    )


@pytest.mark.parametrize("name", [*LEARNED, "DISTS", "brisque"])
def test_what_needs_weights_gives_a_reason_and_no_number(name, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    chosen = choose([f"piq:{name},gmsd"])
    assert chosen.names == ("piq:gmsd",)
    (note,) = chosen.notes.values()
    assert note.startswith("not measured: ")
    assert "\n" not in note


def test_brisque_is_measured_where_its_weights_lie(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / "brisque_svm_weights.pt"
    place.parent.mkdir()
    torch.save((torch.ones(8, 1), torch.rand(8, 36)), place)
    assert choose(["piq:brisque"], with_truth=False) == (("piq:brisque",), {})
    made = measure_others(["piq:brisque"], to_tensor(TRUTH), None, "a")
    assert np.isfinite(made["piq:brisque"])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["gmsd"], "--metrics has 'gmsd', need words such as piq:gmsd,fsim"),
        (["piq:"], "--metrics has 'piq:', need words"),
        (["piq:gmds"], "--metrics has piq:gmds, piq has gmsd, "),
        (["sewar:vifp"], "--metrics has library 'sewar', need one of piq, skimage"),
        (["pyiqa:gmsd"], "pyiqa's opencv-python-headless replaces the OpenCV"),
    ],
)
def test_a_wrong_name_is_refused(given, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        choose(given)


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(other_metrics, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'sddusr\[metrics\]'"):
        choose(["piq:gmsd"])


def test_a_picture_that_is_too_small_is_named():
    small = to_tensor(TRUTH[:64, :64])
    with pytest.raises(ValueError, match=r"cannot measure a of ours \(64x64\): Invalid size"):
        measure_others(["piq:multi_scale_ssim"], small, small, "a of ours")


def scored() -> list[ImageScores]:
    images = []
    for number in range(3):
        triplet = make_triplet(f"p-{number}", "test", box=Box(32, 96, 36, 108), seed=number)
        low = bicubic(triplet.lr)
        better = low + np.float32(0.5) * (triplet.hr / np.float32(255) - low)
        pictures = {"bicubic": low, "ours": better}
        names = ["piq:gmsd", "skimage:blur_effect"]
        images += score_triplet(triplet, pictures, ("kedusr-float", "png8"), metrics=names)
    return images


def test_they_reach_tables_means_and_gains(tmp_path):
    images = scored()
    assert all((image.others is not None) == (image.protocol == "png8") for image in images)
    summaries, differences = summarize(images), gains(images, "bicubic")
    text = to_text(summaries, differences, "no", "", {"piq:dists": "not measured: why"})
    assert "piq:gmsd" in text
    assert "piq:dists: not measured: why" in text
    places = write_tables(str(tmp_path), images, summaries, differences, text, {"data": "d"})
    assert read_tables(str(tmp_path))[0] == images
    assert {place.rpartition("/")[2] for place in places} >= {"means.csv", "means.parquet"}
    ours = next(s for s in summaries if (s.method, s.protocol) == ("ours", "png8"))
    values = [i.others["piq:gmsd"] for i in images if i.others and i.method == "ours"]
    assert ours.others is not None
    assert ours.others["piq:gmsd"] == pytest.approx(np.mean(values))
    means = pq.read_table(tmp_path / "means.parquet").to_pylist()
    row = next(row for row in means if (row["method"], row["protocol"]) == ("ours", "png8"))
    assert row["piq:gmsd"] == ours.others["piq:gmsd"]
    assert row["num_pictures"] == 3
    gain = next(each for each in differences if each.column == "piq:gmsd")
    assert gain.interval is not None
    assert gain.interval.mean < 0


def test_pictures_without_hr_are_measured_without_it(tmp_path):
    for method, picture in (("sharp", TRUTH), ("soft", BLURRED)):
        for number in range(2):
            write_png(str(tmp_path / method / f"{number}.png"), picture)
    config = EvaluationConfig(
        sr_dir=(str(tmp_path / "sharp"), str(tmp_path / "soft")),
        metrics=("skimage:blur_effect", "piq:musiq"),
        out=str(tmp_path / "out"),
    )
    text = score_without_truth(config)
    assert "piq:musiq: not measured: MUSIQ is a trained network" in text
    rows = pq.read_table(tmp_path / "out" / "means.parquet").to_pylist()
    assert [(row["method"], row["num_pictures"]) for row in rows] == [("sharp", 2), ("soft", 2)]
    assert rows[0]["skimage:blur_effect"] < rows[1]["skimage:blur_effect"]
    assert (tmp_path / "out" / "per_image.csv").read_text().count("\n") == 5


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"metrics": ("piq:gmsd",)}, "compares with HR; give --data"),
        ({}, "no --data; without it, need --sr-dir and --metrics"),
        ({"metrics": ("piq:gmsd",), "data": "d", "protocols": ("y",)}, "belong to the protocol"),
    ],
)
def test_what_needs_hr_is_refused_without_it(options, line):
    with pytest.raises(ValueError, match=line):
        EvaluationConfig(sr_dir=("a",), **options)
