"""`mlflow models serve` answers a real request with the checkpoint's picture."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.tracking.model_files import save_model
from sddusr.checkpoint import load_model, write_checkpoint
from sddusr.config import Config
from sddusr.geometry.box import Box
from sddusr.inference import super_resolve
from sddusr.model.sddusr import SDDuSR
from tests.conftest import make_triplet
from tests.tiny import TINY, without_zero_starts

BIN = Path(sys.executable).parent
"""Of the environment, where MLflow looks for its web server by name."""

START_S = 240
"""MLflow and PyTorch are imported; the machine may be busy."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(0)
    place = str(tmp_path_factory.mktemp("run") / "step-00000004")
    write_checkpoint(
        place,
        config=Config(model=TINY),
        progress={"step": 4},
        model_state=without_zero_starts(SDDuSR(TINY)).state_dict(),
        train_state=None,
    )
    return place


@contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """The address of the server, whose processes are our own and end with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-P", "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as told:
        server = subprocess.Popen(
            command,
            cwd=log.parent,  # elsewhere, so that the code is the model's own
            env=env | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + START_S
        while not is_up(address):
            assert time.monotonic() < until, log.read_text()[-3000:]
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/ping", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address: str, request: dict) -> np.ndarray:
    """The picture that the server answers with."""
    asked = urllib.request.Request(
        f"{address}/invocations",
        data=json.dumps(request).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=240) as answer:
        return np.array(json.loads(answer.read())["predictions"], np.uint8)


def test_mlflow_models_serve_answers_with_and_without_a_box(checkpoint, tmp_path):
    save_model(tmp_path, checkpoint, "# card\n", "", "m-1")
    triplet = make_triplet(lr_shape=(96, 108), box=Box(48, 144, 54, 162))
    pictures = {"wide": triplet.lr.tolist(), "tele": triplet.ref.tolist()}
    box = [int(edge) for edge in triplet.center_box]
    with serving(tmp_path / "model", tmp_path / "server.log") as address:
        placed = ask(address, {"inputs": pictures, "params": {"box": box}})
        found = ask(address, {"inputs": pictures})
        example = json.loads((tmp_path / "model" / "serving_input_example.json").read_text())
        assert ask(address, example).shape == (64, 80, 3)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(address, {"inputs": pictures, "params": {"box": [1, 2, 3]}})
        assert "box is [1, 2, 3], need y0, y1, x0, x1" in refused.value.read().decode()
    expected = super_resolve(
        load_model(checkpoint), triplet.lr, triplet.ref, triplet.center_box, dtype=np.uint8
    ).sr
    assert np.abs(placed.astype(int) - expected).max() <= 1
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3
