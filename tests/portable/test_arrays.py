"""The runtime's own NumPy against the network's PyTorch."""

import numpy as np
import pytest
import torch

from sddusr.geometry.box import Box
from sddusr.imaging.arrays import enlarge_bicubic
from sddusr.imaging.resize import bicubic_up
from sddusr.model import evidence
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.transfer import CellBank as TorchBank
from sddusr.model.matching.transfer import transfer_patches as transfer_in_torch
from sddusr.model.matching.twins import CenterPlace, find_twins
from sddusr.portable.search import best_keys
from sddusr.portable.search import find_twins as find_twins_in_numpy
from sddusr.portable.statistics import pool_blocks, statistics
from sddusr.portable.transfer import CELL, CellBank, transfer_patches


@pytest.mark.parametrize("shape", [(5, 7, 3), (2, 9, 3), (16, 16, 1)])
def test_numpy_enlarges_as_the_network_does(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    wanted = bicubic_up(torch.from_numpy(picture.transpose(2, 0, 1))[None])[0]
    made = enlarge_bicubic(picture)
    np.testing.assert_allclose(made, wanted.permute(1, 2, 0).numpy(), atol=1e-4)
    inner = np.s_[4:-4, 4:-4]
    np.testing.assert_array_equal(made[inner], wanted.permute(1, 2, 0).numpy()[inner])


def test_patches_move_as_in_the_network():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(1, 6, 5 * CELL, 7 * CELL)).astype(np.float32)
    index = rng.integers(0, 35, (9, 11))
    weight = (rng.random((9, 11)) > 0.3).astype(np.float32)
    bank = CellBank(5, 7, 6)
    bank.put(source[:, :, : 2 * CELL], 0, 0)
    bank.put(source[:, :, 2 * CELL :], 2, 0)
    wanted = transfer_in_torch(
        TorchBank.of(torch.from_numpy(source)),
        torch.from_numpy(index).reshape(1, -1),
        torch.from_numpy(weight)[None, None],
    )
    made = transfer_patches(bank.close(), index, weight)
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-5)
    np.testing.assert_array_equal(
        bank.part(Box(1, 4, 2, 6)), source[:, :, CELL : 4 * CELL, 2 * CELL : 6 * CELL]
    )


def test_search_and_twins_are_those_of_the_network():
    rng = np.random.default_rng(2)
    query = rng.normal(size=(4, 20, 24)).astype(np.float32)
    box = Box(4, 16, 6, 20)
    key = np.ascontiguousarray(query[:, box.y0 : box.y1, box.x0 : box.x1])
    queries, keys = np.arange(0, 480, 2), np.arange(0, 168, 3)
    place = CenterPlace(box, 1)
    twins, rest = find_twins(
        place, torch.from_numpy(query), torch.from_numpy(keys), torch.from_numpy(queries)
    )
    found = find_twins_in_numpy(query, box, 1, queries, keys)
    assert found[0].size
    for ours, theirs in zip(found, (twins.query_cell, twins.key_cell, rest), strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
    masks = (np.isin(np.arange(n), kept).reshape(1, 1, *side)
             for n, kept, side in ((480, queries, (20, 24)), (168, keys, (12, 14))))  # fmt: skip
    wanted = sparse_match(
        torch.from_numpy(query)[None],
        torch.from_numpy(key)[None],
        *(torch.from_numpy(mask) for mask in masks),
    )
    index, score = best_keys(query, key, queries, keys, lambda share: None)
    np.testing.assert_array_equal(index, wanted.key_index[0].numpy()[queries])
    np.testing.assert_allclose(score, wanted.confidence[0].numpy()[queries], atol=1e-6)


@pytest.mark.parametrize("shape", [(41, 67), (8, 8), (5, 12)])
def test_statistics_are_those_of_the_network(shape):
    maps = np.random.default_rng(3).random((1, 13, *shape)).astype(np.float32)
    blocks = evidence.pool_blocks(torch.from_numpy(maps))
    np.testing.assert_allclose(pool_blocks(maps), blocks.numpy(), atol=1e-6)
    wanted = evidence.statistics(blocks).numpy()
    np.testing.assert_allclose(statistics(blocks.numpy()), wanted, atol=1e-5)
