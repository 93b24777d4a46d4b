"""Tokens that training overwrites: by a literal formula, by any number of ranks, never in use."""

from dataclasses import replace

import pytest
import torch

from sddusr.config import DictionaryConfig
from sddusr.model.normed_dictionary import make_dictionary
from sddusr.model.sddusr import SDDuSR
from sddusr.training.ema import WeightAverage
from tests.faults.loop import CONFIG, together, written
from tests.tiny import TINY, pictures

DIM, RATE = 8, 0.25
CONFIGS = {
    "paper": DictionaryConfig(num_tokens=5, tokens="written", write_rate=RATE),
    "norm": DictionaryConfig(num_tokens=5, tokens="written", write_rate=RATE, norm=True),
}


def same(sums: torch.Tensor) -> torch.Tensor:
    return sums


@pytest.fixture(params=CONFIGS)
def dictionary(request):
    torch.manual_seed(0)
    return make_dictionary(DIM, CONFIGS[request.param]).train()


def center(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(num, DIM, 4, 6), torch.randn(num, DIM, 4, 6)


def test_tokens_move_to_the_mean_of_what_they_were_refined_to(dictionary):
    before = [tokens.clone() for tokens in (dictionary.center_tokens, dictionary.ref_tokens)]
    refined = dictionary.refine_in_pieces([center(3)])
    spreads = dictionary.write(same)
    after = dictionary.center_tokens, dictionary.ref_tokens
    for old, new, made in zip(before, after, refined, strict=True):
        torch.testing.assert_close(new, (1 - RATE) * old + RATE * made.mean(0))
    assert spreads["ref_token_spread"] == pytest.approx(after[1].std(0).mean().item())
    with pytest.raises(RuntimeError, match="no tokens were refined"):
        dictionary.write(same)


def test_micro_batches_write_what_the_batch_does(dictionary):
    start = dictionary.state_dict()
    kept = {name: value.clone() for name, value in start.items()}
    features = center(3)
    dictionary.refine_in_pieces([features])
    dictionary.write(same)
    whole = dictionary.ref_tokens.clone()
    dictionary.load_state_dict(kept)
    for part in (slice(0, 1), slice(1, 3)):
        dictionary.refine_in_pieces([tuple(x[part] for x in features)])
    dictionary.write(same)
    torch.testing.assert_close(dictionary.ref_tokens, whole)


def test_they_get_no_gradient_and_are_saved(dictionary):
    assert not {"center_tokens", "ref_tokens"} & {n for n, _ in dictionary.named_parameters()}
    assert {"center_tokens", "ref_tokens"} <= dictionary.state_dict().keys()


def test_learned_tokens_are_not_written():
    learned = make_dictionary(DIM, replace(CONFIGS["paper"], tokens="learned")).train()
    before = learned.ref_tokens.clone()
    learned.refine_in_pieces([center(2)])
    assert learned.write(same) == {}
    assert torch.equal(learned.ref_tokens, before)


def test_no_picture_depends_on_an_earlier_one():
    torch.manual_seed(0)
    model = SDDuSR(replace(TINY, dictionary=replace(CONFIGS["norm"], num_tokens=4))).eval()
    one, two = pictures(seed=0), pictures(seed=1)
    with torch.no_grad():
        first = [model(*each).sr for each in (one, two)]
        again = [model(*each).sr for each in (two, one)]
    assert torch.equal(first[0], again[1])
    assert torch.equal(first[1], again[0])


def test_the_average_of_the_weights_follows_them():
    dictionary = replace(TINY.dictionary, tokens="written")
    config = replace(CONFIG, model=replace(CONFIG.model, dictionary=dictionary))
    model = SDDuSR(config.model)
    average = WeightAverage(model, config)
    model.dictionary.ref_tokens += 1
    average.update(model, 0)
    assert torch.equal(average.model.dictionary.ref_tokens, model.dictionary.ref_tokens)


@pytest.mark.long
def test_ranks_write_the_same_tokens_as_one_process(tiny_shards, tmp_path):
    worlds = (1, 3)
    for world in worlds:
        folder = tmp_path / str(world)
        folder.mkdir()
        shares = [(tiny_shards.root, str(folder), rank, world) for rank in range(world)]
        assert together(written, *shares) == [0] * world
    tokens = {
        (rank, world): torch.load(
            tmp_path / str(world) / f"{rank}-of-{world}.pt", weights_only=True
        )
        for world in worlds
        for rank in range(world)
    }
    for (rank, world), found in tokens.items():
        torch.testing.assert_close(found, tokens[0, world], rtol=0, atol=0, msg=f"rank {rank}")
        torch.testing.assert_close(found, tokens[0, 1], rtol=1e-4, atol=1e-5)
