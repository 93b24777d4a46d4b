"""A whole study on tiny networks, through Ray and into MLflow."""

from dataclasses import replace
from pathlib import Path

import ablation
import pandas as pd
import pytest
from ablation import run_ablation
from ablation_parts.options import AblationOptions, chosen_variants, seeds_of
from ablation_parts.trainings import list_jobs

from pipelines.tracking.client import MlflowClient
from pipelines.tracking.links import PARENT_TAG
from sddusr.config import Config, DataConfig, OptimConfig, TrainConfig
from tests.tiny import TINY

CONFIG = Config(
    model=replace(TINY, image_skip=True),
    optim=OptimConfig(lr=1e-3),
    data=DataConfig(crop_px=16, shift_px=(2, 8)),
    train=TrainConfig(num_steps=2, batch_size=2, log_every=2, validate_every=2, checkpoint_every=2),
)


@pytest.fixture
def options(tiny_shards, tmp_path) -> AblationOptions:
    return AblationOptions(
        data=tiny_shards.root,
        only=("baseline", "sddusr-4"),
        tokens=(4,),
        seeds=2,
        concurrent=2,
        out=str(tmp_path / "study"),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        config=CONFIG,
    )


@pytest.mark.usefixtures("ray_session")
def test_a_study_trains_scores_compares_and_goes_on(options, tiny_shards, monkeypatch):
    text = run_ablation(options)
    assert "| sddusr-4 | baseline |" in text
    assert "| network | whole picture |" in text
    out = Path(options.out)
    scores = pd.read_parquet(out / "scores.parquet")
    rows = scores.groupby(["variant", "seed"])["id"].nunique()
    assert rows.loc["baseline"].to_dict() == rows.loc["sddusr-4"].to_dict() == {0: 2, 1: 2}
    assert (scores[scores["variant"] == "baseline"]["kept_queries"] == 1).all()
    client = MlflowClient(options.tracking_uri)
    experiment = client.get_experiment_by_name(options.experiment)
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if PARENT_TAG not in run.data.tags]
    children = [run for run in runs if PARENT_TAG in run.data.tags]
    assert len(parents) == 1
    assert len(children) == 4
    assert {run.data.tags[PARENT_TAG] for run in children} == {parents[0].info.run_id}
    assert all(f"{Path(tiny_shards.root).name}/full_psnr" in run.data.metrics for run in children)
    files = {each.path for each in client.list_artifacts(parents[0].info.run_id)}
    assert {"ablation.md", "scores.parquet", "gains-over-baseline.png"} <= files

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*/hashes.json")}
    again = run_ablation(replace(options, costs=False))
    after = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*/hashes.json")}
    assert before == after
    assert again.split("| network | whole")[0] == text.split("\n| network | whole")[0]

    further = replace(options, costs=False, first_seed=1, seeds=1)
    assert "seeds 1;" in run_ablation(further)
    assert set(pd.read_parquet(out / "scores.parquet")["seed"]) == {1}


@pytest.mark.parametrize("first_seed", [0, 3])
def test_costs_are_those_of_a_training_that_the_study_has(options, monkeypatch, first_seed):
    monkeypatch.setattr(ablation, "measure_costs", lambda variant, checkpoint, *_: checkpoint)
    options = replace(options, study="knobs", only=("keys-all",), first_seed=first_seed)
    options = replace(options, tests=(str(options.data),))
    chosen = chosen_variants(options)
    assert [each.name for each in chosen] == ["sddusr-4", "keys-all"]  # the second has no weights
    trained = {f"{options.out}/{job.name}" for job in list_jobs(chosen, seeds_of(options))}
    assert set(ablation._costs(options, chosen)) <= trained


def test_a_network_that_the_study_does_not_have_is_refused(options):
    with pytest.raises(ValueError, match="the study has baseline, sfm, constant, sddusr-4"):
        run_ablation(replace(options, only=("sddusr-8",)))


def test_a_study_starts_from_the_whole_method(options):
    dense = replace(CONFIG.model, mask=replace(CONFIG.model.mask, enabled=False))
    with pytest.raises(ValueError, match="leave its parts enabled"):
        replace(options, config=replace(CONFIG, model=dense))
