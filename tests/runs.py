"""Short training runs that many tests start, and a reporter that remembers."""

from dataclasses import replace
from pathlib import Path

import torch

from sddusr.checkpoint import CheckpointStore, load_model
from sddusr.config import Config, DataConfig, OptimConfig, TrainConfig
from sddusr.training.loop import train
from sddusr.training.signals import go_on
from tests.tiny import TINY

CPU = torch.device("cpu")
LAST = "step-00000006"
PSNR = "val/full_psnr"

CONFIG = Config(
    model=replace(TINY, image_skip=True),
    optim=OptimConfig(lr=2e-3),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(num_steps=6, batch_size=2, log_every=2, validate_every=3, checkpoint_every=2),
)


class Notebook:
    """A reporter that remembers."""

    def __init__(self):
        self.rows, self.pictures, self.milestones, self.files = [], {}, [], []
        self.shown, self.measured = [], []

    def log(self, step, metrics):
        self.rows.append((step, dict(metrics)))

    def measure(self, metrics):
        self.measured.append(dict(metrics))

    def show(self, step, pictures):
        self.pictures |= pictures
        self.shown.append(step)

    def keep_file(self, path):
        self.files.append(Path(path).read_bytes())

    def milestone(self, step, metrics):
        self.milestones.append(step)


def run(shards, folder, config=CONFIG, keep=3, poll_request=go_on):
    notebook = Notebook()
    return train_in(shards, folder, config, notebook, keep, poll_request), notebook


def train_in(shards, folder, config, reporter, keep=3, poll_request=go_on):
    store = CheckpointStore(str(folder), keep)
    return train(config, shards, store, reporter, CPU, "run-1", poll_request)


def with_train(**changes):
    return replace(CONFIG, train=replace(CONFIG.train, **changes))


def weights(folder):
    return load_model(str(folder)).state_dict()
