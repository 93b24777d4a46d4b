"""What a file's numbers mean as colours: ICC profiles, made where a file says it in another way.

Code points are those of ITU-T H.273, which PNG's cICP and HEIF's nclx share.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Xy = tuple[float, float]


class Primaries(NamedTuple):
    """Chromaticities x, y."""

    red: Xy
    green: Xy
    blue: Xy
    white: Xy


_D65, _DCI = (0.3127, 0.3290), (0.314, 0.351)
SRGB = Primaries((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_PRIMARIES = {
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    9: Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
_LIKE_SRGB_PRIMARIES = (1, 2, 5, 6, 7)
_LIKE_SRGB_TRANSFERS = (1, 2, 6, 13, 14, 15)
"""Of video, which programs show as sRGB."""
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""No ICC profile describes them: they are absolute, or go beyond white."""

_SRGB_GAMMA = 1 / 0.45455
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_CURVE_SIZE = 1024


class Colors(NamedTuple):
    """How a file's colours are carried over; both empty for sRGB."""

    icc: bytes = b""
    cicp: tuple[int, int] | None = None
    """Primaries and transfer function."""

    @property
    def is_hdr(self) -> bool:
        return self.cicp is not None and self.cicp[1] in HDR_TRANSFERS


SRGB_COLORS = Colors()


def colors_of_cicp(primaries: int, transfer: int, place: str) -> Colors:
    """Colours by their code points.

    Raises:
        ValueError: code points that are not known here.
    """
    if transfer in HDR_TRANSFERS and primaries in (*_PRIMARIES, *_LIKE_SRGB_PRIMARIES):
        return Colors(cicp=(primaries, transfer))
    if primaries in _LIKE_SRGB_PRIMARIES and transfer in _LIKE_SRGB_TRANSFERS:
        return SRGB_COLORS
    chosen = SRGB if primaries in _LIKE_SRGB_PRIMARIES else _PRIMARIES.get(primaries)
    gamma = None if transfer in _LIKE_SRGB_TRANSFERS else _GAMMAS.get(transfer, 0.0)
    if chosen is None or gamma == 0.0:
        raise ValueError(
            f"{place}: colours of primaries {primaries} and transfer {transfer} are not known; "
            f"convert it to sRGB"
        )
    return Colors(make_icc(chosen, gamma), (primaries, transfer))


def colors_of_gamma(gamma: float | None, chromaticities: Sequence[float | int] | None) -> Colors:
    """Colours of a PNG's gAMA (exponent of encoding, such as 0.45455) and cHRM (white first)."""
    primaries = SRGB
    if chromaticities is not None and len(chromaticities) == 8:
        white, red, green, blue = zip(chromaticities[::2], chromaticities[1::2], strict=True)
        primaries = Primaries(red, green, blue, white)
    exponent = None if gamma is None or not 0.01 <= gamma <= 10 else 1 / gamma
    is_srgb = exponent is None or abs(exponent - _SRGB_GAMMA) < 0.02
    same = np.allclose(np.array(primaries), np.array(SRGB), atol=2e-3)
    if same and is_srgb:
        return SRGB_COLORS
    try:
        return Colors(make_icc(primaries, None if is_srgb else exponent))
    except (np.linalg.LinAlgError, ValueError, struct.error):
        return SRGB_COLORS  # chromaticities that are no colours


def make_icc(primaries: Primaries, gamma: float | None) -> bytes:
    """An ICC profile (version 2, matrix and curves).

    Args:
        gamma: exponent of decoding; None for sRGB's curve.

    Raises:
        ValueError: primaries that span no colours.
    """
    matrix = _to_d50(primaries)
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100:
        raise ValueError("primaries that span no colours")
    tags = {
        b"desc": _description("RGB of the original picture"),
        b"cprt": b"text\0\0\0\0No copyright\0",
        b"wtpt": _xyz(_D50),
        b"rXYZ": _xyz(matrix[:, 0]),
        b"gXYZ": _xyz(matrix[:, 1]),
        b"bXYZ": _xyz(matrix[:, 2]),
        b"rTRC": _curve(gamma),
    }
    table, body = [], b""
    start = 128 + 4 + 12 * (len(tags) + 2)
    for name, content in tags.items():
        table.append((name, start + len(body), len(content)))
        body += content + bytes(-len(content) % 4)
    _, curve_at, curve_size = table[-1]
    table += [(b"gTRC", curve_at, curve_size), (b"bTRC", curve_at, curve_size)]
    directory = struct.pack(">I", len(table))
    directory += b"".join(struct.pack(">4sII", *entry) for entry in table)
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4s4sQI12s4s44x",
        *(start + len(body), b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ "),
        *(struct.pack(">6H", 2024, 1, 1, 0, 0, 0), b"acsp", b"\0\0\0\0", 0, b"\0\0\0\0"),
        *(b"\0\0\0\0", 0, 0, struct.pack(">3i", *_fixed(_D50)), b"\0\0\0\0"),
    )
    return header + directory + body


def _to_d50(primaries: Primaries) -> np.ndarray:
    """Columns: XYZ of red, green and blue under D50, which ICC profiles refer to."""
    columns = np.array([_to_xyz(xy) for xy in primaries[:3]]).T
    white = _to_xyz(primaries.white)
    matrix = columns * np.linalg.solve(columns, white)
    cones = _BRADFORD @ _D50 / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix


def _to_xyz(xy: Sequence[float | int]) -> np.ndarray:
    x, y = xy
    if y <= 0:
        raise ValueError("primaries that span no colours")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(values: np.ndarray) -> list[int]:
    return [round(float(value) * 65536) for value in values]


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *_fixed(values))


def _description(text: str) -> bytes:
    ascii_text = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(ascii_text)) + ascii_text + bytes(78)


def _curve(gamma: float | None) -> bytes:
    if gamma is not None and 0 < gamma < 255:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    encoded = np.linspace(0, 1, _CURVE_SIZE)
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    values = (linear * 65535).round().astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", _CURVE_SIZE) + values.tobytes()


def rgb_profile(icc: object) -> bytes:
    """A profile of RGB colours; one of greys would not fit the three channels that they become."""
    return icc if isinstance(icc, bytes) and icc[16:20] == b"RGB " else b""
