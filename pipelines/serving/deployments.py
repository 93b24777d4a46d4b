"""The two Ray Serve deployments: one that speaks HTTP, and the replicas that make the pictures.

The first never loads PyTorch: it stays small, and responsive while all cores compute. It alone
counts the queue, whatever the number of replicas.
"""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from pipelines.serving.app import Service, build_app
from pipelines.serving.messages import GRACE_S, Answer, PairRequest, Refusal, time_is_over
from pipelines.serving.options import ServeOptions
from pipelines.serving.queue import Queue
from pipelines.serving.uploads import UploadLimits
from sddusr.cli import command_line

REPLICA_START_S = 180.0
"""How long a request waits for a replica that starts again."""
MAX_CONNECTIONS = 1000
"""Requests that the front answers at a time; all but the queue's are refusals and pages."""
READY_FOR_S = 2.0
"""How long an answer to how many replicas are up is used again."""

log = logging.getLogger(__name__)


@serve.deployment(
    max_ongoing_requests=1,
    health_check_period_s=5,
    health_check_timeout_s=60,
    graceful_shutdown_timeout_s=20,
)
class Upscaling:
    """A replica: a process with the weights that upscales one image at a time."""

    def __init__(self, options: ServeOptions, memory_share: float) -> None:
        from pipelines.serving.worker import Worker
        from pipelines.tracking.model_uris import local_checkpoint

        command_line.mask_streams()
        chosen = options.upscale_options(local_checkpoint(options.checkpoint))
        settings = replace(chosen.settings(), memory_share=memory_share)
        self.worker = Worker(chosen, settings, options.shown_checkpoint, options.timeout_s)

    async def make(self, request: PairRequest) -> Answer | Refusal:
        return await self.worker.make(request)

    def __del__(self) -> None:
        if hasattr(self, "worker"):
            self.worker.close()


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=MAX_CONNECTIONS,
    max_queued_requests=MAX_CONNECTIONS,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=30,
)
@serve.ingress()
class Front:
    """The page, the API, the queue and the limits."""

    def __init__(
        self, options: ServeOptions, token_sha256: str | None, upscaling: DeploymentHandle
    ) -> None:
        self.options, self.token_sha256, self.upscaling = options, token_sha256, upscaling
        self.application = serve.get_replica_context().app_name
        self.num_ready_at = (0, -READY_FOR_S)

    def __serve_build_asgi_app__(self) -> Starlette:
        options = self.options
        return build_app(
            Service(
                make=self.make,
                num_ready=self.num_ready,
                options=options.upscale_options(options.checkpoint),
                queue=Queue(options.replicas, options.max_queued),
                limits=UploadLimits(round(options.max_mb * 1e6), options.timeout_s),
                network=options.shown_checkpoint,
                token_sha256=self.token_sha256,
            )
        )

    async def make(self, request: PairRequest) -> Answer | Refusal:
        """Send the request to a replica; cancelled, as where the client leaves, the work ends."""
        limit_s, started = self.options.timeout_s, time.monotonic()
        response = self.upscaling.make.remote(request)
        try:
            async with asyncio.timeout(limit_s + GRACE_S + REPLICA_START_S):
                return await response
        except (asyncio.CancelledError, TimeoutError) as error:
            response.cancel()
            if isinstance(error, TimeoutError):
                return Refusal(status=503, message="no replica is up; try again in a minute")
            raise
        except (RayError, RayServeException) as error:
            if time.monotonic() - started >= limit_s:
                return time_is_over(limit_s)  # which its process ended with
            log.warning("a replica failed: %.500s", error)
            return Refusal(
                status=503,
                message="the replica's process died, for lack of memory most likely; send smaller "
                "images, or try again in a minute",
            )

    async def num_ready(self) -> int:
        """Replicas that are up, as Serve's controller says."""
        num, asked = self.num_ready_at
        if time.monotonic() - asked > READY_FOR_S:
            num = await asyncio.to_thread(self._ask_num_ready)
            self.num_ready_at = (num, time.monotonic())
        return num

    def _ask_num_ready(self) -> int:
        application = serve.status().applications.get(self.application)
        upscaling = application and application.deployments.get(Upscaling.name)
        states: Any = upscaling.replica_states if upscaling else {}
        return int(states.get("RUNNING", 0))


def build_application(
    options: ServeOptions,
    token_sha256: str | None,
    *,
    actor_options: dict[str, float] | None = None,
    memory_share: float | None = None,
) -> serve.Application:
    """Both deployments, bound.

    Args:
        actor_options: `num_cpus` and `num_gpus` of each replica.
        memory_share: of what is free, for a replica without `--memory`.
    """
    share = 1 / options.replicas if memory_share is None else memory_share
    upscaling = Upscaling.options(
        num_replicas=options.replicas, ray_actor_options=actor_options or {"num_cpus": 1}
    )
    return Front.bind(options, token_sha256, upscaling.bind(options, share))
