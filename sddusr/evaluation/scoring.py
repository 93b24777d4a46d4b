"""What an evaluation measures, and how it scores one row; where it runs is not its business."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from sddusr import storage
from sddusr.checkpoint import load_model
from sddusr.data.dataset import Row, ShardSet
from sddusr.data.source_files import pictures_by_stem
from sddusr.evaluation.baselines import PASTE, UNSHARP, registered_paste, unsharp
from sddusr.evaluation.metrics import DEFAULT_PROTOCOLS, PROTOCOLS, Lpips, Protocol, score
from sddusr.evaluation.other_metrics import choose, measure_others
from sddusr.evaluation.ref_registration import registration_of
from sddusr.evaluation.results import BICUBIC, ImageScores
from sddusr.imaging.images import read_rgb, write_png
from sddusr.inference import (
    Upscaled,
    bicubic,
    super_resolve,
    to_8bit,
    to_tensor,
)
from sddusr.model.matching.fast_search import MatchingMode
from sddusr.model.precision import Precision, warn_if_emulated
from sddusr.model.tuning import place_on
from sddusr.registration.residual import RefRegistration, register_ref
from sddusr.types import Triplet
from sddusr.visualization.comparison import comparison
from sddusr.visualization.web_view import build_web_view, picture_place, view_place

PICTURES, COMPARISONS = "pictures", "comparisons"
"""Folders below `EvaluationConfig.out`."""

LPIPS_MEASURED = "AlexNet v0.1 on whole pictures, protocol png8"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which pictures of which methods are compared with the truth, and how."""

    data: str = ""
    """Folder or URI that pipelines/preprocess.py wrote. Left out: pictures of --sr-dir without HR,
    by those of --metrics that need none."""
    checkpoint: str | None = None
    """A checkpoint, a training run's folder (its best checkpoint), a model that MLflow names, or
    `compact`, the network that ships."""
    sr_dir: tuple[str, ...] = ()
    """Other methods' pictures, a folder for each, named like the rows, with or without the split
    before it."""
    name: str = "SDDuSR"
    """What tables call the checkpoint; the pictures of sr_dir are called like their folder."""
    split: str = "test"
    """Which pictures: `test`, `val` or `train`."""
    limit: int | None = None
    """Only the first few pictures."""
    out: str = "runs/evaluation"
    """Folder or URI for tables and pictures; on several machines, one that all of them reach."""
    protocols: tuple[Protocol, ...] = DEFAULT_PROTOCOLS
    """How pictures are compared; y is the luma that most papers print."""
    metrics: tuple[str, ...] = ()
    """Metrics of other libraries (extra `metrics`), such as piq:gmsd,fsim or skimage:blur_effect,
    of whole pictures under png8."""
    lpips_weights: str = "imagenet"
    """AlexNet of LPIPS: `imagenet` (by name, needs internet once) or a path to a state dict of
    torchvision's alexnet."""
    precision: Precision = "float32"
    """Number format of the network."""
    matching: MatchingMode = "exact"
    """How keys are searched: the paper's figures need exact; fast is for large pictures, auto takes
    it there."""
    without_ref: bool = False
    """Score the checkpoint a second time without Ref (no detail, no warped feature, no tokens):
    what is lost is what the network takes from Ref."""
    baselines: bool = True
    """Also score what needs no network: bicubic sharpened, and the registered Ref laid over."""
    register_ref: RefRegistration | None = None
    """How Ref is registered to the centre before the network sees it. Left out: as in the shards,
    which must then be what the checkpoint was trained on."""
    trust: float = 1.0
    """Scales how far Ref is trusted by a network with a detail skip, 0 to 1."""
    save_pictures: bool = True
    """Write the checkpoint's pictures as 8-bit PNG, what the page shows of each picture, and
    comparisons of the first few."""
    num_comparisons: int = 4
    """How many rows are drawn beside LR, Ref and HR."""

    def __post_init__(self) -> None:
        if self.checkpoint is None and not self.sr_dir:
            raise ValueError("nothing to score; give --checkpoint DIR, --sr-dir DIR or both")
        if not self.data and (self.checkpoint or not self.metrics):
            raise ValueError("no --data; without it, need --sr-dir and --metrics, no --checkpoint")
        fixed = [BICUBIC, UNSHARP, PASTE] if self.baselines else [BICUBIC]
        names = [*fixed, self.name, self.blind_name, *self.other_names]
        if len(set(names)) < len(names):
            raise ValueError(f"methods are named {names}, need distinct names; give --name")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit is {self.limit}, need 1 or more")
        if not self.protocols:
            raise ValueError(f"--protocols is empty, need some of {', '.join(PROTOCOLS)}")
        if self.metrics and "png8" not in self.protocols:
            raise ValueError("--metrics belong to the protocol png8; add it to --protocols")
        choose(self.metrics, with_truth=bool(self.data))

    @property
    def blind_name(self) -> str:
        """What tables call the checkpoint without Ref."""
        return f"{self.name} without Ref"

    @property
    def other_names(self) -> list[str]:
        """What tables call the pictures of `sr_dir`: their folders' names."""
        return [storage.name(place) for place in self.sr_dir]


class Scorer:
    """Holds the weights and scores one row after the other.

    Args:
        others: method -> row's id -> picture in `sr_dir`, from `pair_others`.
        with_lpips: whether `lpips_note` said that it can be measured.
        memory_share: of what is free, where several processes score.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        others: Mapping[str, Mapping[str, str]],
        with_lpips: bool,
        memory_share: float = 1.0,
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.config, self.others, self.memory_share = config, others, memory_share
        self.metrics = choose(config.metrics).names
        self.shards = ShardSet(config.data)
        self.model = None
        if config.checkpoint:
            warn_if_emulated(config.precision, torch.device(self.device))
            self.model = place_on(load_model(config.checkpoint), torch.device(self.device))
        self.lpips = Lpips(config.lpips_weights, self.device) if with_lpips else None

    def evaluate(self, row: Row, compare: bool = False) -> list[ImageScores]:
        """Make, save and score every method's picture; `compare` also draws them side by side.

        Raises:
            ValueError: a damaged row, or a picture of `sr_dir` that cannot be read or compared.
        """
        triplet = self._registered(self.shards.read(row))
        pictures, made = self._pictures(triplet)
        if self.config.save_pictures:
            shown = {name: to_8bit(picture) for name, picture in pictures.items()}
            self._keep(triplet, shown, made)
            if compare:
                panels = shown | {"HR": triplet.hr}
                drawing = comparison(triplet.lr, triplet.ref, triplet.center_box, panels)
                self._save(COMPARISONS, triplet.id, drawing)
        return score_triplet(
            triplet, pictures, self.config.protocols, self.lpips, self.device, self.metrics
        )

    def _registered(self, triplet: Triplet) -> Triplet:
        """The same with its Ref registered now, where it was not when the shards were made."""
        method = self.config.register_ref
        if method is None or method == registration_of(self.shards):
            return triplet
        found = register_ref(triplet.lr, triplet.ref, triplet.center_box, method)
        return triplet._replace(ref=found.ref)

    def _pictures(self, triplet: Triplet) -> tuple[dict[str, np.ndarray], Upscaled | None]:
        """Method -> its picture, and how the checkpoint's network made its own."""
        pictures, made = {BICUBIC: bicubic(triplet.lr)}, None
        if self.config.baselines:
            pictures[UNSHARP] = unsharp(triplet.lr)
            pictures[PASTE] = registered_paste(triplet.lr, triplet.ref, triplet.center_box)
        for method, places in self.others.items():
            other = read_rgb(places[triplet.id]).pixels
            _check_size(triplet, places[triplet.id], other)
            pictures[method] = other.astype(np.float32) / 255
        if self.model is not None:
            if self.config.without_ref:
                blind = self._super_resolve(triplet, without_ref=True)
                pictures[self.config.blind_name] = blind.sr
            made = self._super_resolve(triplet)
            pictures[self.config.name] = made.sr
        return pictures, made

    def _super_resolve(self, triplet: Triplet, without_ref: bool = False) -> Upscaled:
        assert self.model is not None
        return super_resolve(
            self.model,
            triplet.lr,
            triplet.ref,
            triplet.center_box,
            self.config.precision,
            memory_share=self.memory_share,
            trust=self.config.trust,
            without_ref=without_ref,
            matching=self.config.matching,
        )

    def _keep(
        self, triplet: Triplet, shown: Mapping[str, np.ndarray], made: Upscaled | None
    ) -> None:
        """Write the checkpoint's picture, and the view that the page is made of."""
        if self.config.name in shown:
            self._save(PICTURES, triplet.id, shown[self.config.name])
        view = build_web_view(triplet, shown, made and made.matches, made and made.trust)
        storage.write_atomic(view_place(self.config.out, triplet.id), json.dumps(view).encode())

    def _save(self, kind: str, id: str, picture: np.ndarray) -> None:
        write_png(picture_place(self.config.out, kind, id), picture)


def score_triplet(
    triplet: Triplet,
    pictures: Mapping[str, Float32[np.ndarray, "height width 3"]],
    protocols: Sequence[Protocol],
    lpips: Lpips | None = None,
    device: str = "cpu",
    metrics: Sequence[str] = (),
) -> list[ImageScores]:
    """Score every method's picture of one triplet under every protocol, on a device.

    Args:
        metrics: of other libraries, from `choose`; too small a picture for one is a ValueError.
    """
    hr, images = to_tensor(triplet.hr).to(device), []
    for method, picture in pictures.items():
        sr = torch.from_numpy(picture).permute(2, 0, 1).to(device)
        for protocol in protocols:
            scores = score(sr, hr, triplet.center_box, protocol)
            png8 = protocol == "png8"
            distance = lpips(sr, hr) if lpips and png8 else None
            names, what = metrics if png8 else (), f"{triplet.id} of {method}"
            found = measure_others(names, sr, hr, what) or None
            images.append(ImageScores(triplet.id, method, protocol, scores, distance, found))
    return images


def pick_rows(config: EvaluationConfig, shards: ShardSet) -> list[Row]:
    """The rows to score.

    Raises:
        ValueError: there are none.
    """
    if rows := shards.rows(config.split)[: config.limit]:
        return rows
    raise ValueError(
        f"{config.data}: split {config.split!r} has no rows, the splits have "
        f"{shards.manifest.counts}; give another --split"
    )


def pair_others(config: EvaluationConfig, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Method -> row's id -> picture, of the folders of `sr_dir`.

    Raises:
        FileNotFoundError: no such folder, or a picture is missing.
    """
    places = zip(config.other_names, config.sr_dir, strict=True)
    return {method: _pair(place, config.split, ids) for method, place in places}


def _pair(place: str, split: str, ids: Sequence[str]) -> dict[str, str]:
    found, prefix = pictures_by_stem(place), f"{split}-"
    stems = {id: id if id in found else id.removeprefix(prefix) for id in ids}
    if missing := [id for id, stem in stems.items() if stem not in found]:
        raise FileNotFoundError(
            f"{place}: no picture for {len(missing)} of {len(ids)} rows: "
            f"{', '.join(missing[:5])}; name them like the rows, with or without {prefix}"
        )
    return {id: found[stem] for id, stem in stems.items()}


def lpips_note(config: EvaluationConfig) -> str:
    """`LPIPS_MEASURED`, or why it cannot be.

    Raises:
        FileNotFoundError, ValueError: the user named a file that holds no weights.
    """
    if "png8" not in config.protocols:
        return "not measured, it belongs to the protocol png8"
    try:
        Lpips(config.lpips_weights)
    except FileNotFoundError as error:
        if config.lpips_weights != "imagenet":
            raise
        return f"not available: {error}"
    return LPIPS_MEASURED


def _check_size(triplet: Triplet, place: str, picture: np.ndarray) -> None:
    (rows, cols), (height, width) = picture.shape[:2], triplet.hr.shape[:2]
    if (rows, cols) != (height, width):
        raise ValueError(f"{place}: {rows}x{cols}, need {height}x{width} as {triplet.id}'s HR")
