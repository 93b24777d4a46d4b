"""What a client gets: the image alone, JSON, or a form with all parts."""

import base64
import json
import secrets
from collections.abc import Iterator

from starlette.responses import JSONResponse, Response

from pipelines.serving.messages import Answer, RefusedError

PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def respond(answer: Answer, accept: str) -> Response:
    """The answer in the form that the client accepts.

    `application/json`: the record, and the images in base64. `multipart/form-data`: the same
    parts as files. Anything else: the image.
    """
    if "application/json" in accept:
        content = {"record": answer.record, "media_type": answer.media_type}
        encoded = {
            name: base64.b64encode(data).decode()
            for name, _, data in _files(answer)
            if name != "record"
        }
        return JSONResponse(content | {"trust": None} | encoded, headers=PRIVATE)
    if "multipart/form-data" in accept:
        boundary = f"sddusr-{secrets.token_hex(16)}"
        return Response(
            b"".join(_parts(answer, boundary)),
            headers=PRIVATE,
            media_type=f"multipart/form-data; boundary={boundary}",
        )
    return Response(answer.image, headers=PRIVATE, media_type=answer.media_type)


def refuse(error: RefusedError) -> JSONResponse:
    """One line as JSON."""
    line = " ".join(error.message.split())
    return JSONResponse({"error": line}, error.status, {**PRIVATE, **error.headers})


def _files(answer: Answer) -> Iterator[tuple[str, str, bytes]]:
    """Name, media type and content of each part."""
    yield "record", "application/json", json.dumps(answer.record).encode()
    yield "image", answer.media_type, answer.image
    if answer.trust is not None:
        yield "trust", "image/png", answer.trust
    if answer.preview is not None:
        yield "preview", "image/jpeg", answer.preview


def _parts(answer: Answer, boundary: str) -> Iterator[bytes]:
    for name, media_type, data in _files(answer):
        yield (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        ).encode()
        yield data
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
