"""The detail skip: Ref's detail in place, carried by the matches elsewhere, trusted or not."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sddusr.config import DEMO, PAPER, PRESETS, DetailConfig, ModelConfig
from sddusr.imaging.resize import bicubic_up
from sddusr.model.detail import enlarge_center, lay_in_place, to_pixels, twin_cells
from sddusr.model.doubt import doubt_penalty
from sddusr.model.evidence import (
    block_maps,
    measure_evidence,
    own_pixels,
    pool_blocks,
    reach,
    shows_something,
    split_bands,
    statistics,
)
from sddusr.model.filters import box_mean, high_pass, soften
from sddusr.model.sddusr import SDDuSR
from sddusr.model.trust import supported_share
from sddusr.training.losses import trust_loss
from sddusr.types import Batch, DetailOutput

SMALL = replace(DEMO.model, detail=DetailConfig(enabled=True, trust_dim=8, replaced_residual=0.88))
OFFSET = torch.tensor([[8, 16]])


def pictures(size: int = 48, center: int = 24, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size // 2, size // 2, generator=generator)
    hr = F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)
    hr = (hr + 0.1 * torch.rand(hr.shape, generator=generator)).clamp(0, 1)
    lr = F.avg_pool2d(hr, 2)
    y, x = OFFSET[0].tolist()
    lr_center = lr[..., y // 2 : y // 2 + center, x // 2 : x // 2 + center]
    ref = hr[..., y : y + 2 * center, x : x + 2 * center]
    return hr, lr, lr_center, ref


def network(config: ModelConfig = SMALL) -> SDDuSR:
    torch.manual_seed(0)
    return SDDuSR(config).eval()


def test_presets_have_it_or_are_the_paper():
    has = {name: config.model.detail.enabled for name, (_, config) in PRESETS.items()}
    assert has == {
        "demo": True,
        "compact": True,
        "paper": False,
        "baseline": False,
        "sfm": False,
    }
    assert PAPER.data.register_ref == "none"
    assert not PAPER.data.refs.has_any
    assert PAPER.losses.trust_weight == 0


@pytest.mark.parametrize("preset", ["paper", "baseline", "sfm"])
def test_every_preset_can_be_given_a_detail_skip(preset):
    config = PRESETS[preset][1].model
    small = replace(
        config,
        dim=16,
        encoder=replace(config.encoder, num_groups=1, num_blocks=1, num_ref_blocks=1, reduction=4),
        matching=replace(config.matching, vgg_dims=(8, 8), vgg_weights="none", dim=4),
        alignment=replace(
            config.alignment, spynet_weights="none", spynet_levels=2, spynet_dims=(4, 4, 4, 4)
        ),
        fusion=replace(config.fusion, num_blocks=1, reduction=4),
        detail=DetailConfig(enabled=True),
    )
    _, lr, lr_center, ref = pictures()
    out = network(small)(lr, lr_center, ref, center_offset=OFFSET)
    assert out.detail is not None
    assert out.detail.inside[0, 0, 8:56, 16:64].all()


@given(
    y=st.integers(-4, 8),
    x=st.integers(-4, 8),
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
)
def test_twins_are_the_cells_at_the_same_place(y, x, rows, cols):
    index, inside = twin_cells(torch.tensor([[4 * y, 4 * x]]), (6, 7), (rows, cols))
    keys = torch.arange(rows * cols).view(rows, cols)
    for row in range(6):
        for col in range(7):
            is_there = 0 <= row - y < rows and 0 <= col - x < cols
            assert bool(inside[0, 0, row, col]) == is_there
            if is_there:
                assert index[0, row * 7 + col] == keys[row - y, col - x]


def test_what_lies_in_place_is_moved_nowhere():
    own = torch.rand(1, 5, 16, 20)
    moved = torch.zeros(1, 5, 24, 28)
    index, inside = twin_cells(torch.tensor([[4, 8]]), (6, 7), (4, 5))
    laid = lay_in_place(moved, own, index, inside)
    assert torch.equal(laid[..., 4:20, 8:28], own)
    assert laid.sum() == pytest.approx(own.sum().item(), rel=1e-5)
    assert torch.equal(to_pixels(inside)[0, 0].nonzero()[0], torch.tensor([4, 8]))


def test_full_trust_and_no_residual_is_ref_laid_over_bicubic():
    _, lr, lr_center, ref = pictures()
    net = network()
    with torch.no_grad():
        net.trust.of_ref[-1].bias[1] = 100.0
        net.trust.error_scales.fill_(-20.0)
        net.trust.correlation_scale.fill_(-20.0)
    out = net(lr, lr_center, ref, center_offset=OFFSET)
    inside = out.detail.inside.expand_as(out.sr)
    center = bicubic_up(lr)[..., 8:56, 16:64]  # of the whole: its border looks beyond the box
    pasted = center + high_pass(ref - center, 17)
    assert torch.allclose(out.sr[inside], pasted.flatten(), atol=1e-4)


def test_trusted_detail_takes_the_residuals_place_inside_the_box():
    _, lr, lr_center, ref = pictures()
    net = network()
    torch.nn.init.normal_(net.head[-1].weight, std=0.1)

    def made(logit: float, has_ref: bool = True):
        with torch.no_grad():
            net.trust.replaced_logit.fill_(logit)
            return net(lr, lr_center, ref, None, OFFSET, torch.tensor([has_ref]))

    beside, instead = made(-100.0), made(100.0)
    residual = beside.sr - bicubic_up(lr) - beside.detail.trust * beside.detail.detail
    inside = beside.detail.inside
    assert residual.abs().mean() > 0.01
    replaced = beside.detail.trust * inside * residual
    assert torch.allclose(beside.sr - instead.sr, replaced, atol=1e-5)
    assert replaced[inside.expand_as(replaced)].abs().mean() > 0.01
    assert torch.equal(made(100.0, has_ref=False).sr, made(-100.0, has_ref=False).sr)


def test_the_residual_stays_where_ref_shows_nothing():
    _, lr, lr_center, ref = pictures()
    net = network()
    torch.nn.init.normal_(net.head[-1].weight, std=0.1)
    hole = torch.zeros_like(ref[:, :1], dtype=torch.bool)
    hole[..., 16:32, 8:40] = True
    filled = torch.where(hole, bicubic_up(lr)[..., 8:56, 16:64], ref)

    def made(logit: float):
        with torch.no_grad():
            net.trust.replaced_logit.fill_(logit)
            return net(lr, lr_center, filled, center_offset=OFFSET).sr[..., 8:56, 16:64]

    given_way = (made(-100.0) - made(100.0)).abs().amax(1, keepdim=True)
    assert torch.equal(given_way > 0, ~hole)


def test_a_residual_is_replaced_only_beside_a_bicubic_picture():
    with pytest.raises(ValueError, match=r"needs model\.image_skip"):
        replace(PAPER.model, detail=DetailConfig(enabled=True, replaced_residual=0.88))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_the_residual_that_cannot_be_is_refused(share):
    with pytest.raises(ValueError, match="replaced_residual is"):
        DetailConfig(replaced_residual=share)


def test_a_good_ref_does_not_outvote_a_bad_match():
    """However sure the convolutions are of Ref, a match below the centre of the logistic counts
    less than half, and what they say stays within bounds."""
    _, lr, lr_center, ref = pictures()
    net = network()
    with torch.no_grad():
        net.trust.of_ref[-1].bias[1] = 1e4
        net.trust.match_center.fill_(1.1)  # no match is good enough
    out = net(lr, lr_center, ref, center_offset=OFFSET)
    assert (out.detail.trust[out.detail.inside] > 0.99).all()
    assert (out.detail.trust[~out.detail.inside] < 0.1).all()


def test_inside_the_box_trust_needs_trusted_surroundings():
    """A trusted spot among distrusted ones counts little, a distrusted one changes nothing around
    it; what lies outside the box has no say, and 0 px ask for no support."""
    inside = torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    inside[..., 16:80, 16:80] = True
    share = torch.zeros(1, 1, 96, 96)
    share[..., 16:80, 48:80] = 1  # half of the box
    share[..., 46:50, 20:24] = 1  # a spot
    share[..., 40:44, 70:74] = 0  # a gap
    made = supported_share(share, inside, 25)
    assert (made[..., 46:50, 20:24] < 0.02).all()
    whole = share[..., 16:80, 64:80] > 0
    assert (made[..., 16:80, 64:80][whole] > 0.999).all()  # at the edge of the box, too
    assert (made <= share).all()
    assert torch.equal(supported_share(share, inside, 0), share)


def test_what_contradicts_a_calm_part_of_the_wide_image_is_doubted():
    """A faint mark counts on a calm background; where much is seen anyway, the same counts less,
    and a limit of 0 lets all of it pass."""
    _, _, lr_center, ref = (0.2 + 0.6 * x for x in pictures(size=96, center=48))
    lr_center[..., :24, :] = 0.5
    ref[..., :48, :] = 0.5
    marked = ref.clone()
    marked[..., 20:24, 20:50] += 0.06  # calm
    marked[..., 70:74, 20:50] += 0.06  # not calm
    center = bicubic_up(lr_center)
    feats = torch.zeros(1, SMALL.dim, *ref.shape[2:]), torch.zeros(1, SMALL.dim, *ref.shape[2:])

    def trusted(picture: torch.Tensor, limit: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
        bands = split_bands(picture, center, 17)
        of_whole = statistics(pool_blocks(block_maps(bands)))
        detail = replace(SMALL.detail, doubt_limit=limit)
        trust = network(replace(SMALL, detail=detail)).trust
        evidence = measure_evidence(bands, 17).evidence
        return trust.in_ref(evidence, trust.penalty(evidence, of_whole), of_whole, *feats)

    good, found, unlimited = trusted(ref), trusted(marked), trusted(marked, limit=0.0)
    calm, busy = (slice(19, 25), slice(20, 50)), (slice(69, 75), slice(20, 50))
    assert (found[0][0, 0][calm] < 0.01).all()
    assert (found[1][0, 0][calm] < -8).all()
    assert (found[0][0, 0][busy] > 0.5).all()
    assert (unlimited[0][0, 0][20:24, 20:50] > 0.9).all()
    assert (good[0][..., 56:, :] > 0.9).all()
    assert torch.allclose(found[0][..., 40:60, :], good[0][..., 40:60, :], atol=0.02)


def test_a_color_that_the_wide_image_does_not_show_is_doubted_where_its_luma_is_not():
    """A mark of another colour on grey texture, no brighter than that texture's own contrast."""
    lr_center = (0.35 + 0.3 * pictures(size=96, center=48)[2]).mean(1, keepdim=True)
    lr_center = lr_center.expand(-1, 3, -1, -1)
    center = bicubic_up(lr_center)
    marked = center + 0.02 * torch.rand(1, 1, *center.shape[2:])
    marked[..., 70:78, 20:50] += torch.tensor([0.08, -0.03, -0.06]).view(3, 1, 1)
    feats = torch.zeros(1, SMALL.dim, *marked.shape[2:])
    bands = split_bands(marked, center, 17)
    evidence = measure_evidence(bands, 17).evidence
    of_whole = statistics(pool_blocks(block_maps(bands)))
    trust, place = network().trust, (0, 0, slice(72, 76), slice(22, 48))
    doubted = trust.in_ref(evidence, trust.penalty(evidence, of_whole), of_whole, feats, feats)
    assert (doubted[0][place] < 0.01).all()
    assert (doubted[1][place] < -8).all()
    assert (doubted[0][..., :50, :] > 0.9).all()
    evidence[:, 5] = 0  # the chroma of the difference
    assert trust.penalty(evidence, of_whole).exp()[place].mean() > 0.2


def test_single_pixels_that_equal_the_centre_show_something_all_the_same():
    """A good Ref has some by chance; only patches of them were filled."""
    added = torch.full((1, 3, 12, 12), 2 / 255)
    added[..., 2, 3] = added[..., 5:7, 8:10] = 0
    added[..., 1, 7, 1:] = 0  # in one colour
    assert own_pixels(added).all()
    added[..., 8:11, 1:4] = 0.5 / 255
    added[..., :3, :] = 0
    own = own_pixels(added)[0, 0]
    assert not own[8:11, 1:4].any()
    assert not own[:3].any()
    assert own.sum() == 144 - 9 - 36


def test_what_resembles_the_wide_image_by_chance_is_doubted_amid_doubt():
    """Something else in Ref has calm parts; a mark's surroundings are mostly free of doubt."""
    evidence = torch.zeros(1, 8, 96, 96)
    evidence[:, 6:] = 0.1  # the centre's contrast
    evidence[:, 4:6, 30:66, 30:66] = 1.0
    evidence[:, 4:6, 44:52, 44:52] = 0  # alike by chance
    of_whole = torch.tensor([[0.0] * 8 + [0.01, 0.01, 0.3, 0.3]])
    penalty = doubt_penalty(evidence, of_whole, 3.0, 33)[0, 0]
    assert (penalty[44:52, 44:52] < -3).all()
    assert (penalty[30:44, 30:66] == -20).all()
    assert penalty[:10].exp().min() > 0.99
    alone = doubt_penalty(evidence, of_whole, 3.0, 0)[0, 0]
    assert (alone[44:52, 44:52].exp() > 0.99).all()
    assert not doubt_penalty(evidence, of_whole, 0.0, 33).any()


def test_the_border_of_the_centre_is_enlarged_as_a_part_of_the_picture():
    """Wherever the crops of a batch lie, and by itself where they share nothing."""
    picture = torch.rand(1, 3, 40, 40)
    lr, center = picture[..., 10:34, 8:32], picture[..., 4:24, 20:36]
    lr, center = lr.expand(2, -1, -1, -1), center.expand(2, -1, -1, -1)
    offset = torch.tensor([[2 * (4 - 10), 2 * (20 - 8)], [200, -200]])
    made = enlarge_center(bicubic_up(lr), center, offset)
    true = bicubic_up(picture)[..., 8:48, 40:72]
    alone = bicubic_up(center)
    assert torch.allclose(made[0, :, 16:, :20], true[0, :, 16:, :20], atol=1e-6)
    assert not torch.allclose(alone[0, :, 16:, :20], true[0, :, 16:, :20], atol=1e-3)
    assert torch.equal(made[1], alone[1])
    assert torch.equal(made[0, :, :12], alone[0, :, :12])  # above the crop


def test_the_usual_doubt_follows_the_image_within_limits():
    blocks = torch.rand(2, 13, 50, generator=torch.Generator().manual_seed(1))
    blocks[:, 4] = 0.1**2  # contrast of 0.1
    blocks[:, 12] = 0.05**2  # of its chroma
    blocks[:, 9] = torch.linspace(0, 1, 50)  # the first ten are the flattest
    blocks[0, 10] = blocks[0, 11] = torch.linspace(0.02, 0.069, 50)
    blocks[1, 10] = (torch.arange(50) >= 10).float()
    blocks[1, 11] = 0
    of_first, of_second = statistics(blocks)[:, 8:]
    assert of_first[:2].tolist() == pytest.approx([0.025, 0.025])  # median of the flattest
    assert of_first[2] == pytest.approx(0.055 / (0.1 + 0.025))  # seven tenths are below
    assert of_first[3] == pytest.approx(0.055 / (0.05 + 0.5 * 0.1 + 0.025))
    assert of_second.tolist() == pytest.approx([1.5 / 255, 1.5 / 255, 1, 0.2])


def test_without_ref_nothing_of_it_is_in_the_result():
    _, lr, lr_center, ref = pictures()
    net, none = network(), torch.tensor([False])
    results = [
        net(lr, lr_center, other, center_offset=OFFSET, has_ref=none).sr
        for other in (ref, torch.rand_like(ref))
    ]
    assert torch.equal(*results)


def test_an_offset_is_needed():
    _, lr, lr_center, ref = pictures()
    with pytest.raises(ValueError, match="center_offset"):
        network()(lr, lr_center, ref)


def test_every_parameter_gets_a_gradient_once_the_heads_speak():
    hr, lr, lr_center, ref = pictures()
    ref = ref.clone()
    ref[..., :24] = soften(soften(bicubic_up(lr_center)))[..., :24]  # softer than the wide picture
    net = network().train()
    for head in (net.trust.of_ref, net.trust.of_place, net.head):
        torch.nn.init.normal_(head[-1].weight, std=0.05)
    out = net(lr, lr_center, ref, torch.tensor([1]), OFFSET, torch.tensor([True]))
    (out.sr - hr).square().mean().backward()
    missing = [name for name, p in net.trust.named_parameters() if not p.grad.abs().sum() > 0]
    assert not missing


def test_evidence_of_a_window_is_that_of_the_whole():
    ref = torch.rand(1, 3, 96, 96)
    center = bicubic_up(torch.rand(1, 3, 48, 48))
    halo = reach(17)
    whole = measure_evidence(split_bands(ref, center, 17), 17)
    near = slice(24 - halo, 72 + halo)
    part = measure_evidence(split_bands(ref[..., near, near], center[..., near, near], 17), 17)
    inner = slice(halo, halo + 48)
    for one, other in zip(whole, part, strict=True):
        assert torch.allclose(one[..., 24:72, 24:72], other[..., inner, inner], atol=1e-6)


def test_where_ref_is_the_enlarged_centre_nothing_of_it_counts():
    """As registration fills it where a bar, an edge or transparency leaves nothing to show."""
    lr_center, ref = (0.2 + 0.6 * x for x in pictures(size=96, center=40)[2:])
    center, rows = bicubic_up(lr_center), 32
    filled = ref.clone()
    filled[:, :, :rows] = (255 * center[:, :, :rows]).round() / 255
    bands = split_bands(filled, center, 17)
    found = measure_evidence(bands, 17)
    empty = slice(0, rows)  # up to the edge, whatever lies beside it
    assert not found.detail[:, :, empty].any()
    shown = shows_something(found.evidence[:, 2:3])
    assert not shown[:, :, empty].any()
    assert shown[:, :, rows:].all()
    feats = torch.rand(1, SMALL.dim, *ref.shape[2:]), torch.rand(1, SMALL.dim, *ref.shape[2:])
    of_whole = statistics(pool_blocks(block_maps(bands)))
    trust = network().trust
    penalty = trust.penalty(found.evidence, of_whole)
    share, _ = trust.in_ref(found.evidence, penalty, of_whole, *feats)
    assert not share[:, :, empty].any()
    assert (share[:, :, rows:] > 0.9).all()


def test_evidence_tells_soft_noisy_and_other_refs_from_good_ones():
    _, _, lr_center, ref = pictures(size=96, center=40)
    center = bicubic_up(lr_center)
    soft = soften(soften(soften(center)))
    noisy = ref + 0.1 * torch.randn(ref.shape, generator=torch.Generator().manual_seed(0))
    other = ref.flip(3)

    def told(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bands = split_bands(picture, center, 17)
        blocks = pool_blocks(block_maps(bands))
        return measure_evidence(bands, 17).evidence.mean((0, 2, 3)), statistics(blocks)[0]

    good, of_soft, of_noisy, of_other = (told(x) for x in (ref, soft, noisy, other))
    assert good[0][3] > of_soft[0][3]  # its detail sharpens, a soft one's takes away
    assert of_soft[0][3] < 0
    assert of_other[0][0] > 2 * good[0][0]
    assert of_noisy[1][6] > good[1][6]  # the finest band where the centre is flattest
    assert of_other[1][1] > good[1][1]


def test_box_mean_repeats_the_border():
    x = torch.rand(1, 2, 9, 11, dtype=torch.float64)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    assert torch.allclose(box_mean(x, 5), F.avg_pool2d(padded, 5, 1))


def batch_of(hr: torch.Tensor, lr: torch.Tensor, has_ref: bool = True) -> Batch:
    return Batch(
        ids=("a",),
        lr=lr,
        lr_center=lr,
        ref=hr,
        hr=hr,
        mask_label=torch.zeros(1, 1, lr.shape[2] // 2, lr.shape[3] // 2),
        seeds=torch.tensor([0]),
        center_offset=torch.tensor([[0, 0]]),
        has_ref=torch.tensor([has_ref]),
    )


def test_the_trusts_term_is_least_at_the_best_share_and_measures_decibels():
    hr, lr, _, _ = pictures()
    detail = hr - bicubic_up(lr)
    inside = torch.ones_like(hr[:, :1], dtype=torch.bool)

    def loss(trust: float, has_ref: bool = True) -> float:
        output = DetailOutput(torch.full_like(hr[:, :1], trust), detail, inside)
        return float(trust_loss(output, batch_of(hr, lr, has_ref)))

    assert loss(1.0) < 1e-2 < loss(0.9) < loss(0.5) < loss(0.0)
    assert loss(0.0, has_ref=False) == 0
    # Half of what is missing left over is a quarter of its energy, against a floor of nearly none.
    assert loss(0.9) > 0.2 * loss(0.0)
