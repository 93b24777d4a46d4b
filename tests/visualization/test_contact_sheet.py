from pathlib import Path

import numpy as np
import pytest

from sddusr.data.layouts import find
from sddusr.data.loading import Job, LoadedPair
from sddusr.geometry.box import Box, crop
from sddusr.imaging.images import Picture, read_rgb
from sddusr.registration.color_match import ColorMap
from sddusr.registration.pairing import PreparedPair
from sddusr.visualization.canvas import BLUE, GAP_PX, LABEL_PX, ORANGE
from sddusr.visualization.contact_sheet import (
    TILE_PX,
    contact_sheet,
    record_lines,
    write_contact_sheet,
)
from tests.phone import QUICK, VIEW, save_pair, scene, tele_of, wide_of

BOX = Box(68, 224, 92, 288)
GAIN = (0.9, 1.0, 0.8)

RECORD = {
    "homography": [[0.5, 0, 89.75], [0, 0.5, 65.75], [0, 0, 1.0]],
    "zoom": 2.0,
    "num_inliers": 123,
    "decision": "registered",
    "why": "",
    "color": ColorMap(np.diag(1 / np.array(GAIN)), np.zeros(3), "channels").record(),
}


@pytest.fixture(scope="module")
def drawn() -> tuple[LoadedPair, PreparedPair, np.ndarray]:
    wide = wide_of(scene(0))
    pair = LoadedPair("name", Picture(wide, ""), Picture(tele_of(scene(0), GAIN), ""))
    ref = np.ascontiguousarray(crop(wide, BOX))
    prepared = PreparedPair(ref, np.ones(ref.shape[:2], bool), BOX, RECORD)
    return pair, prepared, contact_sheet(pair, prepared)


def panel(sheet: np.ndarray, row: int, column: int, shape: tuple[int, ...]) -> np.ndarray:
    """A panel of the upper two rows, for pictures of these heights and widths in each."""
    heights = [round(TILE_PX * 320 / 400), round(TILE_PX * shape[0] / shape[1])]
    top = LABEL_PX + row * (heights[0] + LABEL_PX + GAP_PX) + LABEL_PX
    left = GAP_PX + column * (TILE_PX + GAP_PX)
    return sheet[top : top + heights[row], left : left + TILE_PX]


def edges_of(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """y0, y1, x0, x1 of the pixels of a colour."""
    ys, xs = np.nonzero((picture == color).all(-1))
    return np.array([ys.min(), ys.max() + 1, xs.min(), xs.max() + 1])


def test_teles_view_and_the_box_are_where_they_were_found(drawn):
    wide = panel(drawn[2], 0, 0, (156, 196))
    fit = TILE_PX / 400
    assert np.abs(edges_of(wide, BLUE) - np.array(BOX) * fit).max() <= 3
    assert np.abs(edges_of(wide, ORANGE) - np.array(VIEW) / 2 * fit).max() <= 3


def test_ref_is_shown_in_both_lenses_colours(drawn):
    ref = drawn[1].ref
    own, matched = (panel(drawn[2], 1, column, ref.shape) for column in (1, 2))
    np.testing.assert_allclose(matched.mean((0, 1)), ref.mean((0, 1)), atol=1)
    np.testing.assert_allclose(own.mean((0, 1)), ref.mean((0, 1)) * GAIN, atol=1)
    wide = panel(drawn[2], 1, 0, ref.shape)
    np.testing.assert_array_equal(wide, matched)


def test_every_number_of_a_record_is_written():
    lines = [*record_lines(RECORD | {"flow": {"median_px": 0.123456}, "guess": None})]
    assert "zoom  2" in lines
    assert "num_inliers  123" in lines
    assert lines[0] == "homography  0.5  0  89.75"
    assert "flow.median_px  0.1235" in lines
    assert "color.kind  channels" in lines
    assert not any(line.startswith(("why", "guess")) for line in lines)


def test_each_pair_gets_a_sheet_refused_or_not(tmp_path):
    save_pair(tmp_path, "good", 0)
    save_pair(tmp_path, "other", 1, other=9)
    save_pair(tmp_path, "torn", 2)
    torn = tmp_path / "tele" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:-60])
    job = Job(root=str(tmp_path), out="", quarantine=False, max_pixels=10**6)
    sheets = tmp_path / "sheets"
    whys = {
        source.id: write_contact_sheet(source, job, QUICK, str(sheets))
        for source in find("pairs", str(tmp_path)).sources
    }
    assert not whys["good"]
    assert whys["other"]
    assert "torn.png" in whys["torn"]
    assert {path.name for path in sheets.iterdir()} == {f"{name}.jpg" for name in whys}
    shown = {name: read_rgb(str(sheets / f"{name}.jpg")).pixels for name in whys}
    assert shown["good"].shape[0] > shown["other"].shape[0] > shown["torn"].shape[0]
    text = shown["torn"][LABEL_PX:]
    assert (text < 100).any()


def test_a_refused_pair_shows_both_pictures(tmp_path: Path):
    save_pair(tmp_path, "other", 1, other=9)
    job = Job(root=str(tmp_path), out="", quarantine=False, max_pixels=10**6)
    (source,) = find("pairs", str(tmp_path)).sources
    write_contact_sheet(source, job, QUICK, str(tmp_path))
    sheet = read_rgb(str(tmp_path / "other.jpg")).pixels
    for column, picture in enumerate((wide_of(scene(1)), tele_of(scene(9)))):
        shown = panel(sheet, 0, column, picture.shape)
        np.testing.assert_allclose(shown.mean((0, 1)), picture.mean((0, 1)), atol=1.5)
