"""The network that ships: whole, small, better than bicubic, and told about."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sddusr.checkpoint import load_model, read_checkpoint, write_checkpoint
from sddusr.config import COMPACT, DEMO, DetailConfig
from sddusr.data import sample_images
from sddusr.evaluation.metrics import score
from sddusr.geometry.box import Box, crop
from sddusr.imaging.images import read_rgb
from sddusr.inference import bicubic, super_resolve, to_tensor
from sddusr.model.sddusr import SDDuSR
from sddusr.model.trust import Trust
from sddusr.pretrained import COMPACT as PLACE
from sddusr.pretrained import center_matches, export
from sddusr.registration.residual import register_ref
from tests.tiny import TINY

MOST_BYTES = 3_000_000
SIDE = 256


def test_it_is_whole_and_small():
    checkpoint = read_checkpoint(PLACE)
    assert checkpoint.config.model == COMPACT.model
    assert checkpoint.train_state is None
    assert sum(path.stat().st_size for path in Path(PLACE).iterdir()) <= MOST_BYTES


def test_its_card_says_what_it_was_made_of():
    card = (Path(PLACE) / "CARD.md").read_text()
    for heading in ("Data and licences", "Command", "Scores", "Limits"):
        assert f"## {heading}" in card


@pytest.mark.parametrize("name", sorted(sample_images.PICTURES["test"]))
def test_it_beats_bicubic_on_photographs_that_it_never_saw(name):
    hr = read_rgb(sample_images.find("test")[name]).pixels
    y, x = ((side - SIDE) // 2 for side in hr.shape[:2])
    made = sample_images.degrade(hr[y : y + SIDE, x : x + SIDE], name, full_ref=False)
    ref = register_ref(made.lr, made.ref, made.box).ref
    ours = super_resolve(load_model(PLACE), made.lr, ref, made.box).sr
    theirs = bicubic(made.lr)
    got, before = (
        score(torch.from_numpy(picture).permute(2, 0, 1), to_tensor(made.hr), made.box, "png8")
        for picture in (ours, theirs)
    )
    assert got.full_psnr > before.full_psnr + 0.3
    assert got.center_psnr > before.center_psnr + 3
    assert got.corner_psnr > before.corner_psnr


def test_it_uses_ref():
    """Where the tele picture is sharp the result is nearer to the truth than with a blurred one."""
    hr = read_rgb(sample_images.find("test")["coffee.png"]).pixels[:SIDE, :SIDE]
    made = sample_images.degrade(hr, "coffee", full_ref=False)
    blurred = np.clip(np.rint(255 * crop(bicubic(made.lr), made.box)), 0, 255).astype(np.uint8)
    model = load_model(PLACE)
    sharp, soft = (
        center_psnr(super_resolve(model, made.lr, ref, made.box).sr, made.hr, made.box)
        for ref in (register_ref(made.lr, made.ref, made.box).ref, blurred)
    )
    assert sharp > soft + 3


def center_psnr(sr: np.ndarray, hr: np.ndarray, box: Box) -> float:
    return score(torch.from_numpy(sr).permute(2, 0, 1), to_tensor(hr), box, "png8").center_psnr


def test_an_export_holds_the_network_and_nothing_to_go_on_with(tmp_path):
    torch.manual_seed(0)
    model = SDDuSR(TINY)
    write_checkpoint(
        str(tmp_path / "run" / "checkpoints" / "step-00000003"),
        config=DEMO,
        progress={"step": 3},
        model_state=model.state_dict(),
        train_state={"optimizer": {"state": torch.zeros(1000)}},
    )
    export(str(tmp_path / "run"), str(tmp_path / "out"))
    exported = read_checkpoint(str(tmp_path / "out"))
    assert exported.train_state is None
    assert not list((tmp_path / "out").glob("*.pt"))
    assert exported.progress == {"step": 3}
    assert exported.model_state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(exported.model_state[name], value, rtol=0, atol=0)


def test_a_match_center_keeps_the_trust_of_a_twin_and_lowers_that_of_others():
    trust = Trust(8, DetailConfig(enabled=True))
    confidence = torch.tensor([1.0, 0.94]).view(1, 1, 1, 2)
    twin, other = trust.of_match(confidence).flatten().tolist()
    state = {f"trust.{name}": value for name, value in trust.state_dict().items()}
    center_matches(state, 0.97)
    trust.load_state_dict({name.removeprefix("trust."): value for name, value in state.items()})
    changed = trust.of_match(confidence).flatten().tolist()
    assert changed[0] == pytest.approx(twin)
    assert changed[1] < 0.5 * other
    assert trust.of_match(torch.full((1, 1, 1, 1), 0.97)).item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("state", "center", "message"),
    [
        ({}, 0.97, "no detail skip"),
        ({"trust.match_center": torch.zeros(2)}, 1.0, "--match-center is 1, need"),
    ],
)
def test_a_match_center_that_cannot_be_is_refused(state, center, message):
    with pytest.raises(ValueError, match=message):
        center_matches(state, center)
