"""The HTTP side on a real, tiny network, without Ray."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from pipelines.serving import scratch
from pipelines.serving.app import Service
from pipelines.serving.queue import Queue
from pipelines.serving.uploads import UploadLimits
from pipelines.serving.worker import Worker
from sddusr.checkpoint import write_checkpoint
from sddusr.config import DEMO
from sddusr.model.sddusr import SDDuSR
from sddusr.photos.options import UpscaleOptions
from tests.pipelines.serving.uploads import MAX_BYTES, MODEL, client_of


@pytest.fixture(scope="session")
def served_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("served") / "step-00000007"
    write_checkpoint(
        str(place),
        config=replace(DEMO, model=MODEL),
        progress={"step": 7, "tracking_run": ""},
        model_state=SDDuSR(MODEL).eval().state_dict(),
        train_state=None,
    )
    return str(place)


@pytest.fixture
def scratch_top(tmp_path, monkeypatch) -> Path:
    """Folder of the uploads."""
    top = tmp_path / "scratch"
    top.mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(top))
    return top


@pytest.fixture
def worker(served_checkpoint, scratch_top) -> Iterator[Worker]:
    options = UpscaleOptions(checkpoint=served_checkpoint, device="cpu", max_megapixels=0.05)
    made = Worker(options, options.settings(), "tiny", timeout_s=60)
    yield made
    made.close()


@pytest.fixture
def service(worker) -> Service:
    async def one() -> int:
        return 1

    return Service(
        make=worker.make,
        num_ready=one,
        options=worker.options,
        queue=Queue(1, 2),
        limits=UploadLimits(MAX_BYTES, 30),
        network="tiny",
    )


@pytest.fixture
def client(service) -> TestClient:
    return client_of(service)
