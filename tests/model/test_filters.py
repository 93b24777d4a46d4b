"""Small linear filters against PyTorch's own pooling."""

import pytest
import torch
import torch.nn.functional as F

from sddusr.model.filters import box_mean


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9, 17])
def test_a_box_mean_is_the_pool_of_the_replicated_image(side):
    image = torch.rand(2, 3, 21, 34, dtype=torch.float64)
    half = side // 2
    pooled = F.avg_pool2d(F.pad(image, (half,) * 4, mode="replicate"), side, 1)
    torch.testing.assert_close(box_mean(image, side), pooled, rtol=0, atol=1e-14)


def test_a_box_mean_of_a_window_is_bit_for_bit_that_of_the_whole():
    image = torch.rand(1, 1, 40, 40)
    part = box_mean(image[..., 4:36, 6:38], 9)[..., 4:-4, 4:-4]
    assert torch.equal(part, box_mean(image, 9)[..., 8:32, 10:34])
