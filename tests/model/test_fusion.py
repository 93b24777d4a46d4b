import torch

from sddusr.config import FusionConfig
from sddusr.model.fusion import Fusion


def test_one_exact_source_does_not_make_the_widest_maps_exact():
    """The warped feature arrives in float32 where all else is bfloat16."""
    fusion = Fusion(8, 2, FusionConfig(reduction=2, num_blocks=1))
    lr_feat, warped = torch.rand(1, 8, 6, 6).bfloat16(), torch.rand(1, 8, 6, 6)
    seen = []
    fusion.widest.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    with torch.autocast("cpu", torch.bfloat16):
        fusion(lr_feat, warped)
    assert [tensor.dtype for tensor in seen] == [torch.bfloat16] * 2
