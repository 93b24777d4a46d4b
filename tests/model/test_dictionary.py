import pytest
import torch

from sddusr.config import DictionaryConfig
from sddusr.model.dictionary import TokenDictionary
from tests.tunings import tuned


def pixels(features):
    return features.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("attention", ["none", "sqrt_d", "cosine"])
def test_equations_6_to_11_hold_literally_in_float64(attention):
    torch.manual_seed(0)
    tdl = TokenDictionary(8, DictionaryConfig(num_tokens=5, attention=attention)).double()
    lr, center, aligned = (torch.randn(2, 8, *s).double() for s in ((6, 4), (4, 4), (4, 4)))

    def logits(query, key):
        if attention == "cosine":
            query = query / query.norm(dim=-1, keepdim=True) * tdl.sharpness.exp()
            key = key / key.norm(dim=-1, keepdim=True)
        scale = 8**-0.5 if attention == "sqrt_d" else 1
        return scale * query @ key.transpose(1, 2)

    query = tdl.update_query(tdl.center_tokens).expand(2, -1, -1)
    update = logits(query, tdl.update_key(pixels(center))).softmax(-1)  # Eq. 6
    assert update.shape == (2, 5, 16)
    s = tdl.keep_rate
    d_center = s * tdl.center_tokens + (1 - s) * update @ tdl.update_center_value(pixels(center))
    d_ref = s * tdl.ref_tokens + (1 - s) * update @ tdl.update_ref_value(pixels(aligned))
    lookup = logits(tdl.lookup_query(pixels(lr)), tdl.lookup_key(d_center)).softmax(-1)  # Eq. 10
    truth = (lookup @ tdl.lookup_value(d_ref)).transpose(1, 2).unflatten(2, (6, 4))  # Eq. 11
    torch.testing.assert_close(tdl(lr, center, aligned), truth)
    with torch.no_grad():  # the query's projection is folded into the tokens
        torch.testing.assert_close(tdl(lr, center, aligned), truth)


def test_keep_rate_starts_at_one_half():
    assert TokenDictionary(8, DictionaryConfig()).keep_rate == 0.5


def test_a_picture_leaves_no_trace_in_the_dictionary():
    tdl = TokenDictionary(8, DictionaryConfig(num_tokens=5)).eval()
    first, second = torch.randn(2, 1, 8, 6, 6).unbind(0)
    alone = tdl(second, second, second)
    tdl(first, first, first)
    torch.testing.assert_close(tdl(second, second, second), alone, rtol=0, atol=0)


def test_a_token_that_meets_itself_in_the_centre_brings_its_ref_value():
    """With a sharp attention, LR pixels that look like a centre pixel read Ref at that pixel."""
    tdl = TokenDictionary(4, DictionaryConfig(num_tokens=4)).double()
    eye = torch.eye(4).double()
    for name, layer in tdl.named_children():
        if layer.bias is not None:
            layer.bias.data.zero_()
        layer.weight.data.copy_(50 * eye if "query" in name else eye)
    tdl.center_tokens.data.copy_(eye)
    tdl.keep_logit.data.fill_(-50)
    center = eye.view(1, 4, 2, 2)
    aligned = torch.randn(1, 4, 2, 2).double()
    found = tdl(center.flip(3), center, aligned)
    torch.testing.assert_close(found, aligned.flip(3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attention", ["none", "sqrt_d", "cosine"])
def test_a_centre_in_pieces_refines_as_the_whole_centre(attention):
    torch.manual_seed(0)
    tdl = TokenDictionary(8, DictionaryConfig(num_tokens=5, attention=attention)).double()
    center, aligned = (4 * torch.randn(2, 1, 8, 9, 6).double()).unbind(0)
    pieces = zip(center.split(4, dim=2), aligned.split(4, dim=2), strict=True)
    with tuned(dictionary_px=7):
        torch.testing.assert_close(tdl.refine_in_pieces(pieces), tdl.refine(center, aligned))


@pytest.mark.parametrize("attention", ["none", "cosine"])
def test_autocast_does_not_reach_into_the_refinement(attention):
    """Logits of some 50, where bfloat16 resolves a quarter."""
    tdl = TokenDictionary(8, DictionaryConfig(num_tokens=5, attention=attention))
    center, aligned = (20 * torch.randn(2, 1, 8, 9, 6)).bfloat16().unbind(0)
    exact = tdl.refine(center.float(), aligned.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, tdl.refine(center, aligned), exact))


def test_a_centre_without_pieces_is_an_error():
    with pytest.raises(ValueError, match="no piece of the centre"):
        TokenDictionary(8, DictionaryConfig(num_tokens=5)).refine_in_pieces([])
