"""Train on shards with Ray Train: `python pipelines/train.py [PRESET] --data DIR`."""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast

import ray
import ray.train
import tyro
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from pipelines import cli, tracking
from sddusr import ranks
from sddusr.checkpoint import CheckpointStore
from sddusr.config import DEMO, PRESETS, Config, flatten, from_dict, to_dict
from sddusr.data import places
from sddusr.data.shards import ShardSet
from sddusr.training import NonFiniteError, Progress, check_same_run, train

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train, or go on with a run: the same command resumes from its newest good checkpoint."""

    data: str | None = None
    """Folder or URI of shards from pipelines/preprocess.py; without it, the pictures that ship
    with scikit-image and scikit-learn are preprocessed into STORAGE/samples."""
    name: str | None = None
    """Run's name; by default the preset and a hash of config and data."""
    storage: str = "runs"
    """Folder or URI that holds the runs; on several machines, one that all of them reach."""
    workers: int = 1
    """Processes that share each global batch (train.batch-size is the global one)."""
    gpu: bool | None = None
    """A GPU for each worker; by default where the cluster has one for each."""
    cpus_per_worker: int | None = None
    """Processor cores of each worker; by default an equal share of them all."""
    max_failures: int = 3
    """How often workers that die are started again before the run fails."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = tracking.EXPERIMENT
    """MLflow's experiment."""
    preset: Annotated[str, tyro.conf.Suppress] = "demo"
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run lies and how well it did."""

    folder: str
    progress: Progress
    run_id: str


def run_training(options: TrainOptions) -> TrainResult:
    """Start or resume the run and wait for its end.

    Raises:
        ValueError, FileNotFoundError: options, data or weights that cannot be used.
    """
    cli.init_ray()
    data = places.absolute(options.data or _samples(options.storage))
    shards = ShardSet(data)
    _check_data(shards, options.config)
    scaling = _scaling(options)
    name = options.name or f"{options.preset}-{_fingerprint(options.config, shards)}"
    folder = places.join(places.absolute(options.storage), name)
    earlier = _earlier_progress(folder, options.config, shards)
    if earlier is not None and earlier.step == options.config.train.num_steps:
        log.info("run %s in %s is finished; another --name trains anew", name, folder)
        return TrainResult(folder=folder, progress=earlier, run_id=earlier.tracking_run)
    run = tracking.open_run(
        options.tracking_uri,
        name=name,
        experiment=options.experiment,
        run_id=earlier.tracking_run if earlier else "",
        tags={"sddusr.data": data, "sddusr.preset": options.preset},
    )
    run.log_params(flatten(to_dict(options.config)) | {"data_hash": shards.content_hash})
    log.info("run %s in %s, MLflow run %s", name, folder, run.run_id)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": to_dict(options.config),
            "data": data,
            "folder": folder,
            "tracking_uri": run.uri,
            "run_id": run.run_id,
        },
        scaling_config=scaling,
        run_config=RunConfig(
            name="ray",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=options.max_failures),
        ),
    )
    status = "FAILED"
    try:
        outcome = Outcome(**cast(Any, trainer.fit().return_value))
        outcome.raise_error()
        status = "FINISHED"
    finally:
        run.finish(status)
    return TrainResult(folder=folder, progress=Progress(**outcome.progress), run_id=run.run_id)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a rank hands back. Errors that a second try would meet again come back as data: Ray
    Train would start the workers anew for an exception."""

    progress: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    non_finite: bool = False

    def raise_error(self) -> None:
        if self.error:
            raise (NonFiniteError if self.non_finite else ValueError)(self.error)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """One rank; runs in a process of Ray Train's, which has set up torch.distributed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = from_dict(Config, settings["config"])
    try:
        progress = train(
            config,
            ShardSet(settings["data"]),
            store_of(settings["folder"], config),
            RayReporter(settings),
            get_device(),
            settings["run_id"],
        )
    except NonFiniteError as error:
        return asdict(Outcome(error=str(error), non_finite=True))
    except cli.USER_ERRORS as error:
        if ranks.world_size() > 1:
            raise  # the other ranks may wait for this one; Ray Train ends them
        return asdict(Outcome(error=str(error)))
    return asdict(Outcome(progress=asdict(progress)))


class RayReporter:
    """Rank 0 writes to MLflow, to `metrics.jsonl` and to the log; all ranks meet in `report`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        config = settings["config"]
        self._num_steps = config["train"]["num_steps"]
        self._folder = settings["folder"]
        self._is_first = ray.train.get_context().get_world_rank() == 0
        self._run = None
        if self._is_first:
            self._run = tracking.TrackedRun(settings["tracking_uri"], settings["run_id"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.log_metrics(metrics, step)
        self._append({"step": step, **metrics})
        kind = next(iter(metrics)).split("/")[0]
        told = " ".join(f"{name.split('/')[-1]} {value:.4g}" for name, value in metrics.items())
        log.info("step %d/%d %s: %s", step, self._num_steps, kind, told)

    def show(self, step: int, pictures: Mapping[str, Any]) -> None:
        for key, picture in pictures.items():
            if self._run is not None:
                self._run.log_picture(key, picture, step)

    def milestone(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._run.flush()
        ray.train.report({"step": step, **metrics})

    def _append(self, row: Mapping[str, float]) -> None:
        if places.is_local(self._folder):
            os.makedirs(self._folder, exist_ok=True)
            with open(places.join(self._folder, "metrics.jsonl"), "a") as file:
                file.write(json.dumps(row) + "\n")


def store_of(folder: str, config: Config) -> CheckpointStore:
    """The checkpoints of the run in `folder`."""
    return CheckpointStore(places.join(folder, "checkpoints"), config.train.keep_checkpoints)


def _samples(storage: str) -> str:
    """Shards of the embedded pictures, made once."""
    from pipelines.preprocess import PreprocessOptions, preprocess

    out = places.join(places.absolute(storage), "samples")
    preprocess(PreprocessOptions(layout="samples", out=out))
    return out


def _check_data(shards: ShardSet, config: Config) -> None:
    num_rows, fits = len(shards.rows("train")), shards.max_crop_px("train")
    if num_rows == 0:
        raise ValueError(f"{shards.root}: no training windows; preprocess pictures with HR")
    if config.data.crop_px > fits:
        raise ValueError(
            f"{shards.root}: the smallest window holds a crop of {fits} px, the config wants "
            f"{config.data.crop_px}; lower --data.crop-px or preprocess larger windows"
        )


def _scaling(options: TrainOptions) -> ScalingConfig:
    """Workers that the cluster can hold now.

    Raises:
        ValueError: it cannot; waiting would not help.
    """
    total = ray.cluster_resources()
    num_cpus, num_gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    gpu = num_gpus >= options.workers if options.gpu is None else options.gpu
    cpus = options.cpus_per_worker or max(1, num_cpus // options.workers)
    need = f"{options.workers} workers of {cpus} cores{' and a GPU' if gpu else ''}"
    if (
        options.workers < 1
        or options.workers * cpus > num_cpus
        or (gpu and options.workers > num_gpus)
    ):
        raise ValueError(
            f"cluster has {num_cpus} cores and {num_gpus} GPUs, need {need}; lower --workers or "
            f"--cpus-per-worker, or start more nodes"
        )
    if options.config.train.batch_size % options.workers:
        raise ValueError(
            f"--workers {options.workers} does not divide --train.batch-size "
            f"{options.config.train.batch_size}"
        )
    return ScalingConfig(
        num_workers=options.workers,
        use_gpu=gpu,
        resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
    )


def _fingerprint(config: Config, shards: ShardSet) -> str:
    described = json.dumps([to_dict(config), shards.content_hash], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def _earlier_progress(folder: str, config: Config, shards: ShardSet) -> Progress | None:
    """How far the run in `folder` is; None where it is new.

    Raises:
        ValueError: the folder holds a run of another config or other data.
    """
    checkpoint = store_of(folder, config).newest_good()
    if checkpoint is None:
        return None
    check_same_run(checkpoint, config, shards.content_hash)
    return Progress(**checkpoint.progress)


def main(options: TrainOptions) -> int:
    try:
        result = run_training(options)
    except NonFiniteError as error:
        log.error("stopped: %s; the checkpoints before it are kept", error)
        return 1
    best = result.progress
    log.info("done: step %d, best %.3f dB at step %d", best.step, best.best_score, best.best_step)
    print(f"checkpoints  {result.folder}/checkpoints")
    print(f"MLflow       {tracking.how_to_look(options.tracking_uri)}")
    return 0


def command() -> None:
    """Parse the command line; the first word names the preset, `demo` where there is none."""
    presets = {
        name: TrainOptions(preset=name, config=config) for name, (_, config) in PRESETS.items()
    }
    told = {name: description for name, (description, _) in PRESETS.items()}
    args = sys.argv[1:]
    if not args or (args[0] not in presets and args[0] not in ("-h", "--help")):
        args = ["demo", *args]
    cli.run(main, tyro.extras.subcommand_type_from_defaults(presets, told), args=args)


if __name__ == "__main__":
    from pipelines.train import command as imported_command

    imported_command()
