"""The plan keeps to the memory that it is given, and says so when it cannot."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sddusr.config import PAPER
from sddusr.inference import memory, process_memory
from sddusr.inference.memory import MEGABYTE, held_bytes, plan_memory
from sddusr.inference.precompute import FrameFeatures, Inputs
from sddusr.inference.regions import Reconstruction
from sddusr.model.matching.matcher import Search
from sddusr.model.matching.transfer import CellBank
from sddusr.model.sddusr import SDDuSR

CPU = torch.device("cpu")


def inputs_of(height: int, width: int) -> Inputs:
    """With a centre of half the sides."""
    center = (height // 4 * 2, width // 4 * 2)
    lr, middle, ref = (
        np.broadcast_to(np.uint8(0), (*size, 3))
        for size in ((height, width), center, (2 * center[0], 2 * center[1]))
    )
    return Inputs(lr, middle, ref, CPU)


@pytest.fixture(scope="module")
def paper() -> SDDuSR:
    with torch.device("meta"):
        return SDDuSR(PAPER.model)


def plan_of(model: SDDuSR, size: tuple[int, int], room_mb: float, bfloat16: bool = False):
    limit = held_bytes(CPU) + round(room_mb * MEGABYTE)
    result_bytes = 12 * size[0] * size[1]
    return plan_memory(model, inputs_of(*size), result_bytes, bfloat16=bfloat16, limit=limit)


def test_a_small_picture_is_one_region_in_float32(paper):
    plan = plan_of(paper, (448, 896), 4000)
    assert plan.region_px == 896
    assert plan.center_px == 448
    assert plan.bank_dtype == torch.float32
    assert plan.kept_maps == 1


@pytest.mark.parametrize("room_mb", [8000, 3500])
def test_the_centre_is_held_in_the_largest_parts_that_raise_no_peak(paper, room_mb, monkeypatch):
    chosen = plan_of(paper, (3024, 4032), room_mb)
    assert chosen.num_bytes <= room_mb * MEGABYTE
    cost = memory.Cost(paper, inputs_of(3024, 4032), 0, bfloat16=False)

    def peak_with(center_px: int) -> int:
        monkeypatch.setattr(cost, "center_px", lambda *_: center_px)
        cut = (chosen.region_px, chosen.tile_px, chosen.bank_dtype, chosen.kept_maps)
        return cost.plan(*cut).num_bytes

    larger = min(side for side in (*memory.REGION_SIDES, 2016) if side > chosen.center_px)
    assert peak_with(chosen.tile_px) == peak_with(chosen.center_px) < peak_with(larger)


def test_in_bfloat16_what_is_fused_is_kept_too_where_it_fits(paper):
    maps = [plan_of(paper, (448, 896), room, bfloat16=True).kept_maps for room in (4000, 1300, 900)]
    assert maps == [2, 1, 0]


def test_the_widest_map_is_kept_only_where_it_fits(paper):
    wide_mb = 4 * 192 * 4 * 448 * 896 / MEGABYTE
    kept = plan_of(paper, (448, 896), 4000)
    assert kept.num_bytes > wide_mb * MEGABYTE
    without = plan_of(paper, (448, 896), wide_mb)
    assert without.kept_maps == 0
    assert without.num_bytes < wide_mb * MEGABYTE


def test_less_memory_means_smaller_pieces_and_then_half_precision(paper):
    plans = [plan_of(paper, (3024, 4032), room) for room in (40_000, 8000, 5000, 3500)]
    assert [plan.region_px for plan in plans] == sorted(
        (plan.region_px for plan in plans), reverse=True
    )
    assert plans[0].region_px == 4032
    assert [plan.bank_dtype for plan in plans[:2]] == [torch.float32] * 2
    assert plans[-1].bank_dtype == torch.bfloat16
    for plan, room in zip(plans, (40_000, 8000, 5000, 3500), strict=True):
        assert plan.num_bytes <= room * MEGABYTE


def test_twelve_megapixels_fit_in_six_gigabytes(paper):
    room = 6000 - 1000  # what torch and two pictures hold before it starts
    assert plan_of(paper, (3024, 4032), room).region_px >= 512
    assert plan_of(paper, (3024, 4032), room, bfloat16=True).region_px >= 1024


def test_too_little_memory_is_refused_with_what_it_would_take(paper):
    with pytest.raises(ValueError, match=r"3024x4032 needs \d+ MB .* raise --memory"):
        plan_of(paper, (3024, 4032), 500)


def test_a_frame_too_thin_to_sample_stays_one_region(paper):
    assert plan_of(paper, (100, 6000), 2000).region_px == 6000


def test_the_reach_that_memory_counts_with_is_the_reconstructions(paper):
    found = Search(*[torch.zeros(1, 1, 1, 1)] * 3, is_sparse=False, key_mask=None)
    known = FrameFeatures(found, CellBank.of(torch.zeros(1, 1, 4, 4)), None)
    made = Reconstruction(paper, inputs_of(64, 64), known)
    assert made.fusion_reach + made.sources.halo <= memory.TILE_REACH_PX


def test_without_a_limit_most_of_what_is_free_is_taken(paper, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    plan = plan_memory(paper, inputs_of(3024, 4032), 0, bfloat16=False, limit=None)
    assert plan.region_px == 4032
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**8)
    with pytest.raises(ValueError, match="--memory"):
        plan_memory(paper, inputs_of(3024, 4032), 0, bfloat16=False, limit=None)


def test_processes_side_by_side_share_what_is_free(paper, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 30 * 10**9)
    inputs = inputs_of(3024, 4032)
    alone, third = (
        plan_memory(paper, inputs, 0, bfloat16=True, limit=None, share=share)
        for share in (1.0, 1 / 3)
    )
    assert third.num_bytes <= 0.8 * 10 * 10**9 < alone.num_bytes


GPU = torch.device("cuda:0")
GIGABYTE = 10**9


@pytest.fixture
def card(monkeypatch):
    """A GPU of 80 GB; the test says what torch has taken of it, and what others have."""
    state = {"reserved": 0.0, "allocated": 0.0, "others": 0.0, "fraction": 1.0}

    def free_and_total(_):
        free = 80 - state["reserved"] - state["others"]
        return round(free * GIGABYTE), 80 * GIGABYTE

    for name, answer in {
        "mem_get_info": free_and_total,
        "memory_reserved": lambda _: round(state["reserved"] * GIGABYTE),
        "memory_allocated": lambda _: round(state["allocated"] * GIGABYTE),
        "get_per_process_memory_fraction": lambda _: state["fraction"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return state


def test_what_torch_holds_of_a_card_and_does_not_use_is_free(card):
    card |= {"reserved": 79.2, "allocated": 0.15}
    assert memory.free_bytes(GPU) == pytest.approx(79.85 * GIGABYTE)


def test_a_plan_does_not_depend_on_what_the_process_did_before(card):
    rooms = []
    for reserved, allocated in ((0, 0), (30, 2), (79.2, 0.15), (79.2, 9)):
        card |= {"reserved": reserved, "allocated": allocated}
        rooms.append(memory.default_room(GPU, 1.0))
    assert rooms == [pytest.approx(64 * GIGABYTE)] * 4


def test_what_others_hold_of_a_card_is_left_to_them(card):
    card |= {"others": 50.0, "allocated": 1.0, "reserved": 5.0}
    assert memory.default_room(GPU, 1.0) == pytest.approx(29 * GIGABYTE)


def test_processes_on_one_card_share_it(card):
    assert memory.default_room(GPU, 0.5) == pytest.approx(32 * GIGABYTE)
    card["fraction"] = 0.25
    assert memory.default_room(GPU, 1.0) == pytest.approx(16 * GIGABYTE)


def test_a_containers_limit_is_free_memory(monkeypatch):
    files = {
        "memory.max": "5000\n",
        "memory.current": "3000\n",
        "memory.stat": "anon 1\ninactive_file 400\n",
    }
    monkeypatch.setattr(process_memory, "_cgroup", files.__getitem__)
    assert memory.free_bytes(CPU) == 5000 - 3000 + 400
    files["memory.max"] = "max\n"
    assert memory.free_bytes(CPU) > 10**6


SCRIPT = """
import numpy as np, torch
from sddusr.config import DEMO
from sddusr.inference import super_resolve
from sddusr.inference.memory import held_bytes, peak_bytes
from sddusr.model.sddusr import SDDuSR
from sddusr.types import Box
torch.set_num_threads(1)
torch.manual_seed(0)
model = SDDuSR(DEMO.model).eval().requires_grad_(False)
pixels = np.random.default_rng(0)
lr = pixels.integers(256, size=(640, 640, 3), dtype=np.uint8)
ref = pixels.integers(256, size=(320, 320, 3), dtype=np.uint8)
box = Box(480, 800, 480, 800)
# Loads what is loaded on first use.
super_resolve(model, lr[:64, :64], ref[:64, :64], Box(32, 96, 32, 96))
held = held_bytes(torch.device("cpu"))
super_resolve(model, lr, ref, box, dtype=np.uint8, memory_bytes=held + {room} * 10**6)
print(peak_bytes(torch.device("cpu")) - held)
"""


@pytest.mark.long
def test_a_process_keeps_to_the_memory_it_was_given():
    room = 380
    script = SCRIPT.replace("{room}", str(room))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= room * MEGABYTE
