"""The form that a client sends, read within limits: two images and options."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from pipelines.serving.messages import MEDIA_TYPES, PairRequest, RefusedError
from sddusr.photos.options import UpscaleOptions

FIELDS = ("box", "centered", "trust", "format", "quality", "strip_metadata", "preview")
DEFAULT_FORMAT = "jpg"
MAX_FIELD_BYTES = 1000
MAX_NAME_CHARACTERS = 200


class UploadLimits(NamedTuple):
    """What a request may hold, and how long it may take to come."""

    max_bytes: int
    seconds: float


async def read_form(request: Request, limits: UploadLimits) -> FormData:
    """Read a form; its files are stored in unnamed files on disk, deleted when closed.

    A body that says that it is too large is not read at all, any other one up to the limit.

    Raises:
        RefusedError: 400, 408, 413 or 415.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise RefusedError(
            415, f"the body is {kind or 'of no type'}, need multipart/form-data with wide and tele"
        )
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.max_bytes:
        raise _too_large(int(length), limits)
    try:
        async with asyncio.timeout(limits.seconds), aclosing(_bounded(request, limits)) as body:
            parser = MultiPartParser(
                request.headers,
                body,
                max_files=2,
                max_fields=len(FIELDS),
                max_part_size=MAX_FIELD_BYTES,
            )
            return await parser.parse()
    except MultiPartException as error:
        raise RefusedError(400, f"the form cannot be read: {error.message}") from error
    except TimeoutError as error:
        raise RefusedError(
            408, f"the upload took more than {limits.seconds:g} s; send smaller images"
        ) from error
    except ClientDisconnect as error:
        raise RefusedError(400, "the client left before its upload was whole") from error


async def _bounded(request: Request, limits: UploadLimits) -> AsyncGenerator[bytes]:
    """The body, up to the limit."""
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > limits.max_bytes:
            raise _too_large(None, limits)
        yield chunk


def _too_large(num_bytes: int | None, limits: UploadLimits) -> RefusedError:
    got = "more" if num_bytes is None else f"{num_bytes / 1e6:.1f} MB"
    most = limits.max_bytes / 1e6
    return RefusedError(
        413, f"the request is {got}, this server takes {most:g} MB; send smaller images"
    )


class Choices(NamedTuple):
    """What a client chose beside the images."""

    changes: dict[str, Any]
    """Fields of `UpscaleOptions`."""
    format: str
    preview: bool


def check_form(form: FormData, options: UpscaleOptions) -> Choices:
    """What a form asks for, before its images are looked at.

    Args:
        options: the server's own, which the form's are put into.

    Raises:
        RefusedError: 400.
    """
    unknown = sorted(set(form) - {"wide", "tele", *FIELDS})
    if unknown:
        raise RefusedError(
            400, f"unknown field {unknown[0]!r:.80}, need wide, tele and any of {', '.join(FIELDS)}"
        )
    twice = [name for name in form if len(form.getlist(name)) > 1]
    if twice:
        raise RefusedError(400, f"{twice[0]} is given twice; give it once")
    for name in ("wide", "tele"):
        file = form.get(name)
        if not isinstance(file, UploadFile) or not file.size:
            got = "missing" if file is None else "no file" if isinstance(file, str) else "empty"
            raise RefusedError(400, f"{name} is {got}, need an image as a file of the form")
    try:
        return _choices(form, options)
    except ValueError as error:
        raise RefusedError(400, without_dashes(str(error))) from error


async def load_pair(form: FormData, choices: Choices) -> PairRequest:
    """The whole request in memory."""
    files = {name: file for name, file in form.items() if isinstance(file, UploadFile)}
    return PairRequest(
        wide=await files["wide"].read(),
        tele=await files["tele"].read(),
        wide_name=_plain_name(files["wide"]),
        tele_name=_plain_name(files["tele"]),
        format=choices.format,
        changes=choices.changes,
        preview=choices.preview,
    )


def _choices(form: FormData, options: UpscaleOptions) -> Choices:
    text = {name: str(form.get(name, "")).strip() for name in FIELDS}
    changes: dict[str, Any] = {}
    if text["trust"]:
        changes["trust"] = _number("trust", text["trust"], float)
    if text["quality"]:
        changes["quality"] = _number("quality", text["quality"], int)
    for name in ("centered", "strip_metadata"):
        if text[name]:
            changes[name] = _flag(name, text[name])
    if text["box"]:
        edges = re.split(r"[\s,]+", text["box"].strip("[]() "))
        if len(edges) != 4 or not all(re.fullmatch(r"[0-9]{1,6}", edge) for edge in edges):
            raise ValueError(
                f"box is {text['box']!r:.80}, need y0,y1,x0,x1 in pixels of the result"
            )
        changes["box"] = tuple(int(edge) for edge in edges)
    asked = text["format"].lower() or DEFAULT_FORMAT
    image_format = {"jpeg": "jpg", "tiff": "tif"}.get(asked, asked)
    if image_format not in MEDIA_TYPES:
        raise ValueError(f"format is {asked!r:.80}, need one of {', '.join(MEDIA_TYPES)}")
    replace(options, **changes).check()
    return Choices(changes, image_format, _flag("preview", text["preview"] or "false"))


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{name} is {text!r:.80}, need a number") from error


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "on"):
        raise ValueError(f"{name} is {text!r:.80}, need true or false")
    return text.lower() in ("true", "1", "on")


def _plain_name(file: UploadFile) -> str:
    """What the client calls the file, without folders and control characters."""
    name = re.split(r"[/\\]", file.filename or "")[-1]
    return "".join(filter(str.isprintable, name))[:MAX_NAME_CHARACTERS] or "image"


def without_dashes(message: str) -> str:
    """A command's message with its flags named as fields."""
    return re.sub(
        r"--([a-z][a-z-]+)", lambda flag: flag[1].replace("-", "_"), message.replace("\n", " ")
    )
