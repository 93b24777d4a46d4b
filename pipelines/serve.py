#!/usr/bin/env python3
"""Serve a page and an API that upscale a wide image with the help of a tele image."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed

from pipelines.ray_runtime import cluster
from pipelines.serving.access import is_loopback, read_token
from pipelines.serving.options import ServeOptions
from pipelines.serving.scratch import remove_orphans
from pipelines.tracking.model_uris import local_checkpoint
from sddusr.cli import command_line
from sddusr.photos.engines import check_weights

NAME = "sddusr"
"""Of the application in Ray Serve."""

PATIENCE = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
"""Serve's own five seconds let a busy machine end its proxy and start it anew, again and again."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def main(options: ServeOptions) -> int:
    """Serve until a signal ends it.

    Raises:
        ValueError: options, a token or a checkpoint that cannot be used, or no room for replicas.
        OSError: the port is taken.
        StoppedError: SIGTERM or Ctrl-C.
    """
    options.check()
    token_sha256 = read_token(options.token_file, is_needed=not is_loopback(options.host))
    check_weights(options.upscale_options(local_checkpoint(options.checkpoint)).settings())
    _check_port(options)
    for name, seconds in PATIENCE.items():
        os.environ.setdefault(name, seconds)
    cluster.init_ray()
    with _stopped_by_signals(), _serving(options, token_sha256):
        print(f"page    {options.address}")
        print(f"API     POST {options.address}upscale (docs/serving.md)")
        print(f"health  {options.address}health", flush=True)
        if token_sha256 is None:
            log.info("only this machine can connect, without a token; Ctrl-C ends the server")
        while True:
            signal.pause()


@contextmanager
def _serving(options: ServeOptions, token_sha256: str | None) -> Iterator[None]:
    """The application, up and answering meanwhile."""
    from ray import serve

    from pipelines.serving.deployments import build_application

    gpus = _num_gpus(options)
    cores = cluster.cores_for_each(options.replicas, "--replicas", gpus)
    application = build_application(
        options,
        token_sha256,
        actor_options={"num_cpus": cores, "num_gpus": gpus},
        memory_share=gpus or None,
    )
    if _runs_serve():
        raise ValueError(
            "Ray Serve runs in this cluster already, maybe on another address; deploy "
            "pipelines.serve:build there (docs/serving.md), or end it with `serve shutdown`"
        )
    try:
        serve.start(
            proxy_location="HeadOnly", http_options={"host": options.host, "port": options.port}
        )
        serve.run(application, name=NAME, route_prefix="/")
        yield
    finally:
        with _ignoring_signals():
            serve.shutdown()
            remove_orphans()


def _runs_serve() -> bool:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    named = ray.util.list_named_actors(all_namespaces=True)
    return {"name": SERVE_CONTROLLER_NAME, "namespace": SERVE_NAMESPACE} in named


def _num_gpus(options: ServeOptions) -> float:
    """GPUs of each replica."""
    gpus = 0.0 if options.device == "cpu" else cluster.gpus_for_each(options.replicas)
    if options.device == "cuda" and not gpus:
        raise ValueError("--device is cuda, but the cluster has no GPU; pass --device cpu")
    return gpus


def _check_port(options: ServeOptions) -> None:
    """Refuse a port that is taken before a cluster starts."""
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        socket.create_server((options.host, options.port), family=family).close()
    except OSError as error:
        raise OSError(
            f"--host {options.host} --port {options.port} cannot be listened on "
            f"({error.strerror}); choose another --port"
        ) from error


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise `StoppedError` where SIGTERM or Ctrl-C comes meanwhile."""

    def stop(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise command_line.StoppedError(f"{name}: the server has ended", number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ignoring_signals() -> Iterator[None]:
    """Let the end be an orderly one, even where Ctrl-C is pressed again."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build(args: dict[str, Any]) -> Any:
    """The application of a Serve config file (`import_path: pipelines.serve:build`).

    Args:
        args: fields of `ServeOptions`; host and port belong in the config's `http_options`, and so
            a token is always needed.

    Raises:
        ValueError: unknown fields, values that do not fit, or no token.
    """
    from pipelines.serving.deployments import build_application

    unknown = sorted(set(args) - (set(ServeOptions.__dataclass_fields__) - {"host", "port"}))
    if unknown:
        raise ValueError(f"args: {unknown[0]!r} is no option of the server")
    options = replace(ServeOptions(), **args)
    options.check()
    return build_application(options, read_token(options.token_file, is_needed=True))


if __name__ == "__main__":
    # By name, so that Ray pickles options by reference.
    from pipelines import serve as this

    command_line.run(this.main, this.ServeOptions)
