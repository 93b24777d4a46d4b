"""A comment keeps its letters from format to format; XMP that is dropped is named."""

import io

import pytest
from PIL import Image

from sddusr.imaging.descriptive import Descriptive, clean_xmp
from sddusr.imaging.images import Metadata, describe_lost, read_picture, write_picture
from tests.imaging.test_colors_and_descriptions import PIXELS, XMP, chunk, png, read


@pytest.mark.parametrize("comment", ["by me", "été, 夏", "naïve"])
@pytest.mark.parametrize("start", ["jpg", "png", "latin.png"])
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_comment_reads_the_same_in_png_and_jpeg(tmp_path, comment, start, extension):
    text = comment.encode()
    if start == "jpg":
        file = io.BytesIO()
        Image.fromarray(PIXELS).save(file, "JPEG", comment=text)
        data = file.getvalue()
    elif start == "png":
        data = png(chunk(b"iTXt", b"Comment\0\0\0\0\0" + text))
    else:
        comment = comment.encode("latin-1", "ignore").decode("latin-1")
        data = png(chunk(b"tEXt", b"Comment\0" + comment.encode("latin-1")))
    metadata = read(tmp_path, data, f"photo.{start}").metadata
    place = str(tmp_path / f"sr.{extension}")
    write_picture(place, PIXELS, metadata=metadata)
    assert read_picture(place).metadata.about.comment.decode() == comment
    with Image.open(place) as seen:
        held = seen.info["comment"].decode() if extension == "jpg" else seen.info["Comment"]
    assert held == comment


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_jpegs_comment_of_another_encoding_keeps_its_letters(tmp_path, extension):
    place = str(tmp_path / f"sr.{extension}")
    write_picture(place, PIXELS, metadata=Metadata(about=Descriptive(comment=b"\xe9t\xe9")))
    again = read_picture(place).metadata.about.comment
    assert again == (b"\xe9t\xe9" if extension == "jpg" else "été".encode())


def test_a_comment_in_xmp_is_no_declaration():
    assert b'rights="mine"' in clean_xmp(XMP.replace(b"<rdf:RDF", b"<!-- by hand --><rdf:RDF", 1))


@pytest.mark.parametrize("extension", ["jpg", "png", "heic"])
def test_xmp_that_cannot_be_kept_is_told(tmp_path, extension):
    packet = b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]>" + XMP.replace(b"hdr-gain-map", b"other")
    if extension == "heic":
        pytest.importorskip("pillow_heif")
    place = str(tmp_path / f"photo.{extension}")
    write_picture(place, PIXELS, metadata=Metadata(about=Descriptive(xmp=packet)))
    metadata = read_picture(place).metadata
    assert metadata.about.xmp == b""
    assert describe_lost("sr.png", metadata) == "XMP"
