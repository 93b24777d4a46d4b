"""The HTTP side: the page, the API and the health route, whatever makes the pictures."""

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.serving.access import check_access
from pipelines.serving.answers import refuse, respond
from pipelines.serving.messages import Answer, PairRequest, Refusal, RefusedError
from pipelines.serving.queue import Queue
from pipelines.serving.uploads import UploadLimits, check_form, load_pair, read_form
from sddusr.photos.options import UpscaleOptions

PAGE = Path(__file__).parent / "page"
SLIDER = Path(__file__).parents[1] / "reporting" / "templates" / "slider.js"
"""Of the evaluation's page, too."""
PAGE_FILES = {
    "/": (PAGE / "index.html", "text/html"),
    "/page.css": (PAGE / "page.css", "text/css"),
    "/slider.js": (SLIDER, "text/javascript"),
    "/page.js": (PAGE / "page.js", "text/javascript"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What stands behind the routes."""

    make: Callable[[PairRequest], Awaitable[Answer | Refusal]]
    num_ready: Callable[[], Awaitable[int]]
    """Replicas that are up."""
    options: UpscaleOptions
    queue: Queue
    limits: UploadLimits
    network: str
    """As the user named it."""
    token_sha256: str | None = None
    """None: requests need no token."""


def build_app(service: Service) -> Starlette:
    """The ASGI application."""
    routes = [_Upscale(service).route, _Health(service).route]
    routes += [Route(path, _page_file(service, *file)) for path, file in PAGE_FILES.items()]
    return Starlette(
        routes=routes,
        exception_handlers={
            RefusedError: _on_refused,
            HTTPException: _on_http_error,
            Exception: _on_bug,
        },
    )


class _Upscale:
    """POST /upscale: two images in, a result out."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.route = Route("/upscale", self.handle, methods=["POST"])

    async def handle(self, request: Request) -> Response:
        service = self.service
        check_access(request.headers, service.token_sha256)
        with service.queue.place():
            form = await read_form(request, service.limits)
            try:
                choices = check_form(form, service.options)
                async with service.queue.turn():
                    outcome = await service.make(await load_pair(form, choices))
            finally:
                await form.close()
        if isinstance(outcome, Refusal):
            raise RefusedError(outcome.status, outcome.message)
        return respond(outcome, request.headers.get("accept", ""))


class _Health:
    """GET /health: whether a replica is up, and how much there is to do."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.route = Route("/health", self.handle)

    async def handle(self, _request: Request) -> Response:
        queue, num_ready = self.service.queue, await self.service.num_ready()
        state = {
            "status": "ok" if num_ready else "no replica is up",
            "network": self.service.network,
            "replicas": num_ready,
            "running": queue.num_made_now,
            "waiting": queue.num_waiting,
        }
        return JSONResponse(state, 200 if num_ready else 503, {"Cache-Control": "no-store"})


def _page_file(
    service: Service, place: Path, media_type: str
) -> Callable[[Request], Awaitable[Response]]:
    """A file of the page; what it says of this server is filled in."""
    about = {
        "network": service.network,
        "max_mb": service.limits.max_bytes / 1e6,
        "max_megapixels": service.options.max_megapixels,
        "needs_token": service.token_sha256 is not None,
    }
    filled_in = json.dumps(about).replace("<", "\\u003c")
    content = place.read_text(encoding="utf-8").replace("{{ about }}", filled_in)

    async def show(_request: Request) -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=media_type)

    return show


async def _on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refuse(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Paths and methods that there are not."""
    assert isinstance(error, HTTPException)
    problem = f"{request.method} {request.url.path!r:.80}: {error.detail}"
    remedy = "need POST /upscale, GET / or GET /health"
    return refuse(
        RefusedError(error.status_code, f"{problem}; {remedy}", dict(error.headers or {}))
    )


async def _on_bug(_request: Request, error: Exception) -> Response:
    log.error("a request failed", exc_info=error)
    return refuse(RefusedError(500, "the server failed; its log has the reason"))
