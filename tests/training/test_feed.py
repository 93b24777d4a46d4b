"""Batches on a GPU are those of the CPU, and one ahead."""

import torch

from sddusr.data.stream import BatchStream
from sddusr.model.matching.mask import gumbel_noise
from sddusr.training.feed import device_batches, to_unit_range
from sddusr.types import IMAGES
from tests.runs import CONFIG


def batches(shards, num, **given):
    with BatchStream(shards, CONFIG.data, seed=0, batch_size=2, **given) as stream:
        return [next(stream) for _ in range(num)]


def test_bytes_become_the_same_images(tiny_shards):
    (plain,), (small,) = (batches(tiny_shards, 1, as_bytes=b) for b in (False, True))
    for name in IMAGES:
        assert getattr(small, name).dtype == torch.uint8
        assert torch.equal(getattr(to_unit_range(small), name), getattr(plain, name))


def test_a_cpu_gets_its_batches_as_they_are(tiny_shards):
    given = batches(tiny_shards, 2)
    assert list(device_batches(given, torch.device("cpu"), with_noise=True)) == given


def test_a_batch_is_copied_before_the_one_ahead_of_it_is_taken(tiny_shards, monkeypatch):
    taken, copied = [], []
    given = batches(tiny_shards, 3, as_bytes=True)

    def numbered():
        for number, batch in enumerate(given):
            taken.append(number)
            yield batch

    def copy(batch, device, with_noise):
        copied.append(len(copied))
        noise = gumbel_noise(batch.seeds, *batch.mask_label.shape[2:]) if with_noise else None
        return batch._replace(gumbel=noise)

    monkeypatch.setattr("sddusr.training.feed.upload", copy)
    feed = device_batches(numbered(), torch.device("cuda"), with_noise=True)
    first = next(feed)
    assert (taken, copied) == ([0, 1], [0, 1])
    assert first.gumbel is not None
    assert first.ids == given[0].ids
    assert [batch.ids for batch in feed] == [batch.ids for batch in given[1:]]
