"""The flow's filter: depth steps stay, lines stay straight, and it solves what it says."""

import cv2
import numpy as np
import pytest

from sddusr.registration import flow_filter
from sddusr.registration.flow_filter import bounded, seen_length, smooth_flow, structure_tensor
from sddusr.registration.overlap import Overlap
from sddusr.registration.parallax import estimate_parallax


def textured(weight: np.ndarray) -> np.ndarray:
    """Structure tensors of places that show a motion in every direction."""
    half = weight.astype(np.float32) / 2
    return np.dstack([half, 0 * half, half])


def test_the_step_of_what_is_near_does_not_bend_what_lies_behind() -> None:
    """A disc 6 px off in front of a wall at rest, noisy estimates; and a far step without any
    estimate in between, where the plain mean of both is left."""
    y, x = np.mgrid[:160, :200]
    near = (y - 80) ** 2 + (x - 100) ** 2 < 35**2
    flow = np.zeros((160, 200, 2), np.float32)
    flow[near] = 6, -2
    noisy = flow + np.random.default_rng(0).normal(0, 0.5, flow.shape).astype(np.float32)
    smooth = smooth_flow(noisy, textured(np.ones(near.shape)))
    away = np.abs(np.hypot(y - 80, x - 100) - 35)
    error = np.linalg.norm(smooth - flow, axis=2)
    assert error[away > 8].max() < 0.6
    assert error[away > 8].mean() < 0.1
    flow[near] = 0, 60
    weight = textured(away > 6)
    between = smooth_flow(flow, weight)[away < 2]
    assert ((between[:, 1] > -1) & (between[:, 1] < 61)).all()
    np.testing.assert_array_equal(smooth_flow(flow, 0 * weight), 0)


def test_a_line_says_how_far_it_moved_across_itself_only() -> None:
    picture = np.full((96, 128), 200, np.uint8)
    picture[:, 60:64] = 80
    weight = bounded(structure_tensor(picture))
    along = np.random.default_rng(0).uniform(-20, 20, (96, 128)).astype(np.float32)
    flow = np.dstack([np.full_like(along, 3), along])
    smooth = smooth_flow(flow, weight)
    np.testing.assert_allclose(smooth[8:-8, 60:64, 0], 3, atol=0.02)
    np.testing.assert_allclose(seen_length(flow, weight)[:, 58:66], 3 * np.sqrt(2), rtol=1e-3)


def test_a_joint_in_a_blank_wall_stays_straight() -> None:
    """The way back of its flow slides along it, which must not make it untrusted."""
    rng = np.random.default_rng(1)
    wall = np.full((300, 320), 190.0)
    wall[:, 158:162] = 110
    things = rng.uniform(0, 255, (40, 320)).astype(np.float32)
    wall[260:] = cv2.GaussianBlur(things, (0, 0), 2)
    wide, tele = (np.clip(wall + rng.normal(0, 2, wall.shape), 0, 255) for _ in range(2))
    tele = np.roll(tele, 3, 1)
    inside = np.ones(wall.shape, bool)
    overlap = Overlap(wide.astype(np.uint8), tele.astype(np.uint8), inside, np.eye(3))
    found = estimate_parallax(overlap)
    assert found.flow is not None
    np.testing.assert_allclose(found.flow[10:250, 156:164, 0], 3, atol=0.2)


def test_a_line_that_misses_its_start_is_still_better_known_than_the_wall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its way back ends 1.2 px beside the start, the wall's anywhere."""
    wall = np.full((160, 200), 190, np.uint8)
    wall[:, 98:102] = 110
    rng = np.random.default_rng(3)
    at_joint = (np.abs(np.arange(200) - 99.5) < 20)[None, :, None]
    joints = [np.array([step, 0], np.float32) for step in (3.0, -1.8)]
    flows = iter(
        np.where(at_joint, joint, rng.uniform(-20, 20, (160, 200, 2))).astype(np.float32)
        for joint in joints
    )
    monkeypatch.setattr("sddusr.registration.parallax.dense_flow", lambda *_: next(flows))
    overlap = Overlap(wall, np.roll(wall, 3, 1), np.ones(wall.shape, bool), np.eye(3))
    found = estimate_parallax(overlap)
    assert found.flow is not None
    np.testing.assert_allclose(found.flow[10:150, 96:104, 0], 3, atol=0.2)


def test_one_layer_is_the_least_squares_of_what_tensors_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the normal equations in float64, with Gaussian weights written out."""
    for name, value in (("LIKE_PX", 1e6), ("COARSER", (1,))):
        monkeypatch.setattr(flow_filter, name, value)
    rng = np.random.default_rng(2)
    side, grid = 96, flow_filter.GRID_PX
    flow = np.tile(np.array([2.0, -1.0], np.float32), (side, side, 1))
    flow[:, side // 2 :] = 5, 3
    angle = rng.uniform(0, np.pi, (side // grid, side // grid)).repeat(grid, 0).repeat(grid, 1)
    x, y = np.cos(angle), np.sin(angle)
    weight = np.dstack([x * x, x * y, y * y]).astype(np.float32)
    smooth = smooth_flow(flow, weight)
    nodes = slice(grid // 2, None, grid)
    tensor = np.stack([x * x, x * y, x * y, y * y], -1)[nodes, nodes].reshape(-1, 2, 2)
    steps = flow[nodes, nodes].reshape(-1, 2).astype(np.float64)
    at = np.stack(np.meshgrid(*[np.arange(side // grid)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for row, col in ((12, 9), (10, 14)):
        apart = ((at - [row, col]) ** 2).sum(1)
        near = np.exp(-0.5 * apart / (flow_filter.SMOOTH_PX / grid) ** 2)
        left = (near[:, None, None] * tensor).sum(0)
        left += flow_filter.RIDGE * np.trace(left) * np.eye(2)
        right = (near[:, None, None] * tensor @ steps[..., None]).sum(0)
        wanted = np.linalg.solve(left, right)[:, 0]
        place = slice(row * grid, (row + 1) * grid), slice(col * grid, (col + 1) * grid)
        np.testing.assert_allclose(smooth[place].mean((0, 1)), wanted, atol=0.05)
