"""What the parts of the method are worth: the same training with and without them, over seeds.

`make ablation ARGS='demo --data SHARDS'`, see --help. A study that was cut off goes on with the
same command: trainings resume, and scores that are known are read from disk.
"""

import inspect
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import pandas as pd
import ray
import torch
import tyro
from _costs import Costs, costs_table, measure_costs
from _evidence import (
    Gain,
    all_gains,
    as_rows,
    gains_figure,
    gains_table,
    means_table,
)
from _scoring import Scoring, name_of, score_run
from _variants import Study, Variant, variants

from pipelines.ray_runtime import cluster
from pipelines.ray_runtime.persistent_paths import persistent_path
from pipelines.ray_runtime.preflight import samples_shards
from pipelines.tracking import links
from pipelines.tracking.background import describe, mirror, mirrored
from pipelines.train import TrainOptions, run_training
from sddusr import storage as places
from sddusr.cli import command_line
from sddusr.config import DEMO, PRESETS, Config, flatten, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.evaluation.metrics import Lpips, Protocol
from sddusr.model.precision import Precision
from sddusr.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Train variants of a preset, each once for every seed, and compare them on test pictures.

    Every variant sees the same samples in the same order. In MLflow the study is one run with a
    child for each training. Examples:

    python benchmarks/ablation.py demo --data mix --tests test-photos test-pairs test-photos-faulty

    python benchmarks/ablation.py demo --data mix --tests test-photos --data-as-given mix-none
    --tests-as-given test-photos-none

    python benchmarks/ablation.py demo --data mix --tests test-photos --study knobs --seeds 1

    python benchmarks/ablation.py paper --data DuSR-Real-shards --tokens 64 128 192 256
    """

    data: str | None = None
    """Folder or URI of shards to train on, from pipelines/preprocess.py; without it, the pictures
    that ship with scikit-image and scikit-learn are preprocessed into OUT/samples."""
    tests: tuple[str, ...] = ()
    """Folders or URIs of shards whose split `test` is scored, named by their last part; by default
    --data alone."""
    data_as_given: str | None = None
    """Shards of the same pictures made with `--register-ref none`, for the baseline; without them
    the baseline has registered Refs too."""
    tests_as_given: tuple[str, ...] = ()
    """The same for each of --tests, in its order."""
    study: Study = "parts"
    """`parts`: baseline, then, each added to the last: registered Refs (`registered`), the detail
    skip trusting matches by their confidence (`detail`), learned trust (`trust`), sparse matching
    (`sfm`), the dictionary (`sddusr-N`); `constant` has one vector in the dictionary's place.
    `knobs`: what the paper leaves open, one at a time: temperature, attention, scope of the mask,
    key mask, distance of the windows."""
    tokens: tuple[int, ...] = (16, 32, 64, 128)
    """N of the dictionaries in the study of parts."""
    only: tuple[str, ...] = ()
    """Names of the variants to train; by default all of the study."""
    seeds: int = 3
    """Trainings of each variant, each with a seed of its own."""
    first_seed: int = 0
    """The smallest of the seeds; the others follow it."""
    concurrent: int = 1
    """Trainings at a time; each gets an equal share of the cluster."""
    out: str = "runs/ablation"
    """Folder or URI for trainings and tables."""
    protocol: Protocol = "kedusr-float"
    """How pictures are compared."""
    precision: Precision = "float32"
    """Number format of the networks in the test."""
    lpips_weights: str = "imagenet"
    """AlexNet of LPIPS: `imagenet` (by name, needs internet once) or a path to a state dict."""
    costs: bool = True
    """Also measure time and memory of each network on the first test picture, once all are
    trained."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = "sddusr-ablation"
    """MLflow's experiment."""
    preset: Annotated[str, tyro.conf.Suppress] = "demo"
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)

    def __post_init__(self) -> None:
        for name in ("seeds", "concurrent"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, need 1 or more")
        if self.first_seed < 0:
            raise ValueError(f"--first-seed is {self.first_seed}, need 0 or more")
        if bool(self.data_as_given) != bool(self.tests_as_given):
            raise ValueError("give both --data-as-given and --tests-as-given, or neither")
        if self.tests_as_given and len(self.tests_as_given) != len(self.tests):
            raise ValueError(
                f"--tests-as-given has {len(self.tests_as_given)} folders, need one for each of "
                f"the {len(self.tests)} of --tests"
            )
        if not self.config.model.dictionary.enabled or not self.config.model.mask.enabled:
            raise ValueError("an ablation starts from the whole method; leave its parts enabled")


class Job(NamedTuple):
    """One training, and the variants that use its weights."""

    trained: Variant
    seed: int
    scored: list[Variant]

    @property
    def name(self) -> str:
        return f"{self.trained.name}-seed{self.seed}"


def run_ablation(options: AblationOptions) -> str:
    """Train, score and compare; the tables as text.

    Raises:
        ValueError, OSError: options or data that cannot be used.
    """
    options = _with_absolute_places(options)
    chosen = _chosen(options)
    for place in options.tests + options.tests_as_given:
        ShardSet(place).close()
    cluster.init_ray()
    parent, uri = RunFolder(options.out), str(options.tracking_uri)
    seeds = {"seeds": options.seeds, "first_seed": options.first_seed}
    describe(
        parent,
        uri,
        name=f"ablation {options.study} {options.preset}",
        experiment=options.experiment,
        params={"study": options.study} | seeds | _config_params(options),
        tags={"sddusr.data": str(options.data), "sddusr.preset": options.preset},
    )
    with mirrored(parent, uri) as background:
        rows = _run_all(options, _jobs(chosen, _seeds(options)), background.run_id)
        costs = _costs(options, chosen) if options.costs else []
        return _write(options, chosen, pd.DataFrame(rows), costs, parent)


def _with_absolute_places(options: AblationOptions) -> AblationOptions:
    out = persistent_path(options.out, "--out")
    data = persistent_path(options.data, "--data") if options.data else samples_shards(out)
    return replace(
        options,
        data=data,
        tests=tuple(persistent_path(place, "--tests") for place in options.tests or (data,)),
        data_as_given=(
            options.data_as_given and persistent_path(options.data_as_given, "--data-as-given")
        ),
        tests_as_given=tuple(
            persistent_path(place, "--tests-as-given") for place in options.tests_as_given
        ),
        out=out,
        tracking_uri=links.tracking_uri(options.tracking_uri),
    )


def _chosen(options: AblationOptions) -> list[Variant]:
    """The variants to train, and those that they are compared with.

    Raises:
        ValueError: a name that the study does not have.
    """
    study = variants(options.config, options.study, options.tokens, bool(options.data_as_given))
    found = {each.name: each for each in study}
    if unknown := [name for name in options.only if name not in found]:
        raise ValueError(f"--only names {unknown[0]!r}, the study has {', '.join(found)}")
    wanted = {name for each in options.only for name in (each, found[each].weights_of)}
    return [each for name, each in found.items() if not options.only or name in wanted]


def _config_params(options: AblationOptions) -> dict[str, Any]:
    return flatten(to_dict(options.config))


def _seeds(options: AblationOptions) -> range:
    return range(options.first_seed, options.first_seed + options.seeds)


def _jobs(chosen: Sequence[Variant], seeds: Sequence[int]) -> list[Job]:
    """Every variant with the first seed, then with the next: what is cut off can be compared."""
    jobs = []
    for seed in seeds:
        for each in chosen:
            if not each.weights_of:
                users = [other for other in chosen if other.weights_of == each.name]
                jobs.append(Job(each, seed, [each, *users]))
    return jobs


def _run_all(options: AblationOptions, jobs: Sequence[Job], parent: str) -> list[dict[str, Any]]:
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


def _costs(options: AblationOptions, chosen: Sequence[Variant]) -> list[Costs]:
    """Of each variant's first training, on this machine's processor."""
    log.info("measuring what each network costs")
    return [
        measure_costs(
            each.name,
            places.join(options.out, f"{each.weights_of or each.name}-seed0"),
            (options.tests_as_given if each.as_given else options.tests)[0],
            not each.config.model.mask.mask_keys,
            options.precision,
            torch.get_num_threads(),
        )
        for each in chosen
    ]


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


def _write(
    options: AblationOptions,
    chosen: Sequence[Variant],
    scores: pd.DataFrame,
    costs: Sequence[Costs],
    parent: RunFolder,
) -> str:
    """Tables, figure and the scores themselves, on disk and in MLflow."""
    gains = all_gains(scores, chosen)
    text = _text(options, chosen, scores, gains)
    if costs:
        text += f"\n{costs_table(costs)}"
    parquet = io.BytesIO()
    scores.to_parquet(parquet)
    files = {
        "ablation.md": text.encode(),
        "scores.parquet": parquet.getvalue(),
        "scores.csv": scores.to_csv(index=False).encode(),
        "gains.json": json.dumps(as_rows(gains), indent=1).encode(),
    }
    for over in dict.fromkeys(each.over for each in gains):
        if (figure := gains_figure(gains, over)) is not None:
            files[f"gains-over-{over}.png"] = figure
    for name, content in files.items():
        place = places.join(options.out, name)
        places.write_atomic(place, content)
    parent.link_artifacts({name: places.join(options.out, name) for name in files})
    parent.log_metrics(
        0,
        {f"{g.test}/{g.variant}/{g.column}_over_{g.over}": g.interval.mean for g in gains}
        | {
            f"costs/{c.variant}/{name}": value for c in costs for name, value in _numbers(c).items()
        },
    )
    return text


def _numbers(costs: Costs) -> dict[str, float]:
    return {name: value for name, value in asdict(costs).items() if name != "variant"}


def _text(
    options: AblationOptions,
    chosen: Sequence[Variant],
    scores: pd.DataFrame,
    gains: Sequence[Gain],
) -> str:
    train, num = options.config.train, scores.groupby("test")["id"].nunique()
    pictures = ", ".join(f"{test} {count}" for test, count in num.items())
    about = (
        f"Preset {options.preset}, {train.num_steps} steps of {train.batch_size} crops of "
        f"{options.config.data.crop_px} LR pixels, seeds {', '.join(map(str, _seeds(options)))}; "
        f"protocol {options.protocol}, tested in {options.precision}; test pictures: {pictures}; "
        f"code {links.code_version()}. ± is the standard deviation over seeds; brackets are "
        f"95 % intervals, pictures and seeds resampled independently."
    )
    return f"{about}\n\n{means_table(scores, chosen)}\n{gains_table(gains)}"


def main(options: AblationOptions) -> None:
    text = run_ablation(options)
    print(f"\n{text}\ntables  {options.out}\nMLflow  {links.how_to_look(options.tracking_uri)}")


def command() -> None:
    """Parse the command line; the first word names the preset, `demo` where there is none."""
    presets = {
        name: AblationOptions(preset=name, config=config)
        for name, (_, config) in PRESETS.items()
        if config.model.mask.enabled and config.model.dictionary.enabled
    }
    described = {name: PRESETS[name][0] for name in presets}
    description = inspect.cleandoc(str(AblationOptions.__doc__))
    command_line.run_with_presets(main, presets, described, description)


if __name__ == "__main__":
    from ablation import command as imported_command  # by name, so that Ray pickles by reference

    imported_command()
