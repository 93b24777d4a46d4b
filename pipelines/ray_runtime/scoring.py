"""Pictures scored by actors of Ray Data."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.persistent_paths import check_seen_by_all
from pipelines.ray_runtime.tasks import map_actors
from sddusr.cli import command_line
from sddusr.data.dataset import Row
from sddusr.evaluation.results import ImageScores
from sddusr.evaluation.scoring import EvaluationConfig, Scorer

log = logging.getLogger(__name__)


class ScorerActor:
    """Ray Data's actor around a `Scorer`.

    It returns scores as JSON, so that the column has one type, or what is wrong with the input:
    Ray Data would turn an exception into one of its own.
    """

    def __init__(
        self,
        options: EvaluationConfig,
        rows: Sequence[Row],
        others: Mapping[str, Mapping[str, str]],
        lpips: bool,
        memory_share: float,
    ) -> None:
        command_line.mask_streams()
        self.rows = rows
        self.num_comparisons = options.num_comparisons
        self.scorer = Scorer(options, others, lpips, memory_share=memory_share)

    def __call__(self, item: dict[str, Any]) -> dict[str, str]:
        index = item["index"]
        try:
            images = self.scorer.evaluate(self.rows[index], compare=index < self.num_comparisons)
        except command_line.USER_ERRORS as error:
            return {"error": str(error), "images": "[]"}
        return {"error": "", "images": json.dumps([image.as_row() for image in images])}


def score_rows(
    options: EvaluationConfig,
    num_actors: int,
    rows: Sequence[Row],
    others: Mapping[str, Mapping[str, str]],
    lpips: bool,
) -> Iterator[ImageScores]:
    """Every picture's scores, in the order of the rows."""
    cluster.init_ray()
    check_seen_by_all(
        files={"--data": options.data, "--checkpoint": options.checkpoint or options.data},
        folders={"--out": options.out} if options.save_pictures else {},
    )
    num_gpus = cluster.gpus_for_each(num_actors)
    scored = map_actors(
        ScorerActor,
        (options, rows, others, lpips, num_gpus or 1 / num_actors),
        num_items=len(rows),
        num_actors=num_actors,
        num_gpus=num_gpus,
        in_order=True,
    )
    for number, item in enumerate(scored, start=1):
        if item["error"]:
            raise ValueError(item["error"])
        images = [ImageScores.from_row(row) for row in json.loads(item["images"])]
        message = ", ".join(
            f"{image.method} {image.scores.full_psnr:.2f} dB"
            for image in images
            if image.protocol == images[0].protocol
        )
        log.info("%d/%d %s: %s", number, len(rows), images[0].id, message)
        yield from images
