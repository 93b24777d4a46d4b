"""Who may use the server: a bearer token, kept as its hash; without one, this machine alone."""

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.serving.messages import RefusedError

VARIABLE = "SDDUSR_SERVE_TOKEN"
MIN_CHARACTERS = 16
HOW_TO_MAKE = "openssl rand -hex 32 > token && chmod 600 token"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_token(token_file: str | None, *, is_needed: bool) -> str | None:
    """SHA-256 of the token, from the file or the environment, which no longer has it afterwards.

    Raises:
        ValueError: it is needed and missing, too short, or its file can be read by others.
        OSError: the file cannot be read.
    """
    given = os.environ.pop(VARIABLE, "")
    if token_file is not None and given:
        raise ValueError(f"--token-file and {VARIABLE} are both given; unset one of them")
    token = given if token_file is None else _read_private(token_file)
    source = VARIABLE if token_file is None else token_file
    if not token and token_file is None:
        if is_needed:
            raise ValueError(
                f"no token, but others could reach this server; give one by --token-file or "
                f"{VARIABLE} ({HOW_TO_MAKE}), or listen on --host 127.0.0.1"
            )
        return None
    if len(token) < MIN_CHARACTERS or not all("!" <= character <= "~" for character in token):
        raise ValueError(
            f"{source}: the token has {len(token)} characters, need {MIN_CHARACTERS} or more "
            f"visible ASCII ones ({HOW_TO_MAKE})"
        )
    return _hash(token)


def _read_private(place: str) -> str:
    """A file that only its owner may read."""
    path = Path(place).expanduser()
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ValueError(f"{place}: mode {mode:04o} lets others read the token; chmod 600 {place}")
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def check_access(headers: Mapping[str, str], token_sha256: str | None) -> None:
    """Refuse a request without the token, or where there is none, one of another site's page.

    Raises:
        RefusedError: 401 or 403.
    """
    if token_sha256 is None:
        _check_own_page(headers)
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(_hash(token.strip()), token_sha256)
    if scheme.lower() != "bearer" or not is_right:
        problem = "the token is wrong" if token else "the token is missing"
        raise RefusedError(
            401,
            f"{problem}; send the header Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )


def _check_own_page(headers: Mapping[str, str]) -> None:
    """On loopback any page in the user's browser could send requests; only ours may."""
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin"):
        raise RefusedError(403, f"the request comes from another site's page ({site}); use the API")
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    if not is_loopback(host):
        raise RefusedError(
            403, f"the request is for the host {host!r:.80}, need localhost; start with a token"
        )
