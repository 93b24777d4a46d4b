"""Pictures of a run show one part, the same at every step, and what the network did there."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sddusr.checkpoint import write_checkpoint
from sddusr.config import Config, DetailConfig, DictionaryConfig, MaskConfig
from sddusr.geometry.box import Box, crop, whole
from sddusr.imaging.images import read_rgb
from sddusr.inference import super_resolve, to_8bit
from sddusr.inference.memory import Plan
from sddusr.model.sddusr import SDDuSR
from sddusr.visualization.canvas import VOID, heatmap
from sddusr.visualization.diagnostics import (
    TITLES,
    fixed_window,
    main,
    render_diagnostics,
    token_colors,
)
from tests.conftest import make_triplet
from tests.tiny import TINY, without_zero_starts

BOX = Box(33, 97, 38, 110)


@pytest.fixture(scope="module")
def triplet():
    return make_triplet(box=BOX)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return without_zero_starts(SDDuSR(TINY)).eval()


def make(model, triplet, window, **options):
    return super_resolve(
        model, triplet.lr, triplet.ref, triplet.center_box, look_at=window, **options
    )


@pytest.mark.parametrize("side", [16, 48, 128, 1000])
def test_the_part_lies_on_the_grid_and_shows_both_sides_of_the_box(triplet, side):
    window = fixed_window(triplet, side)
    assert window == fixed_window(triplet, side)
    assert all(edge % 4 == 0 for edge in window)
    assert window.height == window.width == min(side, 128)
    seen = np.zeros(triplet.hr.shape[:2], bool)
    crop(seen, BOX)[:] = True
    assert 0 < crop(seen, window).mean() < 1


@pytest.mark.parametrize("box", [whole(128, 144), Box(0, 16, 0, 16)])
def test_a_box_that_leaves_no_choice_still_gives_a_part(box):
    assert fixed_window(make_triplet(box=box), 64).height == 64


def test_the_part_follows_the_detail():
    flat = make_triplet(box=BOX)
    flat.hr[:] = 128
    flat.hr[80:112, 96:128] = np.random.default_rng(0).integers(256, size=(32, 32, 3))
    window = fixed_window(flat, 48)
    assert crop(flat.hr, window).std() > 0
    assert window.y1 > 100
    assert window.x1 > 110


def test_every_picture_shows_the_same_part(model, triplet):
    window = fixed_window(triplet, 64)
    made = make(model, triplet, window)
    images = render_diagnostics(triplet, made, window)
    assert images.keys() == {*TITLES, "sheet"} - {"trust"}
    assert all(images[name].shape == (64, 64, 3) for name in images.keys() - {"sheet"})
    assert np.array_equal(images["hr"], crop(triplet.hr, window))
    assert np.array_equal(images["sr"], crop(to_8bit(made.sr), window))
    seen = np.zeros(triplet.hr.shape[:2], bool)
    crop(seen, BOX)[:] = True
    assert np.array_equal(images["ref"][crop(seen, window)], images["hr"][crop(seen, window)])
    assert (images["ref"][~crop(seen, window)] == VOID).all()
    assert images["sheet"].shape[1] > 7 * 288


def test_the_error_map_is_dark_where_the_picture_is_right(model, triplet):
    window = fixed_window(triplet, 64)
    made = make(model, triplet, window)
    perfect = made._replace(sr=(triplet.hr / 255).astype(np.float32))
    perfect.sr[window.y0 : window.y0 + 8] += 0.5
    error = render_diagnostics(triplet, perfect, window)["error"].astype(int).sum(axis=2)
    assert len(np.unique(error[8:])) == 1
    assert error[:8].min() > error[8:].max()


def test_what_a_network_does_not_have_is_left_out(triplet):
    without = {"mask": MaskConfig(enabled=False), "dictionary": DictionaryConfig(enabled=False)}
    dense = SDDuSR(replace(TINY, **without))
    window = fixed_window(triplet, 64)
    images = render_diagnostics(triplet, make(dense, triplet, window), window)
    missing = TITLES.keys() - images.keys()
    assert missing == {"mask", "key_mask", "dictionary", "tokens", "trust"}


def test_a_detail_skip_shows_its_trust(triplet):
    model = SDDuSR(replace(TINY, detail=DetailConfig(enabled=True)))
    window = fixed_window(triplet, 64)
    made = make(model, triplet, window)
    images = render_diagnostics(triplet, made, window)
    cells = crop(made.trust, Box(*(edge // 4 for edge in window)))
    np.testing.assert_array_equal(images["trust"], heatmap(cells, zoom=4))


def test_sources_of_a_part_equal_those_of_the_whole_network(model, triplet):
    window = Box(16, 80, 24, 88)
    sources = make(model, triplet, window, plan=Plan(72, 16, 64, torch.float32)).sources
    lr, center, ref = (
        torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
        for picture in (triplet.lr, triplet.lr[18:48, 20:54], triplet.ref[3:63, 2:70])
    )
    with torch.inference_mode():
        output, lr_feat = model(lr, center, ref), model.lr_encoder(lr)
        center_feat, ref_feat = model.center_encoder(center), model.ref_encoder(ref)
        aligned_feat = model.alignment(center, ref, center_feat, ref_feat)
        tokens, _ = model.dictionary.refine(center_feat, aligned_feat)
        index = model.dictionary.token_of_pixels(lr_feat, tokens)
    for found, expected in (
        (sources.warped_feat, output.warped_feat),
        (sources.dict_feat, output.dict_feat),
    ):
        assert found == pytest.approx(crop(expected[0].mean(dim=0).numpy(), window), abs=1e-5)
    assert (sources.token_index == crop(index[0].numpy(), window)).mean() > 0.99


def test_a_token_of_a_pixel_is_the_one_it_reads_most(model):
    dictionary, rng = model.dictionary, torch.Generator().manual_seed(0)
    lr_feat = torch.randn(1, TINY.dim, 5, 7, generator=rng)
    center_tokens = torch.randn(1, 4, TINY.dim, generator=rng)
    with torch.inference_mode():
        index = dictionary.token_of_pixels(lr_feat, center_tokens)
        read = dictionary.attend(
            dictionary.lookup_query(lr_feat.flatten(2).transpose(1, 2)),
            dictionary.lookup_key(center_tokens),
            torch.eye(4)[None].repeat(1, 1, TINY.dim // 4),
        )[..., :4]
    assert torch.equal(index.flatten(), read.argmax(dim=2).flatten())


def test_tokens_have_colors_of_their_own():
    colors = token_colors(np.arange(64).reshape(8, 8)).reshape(-1, 3)
    assert len(np.unique(colors, axis=0)) == 64


def test_the_command_draws_the_same_and_names_what_is_there(
    model, tiny_shards, tmp_path, monkeypatch, capsys
):
    place = str(tmp_path / "checkpoint")
    write_checkpoint(
        place, config=Config(model=TINY), progress={}, model_state=model.state_dict(),
        train_state=None,
    )  # fmt: skip

    def run(*options):
        flags = ["--checkpoint", place, "--out", str(tmp_path / "out"), *options]
        monkeypatch.setattr(sys, "argv", ["figures", tiny_shards.root, *flags])
        main()

    run("--id", "test-1", "--window-px", "64")
    triplet = next(each for each in tiny_shards.iterate("test") if each.id == "test-1")
    window = fixed_window(triplet, 64)
    for name, picture in render_diagnostics(triplet, make(model, triplet, window), window).items():
        drawn = read_rgb(str(tmp_path / "out" / "test-1" / f"{name}.png")).pixels
        assert np.abs(drawn.astype(int) - picture).mean() < 1
    assert not (tmp_path / "out" / "test-0").exists()
    with pytest.raises(SystemExit, match="2"):
        run("--id", "test-9")
    assert "holds test-0, test-1; ask for one" in capsys.readouterr().err
