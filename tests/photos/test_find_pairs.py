"""Files are paired by name, and nothing is guessed."""

from pathlib import Path

import pytest

from sddusr.photos.find_pairs import PairFiles, find_pairs


@pytest.fixture
def touch(tmp_path, monkeypatch):
    """Makes empty files; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def names_of(wide: str, tele: str) -> list[tuple[str, str, str]]:
    return [
        (name, Path(first).as_posix(), Path(second).as_posix())
        for name, first, second in find_pairs(wide, tele).pairs
    ]


def test_two_files_are_a_pair_whatever_their_names(touch):
    touch("IMG_1.HEIC.jpg", "IMG_2.png")
    assert find_pairs("IMG_1.HEIC.jpg", "IMG_2.png").pairs == [
        PairFiles("IMG_1.HEIC", "IMG_1.HEIC.jpg", "IMG_2.png")
    ]


def test_folders_are_paired_by_stem_and_what_is_left_over_is_named(touch):
    touch("w/a.jpg", "w/b.png", "w/c.jpg", "w/notes.txt", "t/b.jpg", "t/a.tif", "t/x.jpg")
    assert names_of("w", "t/") == [("a", "w/a.jpg", "t/a.tif"), ("b", "w/b.png", "t/b.jpg")]
    assert find_pairs("w", "t/").orphans == {"c": "no tele picture in t/"}


@pytest.mark.parametrize(
    ("wide", "tele", "names"),
    [
        ("shots/*_w.jpg", "shots/*_t.jpg", ["1_w", "2_w"]),
        ("shots/?_w.jpg", "shots/?_t.jpg", ["1_w", "2_w"]),
        ("shots/*_w.*", "shots/*_t.j*", ["1_w", "2_w"]),
        ("shots/[!2]_w.jpg", "shots/[0-9]_t.jpg", ["1_w"]),
        ("shots/*", "others/*", ["1_t", "1_w", "2_t", "2_w"]),
        ("shots/1*", "others", ["1_t", "1_w"]),
        ("scenes/*/wide.jpg", "scenes/*/tele.jpg", ["one", "two"]),
        ("scenes/*/wide.*", "scenes/*/tele.j*", ["one", "two"]),
        ("scenes/*/w*.jpg", "scenes/*/t*.jpg", []),
        ("sc*/one/*.jpg", "sc*/one/*.jpg", ["scenes-tele", "scenes-wide"]),
    ],
)
def test_patterns_pair_what_their_wildcards_stand_for(touch, wide, tele, names):
    touch("shots/1_w.jpg", "shots/2_w.jpg", "shots/1_t.jpg", "shots/2_t.jpg", "shots/.3_w.jpg")
    touch("others/1_w.png", "others/2_w.png", "others/1_t.png", "others/2_t.png")
    touch(*(f"scenes/{scene}/{lens}.jpg" for scene in ("one", "two") for lens in ("wide", "tele")))
    if names:
        assert [name for name, _, _ in names_of(wide, tele)] == names
    else:
        with pytest.raises(FileNotFoundError, match="nothing of the name"):
            find_pairs(wide, tele)
    for _, first, second in names_of(wide, tele) if names else ():
        assert Path(first).is_file()
        assert Path(second).is_file()


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(touch):
    touch("a[1].jpg", "b*.jpg")
    assert [pair.name for pair in find_pairs("a[1].jpg", "b*.jpg").pairs] == ["a[1]"]


@pytest.mark.parametrize(
    ("wide", "tele", "message"),
    [
        ("w", "t/a.jpg", "give two files or two folders"),
        ("nowhere", "t", "nowhere: no such file or folder"),
        ("w/*.tif", "t/*.tif", r"w/\*\.tif: no picture, need one of"),
        ("nowhere/*.jpg", "t", "nowhere: no such folder"),
        ("w", "empty", "empty: no picture"),
        ("twice", "t", "two pictures of the stem a"),
        ("*/a.???", "t", r"a\.jpg and .*a\.png have the same name"),
        ("w/[z-a].jpg", "t", "no pattern"),
        ("w", "twice/b.*", r"twice/b\.\*: nothing of the name a"),
    ],
)
def test_what_is_no_pair_is_refused(touch, wide, tele, message):
    touch("w/a.jpg", "t/a.jpg", "twice/a.jpg", "twice/a.png", "twice/b.png", "empty/notes.txt")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        find_pairs(wide, tele)
