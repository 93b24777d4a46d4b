"""A step recorded once computes what a step that is computed each time does."""

from dataclasses import replace

import pytest
import torch

from sddusr.config import LossConfig
from sddusr.data.stream import BatchStream
from sddusr.model.matching.mask import gumbel_noise
from sddusr.model.tuning import GPU
from sddusr.training import step_graph
from sddusr.training.learner import Learner
from sddusr.training.step_graph import WARM_UP_STEPS, check_graph
from tests.pretend_graph import CannotRecordError, record
from tests.tiny import without_zero_starts
from tests.training.test_learner import CONFIG
from tests.tunings import tuned

CPU = torch.device("cpu")
NUM_STEPS = WARM_UP_STEPS + 4


@pytest.fixture
def pretend_graphs(monkeypatch):
    monkeypatch.setattr(step_graph, "record", record)
    monkeypatch.setattr(step_graph, "run_beside", lambda device, work: work())
    monkeypatch.setattr("sddusr.training.learner.check_graph", lambda *_: None)


def batches(shards, num):
    """With their noise, as they come to a GPU."""
    with BatchStream(shards, CONFIG.data, seed=0, batch_size=2) as stream:
        for batch in (next(stream) for _ in range(num)):
            size = batch.mask_label.shape[2:]
            yield batch._replace(gumbel=gumbel_noise(batch.seeds, *size))


def trained(config, shards, num_steps=NUM_STEPS, **train):
    """The terms of each step, and the weights after them."""
    train = {"batch_size": 2, "ema_decay": 0.9, **train}
    with tuned(GPU):
        learner = Learner(replace(config, train=replace(config.train, **train)), CPU)
        without_zero_starts(learner.model)
        learner.start_average()
        terms = [learner.step(batch, step) for step, batch in enumerate(batches(shards, num_steps))]
    weights = dict(learner.published.state_dict()) | {
        f"own {name}": value for name, value in learner.model.state_dict().items()
    }
    return terms, weights


def check_equal(config, shards, **train):
    plain, recorded = (
        trained(config, shards, cuda_graph=is_on, **train) for is_on in (False, True)
    )
    torch.testing.assert_close(recorded[0], plain[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(recorded[1], plain[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_recorded_step_trains_as_a_plain_one(tiny_shards, pretend_graphs, accumulate):
    """Flow and offsets begin to learn in the middle, so it is recorded again."""
    optim = replace(CONFIG.optim, align_from_step=WARM_UP_STEPS + 2)
    check_equal(replace(CONFIG, optim=optim), tiny_shards, accumulate=accumulate)


def test_a_recorded_step_plays_both_sides_of_the_adversarial_game(
    tiny_shards, pretend_graphs, vgg19_file
):
    losses = LossConfig(
        stage="full", vgg_weights=vgg19_file, discriminator_dim=4, adversarial_weight=1.0
    )
    check_equal(replace(CONFIG, losses=losses), tiny_shards)


def test_what_waits_for_the_gpu_cannot_be_recorded():
    for work in (
        lambda: torch.ones(3).sum().item(),
        lambda: torch.ones(3).nonzero(),
        lambda: torch.ones(3)[torch.ones(3) > 0],
    ):
        with pytest.raises(CannotRecordError, match="waits for the GPU"):
            record(work)


def test_a_batch_of_another_size_is_refused(tiny_shards, pretend_graphs):
    with tuned(GPU):
        learner = Learner(replace(CONFIG, train=replace(CONFIG.train, cuda_graph=True)), CPU)
        given = list(batches(tiny_shards, WARM_UP_STEPS + 1))
        for step, batch in enumerate(given):
            learner.step(batch, step)
        smaller = given[0]._replace(lr=given[0].lr[:1])
        with pytest.raises(ValueError, match=r"^lr of a batch is \(1, .*drop --train.cuda-graph$"):
            learner.step(smaller, WARM_UP_STEPS + 1)


@pytest.mark.parametrize(
    ("device", "stage", "num_ranks", "message"),
    [
        ("cpu", "rec", 1, r"^train.cuda_graph is set, but training runs on the CPU; drop"),
        ("cuda", "full", 2, r"^train.cuda_graph with 2 workers .* rec alone, got full, .*; drop"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_a_remedy(device, stage, num_ranks, message):
    config = replace(CONFIG, losses=LossConfig(stage=stage))
    with pytest.raises(ValueError, match=message):
        check_graph(config, torch.device(device), num_ranks)


def test_written_tokens_are_not_recorded():
    dictionary = replace(CONFIG.model.dictionary, enabled=True, tokens="written", write_rate=0.5)
    config = replace(CONFIG, model=replace(CONFIG.model, dictionary=dictionary))
    with pytest.raises(ValueError, match=r"got dictionary.tokens written, .*drop --train.cuda"):
        check_graph(config, torch.device("cuda"), 1)


def test_one_worker_may_record_all_losses():
    check_graph(CONFIG, torch.device("cuda"), 4)
    full = replace(CONFIG, losses=LossConfig(stage="full"))
    check_graph(full, torch.device("cuda"), 1)
