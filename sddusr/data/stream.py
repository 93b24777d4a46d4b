"""Training batches whose order is a pure function of the seed.

Position p of a run is row p % num_rows of epoch p // num_rows, in that epoch's own shuffle; global
batch k is positions k * batch_size and on, and rank r of W takes its share of each. So any number
of workers sees the same samples in the same order, and a resume needs only the step.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from sddusr.config import DataConfig
from sddusr.data.crops import Sample, cut_sample
from sddusr.data.dataset import ShardSet
from sddusr.types import IMAGES, Batch, Images


class Place(NamedTuple):
    """Where a position of a run falls."""

    epoch: int
    row: int


def sample_at(seed: int, position: int, num_rows: int) -> Place:
    """The row that a run reads at a position; every row exactly once an epoch."""
    epoch, index = divmod(position, num_rows)
    return Place(epoch, int(_shuffle(seed, epoch, num_rows)[index]))


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, num_rows: int) -> Int64[np.ndarray, "rows"]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch)))).permutation(
        num_rows
    )


def seed_at(seed: int, position: int) -> int:
    """A seed of its own for each position of a run, below 2^63."""
    # The marker keeps these apart from the shuffles' seeds.
    marker = 0x5EED
    state = np.random.SeedSequence((seed, position, marker)).generate_state(1, np.uint64)
    return int(state[0] >> 1)


def share(step: int, batch_size: int, rank: int, world: int) -> range:
    """Positions of global batch `step` that a rank takes; shares differ by one sample at most.

    Raises:
        ValueError: more ranks than samples.
    """
    if world > batch_size:
        raise ValueError(
            f"train.batch_size is {batch_size} for {world} workers, need a sample for each; raise "
            f"--train.batch-size or lower --workers"
        )
    first, end = (batch_size * edge // world for edge in (rank, rank + 1))
    return range(step * batch_size + first, step * batch_size + end)


def collate(
    ids: list[str], samples: list[Sample], seeds: list[int], *, as_bytes: bool = False
) -> Batch:
    """Stack samples into tensors, RGB in 0..1 or as bytes, channels first."""
    images = {name: [getattr(sample, name) for sample in samples] for name in IMAGES}
    return Batch(
        ids=tuple(ids),
        **{name: _pictures(some, as_bytes) for name, some in images.items()},
        mask_label=torch.from_numpy(np.stack([sample.mask_label for sample in samples])[:, None]),
        seeds=torch.tensor(seeds, dtype=torch.int64),
        center_offset=torch.tensor([sample.center_offset for sample in samples]),
        has_ref=torch.tensor([sample.has_ref for sample in samples]),
    )


def _pictures(pictures: list[UInt8[np.ndarray, "rows cols 3"]], as_bytes: bool) -> Images:
    """Channels-last in memory. NumPy alone: a torch operation here would give this thread a team
    of OpenMP threads of its own, and with more threads than cores every small operation of the
    training step then sleeps at its barriers (half as fast again on two cores)."""
    # Samples that are all turned by 90 degrees would else give a batch of another layout, which a
    # compiled step is retraced for.
    stacked = np.ascontiguousarray(np.stack(pictures))
    if not as_bytes:
        stacked = np.divide(stacked, np.float32(255), dtype=np.float32)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


class BatchStream:
    """An endless iterator of one rank's batches, prepared ahead by threads.

    Args:
        batch_size: samples of a global batch, over all ranks.
        start_step: the first global batch to give; a resume passes the steps already done.
        as_bytes: leave the images as bytes, a quarter of what has to be copied to a GPU.
        num_threads: that prepare batches, each a whole one; their order does not depend on it.

    Raises:
        ValueError: no rows in the split, a crop that does not fit every row, or more ranks than
            samples. Damaged rows raise from `next`.
    """

    def __init__(
        self,
        shards: ShardSet,
        config: DataConfig,
        *,
        split: str = "train",
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        as_bytes: bool = False,
        num_threads: int = 1,
    ) -> None:
        self._as_bytes = as_bytes
        self._shards, self._config, self._seed = shards, config, seed
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._rows = shards.rows(split)
        if not self._rows:
            raise ValueError(f"{shards.root}: no rows in split {split}; preprocess pictures for it")
        if config.crop_px > (largest := shards.max_crop_px(split)):
            raise ValueError(
                f"{shards.root}: the smallest row of split {split} holds crops of up to {largest} "
                f"px, data.crop_px is {config.crop_px}; lower --data.crop-px"
            )
        share(0, batch_size, rank, world)
        self.wait_s = 0.0
        """Time that the consumer has waited for batches, in all."""
        self._next_step = start_step
        self._is_closed = False
        self._pending: deque[Future[Batch]] = deque()
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="stream")
        for _ in range(max(config.read_ahead, num_threads)):
            self._submit()

    def batch(self, step: int) -> Batch:
        """This rank's share of a global batch: a pure function of (seed, step)."""
        positions = share(step, self._batch_size, self._rank, self._world)
        seeds = [seed_at(self._seed, position) for position in positions]
        ids, samples = [], []
        for position, seed in zip(positions, seeds, strict=True):
            row = self._rows[sample_at(self._seed, position, len(self._rows)).row]
            triplet = self._shards.read(row)
            ids.append(triplet.id)
            samples.append(cut_sample(triplet, self._config, np.random.default_rng(seed)))
        return collate(ids, samples, seeds, as_bytes=self._as_bytes)

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        if self._is_closed:
            raise RuntimeError("the stream is closed")
        started = time.perf_counter()
        batch = self._pending.popleft().result()
        self.wait_s += time.perf_counter() - started
        self._submit()
        return batch

    def close(self) -> None:
        """Stop reading ahead; what was read is given up."""
        self._is_closed = True
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "BatchStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self.batch, self._next_step))
        self._next_step += 1
