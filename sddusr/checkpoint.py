"""Checkpoints: one folder each, hashed, complete once `hashes.json` is there.

model.safetensors   the network that validation scored: of a run with averaged weights, those
train_state.pt      what training goes on with beside it: optimizers, discriminator, and the raw
                    weights where the network is an average (tensors and numbers only); a
                    network that is handed on comes without
config.json         the config, and where the run stood: all that is needed to rebuild it
hashes.json         SHA-256 of each; written last
"""

import hashlib
import io
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from safetensors.torch import save
from torch import Tensor

from sddusr import storage
from sddusr.checkpoint_checks import (
    build_model,
    parse_config,
    parse_weights,
)
from sddusr.config import Config, to_dict
from sddusr.model.sddusr import SDDuSR

MODEL, TRAIN_STATE, CONFIG, HASHES = (
    "model.safetensors",
    "train_state.pt",
    "config.json",
    "hashes.json",
)
FORMAT = 2
BEST = "best.json"
FOLDER = re.compile(r"step-(\d{8})")

OF_MLFLOW = ("models:/", "runs:/")
"""How names begin that MLflow knows."""

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder whose hashes hold."""

    place: str
    config: Config
    progress: dict[str, Any]
    """Step, best score, data hash, MLflow run: plain JSON values."""
    model_state: dict[str, Tensor]
    train_state: dict[str, Any] | None
    """None: for inference, nothing resumes from it."""


def snapshot(state: T) -> T:
    """A copy of a state in main memory, which later steps do not change."""
    if isinstance(state, Tensor):
        return cast(T, state.detach().to("cpu", copy=True))
    if isinstance(state, dict):
        return cast(T, {key: snapshot(value) for key, value in state.items()})
    if isinstance(state, list | tuple):
        return cast(T, type(state)(snapshot(value) for value in state))
    return state


def write_checkpoint(
    place: str,
    *,
    config: Config,
    progress: dict[str, Any],
    model_state: dict[str, Tensor],
    train_state: dict[str, Any] | None,
) -> None:
    """Write a checkpoint's folder; a reader takes it for complete only when all of it is there."""
    described = {"format": FORMAT, "config": to_dict(config), "progress": progress}
    files = {
        MODEL: save({name: tensor.contiguous() for name, tensor in model_state.items()}),
        CONFIG: json.dumps(described, indent=1, allow_nan=False).encode(),
    }
    if train_state is not None:
        buffer = io.BytesIO()
        torch.save(train_state, buffer)
        files[TRAIN_STATE] = buffer.getvalue()
    _write_files(place, files)


def _write_files(place: str, files: Mapping[str, bytes]) -> None:
    storage.remove(storage.join(place, HASHES))
    for name, content in files.items():
        storage.write_atomic(storage.join(place, name), content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    storage.write_atomic(storage.join(place, HASHES), json.dumps(hashes, indent=1).encode())


def copy_network(place: str, out: str) -> None:
    """Copy a checkpoint without its training state, which only a resume needs."""
    contents = {name: storage.read_bytes(storage.join(place, name)) for name in (MODEL, CONFIG)}
    _write_files(out, contents)


def read_checkpoint(place: str) -> Checkpoint:
    """Read and check a checkpoint; of a run's folder, its best one, or the newest if none is.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file that does not have its hash, or one that is none of ours.
    """
    place = resolve(place)
    hashes = storage.read_json(storage.join(place, HASHES))
    required, known = {MODEL, CONFIG}, {MODEL, CONFIG, TRAIN_STATE}
    if not isinstance(hashes, dict) or not required <= set(hashes) <= known:
        raise ValueError(f"{place}: {HASHES} is damaged, use another checkpoint")
    content = {name: _checked(place, name, sha256) for name, sha256 in hashes.items()}
    config, progress = parse_config(content[CONFIG], place, FORMAT)
    return Checkpoint(
        place=place,
        config=config,
        progress=progress,
        model_state=parse_weights(content[MODEL], place),
        train_state=_unpickled(place, content[TRAIN_STATE]) if TRAIN_STATE in content else None,
    )


def _unpickled(place: str, content: bytes) -> dict[str, Any]:
    """Tensors, numbers and containers of them; anything else is refused, no code runs."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{place}: {TRAIN_STATE} holds more than tensors and numbers; it is not ours, "
            f"do not use it"
        ) from error
    except Exception as error:  # torch raises many kinds for a bad file; all mean the same here
        raise ValueError(
            f"{place}: {TRAIN_STATE} cannot be read ({error!r:.120}); use another checkpoint"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{place}: {TRAIN_STATE} holds no dict; use another checkpoint")
    return state


def _checked(place: str, name: str, sha256: str) -> bytes:
    content = storage.read_bytes(storage.join(place, name))
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{place}: {name} does not have the SHA-256 that {HASHES} names; "
            f"it is damaged, use another checkpoint"
        )
    return content


def resolve(place: str) -> str:
    """The checkpoint meant by a checkpoint's folder, a folder of checkpoints or a run's folder.

    Raises:
        FileNotFoundError: none of these.
        ValueError: a model that MLflow names; or `best.json` is damaged.
    """
    if place.startswith(OF_MLFLOW):
        raise ValueError(
            f"{place}: only the commands in pipelines/ ask MLflow; download it (mlflow artifacts "
            f"download --artifact-uri {place} --dst-path DIR) and give DIR/data/sddusr"
        )
    if storage.exists(storage.join(place, HASHES)):
        return place
    for folder in (storage.join(place, "checkpoints"), place):
        if storage.exists(storage.join(folder, BEST)):
            note = storage.read_json(storage.join(folder, BEST))
            name = note.get("folder") if isinstance(note, dict) else None
            if not isinstance(name, str):
                raise ValueError(f"{folder}: {BEST} names no folder; give a checkpoint's own")
            return storage.member(folder, name)
        whole = [name for name in _step_folders(folder)
                 if storage.exists(storage.join(folder, name, HASHES))]  # fmt: skip
        if whole:
            return storage.join(folder, whole[-1])
    raise FileNotFoundError(
        f"{place}: no checkpoint there; give a run's folder or one of its checkpoints/step-*"
    )


def _step_folders(folder: str) -> list[str]:
    """Names of the checkpoints' folders, oldest first."""
    if not storage.exists(folder):
        return []
    return [name for name in storage.list_folders(folder) if FOLDER.fullmatch(name)]


def load_model(place: str) -> SDDuSR:
    """The trained network of a checkpoint, ready for inference."""
    checkpoint = read_checkpoint(place)
    model = build_model(checkpoint.config.model, checkpoint.model_state, checkpoint.place)
    return model.eval().requires_grad_(False)


class CheckpointStore:
    """The checkpoints of one run: the last few and the best are kept."""

    def __init__(self, folder: str, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def write(
        self,
        *,
        config: Config,
        progress: dict[str, Any],
        model_state: dict[str, Tensor],
        train_state: dict[str, Any],
    ) -> str:
        """Write the checkpoint of `progress["step"]` and drop those no longer kept."""
        name = f"step-{progress['step']:08d}"
        place = storage.join(self.folder, name)
        write_checkpoint(
            place,
            config=config,
            progress=progress,
            model_state=model_state,
            train_state=train_state,
        )
        best = f"step-{progress['best_step']:08d}"
        if progress["best_step"] and storage.exists(storage.join(self.folder, best, HASHES)):
            note = {"folder": best, "score": progress["best_score"]}
            storage.write_atomic(storage.join(self.folder, BEST), json.dumps(note).encode())
        self._drop_old(best)
        return place

    def newest_good(self) -> Checkpoint | None:
        """The newest whole checkpoint; the log names damaged ones."""
        for name in reversed(_step_folders(self.folder)):
            try:
                found = read_checkpoint(storage.join(self.folder, name))
                build_model(found.config.model, found.model_state, found.place)
                return found
            except (ValueError, FileNotFoundError) as error:
                log.warning("Skipping damaged checkpoint %s", error)
        return None

    def _drop_old(self, best: str) -> None:
        names = _step_folders(self.folder)
        for name in set(names[: -self.keep]) - {best}:
            # Its hashes go first: what is half deleted is no checkpoint.
            storage.remove(storage.join(self.folder, name, HASHES))
            storage.remove_folder(storage.join(self.folder, name))
