import dataclasses
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sddusr.config import DataConfig
from sddusr.data.crops import Sample, cut_sample, draw_span
from sddusr.data.dataset import ShardSet
from sddusr.data.detail import mask_label
from sddusr.data.stream import BatchStream, collate, sample_at, seed_at, share
from sddusr.geometry.box import Box, to_lr
from sddusr.types import IMAGES, Batch
from tests.conftest import make_triplet

CONFIG = DataConfig(crop_px=16, shift_px=(4, 12), read_ahead=2)


def take(stream: BatchStream, num: int) -> list[Batch]:
    with stream:
        return list(itertools.islice(stream, num))


def cell_sums(hr: np.ndarray) -> np.ndarray:
    rows, cols = hr.shape[0] // 4, hr.shape[1] // 4
    cells = hr[: 4 * rows, : 4 * cols].reshape(rows, 4, cols, 4, 3)
    return cells.sum((1, 3, 4), dtype=np.float32)


def assert_equal(left: Batch, right: Batch) -> None:
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(0, 3))
def test_every_row_exactly_once_an_epoch(seed, num_rows, epoch):
    places = [sample_at(seed, epoch * num_rows + i, num_rows) for i in range(num_rows)]
    assert {place.epoch for place in places} == {epoch}
    assert sorted(place.row for place in places) == list(range(num_rows))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(sample_at(seed, epoch * 50 + i, 50).row for i in range(50))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_seeds_differ_between_positions_and_fit_a_tensor():
    seeds = [seed_at(run, position) for run in range(4) for position in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(0, 40))
def test_ranks_share_each_batch_whole_in_order_and_evenly(step, world, more):
    size = world + more
    shares = [share(step, size, rank, world) for rank in range(world)]
    assert [*itertools.chain(*shares)] == [*range(step * size, (step + 1) * size)]
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1 <= min(sizes)


def test_more_ranks_than_samples_are_refused(tiny_shards):
    with pytest.raises(ValueError, match=r"train\.batch_size is 4 for 5 workers, need a sample"):
        BatchStream(tiny_shards, CONFIG, seed=0, batch_size=4, rank=0, world=5)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_any_number_of_ranks_sees_the_same_samples(tiny_shards, world):
    alone = take(BatchStream(tiny_shards, CONFIG, seed=5, batch_size=4), 5)
    ranks = [
        take(BatchStream(tiny_shards, CONFIG, seed=5, batch_size=4, rank=rank, world=world), 5)
        for rank in range(world)
    ]
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        joined = Batch(
            tuple(itertools.chain(*(part.ids for part in parts))),
            *(torch.cat(x) for x in zip(*(part[1:-1] for part in parts), strict=True)),  # no noise
        )
        assert_equal(joined, batch)


def test_the_stream_covers_the_split_once_an_epoch(tiny_shards):
    batches = take(BatchStream(tiny_shards, CONFIG, seed=1, batch_size=2), 14)
    ids = [id for batch in batches for id in batch.ids]
    for epoch in range(4):
        assert Counter(ids[7 * epoch : 7 * epoch + 7]) == Counter(f"train-{i}" for i in range(7))


def test_resume_from_a_step_equals_the_unbroken_stream(tiny_shards):
    unbroken = take(BatchStream(tiny_shards, CONFIG, seed=3, batch_size=3), 9)
    resumed = take(BatchStream(tiny_shards, CONFIG, seed=3, batch_size=3, start_step=4), 5)
    for one, other in zip(resumed, unbroken[4:], strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize(("read_ahead", "num_threads"), [(0, 1), (1, 1), (7, 1), (1, 3), (7, 3)])
def test_reading_ahead_changes_nothing(tiny_shards, read_ahead, num_threads):
    config = dataclasses.replace(CONFIG, read_ahead=read_ahead)
    stream = BatchStream(tiny_shards, config, seed=3, batch_size=3, num_threads=num_threads)
    for step, batch in enumerate(take(stream, 4)):
        assert_equal(batch, stream.batch(step))
    assert stream.wait_s > 0


def test_tensors_are_what_the_network_takes(tiny_shards):
    batch = take(BatchStream(tiny_shards, CONFIG, seed=0, batch_size=3), 1)[0]
    assert batch.lr.shape == batch.lr_center.shape == (3, 3, 16, 16)
    assert batch.hr.shape == batch.ref.shape == (3, 3, 32, 32)
    assert batch.mask_label.shape == (3, 1, 8, 8)
    assert batch.seeds.shape == (3,)
    for picture in (batch.lr, batch.lr_center, batch.ref, batch.hr):
        assert picture.dtype == torch.float32
        assert picture.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= picture.min() < 0.4 < 0.6 < picture.max() <= 1
    assert set(batch.mask_label.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_batch_has_one_layout_however_its_samples_are_turned(turned, as_bytes):
    """A compiled step is traced for the strides that it sees."""
    images = [np.zeros((side, side, 3), np.uint8) for side in (8, 8, 16, 16)]
    images = [image.transpose(1, 0, 2) if turned else image for image in images]
    sample = Sample(*images, mask_label=np.zeros((4, 4), np.float32))
    batch = collate(["a", "b"], [sample, sample], [0, 1], as_bytes=as_bytes)
    for name in IMAGES:
        assert getattr(batch, name).is_contiguous(memory_format=torch.channels_last)


def test_damage_reaches_the_consumer(tmp_path, tiny_shards):
    shutil.copytree(tiny_shards.root, tmp_path / "set")
    for path in (tmp_path / "set").glob("train-*.parquet"):
        data = bytearray(path.read_bytes())
        data[100:20_000] = bytes(19_900)
        path.write_bytes(data)
    with (
        BatchStream(ShardSet(str(tmp_path / "set")), CONFIG, seed=0, batch_size=7) as stream,
        pytest.raises(ValueError, match="row group 0 is damaged"),
    ):
        next(stream)


def test_closing_stops_the_stream(tiny_shards):
    stream = BatchStream(tiny_shards, CONFIG, seed=0, batch_size=2)
    next(stream)
    stream.close()
    with pytest.raises(RuntimeError, match="the stream is closed"):
        next(stream)


def test_a_crop_that_does_not_fit_is_refused_before_training(tiny_shards):
    config = DataConfig(crop_px=80, shift_px=(4, 12))
    with pytest.raises(ValueError, match=r"crops of up to 64 px.*--data\.crop-px"):
        BatchStream(tiny_shards, config, seed=0, batch_size=2)
    with pytest.raises(ValueError, match=r"tiny: LR is 64x72.*need 80x80.*--data\.crop-px"):
        cut_sample(make_triplet("tiny"), config, np.random.default_rng(0))


def test_an_empty_split_is_refused(tmp_path, tiny_shards):
    shutil.copytree(tiny_shards.root, tmp_path / "set")
    path = Path(tmp_path / "set" / "manifest.json")
    tree = json.loads(path.read_text())
    tree["shards"] = [shard for shard in tree["shards"] if shard["split"] != "val"]
    path.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="no rows in split val"):
        BatchStream(ShardSet(str(path.parent)), CONFIG, split="val", seed=0, batch_size=2)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, Box(17, 101, 21, 133), Box(0, 128, 0, 144), Box(6, 127, 3, 142)]),
    st.sampled_from([(64, 72), (65, 73)]),
)
def test_all_members_of_a_sample_show_the_same_place(seed, box, lr_shape):
    """Ref is HR here, so whatever flip and turn was drawn, halving HR gives LR and halving Ref
    gives the centre crop. Sums of HR are taken for its detail, since they turn with it."""
    triplet = make_triplet("t", "train", lr_shape, box, seed=1)
    triplet = triplet._replace(detail=cell_sums(triplet.hr))
    sample = cut_sample(triplet, CONFIG, np.random.default_rng(seed))
    for fine, coarse in ((sample.hr, sample.lr), (sample.ref, sample.lr_center)):
        half = cv2.resize(np.ascontiguousarray(fine), (16, 16), interpolation=cv2.INTER_AREA)
        assert np.abs(half.astype(int) - coarse).max() <= 1
    sums = cell_sums(sample.hr)
    np.testing.assert_array_equal(sample.mask_label, sums > np.median(sums))


def test_augmentation_draws_all_eight_symmetries():
    still = dataclasses.replace(CONFIG, augment=False, shift_px=(0, 0), crop_px=64)
    triplet = make_triplet("t", lr_shape=(64, 64))
    plain = cut_sample(triplet, still, np.random.default_rng(0)).lr
    moving = dataclasses.replace(still, augment=True)
    seen = {
        cut_sample(triplet, moving, np.random.default_rng(seed)).lr.tobytes() for seed in range(99)
    }
    symmetries = [np.rot90(part, k) for part in (plain, plain[:, ::-1]) for k in range(4)]
    assert seen == {part.tobytes() for part in symmetries}


@given(
    st.integers(16, 200),
    st.integers(0, 40),
    st.integers(16, 120),
    st.sampled_from([(4, 12), (0, 0), (30, 60), (32, 96)]),
    st.integers(0, 999),
)
def test_offsets_are_even_inside_and_shifted_as_far_as_can_be(length, start, side, shift, seed):
    config = DataConfig(crop_px=16, shift_px=shift)
    start -= start % 2
    end = start + side - side % 2
    span = draw_span(length, (start, end), config, np.random.default_rng(seed))
    assert span.crop % 2 == span.center % 2 == 0
    assert 0 <= span.crop <= length - 16
    assert start <= span.center <= end - 16
    distances = {abs(center - span.crop) for center in range(start, end - 15, 2)}
    chosen = abs(span.center - span.crop)
    if wanted := {distance for distance in distances if shift[0] <= distance <= shift[1]}:
        assert chosen in wanted
    else:
        miss = {max(shift[0] - d, d - shift[1]): d for d in distances}
        assert max(shift[0] - chosen, chosen - shift[1]) == min(miss)


def test_far_stand_ins_lie_as_far_from_the_crop_as_there_is_room():
    triplet = make_triplet("t")
    center = to_lr(triplet.center_box)
    config = dataclasses.replace(CONFIG, augment=False)
    far = dataclasses.replace(config, far_share=1.0)
    for seed in range(20):
        near_y, near_x = cut_sample(triplet, config, np.random.default_rng(seed)).center_offset
        far_y, far_x = cut_sample(triplet, far, np.random.default_rng(seed)).center_offset
        assert max(abs(near_y), abs(near_x)) <= 2 * config.shift_px[1]
        assert abs(far_y) >= center.height - config.crop_px
        assert abs(far_x) >= center.width - config.crop_px
        span = draw_span(
            64, (center.y0, center.y1), config, np.random.default_rng(seed), is_far=True
        )
        reach = max(abs(center.y0 - span.crop), abs(center.y1 - config.crop_px - span.crop))
        assert abs(span.center - span.crop) == reach


def test_a_window_of_the_default_size_always_has_a_shift_as_asked():
    config = DataConfig()
    for seed in range(500):
        span = draw_span(256, (0, 256), config, np.random.default_rng(seed))
        assert 32 <= abs(span.crop - span.center) <= 96


def test_label_by_the_whole_picture_uses_its_quantile():
    triplet = make_triplet("t")
    config = dataclasses.replace(CONFIG, mask_scope="image", mask_quantile=0.75, augment=False)
    sample = cut_sample(triplet, config, np.random.default_rng(4))
    labels = mask_label(triplet.detail, float(np.quantile(triplet.detail, 0.75)))
    windows = np.lib.stride_tricks.sliding_window_view(labels, (8, 8)).reshape(-1, 8, 8)
    assert (windows == sample.mask_label).all((1, 2)).any()
