"""A map in pieces is the map, whichever way it is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sddusr.geometry.box import Box
from sddusr.inference.feature_map import TiledFeatureMap
from sddusr.inference.tiles import cut, grown, overlap, tiles

side = st.integers(1, 24)


@given(size=st.tuples(side, side), tile=side, halo=st.integers(0, 5), put_tile=side, data=st.data())
def test_what_is_put_lies_in_every_piece_that_shows_it(size, tile, halo, put_tile, data):
    frame = Box(0, size[0], 0, size[1])
    whole = torch.randn(1, 3, *size)
    windows = [grown(core, halo, frame) for core in tiles(frame, tile, 1)]
    mosaic = TiledFeatureMap.empty(windows, 3, whole)
    for core in tiles(frame, put_tile, 1):
        mosaic.put(core, cut(whole, core))
    y0, x0 = (data.draw(st.integers(0, length - 1)) for length in size)
    y1, x1 = (data.draw(st.integers(a + 1, b)) for a, b in zip((y0, x0), size, strict=True))
    some = Box(y0, y1, x0, x1)
    assert torch.equal(mosaic.part(some), cut(whole, some))
    for window in windows:
        assert torch.equal(mosaic.take(window), cut(whole, window))


def test_a_piece_that_was_taken_is_no_longer_held():
    mosaic, box = TiledFeatureMap(), Box(0, 4, 0, 4)
    piece = torch.zeros(1, 2, 4, 4)
    mosaic.add(box, piece)
    assert mosaic.take(box) is piece
    with pytest.raises(KeyError):
        mosaic.take(box)


@given(edges=st.lists(st.integers(0, 6), min_size=8, max_size=8))
def test_an_overlap_holds_the_pixels_of_both(edges):
    first, second = (Box(*sorted(e[:2]), *sorted(e[2:])) for e in (edges[:4], edges[4:]))

    def pixels(box: Box | None) -> set[tuple[int, int]]:
        if box is None:
            return set()
        return {(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)}

    assert pixels(overlap(first, second)) == pixels(first) & pixels(second)
