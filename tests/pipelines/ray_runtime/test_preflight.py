"""What is refused before workers start."""

from dataclasses import replace

import pytest

from pipelines.ray_runtime.preflight import check_data
from tests.runs import CONFIG


def test_shards_with_refs_registered_otherwise_are_refused(tiny_shards):
    check_data(tiny_shards, CONFIG)
    other = replace(CONFIG, data=replace(CONFIG.data, register_ref="auto"))
    with pytest.raises(
        ValueError,
        match=r"registered by 'none', the config wants 'auto'.*"
        r"--data.register-ref none",
    ):
        check_data(tiny_shards, other)
