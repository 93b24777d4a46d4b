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

from pipelines.ray_runtime.system_metrics import SystemMetrics
from pipelines.report import ReportOptions, write_report
from pipelines.tracking.background import describe, mirror
from pipelines.tracking.evaluations import describe_evaluation
from pipelines.tracking.links import DATA_TAG, SCORE_TAG
from sddusr.checkpoint import read_checkpoint
from sddusr.config import flatten, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.evaluation.results import gains, summarize
from sddusr.evaluation.scoring import EvaluationConfig, Scorer
from sddusr.evaluation.tables import write_tables
from sddusr.runs.inputs import RunInputs, datasets_of
from sddusr.runs.run_folder import RunFolder
from tests.runs import CONFIG, LAST, Notebook, train_in

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
        self.run, self.system = run, SystemMetrics()

    def log(self, step, metrics):
        system = self.system.read() if "train/total" in metrics else {}
        self.run.log_metrics(step, {**metrics, **system})

    def show(self, step, pictures):
        for key, picture in pictures.items():
            self.run.log_image(step, key, picture)


class LoggedRun(NamedTuple):
    """A run that was trained, registered, evaluated and logged."""

    uri: str
    run_id: str
    evaluation_id: str
    page: Path


def log_run(shards: ShardSet, folder: Path) -> LoggedRun:
    """Train, register, evaluate and make the page, all of it tiny."""
    uri = f"sqlite:///{folder}/mlflow.db"
    run = RunFolder(str(folder / "tracked"))
    inputs = RunInputs(datasets=datasets_of(shards, ("train", "val")))
    params = flatten(to_dict(CONFIG))
    describe(run, uri, name="tiny", experiment="sddusr", params=params, inputs=inputs)
    checkpoints = Path(run.folder, "checkpoints")
    train_in(shards, checkpoints, CONFIG, TrackedNotebook(run))
    tags = {"sddusr.checkpoint": LAST, SCORE_TAG: "20.0", DATA_TAG: shards.content_hash}
    run.register_model("sddusr-tiny", str(checkpoints / LAST), tags)
    run.set_state("finished")
    run_id = mirror(run.folder, uri)
    page, evaluation_id = _evaluate(shards, str(checkpoints / LAST), str(folder / "results"), uri)
    return LoggedRun(uri, run_id, evaluation_id, page)


def _evaluate(shards: ShardSet, checkpoint: str, out: str, uri: str) -> tuple[Path, str]:
    """The page, and MLflow's id of the evaluation's run."""
    config = EvaluationConfig(data=shards.root, checkpoint=checkpoint, out=out)
    scorer = Scorer(config, {}, with_lpips=False)
    images = [image for row in shards.rows("test") for image in scorer.evaluate(row)]
    summaries = summarize(images)
    write_tables(out, images, summaries, gains(images, "bicubic"), "", {"split": "test"})
    page = Path(write_report(ReportOptions(results=(out,), out=f"{out}/page.html")))
    run = RunFolder(out)
    scores = {
        f"test/{each.protocol}/{each.method}/full_psnr": each.scores.full_psnr for each in summaries
    }
    describe_evaluation(
        run,
        uri,
        experiment="sddusr",
        shards=shards,
        split="test",
        checkpoint=read_checkpoint(checkpoint),
        params={"precision": "float32"},
        metrics=[key for key in scores if "/SDDuSR/" in key],
    )
    run.log_metrics(6, scores)
    run.add_artifact(page, "evaluation/test")
    run.set_state("finished")
    return page, mirror(run.folder, uri)


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
