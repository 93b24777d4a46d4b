#!/usr/bin/env python3
"""Score a checkpoint, or any method's pictures, on a data folder: tables, a page, an MLflow run.

python pipelines/evaluate.py --checkpoint DIR --data DIR
python pipelines/evaluate.py --sr-dir DIR --data DIR
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

if not __package__:  # a script of a checkout, in which only sddusr is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipelines  # noqa: F401  # names what is not installed


from pipelines.options.evaluate import EvaluateOptions
from pipelines.ray_runtime.scoring import score_rows
from pipelines.report import ReportOptions, write_report
from pipelines.tracking import links
from pipelines.tracking.background import mirror
from pipelines.tracking.evaluations import describe_evaluation, hash_of
from pipelines.tracking.model_uris import local_checkpoint
from sddusr import storage
from sddusr.checkpoint import Checkpoint, read_checkpoint
from sddusr.cli import command_line
from sddusr.data.dataset import ShardSet
from sddusr.data.folder_lock import hold_lock
from sddusr.evaluation.other_metrics import choose
from sddusr.evaluation.ref_registration import check_registration
from sddusr.evaluation.results import (
    Gain,
    ImageScores,
    Summary,
    describe_flat_regions,
    gains,
    summarize,
    to_text,
)
from sddusr.evaluation.scoring import (
    BICUBIC,
    COMPARISONS,
    LPIPS_MEASURED,
    lpips_note,
    pair_others,
    pick_rows,
)
from sddusr.evaluation.tables import write_tables
from sddusr.evaluation.without_truth import score_without_truth
from sddusr.runs.run_folder import RunFolder
from sddusr.visualization.web_view import forget_views, picture_place

PAGE = "page.html"
LOCK = ".evaluate.lock"
"""Held while an evaluation writes to its folder."""

TRACKED = (
    "name", "sr_dir", "split", "limit", "protocols", "metrics", "precision", "matching",
    "register_ref", "trust", "without_ref", "baselines", "seed",
)  # fmt: skip
"""Options that are parameters of the evaluation's MLflow run."""

log = logging.getLogger(__name__)


class EvaluationResult(NamedTuple):
    """Everything that was measured, and where it lies."""

    images: list[ImageScores]
    summaries: list[Summary]
    gains: list[Gain]
    """Of every method over bicubic."""
    table: str
    """The means and gains as text."""
    out: str
    page: str
    """The HTML page, inside `out`."""
    run_id: str
    """MLflow's."""


def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Score the split; write the results below `out` and log them to MLflow.

    Raises:
        FileNotFoundError: no data, no checkpoint, or a picture of sr_dir is missing.
        ValueError: options, data or pictures that cannot be used.
    """
    if options.checkpoint:
        found = local_checkpoint(options.checkpoint, options.tracking_uri)
        options = replace(options, checkpoint=found)
    options, uri = options.with_absolute_places(), links.tracking_uri(options.tracking_uri)
    with hold_lock(storage.join(options.out, LOCK), f"an evaluation in {options.out}"):
        return _evaluate(options, uri)


def _evaluate(options: EvaluateOptions, uri: str) -> EvaluationResult:
    checkpoint = read_checkpoint(options.checkpoint) if options.checkpoint else None
    shards = ShardSet(options.data)
    trained_on = checkpoint.config.data.register_ref if checkpoint else None
    registered = check_registration(shards, options.register_ref, trained_on)
    rows = pick_rows(options, shards)
    others = pair_others(options, [row.id for row in rows])
    note = lpips_note(options)
    forget_views(options.out, [row.id for row in rows])
    images = list(
        score_rows(options, options.num_actors, rows, others, lpips=note == LPIPS_MEASURED)
    )
    summaries, differences = summarize(images), gains(images, BICUBIC, options.seed)
    left_out = describe_flat_regions(images)
    if left_out:
        log.warning("%s", left_out)
    table = f"Ref registered: {registered}\n\n"
    table += to_text(summaries, differences, note, left_out, choose(options.metrics).notes)
    about = (
        options.about(checkpoint, note)
        | {"Ref registered": registered}
        | ({"means": left_out} if left_out else {})
    )
    files = write_tables(options.out, images, summaries, differences, table, about)
    page = write_report(
        ReportOptions(
            results=(options.out,), out=storage.join(options.out, PAGE), seed=options.seed
        )
    )
    if options.save_pictures:
        compared = [row.id for row in rows[: options.num_comparisons]]
        files += [picture_place(options.out, COMPARISONS, id) for id in compared]
    run_id = _track(options, uri, images, summaries, [*files, page], checkpoint, shards)
    return EvaluationResult(images, summaries, differences, table, options.out, page, run_id)


def _track(
    options: EvaluateOptions,
    uri: str,
    images: Sequence[ImageScores],
    summaries: Sequence[Summary],
    files: Sequence[str],
    checkpoint: Checkpoint | None,
    shards: ShardSet,
) -> str:
    """Log to a child run of the training run; the child's id."""
    run = RunFolder(options.out)
    rows = {_prefix(options, summary): summary.finite_scores() for summary in summaries}
    own = {_prefix(options, s) for s in summaries if checkpoint and s.method == options.name}
    describe_evaluation(
        run,
        uri,
        experiment=options.experiment,
        shards=shards,
        split=options.split,
        checkpoint=checkpoint,
        params={name: getattr(options, name) for name in TRACKED}
        | {"scores_hash": hash_of(images)},
        metrics=[f"{prefix}/{name}" for prefix in own for name in rows[prefix]],
    )
    step = checkpoint.progress.get("step", 0) if checkpoint else 0
    for prefix, scores in rows.items():
        run.log_metrics(step, {f"{prefix}/{name}": value for name, value in scores.items()})
    folder = f"evaluation/{options.split}"
    names = {place: storage.relative(place, options.out) for place in files}
    run.link_artifacts({f"{folder}/{name}": place for place, name in names.items()})
    run.set_state("finished")
    return mirror(run.folder, uri)


def _prefix(options: EvaluateOptions, summary: Summary) -> str:
    return f"{options.split}/{summary.protocol}/{summary.method}"


def main(options: EvaluateOptions) -> None:
    if not options.data:
        print(f"{score_without_truth(options)}\nfiles   {options.out}")
        return
    result = evaluate(options)
    print(f"\n{options.data}, split {options.split}\n\n{result.table}\n")
    print(f"page    {result.page}")
    print(f"files   {result.out}")
    print(f"MLflow  {links.how_to_look(options.tracking_uri)}")
    tab = f"artifacts/evaluation/{options.split}/{PAGE}"
    print(f"there   {links.run_page(options.tracking_uri, result.run_id, tab)}")


if __name__ == "__main__":
    # By name, so that Ray pickles the actor by reference.
    from pipelines.evaluate import EvaluateOptions as Options
    from pipelines.evaluate import main as imported_main

    command_line.run(imported_main, Options)
