"""The dictionary behind norms: in pieces as in whole, alive, and what it is compared with."""

from dataclasses import replace

import pytest
import torch

from sddusr.config import DEMO, DictionaryConfig, ModelConfig
from sddusr.model.dictionary import TokenDictionary
from sddusr.model.normed_dictionary import ConstantFeature, NormedDictionary, make_dictionary

DIM = 16
CONFIG = DictionaryConfig(num_tokens=12, norm=True, num_heads=4, token_scale=0.3)


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return tuple(0.1 * torch.randn(2, DIM, *size) for size in ((20, 24), (12, 16), (12, 16)))


def literal(d: NormedDictionary, lr: torch.Tensor, center: torch.Tensor, aligned: torch.Tensor):
    """Eqs. 6 to 11 written out, one head after the other, in float64."""
    d, (lr, center, aligned) = d.double(), (x.double() for x in (lr, center, aligned))
    rows = lambda x: x.flatten(2).mT  # noqa: E731
    lr_px, center_px, aligned_px = (
        norm(rows(x))
        for norm, x in ((d.lr_norm, lr), (d.center_norm, center), (d.aligned_norm, aligned))
    )
    unit = torch.nn.functional.normalize
    part = DIM // d.num_heads
    query = d.update_query(d.token_norm(d.center_tokens)).expand(len(lr), -1, -1)
    key = d.update_key(center_px)
    new_center, new_aligned, found = [], [], []
    for head in range(d.num_heads):
        here = slice(head * part, (head + 1) * part)
        logits = unit(query[..., here], dim=-1) @ unit(key[..., here], dim=-1).mT
        weights = (logits * d.update_sharpness[head].exp()).softmax(-1)
        new_center.append(weights @ d.update_center_value(center_px)[..., here])
        new_aligned.append(weights @ d.update_ref_value(aligned_px)[..., here])
    keep = d.keep_rate
    center_tokens = keep * d.center_tokens + (1 - keep) * torch.cat(new_center, -1)
    ref_tokens = keep * d.ref_tokens + (1 - keep) * torch.cat(new_aligned, -1)
    query, key = d.lookup_query(lr_px), d.lookup_key(d.token_norm(center_tokens))
    value = d.lookup_value(ref_tokens)
    for head in range(d.num_heads):
        here = slice(head * part, (head + 1) * part)
        logits = unit(query[..., here], dim=-1) @ unit(key[..., here], dim=-1).mT
        weights = (logits * d.lookup_sharpness[head].exp()).softmax(-1)
        found.append(weights @ value[..., here])
    return torch.cat(found, -1).mT.unflatten(2, lr.shape[2:])


def test_it_is_the_papers_equations_with_norms_and_heads(features):
    torch.manual_seed(0)
    dictionary = NormedDictionary(DIM, CONFIG)
    fast = dictionary(*features)
    assert torch.allclose(fast.double(), literal(dictionary, *features), atol=1e-5)


def test_a_centre_in_pieces_gives_the_same(features):
    torch.manual_seed(0)
    dictionary, (_, center, aligned) = NormedDictionary(DIM, CONFIG), features
    whole = dictionary.refine_in_pieces([(center, aligned)])
    pieces = [(center[..., :4], aligned[..., :4]), (center[..., 4:], aligned[..., 4:])]
    for one, other in zip(whole, dictionary.refine_in_pieces(pieces), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_every_parameter_gets_a_gradient(features):
    torch.manual_seed(0)
    dictionary = NormedDictionary(DIM, CONFIG)
    dictionary(*features).square().sum().backward()
    cancels = {"update_key.bias"}  # of unit keys it does not, but nearly
    for name, parameter in dictionary.named_parameters():
        assert parameter.grad is not None
        assert name in cancels or parameter.grad.abs().sum() > 0, name


def test_small_features_choose_among_tokens(features):
    """As printed, features of rms 0.1 read nearly all tokens alike."""
    torch.manual_seed(0)
    normed = NormedDictionary(DIM, replace(CONFIG, num_heads=1))
    weights = normed.lookup_weights(features[0], normed.center_tokens[None].expand(2, -1, -1))
    perplexity = torch.exp(-(weights * weights.log()).sum(-1)).mean()
    printed = TokenDictionary(DIM, DictionaryConfig(num_tokens=12))
    logits = (
        printed.lookup_query(features[0].flatten(2).mT)
        @ printed.lookup_key(printed.center_tokens).mT
    )
    as_printed = torch.exp(-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)).mean()
    assert perplexity < as_printed - 1


def test_the_config_names_the_kind():
    kinds = [
        make_dictionary(DIM, config)
        for config in (DictionaryConfig(), CONFIG, DictionaryConfig(constant=True))
    ]
    assert [type(kind) for kind in kinds] == [TokenDictionary, NormedDictionary, ConstantFeature]


def test_the_control_is_one_vector_everywhere(features):
    constant = ConstantFeature(DIM)
    torch.nn.init.normal_(constant.vector)
    out = constant(*features)
    assert out.shape == features[0].shape
    assert torch.equal(out[0, :, 0, 0], out[1, :, 5, 7])
    tokens = constant.refine_in_pieces([features[1:]])
    assert torch.equal(constant.look_up(features[0], *tokens), out)


def test_heads_need_norms():
    with pytest.raises(ValueError, match="num_heads is 3"):
        replace(DEMO.model, dictionary=DictionaryConfig(norm=True, num_heads=3))
    with pytest.raises(ValueError, match=r"dictionary\.norm for more than one"):
        ModelConfig(dictionary=DictionaryConfig(num_heads=2))
