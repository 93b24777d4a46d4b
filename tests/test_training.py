import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_triplet

from sddusr.checkpoint import CheckpointStore, load_model, read_checkpoint, resolve
from sddusr.config import Config, DataConfig, LossConfig, OptimConfig, TrainConfig
from sddusr.data.manifest import build_manifest, write_manifest
from sddusr.data.shard_file import write_shard
from sddusr.data.shards import ShardSet
from sddusr.data.stream import Stream
from sddusr.training import Learner, NonFiniteError, load_start, train
from tests.tiny import TINY

CPU = torch.device("cpu")

CONFIG = Config(
    model=replace(TINY, image_skip=True),
    optim=OptimConfig(lr=2e-3),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(num_steps=6, batch_size=2, log_every=2, validate_every=3, checkpoint_every=2),
)


class Notebook:
    """A reporter that remembers."""

    def __init__(self):
        self.rows, self.pictures, self.milestones = [], {}, []

    def log(self, step, metrics):
        self.rows.append((step, dict(metrics)))

    def show(self, step, pictures):
        self.pictures |= pictures

    def milestone(self, step, metrics):
        self.milestones.append(step)


def run(shards, folder, config=CONFIG, keep=3):
    notebook = Notebook()
    store = CheckpointStore(str(folder), keep)
    return train(config, shards, store, notebook, CPU, "run-1"), notebook


def weights(folder):
    return load_model(str(folder)).state_dict()


def test_a_run_logs_validates_and_saves_on_its_cadence(tiny_shards, tmp_path):
    progress, notebook = run(tiny_shards, tmp_path)
    assert progress.step == 6
    trained = [step for step, row in notebook.rows if "train/total" in row]
    validated = [step for step, row in notebook.rows if "val/full_psnr" in row]
    assert (trained, validated) == ([2, 4, 6], [3, 6])
    assert {2, 4, 6} <= set(notebook.milestones)
    row = notebook.rows[0][1]
    assert row["train/samples_per_s"] > 0
    assert 0 <= row["train/data_wait_share"] <= 1
    assert row["train/learning_rate"] < 2e-3
    kinds = {name.rsplit("/", 1)[1] for name in notebook.pictures}
    assert {"lr", "ref", "sr", "hr", "mask", "confidence"} <= kinds
    assert all(picture.dtype == np.uint8 for picture in notebook.pictures.values())


def test_a_few_steps_lower_the_loss(tiny_shards, tmp_path):
    longer = replace(CONFIG.train, num_steps=40, log_every=10, validate_every=40)
    _, notebook = run(tiny_shards, tmp_path, replace(CONFIG, model=TINY, train=longer))
    losses = [row["train/reconstruction"] for _, row in notebook.rows if "train/total" in row]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


def test_an_interrupted_run_ends_bit_equal_to_an_unbroken_one(tiny_shards, tmp_path):
    class Cut(Exception):
        pass

    class CutAt4(Notebook):
        def milestone(self, step, metrics):
            if step == 4:
                raise Cut

    unbroken, _ = run(tiny_shards, tmp_path / "unbroken")
    store = CheckpointStore(str(tmp_path / "broken"), 3)
    with pytest.raises(Cut):
        train(CONFIG, tiny_shards, store, CutAt4(), CPU, "run-1")
    resumed = train(CONFIG, tiny_shards, store, Notebook(), CPU, "another")
    assert resumed == unbroken  # the best score and MLflow's run, too
    last = "step-00000006"
    torch.testing.assert_close(
        weights(tmp_path / "broken" / last), weights(tmp_path / "unbroken" / last), rtol=0, atol=0
    )


def test_a_finished_run_has_nothing_left_to_do(tiny_shards, tmp_path):
    first, _ = run(tiny_shards, tmp_path)
    again, notebook = run(tiny_shards, tmp_path)
    assert again == first
    assert notebook.rows == []


def test_another_config_never_resumes_silently(tiny_shards, tmp_path):
    run(tiny_shards, tmp_path)
    other = replace(CONFIG, optim=OptimConfig(lr=1e-3))
    with pytest.raises(ValueError, match=r"optim\.lr was 0\.002, is 0\.001; take another --name"):
        run(tiny_shards, tmp_path, other)


def test_a_damaged_checkpoint_costs_one_interval_not_the_run(tiny_shards, tmp_path, caplog):
    unbroken, _ = run(tiny_shards, tmp_path)
    final = weights(tmp_path / "step-00000006")
    (tmp_path / "step-00000006" / "model.safetensors").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        resumed, _ = run(tiny_shards, tmp_path)
    assert "CHECKPOINT PASSED OVER" in caplog.text
    assert resumed == unbroken
    torch.testing.assert_close(weights(tmp_path / "step-00000006"), final, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_the_update(tiny_shards, value):
    learner = Learner(CONFIG, CPU)
    with Stream(tiny_shards, CONFIG.data, seed=0, batch_size=2) as stream:
        batch = next(stream)
    batch.hr[0, 0, 0, 0] = value
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    with pytest.raises(NonFiniteError, match=rf"step 7, rank 0: .*samples .*{batch.ids[0]}"):
        learner.step(batch, 7)
    torch.testing.assert_close(dict(learner.model.state_dict()), before, rtol=0, atol=0)


def test_ranks_gradients_average_to_the_whole_batchs(tiny_shards):
    """Two ranks' shares of a global batch, without the wire between them."""
    learner = Learner(replace(CONFIG, train=replace(CONFIG.train, precision="float32")), CPU)

    def gradients(rank, world):
        with Stream(
            tiny_shards, CONFIG.data, seed=0, batch_size=4, rank=rank, world=world
        ) as stream:
            batch = next(stream)
        learner.model.zero_grad()
        learner.model.train()
        output = learner.model(batch.lr, batch.lr_center, batch.ref, batch.seeds)
        (output.sr - batch.hr).abs().mean().backward()
        return [p.grad.clone() for p in learner.model.parameters() if p.grad is not None]

    whole, shares = gradients(0, 1), [gradients(rank, 2) for rank in range(2)]
    averaged = [(a + b) / 2 for a, b in zip(*shares, strict=True)]
    torch.testing.assert_close(averaged, whole, rtol=1e-3, atol=1e-6)


def test_the_full_loss_trains_and_resumes(tiny_shards, tmp_path, vgg19_file):
    full = replace(
        CONFIG,
        losses=LossConfig(stage="full", vgg_weights=vgg19_file, discriminator_dim=8),
        train=replace(CONFIG.train, num_steps=2, log_every=1, validate_every=2, checkpoint_every=1),
    )
    _, notebook = run(tiny_shards, tmp_path, full)
    row = notebook.rows[0][1]
    for term in ("reconstruction", "mask", "perceptual", "adversarial", "discriminator"):
        assert np.isfinite(row[f"train/{term}"])
    final = read_checkpoint(str(tmp_path / "step-00000002"))
    (tmp_path / "step-00000002" / "hashes.json").unlink()
    assert run(tiny_shards, tmp_path, full)[0].step == 2  # from step 1
    again = read_checkpoint(str(tmp_path / "step-00000002"))
    torch.testing.assert_close(again.model_state, final.model_state, rtol=0, atol=0)
    torch.testing.assert_close(again.train_state, final.train_state, rtol=0, atol=0)


def test_a_run_starts_from_another_runs_network(tiny_shards, tmp_path):
    run(tiny_shards, tmp_path / "rec")
    rec = replace(CONFIG.train, init_from=str(tmp_path / "rec"), num_steps=1)
    learner = Learner(CONFIG, CPU)
    elsewhere = replace(CONFIG.model.matching, vgg_weights="/no/vgg16.pth")
    learned = replace(CONFIG, train=rec, model=replace(CONFIG.model, matching=elsewhere))
    load_start(learner.model, learned)
    torch.testing.assert_close(dict(learner.model.state_dict()), weights(tmp_path / "rec"))
    other = replace(CONFIG, train=rec, model=replace(CONFIG.model, image_skip=False))
    with pytest.raises(ValueError, match=r"another shape.*init-from"):
        load_start(learner.model, other)


def test_without_held_out_pictures_the_newest_checkpoint_counts(tmp_path):
    root = str(tmp_path / "train_only")
    triplets = [make_triplet(f"train-{i}", seed=i) for i in range(2)]
    entry = write_shard(f"{root}/train-00000.parquet", "train", triplets, {})
    write_manifest(root, build_manifest([entry], {}, {}))
    progress, notebook = run(ShardSet(root), tmp_path / "run")
    assert progress.best_step == 0
    assert not notebook.pictures
    assert load_model(str(tmp_path / "run")).state_dict().keys()
    assert Path(resolve(str(tmp_path / "run"))).name == "step-00000006"


def test_missing_weights_stop_the_run_before_its_first_step(tiny_shards, tmp_path):
    config = replace(
        CONFIG, model=replace(TINY, matching=replace(TINY.matching, vgg_weights="/no/vgg16.pth"))
    )
    with pytest.raises(FileNotFoundError, match=r"VGG16 weights: no file /no/vgg16\.pth"):
        run(tiny_shards, tmp_path, config)
    assert not any(tmp_path.iterdir())
