"""What must be right before workers start: data, weights, and places that every node sees."""

import logging
from dataclasses import replace

from pipelines.ray_runtime import persistent_paths
from pipelines.tracking import links
from pipelines.tracking.model_uris import local_checkpoint
from sddusr import storage as places
from sddusr.config import Config
from sddusr.data.dataset import ShardSet
from sddusr.data.layouts import REGISTERED
from sddusr.data.manifest import MANIFEST
from sddusr.model.sddusr import SDDuSR
from sddusr.training.loop import load_start
from sddusr.training.losses import load_vgg19

WEIGHT_NAMES = "", "imagenet", "sintel", "none"
"""What a config may say in place of a file of weights."""

log = logging.getLogger(__name__)


def check_shared(storage: str, data: str, uri: str, config: Config | None = None) -> None:
    """Every node of the cluster sees all three, and the weights that a config names.

    Raises:
        ValueError: which node does not see what.
    """
    folders = {"--storage": storage}
    if database := links.local_database(uri):
        folders["--tracking-uri"] = str(database.parent)
    files = {"--data": places.join(data, MANIFEST)}
    if config is not None:
        weights = {
            "--model.matching.vgg-weights": config.model.matching.vgg_weights,
            "--model.alignment.spynet-weights": config.model.alignment.spynet_weights,
            "--losses.vgg-weights": config.losses.vgg_weights,
            "--train.init-from": config.train.init_from,
        }
        files |= {flag: place for flag, place in weights.items() if place not in WEIGHT_NAMES}
    persistent_paths.check_seen_by_all(files=files, folders=folders)


def samples_shards(storage: str, config: Config) -> str:
    """Shards of the embedded pictures, registered as the config wants them and made once."""
    from pipelines.preprocess import PreprocessOptions, preprocess

    register_ref = config.data.register_ref
    out = places.join(storage, f"samples-{register_ref}")
    preprocess(PreprocessOptions(layout="samples", out=out, register_ref=register_ref))
    return out


def data_or_samples(data: str | None, storage: str, config: Config) -> str:
    """The shards that --data names, or those of the embedded pictures.

    Raises:
        ValueError: --data is relative to a folder that will be deleted.
    """
    if data:
        return persistent_paths.persistent_path(data, "--data")
    return samples_shards(storage, config)


def check_data(shards: ShardSet, config: Config) -> None:
    num_rows, fits = len(shards.rows("train")), shards.max_crop_px("train")
    if num_rows == 0:
        raise ValueError(f"{shards.root}: no training windows; preprocess pictures with HR")
    if config.data.crop_px > fits:
        raise ValueError(
            f"{shards.root}: the smallest window holds a crop of {fits} px, the config wants "
            f"{config.data.crop_px}; lower --data.crop-px or preprocess larger windows"
        )
    registered = str(shards.manifest.parameters.get("register_ref", "none"))
    if registered != config.data.register_ref:
        again = f"preprocess with --register-ref {config.data.register_ref}, or "
        if shards.manifest.parameters.get("layout") in REGISTERED:
            again = ""  # its pairs are registered in any case
        raise ValueError(
            f"{shards.root}: Ref was registered by {registered!r}, the config wants "
            f"{config.data.register_ref!r}; {again}say --data.register-ref {registered} to train "
            f"on it"
        )
    if not shards.rows("val"):
        log.warning(
            "%s: no split val, so no checkpoint is chosen as the best and the newest counts; "
            "preprocess with --hold-out to set training scenes aside",
            shards.root,
        )


def with_absolute_weights(config: Config, uri: str | None = None) -> Config:
    """Workers have working folders of their own; a name (`imagenet`, `none`) stays a name, and a
    model that MLflow names is downloaded.

    Raises:
        ValueError: MLflow at `uri` has no such model.
    """

    def absolute(source: str) -> str:
        return source if source in WEIGHT_NAMES else places.absolute(source)

    start = local_checkpoint(config.train.init_from, uri)
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
        train=replace(config.train, init_from=absolute(start)),
    )


def check_weights(config: Config) -> None:
    """Load all that a new run starts from, so that a missing file is said before workers start.

    Raises:
        FileNotFoundError, ValueError: it is missing or does not fit.
    """
    load_start(SDDuSR(config.model), config)
    if config.losses.stage == "full":
        load_vgg19(config.losses.vgg_weights)
