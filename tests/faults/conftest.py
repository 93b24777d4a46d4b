"""What broken runs are compared with."""

from pathlib import Path

import pytest

from sddusr.data.dataset import ShardSet
from tests.faults.loop import run, together


@pytest.fixture(scope="session")
def unbroken(tiny_shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert together(run, (tiny_shards.root, str(folder))) == [0]
    return folder
