import gzip
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sddusr.checkpoint import load_model, read_checkpoint, resolve
from sddusr.config import DetailConfig, LossConfig
from sddusr.data.dataset import ShardSet
from sddusr.data.manifest import build_manifest, write_manifest
from sddusr.data.shard import write_shard
from sddusr.model.sddusr import SDDuSR
from sddusr.training.learner import Learner
from sddusr.training.loop import load_start
from sddusr.training.validation import validate
from sddusr.visualization.diagnostics import TITLES
from tests.conftest import make_triplet
from tests.runs import CONFIG, CPU, LAST, PSNR, run, weights, with_train
from tests.tiny import TINY, without_zero_starts


def test_a_run_logs_validates_and_saves_on_its_cadence(tiny_shards, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        progress, notebook = run(tiny_shards, tmp_path)
    assert progress.step == 6
    assert "step 1/6: loss" in caplog.text  # early, whatever the cadence
    trained = [step for step, row in notebook.rows if "train/total" in row]
    validated = [step for step, row in notebook.rows if "val/full_psnr" in row]
    assert (trained, validated) == ([2, 4, 6], [3, 6])
    assert {2, 4, 6} <= set(notebook.milestones)
    assert notebook.shown == [0, 3, 6]  # the start too, which a slider over steps begins with
    row = notebook.rows[0][1]
    assert row["train/samples_per_s"] > 0
    assert 0 <= row["train/data_wait_share"] <= 1
    assert row["train/learning_rate"] < 2e-3
    kinds = {name.rsplit("/", 1)[1] for name in notebook.pictures}
    assert kinds == {*TITLES, "sheet"} - {"trust"}  # no detail skip
    assert all(picture.dtype == np.uint8 for picture in notebook.pictures.values())


@pytest.mark.usefixtures("without_bfloat16")
def test_bfloat16_that_the_processor_emulates_is_told(tiny_shards, tmp_path, caplog):
    run(tiny_shards, tmp_path / "chosen", with_train(num_steps=1))
    assert "emulated" not in caplog.text
    run(tiny_shards, tmp_path / "asked", with_train(num_steps=1, precision="bfloat16"))
    assert "pass --train.precision float32" in caplog.text


def test_a_few_steps_lower_the_loss(tiny_shards, tmp_path):
    longer = replace(CONFIG.train, num_steps=40, log_every=10, validate_every=40)
    _, notebook = run(tiny_shards, tmp_path, replace(CONFIG, model=TINY, train=longer))
    losses = [row["train/reconstruction"] for _, row in notebook.rows if "train/total" in row]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


def test_validation_tells_what_is_taken_from_ref(tiny_shards):
    """Nothing by a network that adds nothing to bicubic, something by one that Ref reaches."""
    torch.manual_seed(0)
    model = SDDuSR(CONFIG.model).eval()
    name = "val/center_psnr_from_ref"
    assert validate(model, tiny_shards, "float32")[0][name] == 0
    without_zero_starts(model)
    assert validate(model, tiny_shards, "float32")[0][name] != 0


def test_averaged_weights_are_what_is_validated_and_published(tiny_shards, tmp_path):
    _, notebook = run(tiny_shards, tmp_path, with_train(ema_decay=0.9, precision="float32"))
    (told,) = [row["val/full_psnr"] for step, row in notebook.rows if step == 6 and PSNR in row]
    last = str(tmp_path / "step-00000006")
    published = load_model(last)
    assert validate(published, tiny_shards, "float32")[0][PSNR] == pytest.approx(told, abs=1e-4)
    raw = read_checkpoint(last).train_state["network"]
    assert any(not torch.equal(raw[name], value) for name, value in weights(last).items())
    published.load_state_dict(raw)
    assert validate(published, tiny_shards, "float32")[0][PSNR] != pytest.approx(told, abs=1e-4)


def test_a_profile_is_told_and_changes_nothing(tiny_shards, tmp_path, caplog):
    run(tiny_shards, tmp_path / "plain", with_train(validate_every=6))
    with caplog.at_level(logging.INFO):
        _, notebook = run(
            tiny_shards, tmp_path / "watched", with_train(profile_steps=2, validate_every=6)
        )
    assert "aten::" in caplog.text
    assert "Self CPU" in caplog.text
    (trace,) = notebook.files
    events = json.loads(gzip.decompress(trace))["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"ProfilerStep#4", "ProfilerStep#5"} <= names
    assert "ProfilerStep#3" not in names
    plain, watched = weights(tmp_path / "plain" / LAST), weights(tmp_path / "watched" / LAST)
    torch.testing.assert_close(plain, watched, rtol=0, atol=0)


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


def test_a_run_may_start_from_what_fits_of_another_network(tiny_shards, tmp_path, caplog):
    run(tiny_shards, tmp_path / "rec")
    caplog.set_level("INFO")
    start = replace(CONFIG.train, init_from=str(tmp_path / "rec"), init_missing="fresh")
    more = replace(CONFIG.model, detail=DetailConfig(enabled=True))
    learner = Learner(replace(CONFIG, model=more), CPU)
    fresh = {name: x.clone() for name, x in learner.model.trust.state_dict().items()}
    load_start(learner.model, replace(CONFIG, train=start, model=more))
    earlier = weights(tmp_path / "rec")
    own = learner.model.state_dict()
    torch.testing.assert_close({name: own[name] for name in earlier}, earlier)
    torch.testing.assert_close(dict(learner.model.trust.state_dict()), fresh)
    assert "fresh: trust" in caplog.text
    refused = replace(CONFIG, train=replace(start, init_missing="refuse"), model=more)
    with pytest.raises(ValueError, match=r"--train\.init-missing fresh"):
        load_start(learner.model, refused)


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
