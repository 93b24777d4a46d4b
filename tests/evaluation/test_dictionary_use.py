"""How much of a result comes from the tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sddusr.config import DictionaryConfig
from sddusr.evaluation.dictionary_use import constant_dictionary, measure_dictionary
from sddusr.inference import super_resolve
from sddusr.model.dictionary import TokenDictionary
from sddusr.model.normed_dictionary import make_dictionary
from sddusr.model.refinement import pixels_of
from sddusr.model.sddusr import SDDuSR
from sddusr.training.validation import validate
from tests.conftest import make_triplet
from tests.tiny import TINY, without_zero_starts

DIM, NUM_TOKENS = 16, 6
CONFIGS = {
    "paper": DictionaryConfig(num_tokens=NUM_TOKENS),
    "cosine": DictionaryConfig(num_tokens=NUM_TOKENS, attention="cosine"),
    "norm": DictionaryConfig(num_tokens=NUM_TOKENS, norm=True, num_heads=4),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_weights_times_values_are_what_is_looked_up(kind):
    torch.manual_seed(0)
    dictionary = make_dictionary(DIM, CONFIGS[kind])
    lr, center, aligned = (torch.randn(1, DIM, *size) for size in ((5, 7), (4, 6), (4, 6)))
    tokens = dictionary.refine_in_pieces([(center, aligned)])
    weights = dictionary.lookup_weights(lr, tokens[0])
    value = dictionary.lookup_value(tokens[1]).unflatten(2, (weights.shape[1], -1)).transpose(1, 2)
    read = (weights @ value).transpose(1, 2).flatten(2)
    assert torch.allclose(read, pixels_of(dictionary.look_up(lr, *tokens)), atol=1e-5)


def test_update_weights_are_what_tokens_are_refined_with():
    torch.manual_seed(0)
    dictionary = TokenDictionary(DIM, CONFIGS["paper"])
    center, aligned = torch.randn(2, 1, DIM, 4, 6)
    weights = dictionary.update_weights(center)[:, 0]
    read = dictionary.update_ref_value(weights @ pixels_of(aligned))
    refined = dictionary.refine(center, aligned)[1]
    assert torch.allclose(refined, (dictionary.ref_tokens + read) / 2, atol=1e-5)


def network(config: DictionaryConfig) -> SDDuSR:
    torch.manual_seed(0)
    model = SDDuSR(replace(TINY, dictionary=config)).eval()
    without_zero_starts(model)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_even_attention_reads_every_token_and_pixel(kind):
    model, triplet = network(CONFIGS[kind]), make_triplet()
    with torch.no_grad():
        for query in (model.dictionary.lookup_query, model.dictionary.update_query):
            query.weight.zero_()
            query.bias.zero_()
    made = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box)
    used = measure_dictionary(model, triplet.lr, made.box, made.tokens)
    assert used.lookup_perplexity == pytest.approx(NUM_TOKENS, rel=1e-4)
    assert used.update_share == pytest.approx(1, rel=1e-4)


def test_a_sharp_attention_reads_few():
    model, triplet = network(CONFIGS["norm"]), make_triplet()
    with torch.no_grad():
        model.dictionary.lookup_sharpness.fill_(8)
    made = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box)
    assert measure_dictionary(model, triplet.lr, made.box, made.tokens).lookup_perplexity < 1.1


def test_the_constant_stands_in_for_the_tokens_and_is_taken_away_again():
    model, triplet = network(CONFIGS["norm"]), make_triplet()

    def picture() -> np.ndarray:
        return super_resolve(model, triplet.lr, triplet.ref, triplet.center_box).sr

    before = picture()
    with constant_dictionary(model, torch.full((1, TINY.dim, 1, 1), 0.5)):
        assert not np.array_equal(picture(), before)
    assert np.array_equal(picture(), before)


def test_validation_logs_what_the_tokens_are_worth(tiny_shards):
    model = network(CONFIGS["norm"])
    scores, _ = validate(model, tiny_shards, "float32")
    assert {"val/psnr_from_tokens", "val/lookup_perplexity", "val/update_share"} <= set(scores)
    assert scores["val/psnr_from_tokens"] != 0
    without = network(DictionaryConfig(enabled=False))
    assert "val/psnr_from_tokens" not in validate(without, tiny_shards, "float32")[0]
