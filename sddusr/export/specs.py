"""Which graphs a network is exported as, with the names and shapes of what goes in and out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from sddusr.config import DictionaryConfig, ModelConfig
from sddusr.export import frame_graphs, graphs
from sddusr.export.inputs import Input, example, show_nothing_on_the_left, split_side
from sddusr.inference import sample
from sddusr.model.sddusr import SDDuSR

LEAST = 2
"""Smallest value of a named side."""


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """A part of the network and how it is called."""

    name: str
    module: nn.Module
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]

    def example(self, sides: dict[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs for named sides: smooth random values in 0..1, flows and corners in pixels."""
        generator = torch.Generator().manual_seed(seed)
        made = {spec.name: example(spec, sides, generator) for spec in self.inputs}
        if {"ref", "enlarged"} <= made.keys():
            show_nothing_on_the_left(made["ref"], made["enlarged"])
        return tuple(made.values())

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """For `torch.export`: the sides of each input that may have any size."""
        dims: dict[str, Any] = {}
        found = []
        for spec in self.inputs:
            free = {axis: split_side(side) for axis, side in enumerate(spec.shape)
                    if isinstance(side, str)}  # fmt: skip
            for _, name in free.values():
                dims.setdefault(name, Dim(name, min=LEAST))
            found.append({
                axis: dims[name] if factor == 1 else factor * dims[name]
                for axis, (factor, name) in free.items()
            })  # fmt: skip
        return tuple(found)


def list_graphs(model: SDDuSR, config: ModelConfig) -> list[GraphSpec]:
    """All graphs of a network, in the order in which a photo needs them."""
    return [*_search(model, config), *_precompute(model, config), *_reconstruction(model, config)]


def _picture(name: str, height: str = "h", width: str = "w") -> Input:
    return Input(name=name, shape=(1, 3, height, width))


def _map(name: str, dim: int, factor: int = 1, dtype: torch.dtype = torch.float32) -> Input:
    sides = ("h", "w") if factor == 1 else (f"{factor}*h", f"{factor}*w")
    return Input(name=name, shape=(1, dim, *sides), dtype=dtype)


def _search(model: SDDuSR, config: ModelConfig) -> Iterator[GraphSpec]:
    dim = config.matching.dim
    yield GraphSpec(
        name="features",
        module=graphs.Features(model),
        inputs=(_picture("picture", "2*h", "2*w"),),
        outputs=("features",),
    )
    if not config.mask.enabled:
        return
    yield GraphSpec(
        name="mask_sum",
        module=graphs.MaskSum(model),
        inputs=(_map("features", dim),),
        outputs=("sum",),
    )
    yield GraphSpec(
        name="mask_keep",
        module=graphs.MaskKeep(model),
        inputs=(_map("features", dim), Input(name="mean", shape=(1, 1, 1, dim - dim // 2))),
        outputs=("keep",),
    )


def _precompute(model: SDDuSR, config: ModelConfig) -> Iterator[GraphSpec]:
    yield GraphSpec(
        name="flow",
        module=graphs.Flow(model),
        inputs=(_picture("center", "2*h", "2*w"), _picture("ref", "4*h", "4*w")),
        outputs=("flow",),
    )
    yield GraphSpec(
        name="center_encoder",
        module=graphs.CenterEncoder(model),
        inputs=(_picture("center"),),
        outputs=("center_feat",),
    )
    yield GraphSpec(
        name="ref_encoder",
        module=graphs.RefEncoder(model),
        inputs=(_picture("ref"),),
        outputs=("ref_feat",),
    )
    yield _align(model, config)
    if config.detail.enabled:
        yield from _evidence(model)
    if config.dictionary.enabled:
        yield from _refinement(model, config.dim, config.dictionary)


def _align(model: SDDuSR, config: ModelConfig) -> GraphSpec:
    inputs = (
        _map("flow", 2),
        _map("center_feat", config.dim),
        Input(name="ref_feat", shape=(1, config.dim, "rows", "cols")),
        Input(name="corner", shape=(2,), dtype=torch.int64),
    )
    if not config.detail.enabled:
        return GraphSpec(
            name="align", module=graphs.Align(model), inputs=inputs, outputs=("aligned_feat",)
        )
    trusted = (
        _map("evidence", 8),
        _map("penalty", 1),
        Input(name="statistics", shape=(1, 12)),
        Input(name="strength", shape=()),
    )
    return GraphSpec(
        name="align",
        module=graphs.TrustedAlign(model),
        inputs=(*inputs, *trusted),
        outputs=("aligned_feat", "logit"),
    )


def _evidence(model: SDDuSR) -> Iterator[GraphSpec]:
    pair = (_picture("ref"), _picture("enlarged"))
    yield GraphSpec(
        name="enlarge",
        module=graphs.Enlarge(model),
        inputs=(_picture("picture"),),
        outputs=("enlarged",),
    )
    yield GraphSpec(
        name="evidence",
        module=graphs.Evidence(model),
        inputs=pair,
        outputs=("maps", "evidence"),
    )
    yield GraphSpec(
        name="penalty",
        module=graphs.Penalty(model),
        inputs=(_map("evidence", 8), Input(name="statistics", shape=(1, 12))),
        outputs=("penalty",),
    )
    yield GraphSpec(
        name="block_maps",
        module=graphs.BlockMaps(model),
        inputs=pair,
        outputs=("maps",),
    )


def _refinement(model: SDDuSR, dim: int, config: DictionaryConfig) -> Iterator[GraphSpec]:
    if config.constant:
        raise ValueError(
            "model.dictionary.constant is true, a network for comparisons that is not exported; "
            "train one with model.dictionary.constant false"
        )
    tokens = (config.num_heads, config.num_tokens) if config.norm else (config.num_tokens,)
    pieces = "center_feat", "aligned_feat"
    running = (
        Input(name="peak", shape=(1, *tokens, 1)),
        Input(name="weight", shape=(1, *tokens, 1)),
        Input(name="center_sum", shape=(1, *tokens, dim)),
        Input(name="aligned_sum", shape=(1, *tokens, dim)),
    )
    yield GraphSpec(
        name="refine_piece",
        module=graphs.RefinePiece(model),
        # A list of pixels: with one free side instead of two, tracing is several times faster.
        inputs=(*(Input(name=name, shape=(1, dim, 1, "n")) for name in pieces), *running),
        outputs=tuple(f"new_{spec.name}" for spec in running),
    )
    yield GraphSpec(
        name="refine_tokens",
        module=graphs.RefineTokens(model),
        inputs=running,
        outputs=("center_tokens", "ref_tokens"),
    )


def _reconstruction(model: SDDuSR, config: ModelConfig) -> Iterator[GraphSpec]:
    dim, lr = config.dim, _picture("lr", "2*h", "2*w")
    num_gates = len(frame_graphs.frame_means(model.lr_encoder))
    side = sample.room()
    yield GraphSpec(
        name="encode",
        module=frame_graphs.Encode(model),
        inputs=(_picture("lr"),),
        outputs=("encoded",),
    )
    yield GraphSpec(
        name="encoder_pools",
        module=frame_graphs.EncoderPools(model),
        inputs=(Input(name="windows", shape=("windows", 3, side, side)),),
        outputs=("pools",),
    )
    yield GraphSpec(
        name="encode_part",
        module=frame_graphs.EncodePart(model),
        inputs=(_picture("lr"), Input(name="pools", shape=(num_gates, dim))),
        outputs=("encoded",),
    )
    fused = _fused(config)
    yield GraphSpec(
        name="gates", module=frame_graphs.Gates(model), inputs=fused, outputs=("before_gates",)
    )
    wide = model.fusion.wide_dim
    pooled = (
        Input(name="pooled_mean", shape=(1, wide, 1, 1)),
        Input(name="pooled_max", shape=(1, wide, 1, 1)),
    )
    if not config.detail.enabled:
        yield GraphSpec(
            name="tile",
            module=frame_graphs.Tile(model),
            inputs=(lr, *pooled, *fused),
            outputs=("sr",),
        )
        return
    detail = (
        Input(name="strength", shape=()),
        _map("maps", 5, 4),
        _map("inside", 1, 4, torch.bool),
    )
    yield GraphSpec(
        name="tile",
        module=frame_graphs.TrustedTile(model),
        inputs=(lr, *pooled, *detail, *fused),
        outputs=("sr", "trust"),
    )


def _fused(config: ModelConfig) -> tuple[Input, ...]:
    """What the fusion reads; `h` and `w` count cells of the matching grid."""
    tokens = (1, config.dictionary.num_tokens, config.dim)
    found = [_map("encoded", config.dim, 2), _map("warped", config.dim, 4), _map("confidence", 1)]
    if config.detail.enabled:
        found.append(_map("in_place", 1, dtype=torch.bool))
    if config.dictionary.enabled:
        found += [
            Input(name="has_ref", shape=()),
            Input(name="center_tokens", shape=tokens),
            Input(name="ref_tokens", shape=tokens),
        ]
    return tuple(found)
