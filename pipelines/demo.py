#!/usr/bin/env python3
"""The whole chain on embedded pictures: shards, training, evaluation, a before/after picture."""

import logging
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed

import tyro

from pipelines.evaluate import EvaluateOptions, EvaluationResult, evaluate
from pipelines.preprocess import PreprocessOptions, preprocess
from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.persistent_paths import persistent_path
from pipelines.tracking import links
from pipelines.train import TrainOptions, run_training
from sddusr import storage
from sddusr.cli import command_line
from sddusr.config import DEMO, Config
from sddusr.evaluation.scoring import COMPARISONS
from sddusr.visualization.web_view import picture_place

SHOWN = "coffee"
"""The held-out picture of the before/after picture."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Preprocess, train, evaluate and draw, on pictures that ship with a dependency."""

    out: str = "runs/demo"
    """Folder or URI for shards, run, results and picture."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)


def run_demo(options: DemoOptions) -> int:
    """Run the chain; 1 if the network is not better than bicubic on the held-out pictures."""
    started = time.monotonic()
    out = persistent_path(options.out, "--out")
    shards, results = (storage.join(out, name) for name in ("shards", "results"))
    cluster.init_ray()
    preprocess(
        PreprocessOptions(
            layout="samples",
            out=shards,
            overwrite=True,
            register_ref=options.config.data.register_ref,
        )
    )
    trained = run_training(
        TrainOptions(
            data=shards,
            storage=out,
            tracking_uri=options.tracking_uri,
            fresh=True,
            config=options.config,
        )
    )
    result = evaluate(
        EvaluateOptions(
            checkpoint=trained.folder,
            data=shards,
            out=results,
            tracking_uri=options.tracking_uri,
        )
    )
    picture = storage.join(out, "before_after.png")
    drawing = picture_place(results, COMPARISONS, SHOWN)
    storage.write_atomic(picture, storage.read_bytes(drawing))
    losses = worse_than_bicubic(result)
    print(f"\n{result.table}\n")
    print(f"before and after  {picture}")
    print(f"results           {result.out}")
    print(f"checkpoints       {trained.folder}/checkpoints")
    print(f"page              {result.page}")
    print(f"MLflow            {links.how_to_look(options.tracking_uri)}")
    page = links.run_page(options.tracking_uri, result.run_id, "model-metrics")
    print(f"this run          {page}")
    print(f"time              {time.monotonic() - started:.0f} s")
    for loss in losses:
        print(f"FAILED: {loss}")
    return 1 if losses else 0


def worse_than_bicubic(result: EvaluationResult) -> list[str]:
    """The regions in which the network's mean PSNR is not above bicubic's, in words."""
    wanted = ("full_psnr", "center_psnr", "corner_psnr")
    gains = {
        gain.column: gain.interval.mean if gain.interval else math.nan
        for gain in result.gains
        if gain.protocol == "png8" and gain.column in wanted
    }
    return [
        f"{name} is {gains.get(name, math.nan):+.3f} dB against bicubic, must be above 0"
        for name in wanted
        if not gains.get(name, math.nan) > 0
    ]


if __name__ == "__main__":
    from pipelines import demo as this

    command_line.run(this.run_demo, this.DemoOptions)
