import pytest

from sddusr.training.throughput import duration, log_line

ROW = {
    "train/reconstruction": 0.021234,
    "train/mask": 0.5,
    "train/total": 0.021734,
    "train/gradient_norm": 0.75,
    "train/samples_per_s": 20.0,
    "train/data_wait_share": 0.031,
    "train/learning_rate": 1.9e-4,
}


def test_a_training_line_says_loss_rate_speed_and_the_time_left():
    assert log_line(100, 1300, ROW, batch_size=4) == (
        "step 100/1300: loss 0.02173 (reconstruction 0.02123, mask 0.5, gradient_norm 0.75), "
        "rate 0.00019, 20 samples/s, waited 3% for data, 4 min left"
    )


def test_a_validations_line_says_its_scores():
    assert log_line(5, 10, {"val/full_psnr": 31.23456}, 4) == "step 5/10: val/full_psnr 31.23"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "0 s"),
        (59.6, "1 min"),
        (75.0, "1 min 15 s"),
        (3599.0, "1 h"),
        (3700.0, "1 h 2 min"),
        (90000.0, "25 h"),
    ],
)
def test_durations_are_told_in_the_units_that_matter(seconds, told):
    assert duration(seconds) == told
