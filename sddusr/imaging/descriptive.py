"""What a file says of its photo beside EXIF and colours: density, XMP and comment."""

import re
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

MAX_XMP_BYTES = 2**20
_ABOUT_OTHER_IMAGES = (
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.apple.com/HDRGainMap/1.0/",
    "http://ns.google.com/photos/1.0/",
    "http://ns.adobe.com/xap/1.0/g/img/",
    "http://ns.adobe.com/xmp/note/",
)
"""Namespaces of what lies beside the pixels: gain maps, depth, video, thumbnails."""
_ABOUT_PIXELS = re.compile(
    r"\{http://ns\.adobe\.com/(?:tiff/1\.0/\}(?:Orientation|ImageWidth|ImageLength)"
    r"|exif/1\.0/\}Pixel[XY]Dimension)"
)
_DECLARES = re.compile(rb"<!(?:DOCTYPE|ENTITY)")
"""Declarations, which may let a few bytes stand for gigabytes; without the zeros of UTF-16."""


class Descriptive(NamedTuple):
    """What goes from a picture to what is made of it."""

    dpi: tuple[float, float] | None = None
    """Pixels per inch, x first, as the picture is to be printed."""
    xmp: bytes = b""
    comment: bytes = b""
    """UTF-8; of a JPEG that has it in another encoding, its bytes."""
    left_out: tuple[str, ...] = ()
    """What the file holds and nothing made of it can, such as a gain map."""


NOTHING = Descriptive()


def clean_xmp(packet: bytes | str) -> bytes:
    """An XMP packet for other pixels: without what tells of gain maps, thumbnails and sizes.

    One that is no XML stays as it is, unless it tells of other images; b"" for one that declares
    entities.
    """
    data = packet.encode() if isinstance(packet, str) else bytes(packet)
    if not data or len(data) > MAX_XMP_BYTES or _DECLARES.search(data.replace(b"\0", b"")):
        return b""
    try:
        for _, (prefix, uri) in _namespaces(data):
            if re.fullmatch(r"ns\d+", prefix) is None:
                ElementTree.register_namespace(prefix, uri)
        root = ElementTree.fromstring(data.strip(b"\0 \n\r\t\xef\xbb\xbf"))
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError):
        is_harmless = not any(name.encode() in data for name in _ABOUT_OTHER_IMAGES)
        return data if is_harmless and b"<" in data else b""
    if root.tag != "{adobe:ns:meta/}xmpmeta" and not root.tag.endswith("}RDF"):
        return b""
    _drop(root)
    body = ElementTree.tostring(root, encoding="utf-8")
    return (
        b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        + body
        + b'\n<?xpacket end="w"?>'
    )


def dropped_xmp(packet: bytes, cleaned: bytes) -> tuple[str, ...]:
    """The name of an XMP packet of which `clean_xmp` kept nothing, for `left_out`."""
    return ("XMP",) if packet and not cleaned else ()


def _namespaces(data: bytes) -> list[tuple[str, tuple[str, str]]]:
    parser = ElementTree.XMLPullParser(["start-ns"])
    parser.feed(data.strip(b"\0 \n\r\t\xef\xbb\xbf"))
    return list(parser.read_events())  # pyright: ignore[reportReturnType]


def _drop(element: ElementTree.Element) -> None:
    for name in [name for name in element.attrib if _is_false_of_the_result(name)]:
        del element.attrib[name]
    for child in list(element):
        if _is_false_of_the_result(child.tag):
            element.remove(child)
        else:
            _drop(child)


def _is_false_of_the_result(name: str) -> bool:
    return bool(_ABOUT_PIXELS.fullmatch(name)) or any(
        name.startswith("{" + namespace) for namespace in _ABOUT_OTHER_IMAGES
    )


def find_left_out(data: bytes, xmp: bytes) -> tuple[str, ...]:
    """What a JPEG holds besides its picture that nothing made of it can."""
    found = []
    if (
        b"hdr-gain-map" in xmp
        or b"HDRGainMap" in xmp
        or b"urn:iso:std:iso:ts:21496" in data[: 2**17]
    ):
        found.append("gain map")
    if b"MotionPhoto" in xmp or b"MicroVideo" in xmp:
        found.append("video")
    if not found and b"MPF\0" in data[: 2**17]:
        found.append("further pictures")
    return tuple(found)
