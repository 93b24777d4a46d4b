"""Scores on held-out pictures."""

import math

from sddusr.training.validation import _means


def test_an_infinite_score_of_a_black_picture_makes_no_checkpoint_the_best():
    rows = [{"full_psnr": 30.0}, {"full_psnr": math.inf}, {"full_psnr": math.nan}]
    assert _means(rows) == {"full_psnr": 30.0}
    assert _means(rows[1:]) == {}
