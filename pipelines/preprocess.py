#!/usr/bin/env python3
"""Pictures on disk -> Parquet shards and a manifest, one Ray Data task a shard.

A run that was killed goes on where it stopped: finished shards are found by a hash of their inputs
and parameters, and verified. The manifest is written last, so a folder without one is unfinished.
"""

import dataclasses
import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed

import tyro

from pipelines.ray_runtime.persistent_paths import persistent_path
from pipelines.ray_runtime.shard_tasks import LOCK, claim_folder, make_shards, sweep_folder
from pipelines.reporting.preview import preview
from sddusr import storage
from sddusr.cli import command_line
from sddusr.config import LR_PER_CELL, DataConfig
from sddusr.data.degradation import Degradation
from sddusr.data.folder_lock import hold_lock
from sddusr.data.layouts import REGISTERED, Layout, find, hold_out
from sddusr.data.loading import Job, Pairing
from sddusr.data.manifest import Manifest, build_manifest, write_manifest
from sddusr.data.prepare import Recipe, ShardReport, plan_shards
from sddusr.data.source_files import Found
from sddusr.imaging.images import MAX_PIXELS, MOST_PIXELS
from sddusr.registration.pairing import PairConfig
from sddusr.registration.residual import RefRegistration

logger = logging.getLogger(__name__)


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
    stand-in as near as that; all of the picture for the others."""
    degradation: Degradation = "bicubic"
    """How layouts of wide and tele pictures make LR of the wide one: bicubic, or as a camera would
    (blur, 2x2 means, noise, JPEG)."""
    pair: PairConfig = field(default_factory=PairConfig)
    """How the same layouts find the tele picture in the wide one. `min_box_px` of twice the
    crop refuses pairs whose Ref is too small for a training crop."""
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
    """Refuse triplets of dusr-real and folders whose pictures do not belong together: LR against
    halved HR, Ref against HR on its box, flat pictures."""
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


def preprocess(options: PreprocessOptions) -> dict[str, Any]:
    """Make the data folder and return its manifest.

    Raises:
        FileNotFoundError, ValueError: the first problem of the data, or more set aside than
            `max_errors_share`; or --out holds another run's shards, or another run writes there.
        OSError: --out cannot be written.
    """
    started = time.monotonic()
    job = options.job
    found = find(options.layout, job.root)
    if found.orphans and not job.quarantine:
        first, others = next(iter(found.orphans.values())), len(found.orphans) - 1
        raise ValueError(
            f"{job.root}: {first} ({others} more); complete it or pass --on-error quarantine"
        )
    sources = hold_out(found.sources, options.hold_out)
    plans = plan_shards(sources, options.recipe, options.pictures_per_shard)
    with hold_lock(storage.join(job.out, LOCK), job.out):
        claim_folder(job.out, {"root": job.root, **options.parameters}, options.overwrite)
        manifest = _manifest(options, found, make_shards(plans, job))
        sweep_folder(job.out, {plan.name for plan in plans})
        write_manifest(job.out, manifest)
    _log_summary(manifest, job.out, time.monotonic() - started)
    return dataclasses.asdict(manifest)


def _manifest(options: PreprocessOptions, found: Found, reports: list[ShardReport]) -> Manifest:
    """The manifest of all shards, unless too much was set aside."""
    quarantined = found.orphans | {id: why for r in reports for id, why in r.quarantined.items()}
    total = len(found.sources) + len(found.orphans)
    if len(quarantined) > options.max_errors_share * total:
        first = next(iter(quarantined.values()))
        raise ValueError(
            f"{len(quarantined)} of {total} triplets cannot be used, more than --max-errors-share "
            f"{options.max_errors_share}; the first: {first}"
        )
    entries = [report.entry for report in reports if report.entry is not None]
    return build_manifest(entries, options.parameters, quarantined)


def _log_summary(manifest: Manifest, out: str, seconds: float) -> None:
    counts = ", ".join(f"{split} {count}" for split, count in manifest.counts.items())
    megabytes = sum(entry.num_bytes for entry in manifest.entries) / 1e6
    logger.info(
        "%s: rows %s; %.1f MB in %d shards, %d triplets set aside, %.1f s",
        *(out, counts, megabytes, len(manifest.shards), len(manifest.quarantined), seconds),
    )


def main(options: PreprocessOptions) -> int:
    if options.preview is None:
        preprocess(options)
        return 0
    found = find(options.layout, options.job.root)
    return 1 if preview(found, options.job, options.pair) else 0


if __name__ == "__main__":
    # By name, so that Ray sends the tasks by reference and not as a copy of this script.
    from pipelines import preprocess as this

    command_line.run(this.main, this.PreprocessOptions)
