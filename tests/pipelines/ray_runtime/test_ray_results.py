"""Ray's own objects over a run's folder, without a cluster."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import ray.train
from pyarrow import fs
from ray.tune import ResultGrid

from pipelines.options.train import TrainOptions
from pipelines.ray_runtime import fit
from pipelines.ray_runtime.results import run_result
from sddusr import storage
from sddusr.checkpoint import load_model
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import SCORE
from tests.runs import CONFIG, Notebook, train_in
from tests.tune.conftest import SPACE, TOKENS
from tune.grid import SearchGrid
from tune.space import with_values
from tune.trials import SearchFolder


class Writer(Notebook):
    """A reporter that writes rows as Ray's workers do."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = RunFolder(folder)

    def log(self, step, metrics):
        self.folder.log_metrics(step, metrics)


def trained(shards, folder: str, config=CONFIG) -> None:
    train_in(shards, f"{folder}/checkpoints", config, Writer(folder))


def test_a_run_is_a_result_of_ray_train(tiny_shards, tmp_path):
    folder = str(tmp_path / "run")
    trained(tiny_shards, folder, replace(CONFIG, train=replace(CONFIG.train, keep_checkpoints=3)))
    result = run_result(folder)
    assert isinstance(result, ray.train.Result)
    steps = [metrics["step"] for _, metrics in result.best_checkpoints]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    assert result.checkpoint.path.endswith("checkpoints/step-00000006")
    assert result.metrics[SCORE] == result.best_checkpoints[-1][1][SCORE]
    assert {"train/total", "train/step_s", SCORE} <= set(result.metrics_dataframe.columns)
    assert list(result.metrics_dataframe["step"]) == [2, 3, 4, 6]
    best = result.get_best_checkpoint(SCORE, "max")
    scored = [(m[SCORE], c.path) for c, m in result.best_checkpoints if SCORE in m]
    assert best.path == max(scored)[1]
    with best.as_directory() as place:  # what Ray hands on is a checkpoint of ours, where it lies
        assert load_model(place)
        assert place == best.path
    shutil.rmtree(f"{folder}/checkpoints/step-00000004")  # dropped, as old ones are
    assert [m["step"] for _, m in run_result(folder).best_checkpoints if m["step"] == 4] == []


def test_ray_train_keeps_its_files_in_the_runs_own_folder_in_a_bucket(bucket):
    folder = f"{bucket}/50% é #1/run 2?region=us-east-1"
    workers = ray.train.ScalingConfig()
    trainer = fit._trainer(TrainOptions(), workers, "data", folder, "", None, "")
    assert trainer.run_config.name == storage.name(folder)
    _, parent = fs.FileSystem.from_uri(trainer.run_config.storage_path)
    assert f"{parent}/{trainer.run_config.name}" == storage.resolve(folder)[1]


def test_a_run_that_has_not_begun_is_an_empty_result(tmp_path):
    result = run_result(str(tmp_path / "run"))
    assert (result.checkpoint, result.metrics, result.metrics_dataframe) == (None, None, None)


def test_a_search_is_a_result_grid_of_ray_tune(tiny_shards, tmp_path):
    search = SearchFolder(str(tmp_path / "search"))
    for number, tokens in enumerate((2, 4)):
        values = {TOKENS: tokens}
        search.propose(number, values)
        trained(tiny_shards, search.run(number).folder, with_values(CONFIG, values))
        search.end(number, "finished")
    search.propose(2, {TOKENS: 8})
    search.end(2, "failed", "out of memory")
    grid = SearchGrid(search.folder)
    assert isinstance(grid, ResultGrid)
    assert (len(grid), grid.num_errors, grid.num_terminated) == (3, 1, 2)
    assert [str(error) for error in grid.errors] == ["out of memory"]
    assert grid.experiment_path == search.folder
    best = grid.get_best_result()
    scores = {trial.number: trial.score for trial in search.trials() if trial.score}
    assert best.config == {TOKENS: (2, 4)[max(scores, key=lambda number: scores[number])]}
    assert grid.get_best_result("train/total", "min", "last").metrics["step"] == 6
    frame = grid.get_dataframe()
    assert list(frame["trial"]) == [0, 1, 2]
    assert list(frame[f"config/{TOKENS}"]) == [2, 4, 8]
    at_best = grid.get_dataframe(SCORE, "max")
    assert at_best[SCORE].dropna().tolist() == pytest.approx([scores[0], scores[1]])
    assert "ResultGrid<[" in repr(grid)
    with pytest.raises(RuntimeError, match="no trial logged 'nothing'"):
        grid.get_best_result("nothing")
    assert isinstance(frame, pd.DataFrame)
    assert TOKENS in SPACE.short_names()
