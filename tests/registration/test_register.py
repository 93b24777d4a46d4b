import cv2
import numpy as np
import pytest
import skimage

from sddusr.geometry.homography import corner_points, resizing, transform, view_of
from sddusr.registration.register import NotRegistered, RegistrationConfig, register

WIDE = (256, 320)


def grey_photo(name: str) -> np.ndarray:
    photo = cv2.cvtColor(getattr(skimage.data, name)(), cv2.COLOR_RGB2GRAY)
    return cv2.resize(photo, (2 * WIDE[1], 2 * WIDE[0]), interpolation=cv2.INTER_AREA)


def view(zoom, shape=(240, 300), angle_deg=0.0, shift=(0, 0), lean=0.0) -> np.ndarray:
    """Tele to wide: scaled, turned, moved by x, y wide pixels, leaning by a share of the size."""
    corners, angle = corner_points(shape), np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    ends = (corners - corners.mean(0)) @ turn + (np.array(WIDE[::-1]) - 1) / 2 + shift
    ends[:2] += lean * (ends[:2] - ends[:2].mean(0))
    pairs = (corners.astype(np.float32), ends.astype(np.float32))
    return cv2.getPerspectiveTransform(*pairs)


def take(photo: np.ndarray, truth: np.ndarray, shape=(240, 300)) -> tuple[np.ndarray, np.ndarray]:
    """A wide picture half as dense as the photograph, and the tele picture of `truth`."""
    rng = np.random.default_rng(0)
    wide = cv2.resize(photo, WIDE[::-1], interpolation=cv2.INTER_AREA)
    to_photo = resizing(2.0, 2.0) @ truth @ resizing(0.5, 0.5)
    tele = cv2.warpPerspective(
        photo, np.linalg.inv(to_photo), (2 * shape[1], 2 * shape[0]), flags=cv2.INTER_CUBIC
    )
    tele = cv2.resize(tele, shape[::-1], interpolation=cv2.INTER_AREA)
    noisy = 0.8 * tele + 20 + rng.normal(0, 3, shape)
    return wide, np.clip(noisy, 0, 255).astype(np.uint8)


def error_hr_px(found, truth: np.ndarray, shape=(240, 300)) -> float:
    corners = corner_points(shape)
    apart = transform(found.homography, corners) - transform(truth, corners)
    return 2 * float(np.linalg.norm(apart, axis=1).max())


@pytest.mark.parametrize(
    "truth",
    [
        view(1.3),
        view(2.0, shift=(40, -30)),
        view(3.0, angle_deg=8, shift=(-20, 20)),
        view(4.5, shift=(30, 10)),
        view(1.8, angle_deg=-4, lean=0.1),
    ],
    ids=["slight", "off the middle", "turned", "strong", "leaning"],
)
def test_the_corners_are_found_to_a_fraction_of_a_pixel(truth):
    wide, tele = take(grey_photo("coffee"), truth)
    found = register(wide, tele)
    assert error_hr_px(found, truth) < 0.8
    assert found.view.zoom == pytest.approx(view_of(truth, tele.shape, wide.shape).zoom, rel=0.01)
    assert found.ncc > 0.9


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_tele_picture_held_another_way_is_found(quarter_turns):
    truth = view(2.0, shift=(10, 20))
    wide, tele = take(grey_photo("astronaut"), truth)
    found = register(wide, np.ascontiguousarray(np.rot90(tele, quarter_turns)))
    turn = abs((found.view.rotation_deg + 180) % 360 - 180)
    assert turn == pytest.approx((90, 180, 90)[quarter_turns - 1], abs=0.5)
    assert found.view.zoom == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("zoom_guess", [None, 2.5, 1.3, 5.0])
def test_a_wrong_guess_of_the_zoom_does_no_harm(zoom_guess):
    truth = view(2.5, shift=(15, -15))
    wide, tele = take(grey_photo("coffee"), truth)
    assert error_hr_px(register(wide, tele, zoom_guess=zoom_guess), truth) < 0.8


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (view(1.02), "zoom .* is 1.02, need at least 1.2; check that"),
        (
            view(2.0, angle_deg=30),
            "rotation off a quarter turn, in degrees, is (30|29.9|30.1), need at most 15",
        ),
        (view(2.0, shift=(155, 0)), "inside the wide one is 0.5.*, need at least 0.6"),
        (view(2.0, lean=0.5), "(perspective|anisotropy) is .*, need at most"),
    ],
    ids=["no zoom", "turned", "outside", "leaning"],
)
def test_a_view_beyond_the_limits_is_refused_with_the_measured_number(truth, reason):
    with pytest.raises(NotRegistered, match=reason):
        register(*take(grey_photo("coffee"), truth))


def test_a_denser_sensor_is_no_longer_lens():
    """Six tele pixels for a wide one at a field zoom of two, as of 12 and 108 megapixels."""
    wide, tele = take(grey_photo("coffee"), view(2.0))
    dense = cv2.resize(tele, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert register(wide, dense).view.zoom == pytest.approx(6, rel=0.01)
    with pytest.raises(NotRegistered, match=r"zoom .* need at most 1\.5"):
        register(wide, dense, config=RegistrationConfig(max_zoom=1.5))


def test_a_limit_can_be_moved():
    wide, tele = take(grey_photo("coffee"), view(2.0, angle_deg=30))
    found = register(wide, tele, config=RegistrationConfig(max_rotation_deg=40.0))
    assert abs(found.view.rotation_deg) == pytest.approx(30, abs=0.3)


def test_a_tele_picture_of_another_place_is_refused():
    photos = [grey_photo(name) for name in ("astronaut", "coffee", "cat", "rocket")]
    taken = [take(photo, view(2.0)) for photo in photos]
    for index, (wide, _) in enumerate(taken):
        with pytest.raises(NotRegistered, match="is not found in the wide one: "):
            register(wide, taken[index - 1][1])


def test_pictures_that_show_nothing_are_refused():
    flat = np.full(WIDE, 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, WIDE).astype(np.uint8)
    for wide, tele in ((flat, flat), (flat, noise), (noise, flat)):
        with pytest.raises(NotRegistered, match="0 places look alike"):
            register(wide, tele)


def test_few_matches_need_a_better_likeness():
    wide, tele = take(grey_photo("coffee"), view(2.0))
    asked = RegistrationConfig(few_inliers=10_000, min_ncc_of_few=1.1)
    with pytest.raises(
        NotRegistered, match=r"correlation of detail with \d+ matches is .*, need at least 1.1"
    ):
        register(wide, tele, config=asked)


def test_the_same_pair_gives_the_same_homography():
    pair = take(grey_photo("coffee"), view(3.0, angle_deg=3))
    np.testing.assert_array_equal(register(*pair).homography, register(*pair).homography)


def test_swapped_pictures_and_the_same_picture_twice_are_said_for_what_they_are():
    wide, tele = take(grey_photo("coffee"), view(2.0))
    with pytest.raises(
        NotRegistered, match=r"the pictures are swapped: .* is 0\.5, .*wide picture f"
    ):
        register(tele, wide)
    with pytest.raises(NotRegistered, match=r"both pictures show the same view: .* is 1, need"):
        register(wide, wide)


def test_the_largest_zoom_that_is_taken_is_ten():
    assert RegistrationConfig().max_zoom == 10.5
