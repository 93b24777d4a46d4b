"""A tiny search, and an MLflow server in memory that its trials log to."""

from dataclasses import replace

import pytest

from pipelines.tracking import courier, store
from sddusr.config import OptimConfig
from tests.faults.fake_mlflow import FakeServer
from tests.runs import CONFIG
from tune.children import Home
from tune.ledger import Ledger
from tune.space import Choices, Space
from tune.trial import Setting

TOKENS = "model.dictionary.num_tokens"
SPACE = Space({TOKENS: Choices((2, 4, 8)), "data.crop_px": Choices((16, 128))})
SMALL = {TOKENS: 2, "data.crop_px": 16}
TOO_LARGE = {TOKENS: 2, "data.crop_px": 128}
"""More than any window holds."""

OF_SIX = replace(
    CONFIG,
    optim=OptimConfig(lr=2e-3),
    train=replace(CONFIG.train, validate_every=2, log_every=1, checkpoint_every=3),
)


@pytest.fixture
def server(monkeypatch, tmp_path) -> FakeServer:
    server = FakeServer()
    monkeypatch.setattr(store, "MlflowClient", server.client)
    monkeypatch.setattr(courier, "POLL_S", 0.02)
    monkeypatch.setattr(courier, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(courier, "LONGEST_WAIT_S", 0.02)
    monkeypatch.setenv("SDDUSR_SPOOL", str(tmp_path / "home"))
    return server


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path / "search"))


@pytest.fixture
def setting(server, tiny_shards, ledger) -> Setting:
    """Trials of six steps, validated at 2, 4 and 6."""
    return Setting(
        folder=ledger.folder,
        data=tiny_shards.root,
        config=OF_SIX,
        space=SPACE,
        home=Home(uri="http://mlflow.example:5000", experiment="search", parent_id="parent"),
    )
