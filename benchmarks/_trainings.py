"""An ablation's trainings, each scored as it ends, some at a time on the cluster."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import ray
from _ablation_options import AblationOptions
from _scoring import Scoring, name_of, score_run
from _variants import Variant

from pipelines.ray_runtime import cluster
from pipelines.tracking.background import mirror
from pipelines.train import TrainOptions, run_training
from sddusr.cli import command_line
from sddusr.evaluation.metrics import Lpips
from sddusr.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """One training, and the variants that use its weights."""

    trained: Variant
    seed: int
    scored: list[Variant]

    @property
    def name(self) -> str:
        return f"{self.trained.name}-seed{self.seed}"


def list_jobs(chosen: Sequence[Variant], seeds: Sequence[int]) -> list[Job]:
    """Every variant with the first seed, then with the next: what is cut off can be compared."""
    jobs = []
    for seed in seeds:
        for each in chosen:
            if not each.weights_of:
                users = [other for other in chosen if other.weights_of == each.name]
                jobs.append(Job(each, seed, [each, *users]))
    return jobs


def run_all(options: AblationOptions, jobs: Sequence[Job], parent: str) -> list[dict[str, Any]]:
    """Some trainings at a time; the scores of them all, in the jobs' order."""
    cores = cluster.cores_for_each(options.concurrent, "--concurrent")
    scoring = _scoring(options)
    train = ray.remote(num_cpus=0, max_retries=0)(train_and_score)
    waiting, running = list(jobs), {}
    rows: dict[str, list[dict[str, Any]]] = {}
    while waiting or running:
        while waiting and len(running) < options.concurrent:
            job = waiting.pop(0)
            asked = _training(options, job, parent, cores)
            running[train.remote(asked, job, _tested(scoring, job, options), cores)] = job
        ready, _ = ray.wait(list(running))
        job = running.pop(ready[0])
        rows[job.name], error = ray.get(ready[0])
        if error:
            raise ValueError(f"{job.name}: {error}")
        log.info(
            "%d/%d trainings done: %s%s",
            len(rows),
            len(jobs),
            job.name,
            _means_text(rows[job.name]),
        )
    return [row for job in jobs for row in rows[job.name]]


def _scoring(options: AblationOptions) -> Scoring:
    weights = options.lpips_weights
    try:
        Lpips(weights)
    except FileNotFoundError as error:
        if weights != "imagenet":
            raise
        log.info("LPIPS is not measured: %s", error)
        weights = None
    return Scoring(
        tests=options.tests,
        names=tuple(map(name_of, options.tests)),
        protocol=options.protocol,
        precision=options.precision,
        lpips_weights=weights,
    )


def _tested(scoring: Scoring, job: Job, options: AblationOptions) -> Scoring:
    """On Refs of the kind that it was trained with."""
    return replace(scoring, tests=options.tests_as_given) if job.trained.as_given else scoring


def _training(options: AblationOptions, job: Job, parent: str, cores: int) -> TrainOptions:
    config = job.trained.config
    return TrainOptions(
        data=options.data_as_given if job.trained.as_given else options.data,
        name=job.name,
        storage=options.out,
        tracking_uri=options.tracking_uri,
        experiment=options.experiment,
        parent_run=parent,
        register_model="",
        cpus_per_worker=cores,
        preset=options.preset,
        config=replace(config, train=replace(config.train, seed=job.seed)),
    )


def train_and_score(
    options: TrainOptions, job: Job, scoring: Scoring, cores: int
) -> tuple[list[dict[str, Any]], str]:
    """A Ray task that waits for Ray Train, then for a task that scores; rows, or what is wrong."""
    command_line.log_lines()
    score = ray.remote(num_cpus=cores)(score_run)
    rows = []
    try:
        folder = run_training(options).folder
        for variant in job.scored:
            search_all_keys = not variant.config.model.mask.mask_keys
            asked = score.remote(folder, variant.name, job.seed, search_all_keys, scoring)
            rows += ray.get(asked)
        num_steps = options.config.train.num_steps
        RunFolder(folder).add_metrics(num_steps, _metrics(rows, job.trained.name))
        mirror(folder, str(options.tracking_uri))
    except command_line.USER_ERRORS as error:
        return [], str(error)
    return rows, ""


def _metrics(rows: Sequence[dict[str, Any]], variant: str) -> dict[str, float]:
    """Means of a run over each test set, as its MLflow run holds them."""
    scores = pd.DataFrame(rows)
    means = scores[scores["variant"] == variant].groupby("test").mean(numeric_only=True)
    return {
        f"{test}/{name}": float(value)
        for test, row in means.iterrows()
        for name, value in row.items()
        if name != "seed" and pd.notna(value)
    }


def _means_text(rows: Sequence[dict[str, Any]]) -> str:
    means = pd.DataFrame(rows).groupby(["test", "variant"], sort=False)["full_psnr"].mean()
    return "".join(f", {test} {name} {value:.2f} dB" for (test, name), value in means.items())
