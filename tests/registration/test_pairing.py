import json

import cv2
import numpy as np
import pytest
import skimage

from sddusr.geometry.box import crop
from sddusr.imaging.images import Metadata, Picture
from sddusr.registration import register as register_module
from sddusr.registration.color_match import ColorConfig
from sddusr.registration.pairing import (
    PairConfig,
    PreparedPair,
    prefiltered,
    prepare_pair,
    zoom_guess,
)
from sddusr.registration.register import NotRegistered, RegistrationConfig

AS_IT_IS = PairConfig(color=ColorConfig(kind="none"))
PLANE = PairConfig(color=ColorConfig(kind="none"), registration=RegistrationConfig(refine="none"))
TOP, LEFT = 130, 150
"""Where the tele view starts in the photograph."""


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return cv2.resize(skimage.data.coffee(), (600, 400), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def wide(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, (300, 200), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def tele(photo: np.ndarray) -> np.ndarray:
    return photo[TOP : TOP + 180, LEFT : LEFT + 260].copy()


@pytest.fixture(scope="module")
def prepared(wide: np.ndarray, tele: np.ndarray) -> PreparedPair:
    return prepare_pair(wide, tele, 2)


def away(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """By how many pixels x and y one picture is beside another."""
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64) for picture in (a, b)]
    window = cv2.createHanningWindow(greys[0].shape[::-1], cv2.CV_64F)
    (x, y), _ = cv2.phaseCorrelate(greys[0], greys[1], window)
    return x, y


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_ref_shows_what_hr_shows_where_hr_shows_it(photo, prepared):
    hr = crop(photo, prepared.box)
    assert np.abs(away(prepared.ref, hr)).max() < 0.1
    assert psnr(prepared.ref, hr) > 33
    beside = hr[:, 1:]
    assert np.abs(away(prepared.ref[:, 1:], hr[:, :-1])).max() > 0.9, beside.shape


def test_ref_lies_right_where_the_wide_picture_is_hr(photo, tele):
    larger = cv2.resize(tele, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    made = prepare_pair(photo, larger, 1, config=AS_IT_IS)
    hr = crop(photo, made.box)
    assert np.abs(away(made.ref, hr)).max() < 0.1
    assert psnr(made.ref, hr) > 33


def test_the_box_is_all_of_the_tele_view_that_the_grid_allows(prepared):
    box = prepared.box
    assert all(edge % 4 == 0 for edge in box)
    assert prepared.ref.shape[:2] == prepared.valid.shape == (box.height, box.width)
    assert np.abs(np.subtract(box, (TOP, TOP + 180, LEFT, LEFT + 260))).max() <= 5
    assert prepared.valid.all()


def test_the_record_tells_what_was_found(prepared):
    record = json.loads(json.dumps(prepared.record))
    assert record["decision"] == "registered"
    assert record["zoom"] == pytest.approx(2, rel=0.005)
    assert np.array(record["homography"])[:2, 2] == pytest.approx(
        [LEFT / 2 - 0.25, TOP / 2 - 0.25], abs=0.2
    )
    assert record["num_inliers"] <= record["num_matches"]
    assert record["flow"]["followed"] is False
    assert record["color"]["kind"] == "none"  # both were cut from one photograph
    assert record["ncc_after"] > 0.9


def test_ref_takes_the_wide_pictures_colors(photo, wide, tele):
    tinted = np.clip(tele * [0.8, 1.0, 1.15] + [20, 0, -8], 0, 255).astype(np.uint8)
    made = prepare_pair(wide, tinted, 2)
    apart = made.ref.astype(float) - crop(photo, made.box)
    assert np.abs(apart.mean((0, 1))).max() < 1.5
    left_alone = prepare_pair(wide, tinted, 2, config=AS_IT_IS).ref
    assert np.abs((left_alone.astype(float) - crop(photo, made.box)).mean((0, 1))).max() > 5


def test_ref_loses_the_tele_pictures_chroma_noise(photo, wide, tele):
    noise = np.random.default_rng(0).normal(0, 6, tele.shape)
    noisy = (tele + noise).round().clip(0, 255).astype(np.uint8)
    made = prepare_pair(wide, noisy, 2, config=AS_IT_IS)
    assert made.record["quality"]["chroma_noise"] == pytest.approx(6, rel=0.2)

    def chroma(picture: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(float)

    given = crop(noisy, made.box.shifted(-TOP, -LEFT))
    hr = crop(photo, made.box)
    before, after = (np.square(chroma(x) - chroma(hr)).mean() for x in (given, made.ref))
    assert after < 0.4 * before


def test_ref_keeps_the_tele_pictures_depth(wide, tele, prepared):
    deep = prepare_pair(wide, tele.astype(np.uint16) * 257, 2)
    assert deep.ref.dtype == np.uint16
    assert deep.box == prepared.box
    assert np.abs(deep.ref / 257 - prepared.ref).mean() < 1
    assert len(np.unique(deep.ref)) > 256
    assert prepare_pair(wide.astype(np.uint16) * 257, tele, 2).ref.dtype == np.uint8


def test_a_tele_picture_held_upright_lies_as_the_wide_one(photo, wide, tele):
    made = prepare_pair(wide, np.ascontiguousarray(np.rot90(tele)), 2, config=AS_IT_IS)
    assert np.abs(away(made.ref, crop(photo, made.box))).max() < 0.1


def two_layers(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wide, tele and HR: the tele camera sees the nearer half 12 pixels to the left."""
    near = np.roll(photo, -12, axis=1)
    near_share = cv2.GaussianBlur(
        (np.indices(photo.shape[:2])[0] > 240).astype(np.float32), (0, 0), 4
    )[..., None]
    seen = (photo * (1 - near_share) + near * near_share).astype(np.uint8)
    wide = cv2.resize(photo, (300, 200), interpolation=cv2.INTER_AREA)
    return wide, seen[TOP : TOP + 220, LEFT : LEFT + 300].copy(), photo


def test_parallax_is_followed(photo):
    wide, tele, hr = two_layers(photo)
    plane = prepare_pair(wide, tele, 2, config=PLANE)
    made = prepare_pair(wide, tele, 2, config=AS_IT_IS)
    assert made.record["flow"]["followed"]
    assert made.record["ncc_after"] > made.record["ncc_before"] + 0.05
    assert psnr(made.ref, crop(hr, made.box)) > psnr(plane.ref, crop(hr, plane.box)) + 2


def test_a_plane_is_left_as_the_homography_has_it(wide, tele):
    made = prepare_pair(wide, tele, 2, config=AS_IT_IS)
    np.testing.assert_array_equal(made.ref, prepare_pair(wide, tele, 2, config=PLANE).ref)


def test_detail_beyond_the_grid_does_not_alias():
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 2, (120, 120, 1)).repeat(3, axis=2).astype(np.uint8) * 255
    assert prefiltered(fine, 1.0) is fine
    assert prefiltered(fine, 3.0)[::3, ::3].std() < 0.5 * fine.std()
    smooth = np.tile(np.linspace(0, 255, 120).astype(np.uint8)[:, None, None], (1, 120, 3))
    assert np.abs(prefiltered(smooth, 3.0)[9:-9].astype(int) - smooth[9:-9]).max() <= 1


def test_a_centre_too_small_to_search_is_refused(wide, tele):
    asked = PairConfig(min_box_px=200)
    with pytest.raises(NotRegistered, match=r"covers 1\d\dx2\d\d HR pixels .* need 200 a side"):
        prepare_pair(wide, tele, 2, config=asked)


def test_a_tele_picture_or_a_box_too_long_to_resample_is_refused(wide, tele, monkeypatch):
    long = np.resize(tele, (32, 32_767, 3))
    with pytest.raises(NotRegistered, match="the tele picture is 32x32767 pixels, need at most"):
        prepare_pair(wide, long, 2)
    small = cv2.resize(tele, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    monkeypatch.setattr(register_module, "MAX_SIDE_PX", max(small.shape))
    with pytest.raises(NotRegistered, match=r"the box of the tele picture is 1\d\dx2\d\d pixels"):
        prepare_pair(wide, small, 2)


def test_the_zoom_is_guessed_from_focal_lengths_and_sizes(monkeypatch):
    lengths = {b"wide": 24.0, b"tele": 72.0, b"": None}
    monkeypatch.setattr(
        "sddusr.registration.pairing.focal_length_35mm", lambda metadata: lengths[metadata.exif]
    )

    def taken(exif: bytes, *shape: int) -> Picture:
        return Picture(np.zeros((*shape, 3), np.uint8), "", metadata=Metadata(exif=exif))

    wide = taken(b"wide", 300, 400)
    assert zoom_guess(wide, taken(b"tele", 150, 200)) == pytest.approx(1.5)
    assert zoom_guess(wide, taken(b"tele", 400, 300)) == pytest.approx(3.0)
    assert zoom_guess(wide, taken(b"", 300, 400)) is None


def test_a_scene_that_changed_between_the_pictures_is_refused(wide, tele):
    """The plane is right, half of what lies on it is not: a flow would tear it to fit."""
    changed = tele.copy()
    other = cv2.resize(skimage.data.brick(), (260, 180))[..., None].repeat(3, axis=2)
    changed[:, 110:] = other[:, 110:]
    for config in (PairConfig(), PLANE):
        with pytest.raises(NotRegistered, match=r"by 0\.\d+ only, .* need 0\.70; take both"):
            prepare_pair(wide, changed, 2, config=config)
    lenient = PairConfig(min_ncc=0.0)
    assert prepare_pair(wide, changed, 2, config=lenient).record["ncc_after"] < 0.7
