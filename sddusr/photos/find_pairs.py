"""Which wide picture goes with which tele picture: two files, two folders, two patterns."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyarrow.fs import FileType

from sddusr import storage
from sddusr.data.source_files import pictures_by_stem
from sddusr.imaging import camera_raw
from sddusr.imaging.images import EXTENSIONS

_WILDCARD = re.compile(r"(\*+|\?|\[[^\]]+\])")
_URI_WILDCARD = re.compile(r"(\*+|\[[^\]]+\])")
"""A URI's question mark begins its options."""


class PairFiles(NamedTuple):
    """Two pictures of one scene."""

    name: str
    """What its result is called, without extension."""
    wide: str
    tele: str


class FoundPairs(NamedTuple):
    pairs: list[PairFiles]
    """Sorted by name."""
    orphans: dict[str, str]
    """Wide picture's name -> why it has no partner. Tele pictures may be left over."""


class _Candidate(NamedTuple):
    place: str
    name: str
    caught: tuple[str, ...]
    """What each wildcard of a pattern stood for."""


def are_files(wide: str, tele: str) -> bool:
    """Whether both are single files."""
    return _kind(wide) == _kind(tele) == FileType.File


def find_pairs(wide: str, tele: str) -> FoundPairs:
    """Pair two files with each other, and many by their names.

    Folders pair by stem. Two patterns pair by what their wildcards stand for, so that
    `*/wide.jpg` goes with `*/tele.jpg`, and `*_w.jpg` with `*_t.jpg`.

    Args:
        wide, tele: files, folders, or patterns with `*`, `?` and `[...]` in any part of the path.

    Raises:
        FileNotFoundError: nothing is there, or nothing of it is a pair.
        ValueError: a file with a folder, or two pictures of one name.
    """
    if are_files(wide, tele):
        return FoundPairs([PairFiles(_stem(wide), wide, tele)], {})
    kinds = [_kind(wide), _kind(tele)]
    if FileType.File in kinds:
        raise ValueError(f"{wide} and {tele}: one of them is a file; give two files or two folders")
    by_caught = kinds == [FileType.NotFound] * 2
    wides, teles = (_by_key(_candidates(place), place, by_caught) for place in (wide, tele))
    orphans = {wides[key].name: f"no tele picture in {tele}" for key in wides.keys() - teles.keys()}
    pairs = sorted(
        PairFiles(candidate.name, candidate.place, teles[key].place)
        for key, candidate in wides.items()
        if key in teles
    )
    if not pairs:
        raise FileNotFoundError(
            f"{tele}: nothing of the name {', '.join(sorted(orphans)[:5])} to go with {wide}"
        )
    return FoundPairs(pairs, dict(sorted(orphans.items())))


def _by_key(
    candidates: Iterable[_Candidate], place: str, by_caught: bool
) -> dict[tuple[str, ...], _Candidate]:
    found: dict[tuple[str, ...], _Candidate] = {}
    names: dict[str, str] = {}
    for candidate in candidates:
        key = candidate.caught if by_caught else (candidate.name,)
        if key in found or candidate.name in names:
            other = found[key].place if key in found else names[candidate.name]
            raise ValueError(
                f"{place}: {other} and {candidate.place} have the same name; keep one of them"
            )
        found[key], names[candidate.name] = candidate, candidate.place
    if not found:
        raise FileNotFoundError(
            f"{place}: no picture, need one of {', '.join(EXTENSIONS)}{_about_brackets(place)}"
        )
    return found


def _about_brackets(place: str) -> str:
    """What `[...]` in a pattern means, where a folder of just that name is there."""
    parts = place.split("/")
    folders = ("/".join(parts[:number]) for number in range(1, len(parts)))
    has_one = any("[" in folder and storage.exists(folder) for folder in folders if folder)
    return (
        "; in a pattern [...] stands for one character, write [[] for a bracket" if has_one else ""
    )


def _kind(place: str) -> FileType:
    """What is there; `NotFound` is a pattern.

    Raises:
        FileNotFoundError: neither anything there nor a pattern.
    """
    kind = storage.info(place).type
    if kind == FileType.NotFound and not _wildcard(place).search(place):
        raise FileNotFoundError(f"{place}: no such file or folder")
    return kind


def _wildcard(place: str) -> re.Pattern[str]:
    return _WILDCARD if storage.is_local(place) else _URI_WILDCARD


def _candidates(place: str) -> list[_Candidate]:
    if _kind(place) == FileType.Directory:
        return [_Candidate(file, stem, ()) for stem, file in pictures_by_stem(place).items()]
    return _matches(place)


def _matches(pattern: str) -> list[_Candidate]:
    """The pictures that a pattern stands for, named by those of its parts that hold wildcards."""
    wildcard = _wildcard(pattern)
    path, mark, query = (pattern, "", "") if storage.is_local(pattern) else pattern.partition("?")
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if wildcard.search(part))
    base = "/".join(parts[:first]) or ("/" if path.startswith("/") else ".")
    found = [_Candidate(base + mark + query, "", ())]
    for part in parts[first:-1]:
        found = _step(found, part, wildcard, FileType.Directory)
    files = _step(found, parts[-1], wildcard, FileType.File)
    return [file for file in files if bare(file.place).lower().endswith(EXTENSIONS)]


def _step(
    folders: Sequence[_Candidate], part: str, wildcard: re.Pattern[str], kind: FileType
) -> list[_Candidate]:
    """What one part of a pattern stands for below each folder found so far."""
    regex, below = _regex(part, wildcard), []
    for folder in folders:
        for name, place in storage.list_files(folder.place, kind).items():
            match = regex.fullmatch(unicodedata.normalize("NFC", name))
            if match is None or (name.startswith(".") and not part.startswith(".")):
                continue
            stem = _stem(name) if kind == FileType.File else name
            caught = _caught(match, stem)
            names = [folder.name, stem if caught else ""]
            below.append(_Candidate(place, "-".join(filter(None, names)), folder.caught + caught))
    return below


def _caught(match: re.Match[str], stem: str) -> tuple[str, ...]:
    """What the wildcards stand for, as far as it belongs to the stem."""
    spans = (match.span(number) for number in range(1, len(match.groups()) + 1))
    return tuple(stem[start:end] for start, end in spans if start < len(stem) or start == end)


def _regex(part: str, wildcard: re.Pattern[str]) -> re.Pattern[str]:
    """A part of a pattern, one group for each wildcard."""
    pieces = wildcard.split(unicodedata.normalize("NFC", part))
    pieces[::2] = [re.escape(text) for text in pieces[::2]]
    pieces[1::2] = [_group(text) for text in pieces[1::2]]
    try:
        return re.compile("".join(pieces))
    except re.error as error:
        raise ValueError(f"{part}: no pattern ({error}); use *, ? and [a-z]") from error


def _group(wildcard: str) -> str:
    if wildcard[0] != "[":
        return "(.*)" if wildcard[0] == "*" else "(.)"
    inside = wildcard[1:-1].replace("\\", r"\\").replace("[", r"\[")
    return f"([^{inside[1:]}])" if inside[0] == "!" and inside[1:] else f"([{inside}])"


def bare(place: str) -> str:
    """A place without a URI's options."""
    return place if storage.is_local(place) else place.partition("?")[0]


def _stem(place: str) -> str:
    name = unicodedata.normalize("NFC", posixpath.basename(bare(place)))
    stem, extension = posixpath.splitext(name)
    return stem if extension.lower() in (*EXTENSIONS, *camera_raw.EXTENSIONS) else name
