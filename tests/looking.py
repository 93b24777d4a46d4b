"""A headless Chromium, and MLflow's own page on a real run; skips where Chromium is missing."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines.report import ReportOptions, write_report
from pipelines.tracking.background import describe, mirror
from sddusr.data.dataset import ShardSet
from sddusr.evaluation.results import gains, summarize
from sddusr.evaluation.scoring import EvaluationConfig, Scorer
from sddusr.evaluation.tables import write_tables
from sddusr.runs.run_folder import RunFolder
from tests.runs import CONFIG, Notebook, train_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

START_S = 120
"""MLflow takes 10 to 20 s where nobody else works."""


class TrackedNotebook(Notebook):
    """A reporter that also logs to MLflow, as Ray's workers do."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.run = run

    def log(self, step, metrics):
        self.run.log_metrics(step, metrics)

    def show(self, step, pictures):
        for key, picture in pictures.items():
            self.run.log_image(step, key, picture)


class LoggedRun(NamedTuple):
    """A run that was trained, evaluated and logged."""

    uri: str
    run_id: str
    page: Path


def log_run(shards: ShardSet, folder: Path) -> LoggedRun:
    """Train, evaluate and make the page, all of it tiny."""
    uri = f"sqlite:///{folder}/mlflow.db"
    run = RunFolder(str(folder / "tracked"))
    describe(run, uri, name="tiny", experiment="sddusr")
    train_in(shards, folder / "run", CONFIG, TrackedNotebook(run))
    out = str(folder / "results")
    config = EvaluationConfig(data=shards.root, checkpoint=str(folder / "run"), out=out)
    scorer = Scorer(config, {}, with_lpips=False)
    images = [image for row in shards.rows("test") for image in scorer.evaluate(row)]
    write_tables(out, images, summarize(images), gains(images, "bicubic"), "", {"split": "test"})
    page = Path(write_report(ReportOptions(results=(out,), out=f"{out}/page.html")))
    run.add_artifact(page, "evaluation/test")
    run.set_state("finished")
    return LoggedRun(uri, mirror(run.folder, uri), page)


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; skips the test that asks for it where it is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serving(logged_run: LoggedRun) -> Iterator[str]:
    """The address of `mlflow ui`, with processes of our own that end with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = logged_run.page.parent / "mlflow.log"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", logged_run.uri]
    with log.open("w") as told:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            cwd=log.parent,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
    try:
        _wait_for(f"{address}/health", server, log)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"mlflow ui did not start: {log.read_text()[-2000:]}")
