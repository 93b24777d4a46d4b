import torch.distributed as dist

from sddusr.training import stall
from sddusr.training.stall import StallWatch


def test_the_rank_that_the_others_wait_for_is_named_first(monkeypatch, caplog):
    store = dist.HashStore()
    watches = [StallWatch(store, rank, 3) for rank in range(3)]
    for watch, step, work in zip(
        watches, (7, 7, 7), ("step", "validation or data", "step"), strict=True
    ):
        watch.note(step, work)
        watch.beat()
    assert not caplog.text
    assert watches[0].describe().startswith("rank 1 on ")
    watches[1].note(6, "step")
    monkeypatch.setattr(stall, "STALLED_S", 0.0)
    watches[1].beat()
    watches[0].beat()
    line = caplog.messages[-1]
    assert line.startswith("rank 0 waits since 0 s: rank 1 on ")
    assert "is at step 6 (step, " in line
    watches[0].beat()
    assert caplog.messages[-1] == line  # said once
    assert len(caplog.messages) == 2


def test_a_long_validation_is_no_stall(monkeypatch, caplog):
    monkeypatch.setattr(stall, "STALLED_S", 0.0)
    watch = StallWatch(dist.HashStore(), 0, 1)
    watch.note(3, "validation or data")
    watch.beat()
    assert not caplog.text
