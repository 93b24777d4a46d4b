"""The flags of preprocessing."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro

from pipelines.ray_runtime.persistent_paths import persistent_path
from sddusr.config import LR_PER_CELL, DataConfig
from sddusr.data.degradation import Degradation
from sddusr.data.layouts import REGISTERED, Layout
from sddusr.data.loading import Job, Pairing
from sddusr.data.prepare import Recipe
from sddusr.imaging.images import MAX_PIXELS, MOST_PIXELS
from sddusr.registration.pairing import PairConfig
from sddusr.registration.residual import RefRegistration


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """Pair a dataset's pictures, cut them into training windows and write them as shards."""

    layout: tyro.conf.Positional[Layout]
    """`dusr-real` (train/{LR,HR,Ref_full}, test/{LR,HR,Ref_SIFT} and a JSON of centre boxes),
    `folders` (LR, Ref and HR, below train/ and test/ if there are any), `samples` (photographs
    that ship with scikit-image and scikit-learn; needs no --root), `pairs` (wide and tele pictures
    as a phone gives them, below train/ and test/ if there are any; the wide picture is HR, its half
    is LR, and the tele picture is found in it), `camerafusion`, `hzsr` and `cufed5` (the same from
    the folders of DCSR, of HZSR and of CUFED5), or `selfdzsr-nikon` and `selfdzsr-iphone`
    (SelfDZSR's, at twice LR's density)."""
    out: str | None = None
    """Folder or URI for the shards and the manifest."""
    preview: str | None = None
    """Folder or URI for a contact sheet of each pair, instead of --out; exit code 1 if a pair is
    refused."""
    root: str | None = None
    """Folder or URI of the dataset."""
    hold_out: int = 0
    """Training scenes to set aside for validation, chosen by a hash of their names."""
    window_px: int = 256
    """Side of a training window in LR pixels, even; crop and shift of training must fit in it."""
    stride_px: int | None = None
    """LR pixels between two windows, even; half a window when left out, so that every crop of up
    to half a window can be drawn. A whole window takes a quarter of the space."""
    margin_px: int | None = None
    """LR pixels around Ref's box that training windows reach, even. When left out: 96 where Ref is
    found in the wide picture, the reach of --data.shift-px, since a crop further out has no
    centre crop as near as that; all of the picture for the others."""
    degradation: Degradation = "bicubic"
    """How layouts of wide and tele pictures make LR of the wide one: bicubic, or as a camera would
    (blur, 2x2 means, noise, JPEG)."""
    pair: PairConfig = field(default_factory=PairConfig)
    """How the same layouts find the tele picture in the wide one. `min_box_px` of twice the
    crop refuses pairs with a Ref too small for a training crop."""
    register_ref: RefRegistration = "auto"
    """How Ref is registered to the centre of LR before it is stored. auto: the homography that is
    left over and colours, then a smooth flow where it explains more; homography: no flow; none: Ref
    as it is given, as the paper's protocol and the preset `paper` have it. Pairs are always
    registered."""
    pictures_per_shard: int = 4
    """Triplets that share a shard; a shard is the unit of work and of restart."""
    on_error: Literal["stop", "quarantine"] = "stop"
    """Stop at the first triplet that cannot be used, or set it aside and count it."""
    max_errors_share: float = 0.1
    """Largest share of triplets that may be set aside."""
    check_triplets: bool = True
    """Refuse inconsistent triplets of dusr-real and folders: LR that does not match halved HR, Ref
    that does not match HR on its box, flat images."""
    max_megapixels: float = MAX_PIXELS / 1e6
    """Larger pictures are refused before they are decoded."""
    overwrite: bool = False
    """Replace what a run with other parameters left in --out."""

    def __post_init__(self) -> None:
        self._check_windows()
        if self.pictures_per_shard < 1 or self.hold_out < 0:
            raise ValueError(
                f"--pictures-per-shard is {self.pictures_per_shard} and --hold-out "
                f"{self.hold_out}, need 1 or more and 0 or more"
            )
        if not 0 <= self.max_errors_share <= 1:
            raise ValueError(f"--max-errors-share is {self.max_errors_share}, need 0 to 1")
        if not 0 < self.max_megapixels <= MOST_PIXELS / 1e6:
            raise ValueError(
                f"--max-megapixels is {self.max_megapixels}, need more than 0 and at most "
                f"{MOST_PIXELS // 10**6}"
            )
        if (self.layout == "samples") != (self.root is None):
            raise ValueError(
                f"--root is {self.root}; samples has none, every other layout needs it"
            )
        self._check_pairing()

    def _check_windows(self) -> None:
        stride, margin = self.recipe.stride_px, self.recipe.margin_px
        if self.window_px < 8 or self.window_px % LR_PER_CELL:
            raise ValueError(f"--window-px is {self.window_px}, need an even number of 8 or more")
        if not 0 < stride <= self.window_px or stride % LR_PER_CELL:
            raise ValueError(f"--stride-px is {stride}, need an even number up to --window-px")
        if margin is not None and (margin < 0 or margin % LR_PER_CELL):
            raise ValueError(f"--margin-px is {margin}, need an even number of 0 or more")

    def _check_pairing(self) -> None:
        if (self.out is None) == (self.preview is None):
            raise ValueError(
                f"--out is {self.out} and --preview {self.preview}, need one of the two"
            )
        if self.layout in REGISTERED:
            if self.register_ref != "auto":
                raise ValueError(
                    f"--register-ref is {self.register_ref}, need auto for {self.layout}: a tele "
                    f"picture of a pair is always registered; train on it with "
                    f"--data.register-ref auto"
                )
            return
        if self.preview or self.degradation != "bicubic" or self.pair != PairConfig():
            raise ValueError(
                f"--preview, --degradation and --pair are for {' and '.join(REGISTERED)}; leave "
                f"them out for {self.layout}"
            )

    @property
    def recipe(self) -> Recipe:
        half = self.window_px // 2
        stride = half - half % LR_PER_CELL if self.stride_px is None else self.stride_px
        if self.layout not in REGISTERED:
            return Recipe(
                window_px=self.window_px,
                stride_px=stride,
                margin_px=self.margin_px,
                register_ref=self.register_ref,
            )
        reach = DataConfig().shift_px[1] if self.margin_px is None else self.margin_px
        pairing = Pairing(degradation=self.degradation, pair=self.pair)
        return Recipe(
            window_px=self.window_px,
            stride_px=stride,
            margin_px=reach,
            pairing=pairing,
            register_ref="auto",
        )

    @property
    def job(self) -> Job:
        return Job(
            root=persistent_path(self.root, "--root") if self.root else "",
            out=persistent_path(self.out, "--out")
            if self.out
            else persistent_path(str(self.preview), "--preview"),
            quarantine=self.on_error == "quarantine",
            max_pixels=int(self.max_megapixels * 1e6),
            checked=self.check_triplets,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides the shards, besides the pictures; what does not apply is left out."""
        given = {
            "layout": self.layout,
            "hold_out": self.hold_out,
            "pictures_per_shard": self.pictures_per_shard,
            **dataclasses.asdict(self.recipe),
        }
        return {name: value for name, value in given.items() if value is not None}
