"""A tiny search, and an MLflow server in memory that its trials log to."""

from dataclasses import replace
from typing import Any

import pytest

from sddusr.config import OptimConfig
from tests.faults.fake_mlflow import FakeServer, replace_server
from tests.runs import CONFIG
from tune.space import Choices, Space
from tune.trial import Setting, describe_trial
from tune.trials import SearchFolder

URI = "http://mlflow.example:5000"

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
def server(monkeypatch) -> FakeServer:
    return replace_server(monkeypatch)


@pytest.fixture
def search(tmp_path) -> SearchFolder:
    return SearchFolder(str(tmp_path / "search"))


@pytest.fixture
def setting(tiny_shards, search) -> Setting:
    """Trials of six steps, validated at 2, 4 and 6."""
    return Setting(
        folder=search.folder,
        data=tiny_shards.root,
        config=OF_SIX,
        space=SPACE,
        tracking_uri=URI,
        experiment="search",
    )


def propose(setting: Setting, number: int, values: dict[str, Any]) -> SearchFolder:
    """As a search does before it starts a trial."""
    search = SearchFolder(setting.folder)
    describe_trial(setting, search.run(number), number, values)
    search.propose(number, values)
    return search
