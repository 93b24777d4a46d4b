"""Train on shards with Ray Train: `python pipelines/train.py [PRESET] --data DIR`."""

import hashlib
import json
import logging
import sys
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, cast

import ray
import ray.train
import tyro
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipelines import cli, tracking
from pipelines.train_worker import Outcome, store_of, train_worker
from sddusr.checkpoint import resolve
from sddusr.config import DEMO, PRESETS, Config, flatten, to_dict
from sddusr.data import places
from sddusr.data.shards import ShardSet
from sddusr.losses import load_vgg19
from sddusr.model.sddusr import SDDuSR
from sddusr.training import NonFiniteError, Progress, check_same_run, load_start

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
    fresh: bool = False
    """Delete what an earlier run of this name left, checkpoints too, and train anew."""
    max_failures: int = 3
    """How often workers that die are started again before the run fails."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = tracking.EXPERIMENT
    """MLflow's experiment."""
    tracking_wait_s: float = tracking.END_WAIT_S
    """How long the end of the run waits for an MLflow that is away; what is left then stays on
    disk, and the log tells the command that delivers it."""
    register_model: str | None = None
    """Name under which the best checkpoint is registered in MLflow; by default sddusr-PRESET, and
    the empty name registers none."""
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
        ValueError, OSError: options, data or weights that cannot be used.
        NonFiniteError: a loss or gradient is NaN or infinite.
    """
    cli.init_ray()
    options = replace(options, config=with_absolute_weights(options.config))
    data = places.absolute(options.data or samples_shards(options.storage))
    shards = ShardSet(data)
    check_data(shards, options.config)
    scaling = find_scaling(options)
    name = options.name or f"{options.preset}-{_fingerprint(options.config, shards)}"
    folder = places.join(places.absolute(options.storage), name)
    if options.fresh and places.exists(folder):
        places.remove_folder(folder)
    earlier = _earlier_progress(folder, options.config, shards)
    if earlier is None:
        check_weights(options.config)
    elif earlier.step == options.config.train.num_steps:
        log.info("run %s in %s is finished; --fresh trains anew", name, folder)
        run_id = tracking.deliver_rest(options.tracking_uri, folder, options.tracking_wait_s)
        return TrainResult(folder=folder, progress=earlier, run_id=run_id or earlier.tracking_run)
    run = _tracked(options, name, folder, shards)
    log.info("run %s in %s, MLflow run %s", name, folder, run.run_id or "waits to be created")
    status = "FAILED"
    try:
        progress = fit_workers(options, scaling, data, folder, run)
        _register(options, folder, run)
        status = "FINISHED"
    finally:
        run.finish(status, options.tracking_wait_s)
    return TrainResult(folder=folder, progress=progress, run_id=run.run_id)


def fit_workers(
    options: TrainOptions,
    scaling: ScalingConfig,
    data: str,
    folder: str,
    run: tracking.TrackedRun,
) -> Progress:
    """Let Ray Train's workers train; how far they came."""
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": to_dict(options.config),
            "data": data,
            "folder": folder,
            "tracking_uri": run.uri,
            "tracking_wait_s": options.tracking_wait_s,
            "run_id": run.run_id,
        },
        scaling_config=scaling,
        run_config=RunConfig(
            name="ray",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=options.max_failures),
        ),
    )
    outcome = Outcome(**cast(Any, trainer.fit().return_value))
    outcome.raise_error()
    return Progress(**outcome.progress)


def _tracked(
    options: TrainOptions, name: str, folder: str, shards: ShardSet
) -> tracking.TrackedRun:
    """The run's MLflow run: the one that its folder names, or a new one."""
    run = tracking.open_run(
        options.tracking_uri,
        name=name,
        experiment=options.experiment,
        folder=folder,
        tags={"sddusr.data": shards.root, "sddusr.preset": options.preset},
    )
    run.log_params(flatten(to_dict(options.config)) | {"data_hash": shards.content_hash})
    return run


def _register(options: TrainOptions, folder: str, run: tracking.TrackedRun) -> None:
    """Make the best checkpoint a version of the registered model."""
    name = options.register_model
    name = f"sddusr-{options.preset}" if name is None else name
    if name:
        place = resolve(folder)
        run.register_model(name, place, {"sddusr.checkpoint": place.rpartition("/")[2]})


def samples_shards(storage: str) -> str:
    """Shards of the embedded pictures, made once."""
    from pipelines.preprocess import PreprocessOptions, preprocess

    out = places.join(places.absolute(storage), "samples")
    preprocess(PreprocessOptions(layout="samples", out=out))
    return out


def check_data(shards: ShardSet, config: Config) -> None:
    num_rows, fits = len(shards.rows("train")), shards.max_crop_px("train")
    if num_rows == 0:
        raise ValueError(f"{shards.root}: no training windows; preprocess pictures with HR")
    if config.data.crop_px > fits:
        raise ValueError(
            f"{shards.root}: the smallest window holds a crop of {fits} px, the config wants "
            f"{config.data.crop_px}; lower --data.crop-px or preprocess larger windows"
        )
    if not shards.rows("val"):
        log.warning(
            "%s: no split val, so no checkpoint is chosen as the best and the newest counts; "
            "preprocess with --hold-out to set training scenes aside",
            shards.root,
        )


def with_absolute_weights(config: Config) -> Config:
    """Workers have working folders of their own; a name (`imagenet`, `none`) stays a name."""

    def absolute(source: str) -> str:
        return source if source in ("", "imagenet", "sintel", "none") else places.absolute(source)

    model = replace(
        config.model,
        matching=replace(
            config.model.matching, vgg_weights=absolute(config.model.matching.vgg_weights)
        ),
        alignment=replace(
            config.model.alignment, spynet_weights=absolute(config.model.alignment.spynet_weights)
        ),
    )
    return replace(
        config,
        model=model,
        losses=replace(config.losses, vgg_weights=absolute(config.losses.vgg_weights)),
        train=replace(config.train, init_from=absolute(config.train.init_from)),
    )


def check_weights(config: Config) -> None:
    """Load all that a new run starts from, so that a missing file is said before workers start.

    Raises:
        FileNotFoundError, ValueError: it is missing or does not fit.
    """
    load_start(SDDuSR(config.model), config)
    if config.losses.stage == "full":
        load_vgg19(config.losses.vgg_weights)


def find_scaling(options: TrainOptions) -> ScalingConfig:
    """Workers that the cluster can hold.

    Raises:
        ValueError: it cannot; waiting would not help.
    """
    train = options.config.train
    parts = options.workers * train.accumulate
    if parts < 1 or train.batch_size % parts:
        times = f" times --train.accumulate {train.accumulate}" if train.accumulate > 1 else ""
        raise ValueError(
            f"--workers {options.workers}{times} does not divide --train.batch-size "
            f"{train.batch_size}"
        )
    cpus = options.cpus_per_worker or cli.cores_for_each(options.workers, "--workers")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    gpu = num_gpus >= options.workers if options.gpu is None else options.gpu
    if gpu and options.workers > num_gpus:
        raise ValueError(
            f"--workers is {options.workers}, the cluster has {num_gpus} GPUs; lower it, or pass "
            f"--no-gpu"
        )
    if sum(int(node.get("CPU", 0)) // cpus for node in nodes) < options.workers:
        raise ValueError(
            f"no room for {options.workers} workers of {cpus} cores; lower --workers or "
            f"--cpus-per-worker, or start more nodes"
        )
    resources = {"CPU": cpus, "GPU": 1} if gpu else {"CPU": cpus}
    return ScalingConfig(num_workers=options.workers, use_gpu=gpu, resources_per_worker=resources)


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
    progress = result.progress
    log.info("done: %d steps", progress.step)
    if progress.best_step:
        log.info("best: %.3f dB at step %d", progress.best_score, progress.best_step)
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
