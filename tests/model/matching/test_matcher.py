import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sddusr.config import MaskConfig, MatchingConfig
from sddusr.model.matching import nearest_key
from sddusr.model.matching.matcher import SparseMatching
from sddusr.model.matching.nearest_key import best_key
from sddusr.model.matching.patches import PatchTable, unit_patches
from sddusr.model.matching.soft_assignment import SoftAssignment
from sddusr.model.matching.sparse_search import sparse_match
from sddusr.model.matching.transfer import CELL, PATCH, transfer_patches
from sddusr.model.tuning import CPU, GPU, TUNINGS
from tests.tunings import tuned

SMALL = MatchingConfig(vgg_dims=(4, 8), vgg_weights="none", dim=4)


def literal_training_form(query, key, aligned, mask, temperature):
    """Eqs. 2 to 5, matrix by matrix."""
    score = torch.einsum("bkd,bqd->bkq", key, query)
    soft = torch.softmax(score / temperature, dim=1)
    onehot = F.one_hot(score.argmax(1), score.shape[1]).to(score.dtype).transpose(1, 2)
    assignment = onehot + soft - soft.detach()
    confidence = (score * assignment).sum(1)
    patches = F.unfold(F.pad(aligned, (CELL,) * 4, mode="replicate"), PATCH, stride=CELL)
    moved = torch.einsum("bvk,bkq->bvq", patches, assignment)
    moved = moved * mask.flatten(2)
    grid = {"kernel_size": PATCH, "stride": CELL, "padding": CELL}
    size = tuple(CELL * side for side in mask.shape[2:])
    warped = F.fold(moved, size, **grid) / F.fold(torch.ones_like(moved), size, **grid)
    return warped, confidence * mask.flatten(1)


def fast_training_form(query, key, aligned, mask, temperature):
    index = torch.stack([best_key(q, k)[0] for q, k in zip(query, key, strict=True)])
    confidence = (query * key.gather(1, index[..., None].expand(-1, -1, key.shape[2]))).sum(-1)
    warped, confidence = SoftAssignment.apply(
        transfer_patches(aligned, index, mask),
        confidence,
        query,
        key,
        aligned.detach(),
        mask.detach(),
        temperature,
    )
    return warped, confidence * mask.flatten(1)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("block", [7, 1024])
def test_training_form_equals_the_literal_formulas(monkeypatch, temperature, block, device):
    monkeypatch.setattr(nearest_key, "KEY_GROUP", 4)
    torch.manual_seed(0)
    features = [torch.randn(2, 3, *size, dtype=torch.float64) for size in ((5, 6), (4, 7))]
    aligned = torch.randn(2, 2, 4 * CELL, 7 * CELL, dtype=torch.float64)
    mask = torch.randint(2, (2, 1, 5, 6)).double()
    results = []
    for form in (fast_training_form, literal_training_form):
        inputs = [t.clone().requires_grad_() for t in (*features, aligned, mask)]
        query, key = unit_patches(inputs[0]), unit_patches(inputs[1])
        with tuned(device, search_queries=block, soft_queries=block, search_keys=16):
            outputs = form(query, key, inputs[2], inputs[3], temperature)
            torch.manual_seed(1)
            towards = [torch.randn(output.shape, dtype=output.dtype) for output in outputs]
            results.append((outputs, torch.autograd.grad(outputs, inputs, towards)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("device", [CPU, GPU])
def test_nothing_flows_back_where_every_query_is_masked(monkeypatch, device):
    monkeypatch.setitem(TUNINGS, "cpu", device)
    query, key = (unit_patches(torch.randn(1, 3, 5, 6)).requires_grad_() for _ in range(2))
    aligned, mask = torch.randn(1, 2, 5 * CELL, 6 * CELL), torch.zeros(1, 1, 5, 6)
    warped, confidence = fast_training_form(query, key, aligned, mask, 1.0)
    gradients = torch.autograd.grad(warped.sum() + confidence.sum(), (query, key))
    assert not any(gradient.any() for gradient in gradients)


def test_under_autocast_only_the_softmax_path_is_coarse(small_matching):
    """Against the same step in float32: what arrives is equal, gradients to a bfloat16's step."""
    torch.manual_seed(0)
    lr, center = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 16, 16)
    aligned = torch.randn(1, 2, 32, 32)
    query_feat, key_feat = (small_matching.features(picture).detach() for picture in (lr, center))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        features = [feat.clone().requires_grad_() for feat in (query_feat, key_feat)]
        query, key = map(unit_patches, features)
        index = best_key(query[0], key[0])[0][None]
        confidence = (query * key.gather(1, index[..., None].expand(-1, -1, key.shape[2]))).sum(-1)
        mask = torch.ones(1, 1, *query_feat.shape[2:])
        warped, confidence = SoftAssignment.apply(
            transfer_patches(aligned, index, mask), confidence, query, key, aligned.to(dtype), mask,
            0.05,
        )  # fmt: skip
        loss = warped.square().mean() + confidence.mean()
        results.append((warped, confidence, torch.autograd.grad(loss, features)))
    (warped, confidence, fine), (warped_too, confidence_too, coarse) = results
    assert torch.equal(warped, warped_too)
    assert torch.equal(confidence, confidence_too)
    for grad, grad_too in zip(fine, coarse, strict=True):
        assert (grad - grad_too).norm() < 4e-3 * grad.norm()
        assert not torch.equal(grad, grad_too)


@given(
    num_queries=st.integers(1, 40),
    num_keys=st.integers(1, 300),
    key_block=st.sampled_from([64, 128, 16384]),
    seed=st.integers(0, 999),
)
def test_streamed_search_finds_the_first_maximum(num_queries, num_keys, key_block, seed):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(num_queries, 9, generator=generator)
    key = torch.randn(num_keys, 9, generator=generator)
    key[num_keys // 2] = key[0]  # a tie
    with tuned(search_keys=key_block):
        index, score = best_key(query, key)
    truth = query.double() @ key.double().T
    torch.testing.assert_close(score.double(), truth.amax(1), rtol=1e-5, atol=1e-5)
    picked = truth.gather(1, index[:, None])[:, 0]
    torch.testing.assert_close(picked, truth.amax(1), rtol=1e-5, atol=1e-5)


def test_bfloat16_autocast_does_not_touch_the_search():
    """Smooth features: the best keys of a query differ by less than bfloat16 can tell apart."""
    torch.manual_seed(0)
    matching_ = SparseMatching(SMALL, MaskConfig(enabled=False)).eval()
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), size=(64, 64), mode="bicubic")
    aligned = torch.rand(1, 2, 128, 128)
    with torch.autocast("cpu", torch.bfloat16):
        found = matching_(smooth, smooth, aligned)
    torch.testing.assert_close(found.confidence, torch.ones(1, 1, 32, 32), rtol=0, atol=1e-5)
    own = (found.warped_feat - aligned).abs().amax(1).le(1e-5).float().mean()
    assert own > 0.95  # each cell finds itself, and so its own patch


@pytest.mark.parametrize(("dy", "dx"), [(8, 4), (4, -6), (-2, 10)])
def test_what_the_tele_lens_saw_arrives_where_the_wide_lens_saw_it(dy, dx):
    """Of a picture, the centre is cut (dy, dx) LR pixels off the query: the feature follows."""
    torch.manual_seed(0)
    matching_ = SparseMatching(SMALL, MaskConfig(enabled=False)).eval()
    scene = torch.rand(1, 3, 64, 64)
    query = scene[..., 16:48, 16:48]
    center = scene[..., 16 + dy : 48 + dy, 16 + dx : 48 + dx]
    scene_feat = torch.rand(1, 2, 128, 128)  # stands for Ref's feature of the whole scene
    aligned = scene_feat[..., 32 + 2 * dy : 96 + 2 * dy, 32 + 2 * dx : 96 + 2 * dx]
    warped = matching_(query, center, aligned).warped_feat
    wanted = scene_feat[..., 32:96, 32:96]
    top, left = 2 * max(dy, 0) + 20, 2 * max(dx, 0) + 20  # VGG pads at the border
    bottom, right = 64 + 2 * min(dy, 0) - 20, 64 + 2 * min(dx, 0) - 20
    seen = (slice(None), slice(None), slice(top, bottom), slice(left, right))
    torch.testing.assert_close(warped[seen], wanted[seen], rtol=0, atol=1e-5)


def test_a_tie_goes_to_the_first_key():
    key = torch.ones(200, 3)
    assert (best_key(torch.ones(5, 3), key)[0] == 0).all()


def test_matching_recovers_a_permutation_of_patches():
    torch.manual_seed(0)
    patches = F.normalize(torch.randn(500, 36), dim=1)
    order = torch.randperm(500)
    index, score = best_key(patches[order], patches)
    assert torch.equal(index, order)
    torch.testing.assert_close(score, torch.ones(500))


def test_a_picture_matches_itself_cell_by_cell():
    features = torch.randn(1, 8, 9, 7)
    match = sparse_match(features, features, None, None)
    assert torch.equal(match.key_index[0], torch.arange(63))


def test_sparse_equals_dense_when_the_masks_are_all_ones():
    query_feat, key_feat = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 4, 4)
    ones = [torch.ones(2, 1, *feat.shape[2:]).bool() for feat in (query_feat, key_feat)]
    sparse = sparse_match(query_feat, key_feat, *ones)
    dense = sparse_match(query_feat, key_feat, None, None)
    assert torch.equal(sparse.key_index, dense.key_index)
    torch.testing.assert_close(sparse.confidence, dense.confidence)


@given(seed=st.integers(0, 999))
def test_sparse_search_is_dense_search_among_the_kept(seed):
    generator = torch.Generator().manual_seed(seed)
    query_feat = torch.randn(1, 3, 5, 5, generator=generator)
    key_feat = torch.randn(1, 3, 4, 6, generator=generator)
    query_mask = torch.rand(1, 1, 5, 5, generator=generator) < 0.5
    key_mask = torch.rand(1, 1, 4, 6, generator=generator) < 0.5
    key_mask[..., 0, 0] = True
    match = sparse_match(query_feat, key_feat, query_mask, key_mask)
    score = unit_patches(query_feat)[0] @ unit_patches(key_feat)[0].T
    score[:, ~key_mask.flatten()] = -torch.inf
    expected = torch.where(query_mask.flatten(), score.amax(1), 0)
    torch.testing.assert_close(match.confidence[0], expected)
    kept = query_mask.flatten()
    assert torch.equal(match.key_index[0, kept], score.argmax(1)[kept])


@pytest.fixture
def small_matching():
    torch.manual_seed(0)
    return SparseMatching(SMALL, MaskConfig()).eval()


@pytest.mark.parametrize("empty", ["query", "key", "both"])
def test_an_empty_mask_gives_zeros_and_no_crash(small_matching, monkeypatch, empty):
    lr, center = torch.rand(1, 3, 16, 12), torch.rand(1, 3, 8, 8)
    answers = {16 // 2: empty in ("query", "both"), 8 // 2: empty in ("key", "both")}
    monkeypatch.setattr(
        small_matching.mask_generator,
        "keep",
        lambda feat: torch.full_like(feat[:, :1], not answers[feat.shape[2]]).bool(),
    )
    found = small_matching(lr, center, torch.rand(1, 2, 16, 16) + 1)
    assert not found.warped_feat.any()
    assert not found.confidence.any()


def test_the_same_mask_means_the_same_in_training_and_inference(small_matching, monkeypatch):
    """Inference with only queries masked is the training form with that mask."""
    lr, center, aligned = torch.rand(1, 3, 16, 12), torch.rand(1, 3, 8, 8), torch.rand(1, 2, 16, 16)
    small_matching.mask_keys = False
    mask = torch.rand(1, 1, 8, 6) < 0.5
    monkeypatch.setattr(small_matching.mask_generator, "keep", lambda _: mask)
    monkeypatch.setattr(small_matching.mask_generator, "sample", lambda *_: mask.float())
    sparse = small_matching(lr, center, aligned)
    masked = small_matching.train()(lr, center, aligned)
    torch.testing.assert_close(sparse.warped_feat, masked.warped_feat)
    torch.testing.assert_close(sparse.confidence, masked.confidence)


def test_patches_of_some_cells_are_those_of_the_whole():
    """Up to the order of a patch's values: here places first, there features."""
    features = torch.randn(1, 3, 7, 5)
    cells = torch.tensor([0, 4, 17, 30, 34, 17])
    whole = unit_patches(features)[0, cells].unflatten(1, (3, 9)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(PatchTable(features[0]).at(cells), whole)


@pytest.mark.parametrize("strip", [1, 9, 10_000])
def test_strips_and_blocks_do_not_change_a_match(monkeypatch, strip):
    torch.manual_seed(0)
    query_feat, key_feat = torch.randn(2, 4, 6, 5), torch.randn(2, 4, 9, 8)
    masks = [torch.rand(2, 1, *feat.shape[2:]) < 0.5 for feat in (query_feat, key_feat)]
    whole = sparse_match(query_feat, key_feat, *masks)
    told: list[float] = []
    monkeypatch.setattr(nearest_key, "KEY_GROUP", 8)
    with tuned(patch_cells=strip, search_queries=7, search_keys=16):
        pieces = sparse_match(query_feat, key_feat, *masks, told.append)
    assert torch.equal(pieces.key_index, whole.key_index)
    torch.testing.assert_close(pieces.confidence, whole.confidence)
    assert told == sorted(told)
    assert told[-1] > 0.9
