import pytest
import torch

from sddusr.config import DEMO, PAPER
from sddusr.evaluation.complexity import (
    MatchingCost,
    measure_latency,
    parameters_by_part,
    table_3,
    table_4,
)
from sddusr.model.sddusr import SDDuSR, num_parameters


@pytest.mark.parametrize(
    ("width", "height", "paper", "true"), [(1792, 896, 319, 725), (3584, 2560, 10440, 23676)]
)
def test_table_3s_figures_are_reproduced(width, height, paper, true):
    cost = MatchingCost.of(width, height)
    assert int(cost.paper_gflop) == paper
    assert round(cost.true_gflop) == true


def test_parts_add_up_to_the_whole():
    model = SDDuSR(PAPER.model)
    assert sum(parameters_by_part(model).values()) == num_parameters(model)
    assert "6.07 M" in table_4(model, [], 448, 896)


def test_tables_name_their_figures():
    text = table_3()
    for figure in ("319", "10440", "222", "7079", "229", "725", "23676"):
        assert figure in text


def test_latency_is_measured():
    torch.manual_seed(0)
    latency = measure_latency(SDDuSR(DEMO.model), 32, 48)
    assert latency.seconds > 0
    assert latency.peak_mb > 0
