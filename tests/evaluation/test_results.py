"""An evaluation's numbers: means, paired gains, and files that hold the same rows."""

import json
import math

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from sddusr.evaluation.metrics import Scores
from sddusr.evaluation.results import (
    ImageScores,
    describe_flat_regions,
    gains,
    summarize,
    to_text,
)
from sddusr.evaluation.tables import read_tables, write_tables

ABOUT = {"data": "shards", "split": "test"}


def image(id: str, method: str, psnr: float, *, corner: float = 20.0, lpips: float | None = None):
    scores = Scores(psnr, 0.8, psnr + 1, 0.9, corner, 0.7)
    return ImageScores(id, method, "png8", scores, lpips)


@pytest.fixture
def images() -> list[ImageScores]:
    psnr = [24.125, 30.1, 27.3]
    return [
        image(f"picture-{number}", method, value + shift, lpips=0.25 - shift / 10)
        for number, value in enumerate(psnr)
        for method, shift in (("bicubic", 0.0), ("ours", 0.5))
    ]


def test_rows_survive_the_way_through_json(images):
    for each in images:
        assert ImageScores.from_row(json.loads(json.dumps(each.as_row()))) == each


def test_means_are_taken_for_each_method(images):
    bicubic, ours = summarize(images)
    assert (bicubic.method, ours.method, ours.num_pictures) == ("bicubic", "ours", 3)
    assert bicubic.scores.full_psnr == pytest.approx((24.125 + 30.1 + 27.3) / 3)
    assert ours.full_lpips == pytest.approx(0.2)


def test_a_picture_without_a_corner_is_left_out_of_the_corners_mean():
    rows = [image("a", "ours", 30.0), image("b", "ours", 40.0, corner=math.nan)]
    summary = summarize(rows)[0]
    assert (summary.scores.full_psnr, summary.scores.corner_psnr) == (35, 20)


def test_metrics_that_only_one_method_has_give_no_gain(images):
    some = [
        each._replace(full_lpips=None, others={"piq:gmsd": 0.5}) if each.method == "ours" else each
        for each in images
    ]
    for given in (some, [each._replace(method={"ours": "bicubic", "bicubic": "ours"}[each.method])
                         for each in some]):  # fmt: skip
        columns = {gain.column for gain in gains(given, "bicubic")}
        assert "full_psnr" in columns
        assert not columns & {"full_lpips", "piq:gmsd"}


def test_gains_pair_pictures_by_id_whatever_their_order(images):
    shuffled = images[::2] + images[::-2]
    for some in (images, shuffled):
        found = {gain.column: gain for gain in gains(some, "bicubic")}
        assert {gain.method for gain in found.values()} == {"ours"}
        assert found["full_psnr"].interval == pytest.approx((0.5, 0.5, 0.5))
        assert found["full_lpips"].interval == pytest.approx((-0.05, -0.05, -0.05))


def test_an_infinite_psnr_has_no_interval_and_is_said(images):
    perfect = [image(f"picture-{number}", "copy", math.inf) for number in range(3)]
    found = gains(images[::2] + perfect, "bicubic")
    intervals = {gain.column: gain.interval for gain in found}
    assert intervals["full_psnr"] is None
    assert intervals["full_ssim"] == (0, 0, 0)
    assert "PSNR not finite" in to_text(summarize(images[::2] + perfect), found, "")


def test_a_black_picture_is_named_and_left_out_of_every_mean(images, tmp_path):
    night = [
        image("night", "bicubic", math.inf, corner=math.inf, lpips=0.0),
        image("night", "ours", 50.0, lpips=0.1),
    ]
    for some in (images + night, night + images):
        assert summarize(some) == [
            each._replace(num_pictures=each.num_pictures + 1) for each in summarize(images)
        ]
        assert gains(some, "bicubic") == gains(images, "bicubic")
        assert describe_flat_regions(some) == (
            "left out of the means, black or of one colour: night (full); night (center); "
            "night (corner)"
        )
    text = to_text(summarize(images + night), [], "", describe_flat_regions(images + night))
    assert text.endswith("night (corner)")
    assert describe_flat_regions(images) == ""
    write_tables(str(tmp_path), night, summarize(night), gains(night, "bicubic"), text, ABOUT)
    assert "Infinity" not in (tmp_path / "summary.json").read_text()


def test_text_names_protocol_and_regions_and_says_why_lpips_is_missing():
    rows = [image("a", "bicubic", 27.66), image("a", "SDDuSR", 27.81, corner=27.41)]
    text = to_text(summarize(rows), gains(rows, "bicubic"), "not available: no internet")
    assert "protocol png8 (RGB, clamped and rounded to 8 bits" in text
    line = next(line for line in text.splitlines() if line.startswith("SDDuSR"))
    assert line.split() == [
        "SDDuSR",
        "27.81",
        "0.8000",
        "n/a",
        "28.81",
        "0.9000",
        "27.41",
        "0.7000",
    ]
    gain = next(line for line in text.splitlines() if line.startswith("SDDuSR") and "[" in line)
    assert gain.split()[:5] == ["SDDuSR", "full", "PSNR", "+0.150", "[+0.150,"]
    assert text.endswith("LPIPS: not available: no internet")


def test_csv_and_parquet_hold_the_same_rows(images, tmp_path):
    rows = [*images, image('odd, "name"', "ours", math.inf, corner=math.nan)]
    found = gains(images, "bicubic")
    places = write_tables(str(tmp_path), rows, summarize(rows), found, "the table", ABOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        place.rsplit("/", 1)[-1] for place in places
    )
    parquet = pq.read_table(tmp_path / "per_image.parquet")
    options = pyarrow.csv.ConvertOptions(column_types=parquet.schema, null_values=[""])
    csv = pyarrow.csv.read_csv(tmp_path / "per_image.csv", convert_options=options)
    expected = [each.as_row() for each in rows]
    for table in (parquet, csv):
        assert repr(table.to_pylist()) == repr(expected)  # repr, since nan differs from itself
    again, about = read_tables(str(tmp_path))
    assert (repr(again), about) == (repr(rows), ABOUT)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["means"][0]["full_psnr"] == pytest.approx(27.175)
    assert summary["gains"][0]["interval"]["mean"] == pytest.approx(0.5)


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no per_image\.parquet there; give the --out"):
        read_tables(str(tmp_path))
