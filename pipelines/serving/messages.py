"""Messages between the HTTP side and the replicas: a request, an answer or a refusal."""

from dataclasses import dataclass, field
from typing import Any

MEDIA_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "tif": "image/tiff"}
"""Format of a result, as requests name it, and its media type."""

GRACE_S = 10.0
"""Time that cancelled work gets to stop; it checks between its steps. Afterwards its process is
ended, and Serve starts another one."""


@dataclass(frozen=True, kw_only=True)
class PairRequest:
    """Two uploaded images and what is to be made of them."""

    wide: bytes
    tele: bytes
    wide_name: str
    """As the client calls the file; for the record alone."""
    tele_name: str
    format: str = "jpg"
    """One of `MEDIA_TYPES`."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of `UpscaleOptions` that the client chose."""
    preview: bool = False
    """Also make a JPEG of the wide image, for browsers that cannot show its own format."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A result."""

    image: bytes
    media_type: str
    record: dict[str, Any]
    """Plain JSON: what was found, done and needed."""
    trust: bytes | None
    """PNG of 8 bits, a pixel for each cell of 4 x 4 result pixels, 255 for a trust of 1; None where
    the network has no such map."""
    preview: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why there is no result."""

    status: int
    """An HTTP status."""
    message: str
    """One line: what, got, wanted, remedy."""


class RefusedError(Exception):
    """Ends a request with a status and one line."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


def time_is_over(timeout_s: float) -> Refusal:
    """The answer for an image that took too long."""
    return Refusal(
        status=504,
        message=f"the picture took more than {timeout_s:g} s and was stopped; send smaller images",
    )
