import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from sddusr.imaging.exif import describe_pixels, focal_length_35mm, orientation, tiff_directory

SHORT, LONG, RATIONAL = "H", "I", "II"
KINDS = {SHORT: 3, LONG: 4, RATIONAL: 5}
MAIN, EXIF = {}, {0xA002: (LONG, 400), 0xA003: (LONG, 300)}
THUMBNAIL = b"\xff\xd8a picture as it was\xff\xd9"


def block(main: dict, exif: dict, order: str = "<", thumbnail: bytes = b"") -> bytes:
    """An EXIF block with fields of one value each, and a thumbnail at its end."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]

    def directory(start: int, fields: dict, following: int) -> bytes:
        entries, values = b"", b""
        values_at = start + 2 + 12 * len(fields) + 4
        for tag, (kind, *numbers) in sorted(fields.items()):
            value = struct.pack(order + kind, *numbers)
            if len(value) > 4:
                entry = struct.pack(order + "I", values_at + len(values))
                values += value
            else:
                entry = value.ljust(4, b"\0")
            entries += struct.pack(order + "HHI", tag, KINDS[kind], 1) + entry
        head = struct.pack(order + "H", len(fields))
        return head + entries + struct.pack(order + "I", following) + values

    main = {**main, 0x8769: (LONG, 0)}
    inner_at = 8 + len(directory(8, main, 0))
    inner = directory(inner_at, exif, 0)
    second_at = inner_at + len(inner)
    fields = {0x0201: (LONG, second_at + 30), 0x0202: (LONG, len(thumbnail))}
    second = directory(second_at, fields, 0) if thumbnail else b""
    first = directory(8, main | {0x8769: (LONG, inner_at)}, second_at if thumbnail else 0)
    return mark + struct.pack(order + "I", 8) + first + inner + second + thumbnail


def fields_of(data: bytes) -> dict[int, object]:
    exif = Image.Exif()
    exif.load(data)
    return {**exif, **exif.get_ifd(0x8769)}


@pytest.mark.parametrize("order", "<>")
def test_the_block_tells_what_the_new_pixels_are(order):
    old = block({0x0112: (SHORT, 6), 0x0100: (SHORT, 400)}, EXIF, order, THUMBNAIL)
    assert orientation(old) == 6
    new = describe_pixels(old, 70_000, 60_000)
    assert orientation(new) == 1
    told = fields_of(new)
    assert (told[0x0100], told[0xA002], told[0xA003]) == (60_000, 60_000, 70_000)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_is_none_leaves_the_pixels(value):
    assert orientation(block({0x0112: (SHORT, value)}, EXIF)) == 1


def test_a_block_that_was_cut_behind_its_first_directory_still_turns_the_picture():
    first = 8 + 2 + 12 * 2
    for length in (first, first + 4, first + 20):
        cut = block({0x0112: (SHORT, 6)}, EXIF)[:length]
        assert orientation(cut) == 6
        assert orientation(describe_pixels(cut, 9, 9)) == 1
        assert describe_pixels(cut, 9, 9)


@pytest.mark.parametrize("after", [b"", b"more"])
def test_the_thumbnail_of_the_old_picture_is_gone_and_nothing_else_moves(after):
    old = block({0x0112: (SHORT, 1)}, EXIF, thumbnail=THUMBNAIL) + after
    new = describe_pixels(old, 300, 400)
    assert THUMBNAIL[2:-2] in old
    assert THUMBNAIL[2:-2] not in new
    assert new.endswith(after)
    assert len(new) == len(old) - (0 if after else len(THUMBNAIL))
    first, second = Image.Exif(), Image.Exif()
    first.load(old)
    second.load(new)
    assert first.get_ifd(0x8769) == second.get_ifd(0x8769)


def test_a_makers_note_keeps_its_place():
    note = b"Maker\0\0\0 with offsets of its own"
    exif = Image.Exif()
    exif[0x0112] = 8
    exif[0x8769] = {0x927C: note, 0xA002: 10, 0xA003: 10}
    old = exif.tobytes().removeprefix(b"Exif\0\0")
    assert describe_pixels(old, 99, 98).index(note) == old.index(note)


@pytest.mark.parametrize(
    ("fields", "focal"),
    [
        ({0xA405: (SHORT, 77)}, 77),
        # 3000 px at 500 px a mm are a sensor 6 mm wide.
        ({0x920A: (RATIONAL, 5, 1), 0xA20E: (RATIONAL, 500, 1), 0xA210: (SHORT, 4)}, 30),
        ({0x920A: (RATIONAL, 5, 1), 0xA20E: (RATIONAL, 5000, 1), 0xA210: (SHORT, 3)}, 30),
        ({0x920A: (RATIONAL, 5, 1), 0xA20E: (RATIONAL, 12700, 1), 0xA210: (SHORT, 2)}, 30),
        ({0x920A: (RATIONAL, 5, 1), 0xA20E: (RATIONAL, 12700, 1)}, 30),
        ({0xA405: (SHORT, 0), 0x920A: (RATIONAL, 5, 1)}, None),
        ({0xA405: (SHORT, 65_535)}, None),
        ({0x920A: (RATIONAL, 5, 0), 0xA20E: (RATIONAL, 500, 1)}, None),
        ({0x920A: (RATIONAL, 5, 1), 0xA20E: (RATIONAL, 0, 0)}, None),
        ({0x920A: (RATIONAL, 5, 1), 0xA20E: (RATIONAL, 500, 1), 0xA210: (SHORT, 9)}, None),
        ({}, None),
    ],
)
def test_the_focal_length_is_what_the_camera_says_or_none(fields, focal):
    size = {0xA002: (LONG, 3000), 0xA003: (SHORT, 2000)}
    assert focal_length_35mm(block(MAIN, fields | size)) == pytest.approx(focal)


def test_the_focal_length_stays_when_the_picture_grows_or_turns():
    fields = {
        0x920A: (RATIONAL, 5, 1),
        0xA20E: (RATIONAL, 13_337, 3),
        0xA20F: (RATIONAL, 13_337, 3),
    }
    old = block(MAIN, EXIF | fields)
    for size in ((600, 800), (800, 600), (300, 400), (150, 200)):
        new = describe_pixels(old, *size)
        assert focal_length_35mm(new) == pytest.approx(focal_length_35mm(old), rel=1e-4)


WHOLE = block({0x0112: (SHORT, 3), 0x0100: (SHORT, 4)}, EXIF, thumbnail=THUMBNAIL)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: b"II*\0" + data))
@example(b"II*\0\x08\0\0\0")
@example(b"MM\0*\xff\xff\xff\xff")
@example(WHOLE[:-1])
def test_garbage_says_nothing(data):
    assert orientation(data) in range(1, 9)
    assert describe_pixels(data, 5, 5) == b"" or data.startswith(b"II*\0")
    tiff_directory(data).tobytes()


@given(st.lists(st.tuples(st.integers(4, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
def test_a_damaged_block_is_carried_or_dropped_and_never_an_error(flips):
    data = bytearray(WHOLE)
    for place, value in flips:
        data[place] = value
    focal = focal_length_35mm(bytes(data))
    assert focal is None or np.isfinite(focal)
    new = describe_pixels(bytes(data), 9, 8)
    assert len(new) <= len(data)
    assert orientation(new) == 1
    tiff_directory(new).tobytes()
