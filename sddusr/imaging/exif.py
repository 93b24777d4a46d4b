"""EXIF blocks, edited where they lie: nothing moves, so the offsets in a maker's note stay true."""

import contextlib
import math
import struct
import warnings
from fractions import Fraction
from typing import Any, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_PREFIX = b"Exif\0\0"
TIFF_HEADER = b"II*\0\x08\0\0\0"
"""Low bytes first; the first directory follows at once."""
_PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(AssertionError, struct.error),
)
"""What Pillow raises on damaged fields."""
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

_WIDTH, _HEIGHT = 0x0100, 0x0101
_ORIENTATION = 0x0112
_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROP = 0x8769, 0x8825, 0xA005
_FOCAL_LENGTH = 0x920A
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_FOCAL_PLANE_X, _FOCAL_PLANE_Y, _FOCAL_PLANE_UNIT = 0xA20E, 0xA20F, 0xA210
_FOCAL_LENGTH_35MM = 0xA405
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))
"""Where its bytes start and how many they are: as a JPEG, as a strip of pixels."""

_DESCRIPTIVE = (
    {0x010E, 0x010F, 0x0110, _ORIENTATION, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C}
    | {0x4746, 0x4749, 0x8298}
    | set(range(0x9C9B, 0x9CA0))
)
"""What a TIFF's first directory says of the photo; the other tags are about its pixels."""

_VALUES = {1: ("B", 1), 3: ("H", 2), 4: ("I", 4), 5: ("II", 8), 9: ("i", 4), 10: ("ii", 8)}
"""Field type -> format and bytes of one value, of the types that hold numbers."""
_SHORT, _LONG, _RATIONALS = 3, 4, (5, 10)
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_SENSOR_WIDTH_35MM = 36.0
_MAX_FOCAL_LENGTH_MM = 10_000.0


class _Field(NamedTuple):
    kind: int
    num_values: int
    entry: int
    """Byte at which the field's entry starts."""


class _Directory(NamedTuple):
    fields: dict[int, _Field]
    next_at: int
    """Byte at which the offset of the next directory stands."""


class _Block:
    """The bytes and their order; what leads out of them raises struct.error."""

    def __init__(self, block: bytes) -> None:
        self.data = bytearray(block.removeprefix(_PREFIX))
        order = _BYTE_ORDERS.get(bytes(self.data[:4]))
        if order is None:
            raise ValueError("no EXIF block")
        self.order = order
        self.main = self.directory(self.number("I", 4))
        self.exif = _Directory({}, 0)
        if pointer := self.main.fields.get(_EXIF_DIRECTORY):
            # The first directory turns the picture even where the second is lost.
            with contextlib.suppress(struct.error):
                self.exif = self.directory(self.number("I", pointer.entry + 8))

    def number(self, kind: str, start: int) -> int:
        return struct.unpack_from(self.order + kind, self.data, start)[0]

    def put(self, kind: str, start: int, *values: int) -> None:
        struct.pack_into(self.order + kind, self.data, start, *values)

    def directory(self, start: int) -> _Directory:
        fields = {}
        num_fields = self.number("H", start)
        for entry in range(start + 2, start + 2 + 12 * num_fields, 12):
            tag, kind, count = struct.unpack_from(f"{self.order}HHI", self.data, entry)
            fields.setdefault(tag, _Field(kind, count, entry))
        return _Directory(fields, start + 2 + 12 * num_fields)

    def value_at(self, field: _Field) -> int:
        """Byte at which a field's values start: in its entry if they fit there."""
        fits = _VALUES[field.kind][1] * field.num_values <= 4
        return field.entry + 8 if fits else self.number("I", field.entry + 8)

    def value(self, directory: _Directory, tag: int) -> float:
        """A field's one number; 0 if it is absent, not one number, or a fraction of nothing."""
        field = directory.fields.get(tag)
        if field is None or field.kind not in _VALUES or field.num_values != 1:
            return 0.0
        kind = self.order + _VALUES[field.kind][0]
        numbers = struct.unpack_from(kind, self.data, self.value_at(field))
        if len(numbers) == 1:
            return float(numbers[0])
        return numbers[0] / numbers[1] if numbers[1] else 0.0


def orientation(block: bytes) -> int:
    """How the stored rows and columns are to be shown, 1 to 8; 1 (as they are) if nothing says."""
    try:
        exif = _Block(block)
        value = exif.value(exif.main, _ORIENTATION)
    except (ValueError, struct.error):
        return 1
    return int(value) if value in range(1, 9) else 1


def describe_pixels(block: bytes, height: int, width: int) -> bytes:
    """The block for upright pixels of this size: it says so, and its thumbnail is gone.

    What is no EXIF block, or a damaged one, becomes b"".
    """
    try:
        exif = _Block(block)
        _drop_thumbnail(exif)
        _scale_focal_plane(exif, height, width)
        if field := exif.main.fields.get(_ORIENTATION):
            exif.put("HIHH", field.entry + 2, _SHORT, 1, 1, 0)
        for directory, tag, number in (
            (exif.main, _WIDTH, width),
            (exif.main, _HEIGHT, height),
            (exif.exif, _PIXEL_WIDTH, width),
            (exif.exif, _PIXEL_HEIGHT, height),
        ):
            if field := directory.fields.get(tag):
                # A long fits in every entry, and holds sizes that a short does not.
                exif.put("HII", field.entry + 2, _LONG, 1, number)
        return bytes(exif.data)
    except (ValueError, struct.error):
        return b""


def _drop_thumbnail(exif: _Block) -> None:
    """It shows the old picture: wipe its bytes, or cut them off where they come last."""
    if exif.main.next_at + 4 > len(exif.data):
        return
    start = exif.number("I", exif.main.next_at)
    if not start:
        return
    second = exif.directory(start)
    exif.put("I", exif.main.next_at, 0)
    for first_tag, length_tag in _THUMBNAILS:
        first = int(exif.value(second, first_tag))
        length = min(int(exif.value(second, length_tag)), len(exif.data) - first)
        if first > 0 and length > 0:
            exif.data[first : first + length] = bytes(length)
            if first + length == len(exif.data):
                del exif.data[first:]


def _scale_focal_plane(exif: _Block, height: int, width: int) -> None:
    """Pixels per unit on the sensor, which new pixels change."""
    old = max(exif.value(exif.exif, tag) for tag in (_PIXEL_WIDTH, _PIXEL_HEIGHT))
    if old <= 0 or old == max(height, width):
        return
    for tag in (_FOCAL_PLANE_X, _FOCAL_PLANE_Y):
        field = exif.exif.fields.get(tag)
        resolution = exif.value(exif.exif, tag)
        if field is None or field.kind not in _RATIONALS or resolution <= 0:
            continue
        new = Fraction(resolution * max(height, width) / old).limit_denominator(1000)
        if new.numerator < 2**31:
            exif.put("II", exif.value_at(field), new.numerator, new.denominator)


def focal_length_35mm(block: bytes) -> float | None:
    """Focal length in mm as if the sensor's long side were 36 mm; None if unknown or absurd."""
    try:
        exif = _Block(block)
        focal_mm = exif.value(exif.exif, _FOCAL_LENGTH_35MM) or _from_focal_plane(exif)
    except (ValueError, struct.error):
        return None
    return (
        float(focal_mm)
        if 1 <= focal_mm <= _MAX_FOCAL_LENGTH_MM and math.isfinite(focal_mm)
        else None
    )


def _from_focal_plane(exif: _Block) -> float:
    """The same by the sensor's long side, its pixels over its pixels per unit; 0 if unknown."""
    resolution = exif.value(exif.exif, _FOCAL_PLANE_X)
    long_side = max(exif.value(exif.exif, tag) for tag in (_PIXEL_WIDTH, _PIXEL_HEIGHT))
    # The standard's default is the inch.
    unit = _MM_PER_UNIT.get(int(exif.value(exif.exif, _FOCAL_PLANE_UNIT)) or 2, 0.0)
    if resolution <= 0 or long_side <= 0 or not unit:
        return 0.0
    sensor_mm = long_side / resolution * unit
    return exif.value(exif.exif, _FOCAL_LENGTH) * _SENSOR_WIDTH_35MM / sensor_mm


def from_tiff(tags: Image.Exif) -> bytes:
    """A block of its own from what a TIFF says of its photo among the tags of its pixels.

    b"" if it says nothing, or what cannot be read.
    """
    block = Image.Exif()
    try:
        for tag, value in _about_the_photo(tags).items():
            block[tag] = value
        return block.tobytes().removeprefix(_PREFIX) if len(block) else b""
    except _PILLOW_ERRORS:
        return b""


def tiff_directory(block: bytes) -> ImageFileDirectory_v2:
    """A TIFF's first directory, low bytes first, with what the block says of the photo.

    It is empty for a block that cannot be read.
    """
    tags, empty = ImageFileDirectory_v2(TIFF_HEADER), ImageFileDirectory_v2(TIFF_HEADER)
    exif = Image.Exif()
    with warnings.catch_warnings():
        # Of damaged fields, which Pillow then leaves out.
        warnings.simplefilter("ignore")
        try:
            exif.load(block)
            for tag, value in _about_the_photo(exif).items():
                tags[tag] = value
            tags.tobytes()
        except _PILLOW_ERRORS:
            return empty
    return tags


def _about_the_photo(exif: Image.Exif) -> dict[int, Any]:
    """Fields of the first directory, and the two directories that they lead to."""
    fields = {tag: exif[tag] for tag in sorted(_DESCRIPTIVE.intersection(exif))}
    for directory in (_EXIF_DIRECTORY, _GPS_DIRECTORY):
        # Pillow would copy this one's offset, which then leads nowhere.
        inner = {tag: value for tag, value in exif.get_ifd(directory).items() if tag != _INTEROP}
        if inner:
            fields[directory] = inner
    return fields
