"""A model that MLflow names is downloaded once, whoever asks, and is found without MLflow."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow import artifacts
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from pipelines.tracking import model_uris
from pipelines.tracking.mirror import noted_run
from pipelines.tracking.model_uris import local_checkpoint
from sddusr.checkpoint import load_model, read_checkpoint, write_checkpoint
from sddusr.config import Config
from sddusr.model.sddusr import SDDuSR
from tests.tiny import TINY

URI, OTHER_URI = "http://mlflow.example:5000", "http://elsewhere.example:5000"
BEST = "models:/net@best"
NUM_REPLICAS = 8


class FakeStores:
    """MLflow servers with versions of one model, and how often a version was downloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.best = folder, "1"
        self.is_away = False
        self.num_downloads = 0
        self.before_it_ends = lambda: None

    def client(self, uri: str) -> SimpleNamespace:
        return SimpleNamespace(
            get_model_version_by_alias=self._by_alias,
            get_model_version=lambda name, version: SimpleNamespace(run_id=f"run{version}"),
            get_model_version_download_uri=lambda name, version: f"{uri}/{version}",
        )

    def _by_alias(self, name: str, alias: str) -> SimpleNamespace:
        if self.is_away:
            raise MlflowException("connection refused")
        if name != "net":
            raise MlflowException("no such model", RESOURCE_DOES_NOT_EXIST)
        if alias != "best" or not self.best:
            raise MlflowException("no such alias", INVALID_PARAMETER_VALUE)
        return SimpleNamespace(version=self.best)

    def download(self, artifact_uri: str, dst_path: str, tracking_uri: str) -> None:
        self.num_downloads += 1
        step = 10 * int(artifact_uri[-1]) + (tracking_uri == OTHER_URI)
        shutil.copytree(self.folder / str(step), Path(dst_path, "model", "data", "sddusr"))
        self.before_it_ends()


@pytest.fixture
def stores(tmp_path, monkeypatch) -> FakeStores:
    """Version V of the model is a checkpoint of step 10 V; in the other store of 10 V + 1."""
    model = SDDuSR(TINY)
    for step in (10, 11, 20):
        write_checkpoint(
            str(tmp_path / str(step)),
            config=Config(model=TINY),
            progress={"step": step},
            model_state=model.state_dict(),
            train_state=None,
        )
    stores = FakeStores(tmp_path)
    monkeypatch.setattr(model_uris, "make_client", stores.client)
    monkeypatch.setattr(artifacts, "download_artifacts", stores.download)
    return stores


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def step_of(place: str) -> int:
    return read_checkpoint(place).progress["step"]


def test_replicas_that_start_together_all_get_the_whole_checkpoint(stores, cache):
    together = threading.Barrier(NUM_REPLICAS, timeout=60)
    stores.before_it_ends = together.wait
    with ThreadPoolExecutor(NUM_REPLICAS) as pool:
        asked = [pool.submit(local_checkpoint, BEST, URI, cache) for _ in range(NUM_REPLICAS)]
        places = {each.result() for each in asked}
    (place,) = places
    assert stores.num_downloads == NUM_REPLICAS
    assert (step_of(place), noted_run(place)) == (10, "run1")
    assert [path for path in cache.iterdir() if path.is_dir()] == [Path(place)]


def test_a_version_is_downloaded_once_and_another_beside_it(stores, cache):
    first = local_checkpoint(BEST, URI, cache)
    assert local_checkpoint(BEST, URI, cache) == first
    assert local_checkpoint("models:/net/1", URI, cache) == first
    assert stores.num_downloads == 1
    stores.best = "2"
    second = local_checkpoint(BEST, URI, cache)
    assert (step_of(first), step_of(second)) == (10, 20)
    assert stores.num_downloads == 2


def test_stores_that_name_their_models_alike_share_nothing(stores, cache):
    places = [local_checkpoint(BEST, uri, cache) for uri in (URI, OTHER_URI)]
    assert [step_of(place) for place in places] == [10, 11]


def test_a_damaged_copy_is_downloaded_again(stores, cache):
    place = local_checkpoint(BEST, URI, cache)
    weights = Path(place, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert local_checkpoint(BEST, URI, cache) == place
    assert torch.is_tensor(next(load_model(place).parameters()))
    assert stores.num_downloads == 2


def test_without_mlflow_a_name_stands_for_what_it_stood_for_last(stores, cache, caplog):
    for stores.best in ("1", "2"):
        place = local_checkpoint(BEST, URI, cache)
    stores.is_away = True
    assert local_checkpoint(BEST, URI, cache) == place
    (line,) = caplog.messages
    assert line.startswith(f"MLflow at {URI} is unreachable (connection refused); taking {BEST}")
    assert line.endswith(place)
    for unknown, uri in (("models:/net@other", URI), (BEST, OTHER_URI)):
        with pytest.raises(ValueError, match=r"is unreachable .*and the model is not in .*cache"):
            local_checkpoint(unknown, uri, cache)


@pytest.mark.parametrize("name", ["models:/nobody@best", "models:/net@worst", BEST])
def test_what_mlflow_no_longer_has_is_refused(stores, cache, name):
    local_checkpoint(BEST, URI, cache)
    stores.best = ""
    with pytest.raises(ValueError, match=rf"{name}: MLflow at {URI} has no such model"):
        local_checkpoint(name, URI, cache)
