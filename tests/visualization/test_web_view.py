"""A view holds every layer on one grid, so that a slider compares pixel with pixel."""

import base64

import cv2
import numpy as np
import pytest

from sddusr.geometry.box import Box, crop
from sddusr.inference import Matches
from sddusr.types import Triplet
from sddusr.visualization import web_view
from sddusr.visualization.canvas import heatmap
from sddusr.visualization.web_view import (
    CONFIDENCE,
    KEY_MASK,
    MASK,
    REF,
    TRUST,
    TRUTH,
    build_web_view,
    view_place,
)
from tests.conftest import make_triplet

BOX = Box(33, 97, 38, 110)
CELLS = Box(9, 24, 10, 27)
"""The snapped box, in cells."""


@pytest.fixture(scope="module")
def triplet() -> Triplet:
    return make_triplet(box=BOX)


@pytest.fixture(scope="module")
def matches() -> Matches:
    rng = np.random.default_rng(0)
    return Matches(
        confidence=rng.random((32, 36)).astype(np.float32),
        query_mask=rng.random((32, 36)) < 0.5,
        key_mask=rng.random((15, 17)) < 0.5,
        key_index=np.zeros((32, 36), int),
        key_shape=(15, 17),
    )


def decoded(uri: str) -> np.ndarray:
    """RGB or RGBA."""
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    order = cv2.COLOR_BGRA2RGBA if picture.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(picture, order)


def decibel(a: np.ndarray, b: np.ndarray) -> float:
    """Of the brightness; WebP halves the density of colours."""
    a, b = (cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY).astype(float) for x in (a, b))
    return float(-10 * np.log10(((a - b) ** 2).mean() / 255**2))


def test_small_pictures_are_shown_whole_and_pixel_for_pixel(triplet):
    (frame,) = build_web_view(triplet, {"ours": triplet.hr[::-1]}, None)["frames"]
    assert frame["scale"] == 1
    assert list(frame["layers"]) == ["ours", REF, TRUTH]
    assert frame["overlays"] == {}
    assert decibel(decoded(frame["layers"][TRUTH]), triplet.hr) > 35
    assert decibel(decoded(frame["layers"]["ours"]), triplet.hr[::-1]) > 35
    assert frame["center"] == pytest.approx([33 / 128, 38 / 144, 64 / 128, 72 / 144])
    in_place = crop(decoded(frame["layers"][REF]), BOX)
    assert decibel(in_place[4:-4, 4:-4], triplet.ref[4:-4, 4:-4]) > 30


def test_large_pictures_are_shrunk_and_two_details_are_not(triplet, matches, monkeypatch):
    monkeypatch.setattr(web_view, "WHOLE_PX", 72)
    monkeypatch.setattr(web_view, "DETAIL_PX", 32)
    whole, *details = build_web_view(triplet, {}, matches)["frames"]
    assert whole["scale"] == 0.5
    assert decoded(whole["layers"][TRUTH]).shape == (64, 72, 3)
    assert len(details) == 2
    for detail in details:
        assert detail["scale"] == 1
        shape = decoded(detail["layers"][TRUTH]).shape[:2]
        assert {decoded(each).shape[:2] for each in detail["layers"].values()} == {shape}
        assert {decoded(each).shape[:2] for each in detail["overlays"].values()} == {
            (shape[0] // 4, shape[1] // 4)
        }


def test_overlays_cover_the_cells_that_were_dropped(triplet, matches):
    overlays = build_web_view(triplet, {}, matches)["frames"][0]["overlays"]
    assert np.array_equal(decoded(overlays[MASK])[..., 3] > 0, ~matches.query_mask)
    assert np.array_equal(decoded(overlays[CONFIDENCE])[..., 3] > 0, matches.query_mask)
    keys = decoded(overlays[KEY_MASK])[..., 3] > 0
    assert np.array_equal(crop(keys, CELLS), ~matches.key_mask)
    assert keys.sum() == (~matches.key_mask).sum()


def test_trust_is_an_overlay_of_its_own(triplet, matches):
    trust = np.linspace(0, 1, matches.confidence.size, dtype=np.float32)
    trust = trust.reshape(matches.confidence.shape)
    overlays = build_web_view(triplet, {}, matches, trust)["frames"][0]["overlays"]
    shown = decoded(overlays[TRUST])
    np.testing.assert_array_equal(shown[..., :3], heatmap(trust))
    assert (shown[..., 3] > 0).all()
    assert TRUST not in build_web_view(triplet, {}, matches)["frames"][0]["overlays"]


def test_views_stay_inside_their_folder():
    assert view_place("out", "a/b") == "out/views/a/b.json"
    with pytest.raises(ValueError, match="refused"):
        view_place("out", "../b")
