"""Pictures to make: from which files, with which settings, to which places."""

import hashlib
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pyarrow.fs import FileType

from sddusr import storage
from sddusr.config.choices import MatchingMode, Precision, Runtime
from sddusr.geometry.box import Box
from sddusr.imaging import camera_raw
from sddusr.imaging.images import MAX_PIXELS, check_output
from sddusr.photos.find_pairs import PairFiles, bare
from sddusr.registration.pairing import PairConfig
from sddusr.registration.residual import RefRegistration

MAX_NAME_BYTES = 255

READ_ONLY_EXTENSIONS = (".bmp", *camera_raw.EXTENSIONS)

Device = Literal["auto", "cpu", "cuda"]

Placement = Box | Literal["find", "middle"]
"""Where the tele picture lies in the result: HR pixels, found by registration, or its middle. Only
registration changes the tele picture; otherwise it has the result's density already."""


class Job(NamedTuple):
    """One picture to make."""

    name: str
    wide: str
    tele: str
    out: str
    """Its extension is the format."""
    placement: Placement = "find"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for every picture."""

    checkpoint: str
    """A checkpoint's own folder, or that of an exported package."""
    checkpoint_hash: str
    """From `hash_checkpoint` or `hash_package`."""
    runtime: Runtime = "torch"
    device: Device = "auto"
    precision: Precision = "float32"
    matching: MatchingMode = "auto"
    memory_bytes: int | None = None
    """Peak memory of this process; None: the engine decides."""
    memory_share: float = 1.0
    """Of what is free, where no limit is given: what each of several processes takes."""
    max_pixels: int = MAX_PIXELS
    quality: int = 95
    """Of JPEG and WebP."""
    strip_metadata: bool = False
    explain: bool = False
    pair: PairConfig = field(default_factory=PairConfig)
    register_ref: RefRegistration | None = None
    """How a tele picture on a given box is registered; None: as the network was trained."""
    trust: float = 1.0
    """0 to 1: scales how far the tele picture is trusted; 0 leaves it out."""

    @property
    def without_ref(self) -> bool:
        """Whether the tele picture is left out."""
        return self.trust == 0


def hash_checkpoint(place: str) -> str:
    """One hash for all files of a checkpoint's folder."""
    from sddusr.checkpoint import HASHES

    return hashlib.sha256(storage.read_bytes(storage.join(place, HASHES))).hexdigest()


def result_places(
    pairs: Sequence[PairFiles],
    given_out: str,
    given_format: str | None,
    single: bool,
    *,
    explain: bool = False,
) -> dict[str, str]:
    """Name -> where its result goes, never onto a picture that is read.

    Raises:
        ValueError: a file for many results, an unknown format, or a result that is an input.
        OSError: nothing can be written there.
    """
    out = storage.absolute(given_out)
    path = bare(given_out)
    is_folder = path.endswith("/") or not posixpath.splitext(path)[1] or _is_folder(out)
    if not single and not is_folder:
        raise ValueError(f"--out is {given_out}, a file's name; give a folder for many results")
    if single and not is_folder and given_format:
        raise ValueError(f"--format goes with a folder; {given_out} names its format")
    outs = {
        pair.name: storage.join(out, pair.name + _extension(given_format, pair.wide))
        if is_folder
        else out
        for pair in pairs
    }
    for place in outs.values():
        check_output(place, 1, 1, np.uint8, False)
        _check_length(place, explain)
    _check_apart(pairs, outs, out, single)
    _check_writable(out if is_folder else posixpath.dirname(out))
    return outs


def _check_length(place: str, explain: bool) -> None:
    """Refuse a name that no file system takes before the picture is made, not after."""
    for written in (place, record_place(place), *([explanation_place(place)] if explain else [])):
        num_bytes = len(posixpath.basename(bare(written)).encode())
        if storage.is_local(place) and num_bytes > MAX_NAME_BYTES:
            raise ValueError(
                f"{written}: a name of {num_bytes} bytes, file systems take {MAX_NAME_BYTES}; "
                f"rename the wide picture or give a shorter --out"
            )


def _check_apart(
    pairs: Sequence[PairFiles], outs: Mapping[str, str], out: str, single: bool
) -> None:
    """Results must not replace inputs, nor be found among them by the next run."""
    read = {_real(place) for pair in pairs for place in (pair.wide, pair.tele)}
    if same := sorted(place for place in outs.values() if _real(place) in read):
        raise ValueError(f"{same[0]}: would be overwritten by a result; choose another --out")
    if not single and bare(_real(out)) in {posixpath.dirname(bare(place)) for place in read}:
        raise ValueError(f"{out}: holds the pictures that are read; choose another --out")


def _real(place: str) -> str:
    return os.path.realpath(place) if storage.is_local(place) else place


def _is_folder(place: str) -> bool:
    return storage.info(place).type == FileType.Directory


def _extension(given_format: str | None, wide: str) -> str:
    """Of a result in a folder."""
    if given_format is not None:
        return f".{given_format.lower().removeprefix('.')}"
    own = posixpath.splitext(bare(wide))[1].lower()
    return ".png" if own in READ_ONLY_EXTENSIONS else own


def _check_writable(folder: str) -> None:
    """Find out before the work; an object store tells only when written to."""
    if not storage.is_local(folder):
        return
    there = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OSError(f"{folder}: cannot be written to; choose another --out")


def record_place(out: str) -> str:
    return _beside(out, ".json")


def explanation_place(out: str) -> str:
    return _beside(out, ".explain.jpg")


def _beside(out: str, ending: str) -> str:
    path, mark, query = (out, "", "") if storage.is_local(out) else out.partition("?")
    return posixpath.splitext(path)[0] + ending + mark + query
