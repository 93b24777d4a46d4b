import pytest
import torch.distributed as dist

from pipelines.ray_runtime.backend import PersistentGroup
from sddusr.training import distributed


class Workers:
    """Two workers as Ray Train's backend meets them, of which this process is the second."""

    def __len__(self):
        return 2

    def execute_async(self, function, **given):
        function(**given)
        return []


@pytest.fixture
def second_of_two():
    store = dist.HashStore()
    dist.init_process_group("fake", store=store, rank=1, world_size=2)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.usefixtures("second_of_two")
def test_a_worker_that_ray_train_is_ending_still_knows_its_rank(monkeypatch):
    monkeypatch.setattr("ray.get", lambda refs, **_: refs)
    config = PersistentGroup()
    config.backend_cls().on_shutdown(Workers(), config)
    assert (distributed.rank(), distributed.world_size()) == (1, 2)
