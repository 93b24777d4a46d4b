"""Metrics of other libraries by name, such as `piq:gmsd`, of whole pictures as saved (`png8`).

piq rather than pyiqa: pyiqa brings opencv-python-headless, which replaces files of opencv-python,
and transformers, bitsandbytes and thirty packages more; piq needs torchvision alone. Whatever needs
weights that are not on this machine gives a note and no number, and nothing is downloaded.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sddusr.evaluation.metrics import as_protocol

Better = Literal["higher", "lower", "neither"]


class Metric(NamedTuple):
    """A function of a library."""

    better: Better
    needs_truth: bool = True
    weights: str = ""
    """Weights file expected in PyTorch's cache; empty if the metric has none."""


METRICS: dict[str, dict[str, Metric]] = {
    "piq": {
        "gmsd": Metric("lower"),
        "multi_scale_gmsd": Metric("lower"),
        "fsim": Metric("higher"),
        "vsi": Metric("higher"),
        "mdsi": Metric("lower"),
        "haarpsi": Metric("higher"),
        "srsim": Metric("higher"),
        "dss": Metric("higher"),
        "vif_p": Metric("higher"),
        "multi_scale_ssim": Metric("higher"),
        "information_weighted_ssim": Metric("higher"),
        "total_variation": Metric("neither", needs_truth=False),
        "brisque": Metric("lower", needs_truth=False, weights="brisque_svm_weights.pt"),
    },
    "skimage": {"blur_effect": Metric("lower", needs_truth=False)},
}
"""Library -> function of that name -> what it is; `skimage` is scikit-image's `measure`."""

LEARNED = {
    "lpips": "LPIPS is measured by itself, with the AlexNet of --lpips-weights",
    "dists": "DISTS is a trained network; its weights are in no package",
    "pieapp": "PieAPP is a trained network; its weights are in no package",
    "clip_iqa": "CLIP-IQA is a trained network; its weights are in no package",
    "musiq": "MUSIQ is a trained network; its weights are in no package",
    "maniqa": "MANIQA is a trained network; its weights are in no package",
    "niqe": "NIQE's statistics of natural pictures are in no package that installs beside ours",
}
"""Metrics that papers print and that cannot be had here, whatever the library, and why."""


class Chosen(NamedTuple):
    """What `choose` made of the names."""

    names: tuple[str, ...]
    """Metrics that can be measured, as `piq:gmsd`."""
    notes: dict[str, str]
    """Those that cannot, and why."""


def choose(given: Sequence[str], with_truth: bool = True) -> Chosen:
    """Which of the metrics that a user names can be measured here.

    Args:
        given: words such as `piq:gmsd,fsim`.
        with_truth: there is HR to compare with.

    Raises:
        ValueError: no such library or metric, one that needs HR where there is none, or the extra
            is not installed.
    """
    names, notes = dict[str, None](), {}
    for library, function in _split(given):
        name = f"{library}:{function}"
        if reason := LEARNED.get(function.lower().replace("-", "_")):
            notes[name] = f"not measured: {reason}"
            continue
        metric = _find(library, function)
        if metric.needs_truth and not with_truth:
            raise ValueError(f"--metrics has {name}, which compares with HR; give --data, or some "
                             f"of {', '.join(sorted(_without_truth()))}")  # fmt: skip
        if find_spec(library) is None:
            raise ValueError(
                f"--metrics has {name}, and {library} is not installed; pip install "
                f"'sddusr[metrics]'"
            )
        if metric.weights and not (place := _cache() / metric.weights).is_file():
            notes[name] = f"not measured: its weights are not there, put them to {place}"
            continue
        names[name] = None
    return Chosen(tuple(names), notes)


def is_worse_higher(column: str) -> bool:
    """Whether a column of a table is better where it is less."""
    library, _, function = column.partition(":")
    metric = METRICS.get(library, {}).get(function)
    return column.endswith("lpips") or (metric is not None and metric.better == "lower")


def measure_others(
    names: Sequence[str], sr: Float[Tensor, "3 h w"], hr: Float[Tensor, "3 h w"] | None, id: str
) -> dict[str, float]:
    """Each metric of a picture in 0..1, after the rounding of `png8`, in float32.

    Raises:
        ValueError: a picture that is too small, or another that a library refuses.
    """
    pictures = [as_protocol(each, "png8").float()[None] for each in (sr, hr) if each is not None]
    found = {}
    for name in names:
        library, _, function = name.partition(":")
        metric = METRICS[library][function]
        try:
            needed = pictures if metric.needs_truth else pictures[:1]
            found[name] = _CALLS[library](function, needed)
        except (ValueError, AssertionError, RuntimeError) as error:
            rows, cols = sr.shape[1:]
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise ValueError(f"{name} cannot measure {id} ({rows}x{cols}): {reason}") from error
    return found


def _split(given: Sequence[str]) -> list[tuple[str, str]]:
    """(library, function) of words such as `piq:gmsd,fsim`."""
    pairs = []
    for word in given:
        library, colon, functions = word.partition(":")
        if not colon or not functions.strip(","):
            raise ValueError(f"--metrics has {word!r}, need words such as piq:gmsd,fsim")
        pairs += [(library, function) for function in functions.split(",") if function]
    return pairs


def _find(library: str, function: str) -> Metric:
    if library == "pyiqa":
        raise ValueError(
            f"--metrics has pyiqa:{function}; pyiqa's opencv-python-headless replaces the OpenCV "
            f"of this project, so piq is used: piq:{function}"
        )
    known = METRICS.get(library)
    if known is None:
        raise ValueError(f"--metrics has library {library!r}, need one of {', '.join(METRICS)}")
    if function not in known:
        raise ValueError(f"--metrics has {library}:{function}, {library} has {', '.join(known)}")
    return known[function]


def _without_truth() -> list[str]:
    return [
        f"{library}:{function}"
        for library, functions in METRICS.items()
        for function, metric in functions.items()
        if not metric.needs_truth
    ]


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


@torch.inference_mode()
def _piq(function: str, pictures: Sequence[Float[Tensor, "1 3 h w"]]) -> float:
    piq = importlib.import_module("piq")  # it brings torchvision
    return getattr(piq, function)(*pictures).item()


def _skimage(function: str, pictures: Sequence[Float[Tensor, "1 3 h w"]]) -> float:
    measure = importlib.import_module("skimage.measure")
    picture = pictures[0][0].permute(1, 2, 0).double().cpu().numpy()
    return float(getattr(measure, function)(np.ascontiguousarray(picture), channel_axis=2))


_CALLS: Mapping[str, Callable[[str, Sequence[Tensor]], float]] = {"piq": _piq, "skimage": _skimage}
