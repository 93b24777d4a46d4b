"""A Ref on its box is moved onto the centre and brought to its colours, or left where it fits."""

import cv2
import numpy as np
import pytest
import skimage

from sddusr.data.sample_images import degrade, tele_view
from sddusr.geometry.box import Box, check_box, crop
from sddusr.registration.register import NotRegistered
from sddusr.registration.residual import RefRegistration, enlarged_center, fill, register_ref
from sddusr.registration.visible import visible_mask

PHOTOS = ("coffee", "astronaut", "chelsea")


def photo(name: str) -> np.ndarray:
    picture = getattr(skimage.data, name)()[..., :3]
    height, width = (side // 4 * 4 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[:height, :width])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def true_steps(record: dict, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Where each pixel of Ref came from in HR, minus its place, on a grid over the box."""
    height, width = shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + np.array(record["ref_corner_shifts_px"], np.float32)
    homography = cv2.getPerspectiveTransform(corners, moved)
    y, x = np.mgrid[box.y0 : box.y1 : 9j, box.x0 : box.x1 : 9j]
    points = np.stack([x.ravel(), y.ravel()], 1)[:, None]
    return (cv2.perspectiveTransform(points, homography) - points)[:, 0]


@pytest.mark.parametrize("name", PHOTOS)
def test_the_motion_that_is_left_over_is_found_to_a_fifth_of_a_pixel(name: str) -> None:
    hr = photo(name)
    made = degrade(hr, name, full_ref=False)
    found = register_ref(made.lr, made.ref, made.box)
    homography = np.array(found.record["homography"])
    steps = true_steps(made.record, made.box, hr.shape)
    y, x = np.mgrid[0 : made.box.height : 9j, 0 : made.box.width : 9j]
    # Ref shows at p + step what HR shows at p, so the way to the centre is −step.
    at = np.stack([x.ravel(), y.ravel()], 1) + steps
    back = cv2.perspectiveTransform(at[:, None], homography)[:, 0] - at
    error = np.linalg.norm(back + steps, axis=1)
    assert np.median(error) < 0.2, error
    truth = crop(hr, made.box)
    assert psnr(found.ref, truth) > psnr(made.ref, truth) + 3


def test_a_ref_that_fits_is_left_as_it_is_but_for_its_colors() -> None:
    hr = photo("coffee")
    box = Box(101, 301, 150, 450)
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ref = np.ascontiguousarray(crop(hr, box))
    found = register_ref(lr, ref, box)
    assert not found.record["followed"]
    assert found.valid.all()
    np.testing.assert_array_equal(found.ref, ref)


def test_colors_are_brought_to_the_wide_pictures() -> None:
    hr = photo("astronaut")
    box = Box(100, 400, 100, 400)
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ref = np.clip(crop(hr, box) * np.array([0.8, 1.0, 1.1]) + 6, 0, 255).astype(np.uint8)
    found = register_ref(lr, ref, box)
    inner = (slice(8, -8), slice(8, -8))
    assert psnr(found.ref[inner], crop(hr, box)[inner]) > 35


def test_none_returns_ref_untouched() -> None:
    hr = photo("chelsea")
    made = degrade(hr, "chelsea", full_ref=False)
    found = register_ref(made.lr, made.ref, made.box, "none")
    np.testing.assert_array_equal(found.ref, made.ref)
    assert found.record == {"method": "none"}


def test_a_dark_tele_picture_is_brought_back() -> None:
    hr = photo("coffee")
    box = Box(100, 300, 160, 440)
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    dark = np.rint(crop(hr, box) * 0.125).astype(np.uint8)
    found = register_ref(lr, dark, box)
    gain = np.diag(np.array(found.record["color"]["matrix"])).mean()
    assert gain == pytest.approx(8, rel=0.1)


def test_bars_and_transparent_places_show_nothing() -> None:
    tele = photo("coffee")[:200, :300].copy()
    tele[:20] = tele[-24:] = 0
    mask = visible_mask(tele)
    assert not mask[:20].any()
    assert not mask[-24:].any()
    assert mask[30:-34].all()
    alpha = np.full(tele.shape[:2], 255, np.uint8)
    alpha[90:110, 90:110] = 128
    hole = visible_mask(tele, alpha)
    assert not hole[90:110, 90:110].any()
    assert hole[60:80].all()


def test_what_shows_nothing_is_filled_with_the_enlarged_centre() -> None:
    hr = photo("coffee")
    box = Box(100, 300, 160, 440)
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ref = np.ascontiguousarray(crop(hr, box))
    ref[:30] = 0
    found = register_ref(lr, ref, box)
    center = enlarged_center(lr, box)
    np.testing.assert_array_equal(found.ref[:30], center[:30])
    np.testing.assert_array_equal(fill(ref, center, found.valid)[:30], center[:30])
    assert found.record["valid_share"] < 0.87


def test_bars_do_not_draw_the_flow_beside_them_along() -> None:
    """Ref lies where it should; what the black edges look like to the search must not move it."""
    hr = photo("chelsea")
    box = Box(40, 280, 60, 380)
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ref = np.ascontiguousarray(crop(hr, box))
    ref[:30] = ref[-30:] = 0
    found = register_ref(lr, ref, box)
    assert not found.record["flow"]["followed"]
    assert not found.record["followed"]
    assert found.record["ncc_before"] > 0.97
    assert not found.valid[:30].any()
    assert found.valid[32:-32].all()


def test_the_enlarged_centre_is_cut_from_the_enlarged_picture_at_any_phase() -> None:
    hr = photo("chelsea")
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    everything = enlarged_center(lr, Box(0, 2 * lr.shape[0], 0, 2 * lr.shape[1]))
    for box in (Box(0, 40, 0, 60), Box(33, 97, 51, 120), Box(100, 101, 7, 9)):
        np.testing.assert_array_equal(enlarged_center(lr, box), crop(everything, box))


@pytest.mark.parametrize("method", ["homography", "auto"])
@pytest.mark.parametrize("side", [11, 12])
def test_the_smallest_box_is_registered(side: int, method: RefRegistration) -> None:
    """`check_box` lets 11 px pass, for which there is no optical flow."""
    hr, box = photo("coffee"), Box(101, 101 + side, 150, 150 + side)
    check_box(box, hr.shape, "coffee")
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    found = register_ref(lr, np.ascontiguousarray(crop(hr, box)), box, method)
    assert found.ref.shape == (side, side, 3)
    assert not found.record["followed"]


def test_a_ref_too_long_to_resample_is_refused() -> None:
    ref = np.random.default_rng(0).integers(0, 256, (12, 32_767, 3), np.uint8)
    lr = np.ascontiguousarray(ref[:6, :16_384])
    with pytest.raises(NotRegistered, match="Ref is 12x32767 pixels, need at most 32766 a side"):
        register_ref(lr, ref, Box(0, 12, 0, 32_767))
    longest = register_ref(lr, np.ascontiguousarray(ref[:, 1:]), Box(0, 12, 0, 32_766))
    assert longest.ref.shape == (12, 32_766, 3)


def test_another_tele_view_is_registered_over_the_whole_picture() -> None:
    hr = photo("chelsea")
    lr = cv2.resize(hr, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ref, _ = tele_view(hr, np.random.default_rng(3))
    found = register_ref(lr, ref, Box(0, hr.shape[0], 0, hr.shape[1]))
    inner = (slice(8, -8), slice(8, -8))
    assert psnr(found.ref[inner], hr[inner]) > psnr(ref[inner], hr[inner]) + 3
