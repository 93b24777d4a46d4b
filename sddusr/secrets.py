"""Credentials in URIs: whatever is shown, logged or kept goes through `mask`."""

import re

MASK = "***"

_USER = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s'\"@]*(?:@[^/?#\s'\"@]*)*@")
_PARAMETER = re.compile(
    r"(?P<name>[?&;](?:[\w.-]*(?:secret|token|passw|pwd|credential|signature|access[-_]?key|"
    r"api[-_]?key|account[-_]?key)[\w.-]*|sig|key|auth)=)[^&;#\s'\"]+",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """The same text with the user, password and secret options of every URI in it replaced."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(rf"\g<name>{MASK}", _USER.sub(rf"\g<scheme>{MASK}@", text))


def has_credentials(text: str) -> bool:
    """Whether `mask` would change the text."""
    return mask(text) != text
