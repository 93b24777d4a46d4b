"""A whole search: refused where it makes no sense, resumed where it was cut off, run once."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.util.state import list_placement_groups

from pipelines.tracking.client import MlflowClient
from pipelines.tracking.mirror import noted_run
from sddusr.checkpoint import load_model
from sddusr.data.folder_lock import LockedError, hold_lock
from sddusr.data.manifest import build_manifest, write_manifest
from sddusr.data.shard import write_shard
from tests.conftest import make_triplet
from tests.runs import CONFIG, run
from tests.tune import driver
from tune import plan as planning
from tune import trial_resources
from tune.search import run_search
from tune.space import with_values
from tune.trials import SearchFolder

PATIENCE_S = 120

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def options(tiny_shards, tmp_path):
    return driver.options(tiny_shards.root, str(tmp_path))


def start_and_signal_within_the_third_trial(data: str, folder: Path, number: int) -> int:
    """A search's exit code after a signal to its command, and not to its other processes."""
    command = [sys.executable, "-m", "tests.tune.driver", data, str(folder)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    checkpoints = folder / "search" / "trials" / "0002" / "checkpoints"
    try:
        while not list(checkpoints.glob("*/hashes.json")):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
    finally:
        process.send_signal(number)
        code = process.wait(PATIENCE_S)
    return code


def tree_of(client, parent_id):
    """The runs below a search's own, by the number of their trial."""
    query = f"tags.`mlflow.parentRunId` = '{parent_id}'"
    runs = client.search_runs([client.get_run(parent_id).info.experiment_id], query)
    numbers = [int(run.data.tags["sddusr.trial"]) for run in runs]
    assert len(set(numbers)) == len(numbers)
    return dict(zip(numbers, runs, strict=True))


def rows_of(client, run):
    """How often each (metric, step) is there."""
    return Counter(
        (key, point.step)
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_search_that_is_told_to_end_saves_its_trials(options, tiny_shards, tmp_path, number):
    code = start_and_signal_within_the_third_trial(tiny_shards.root, tmp_path, number)
    assert code == 128 + number, (tmp_path / "log").read_text()
    assert "saving after the next steps" in (tmp_path / "log").read_text()
    search = SearchFolder(str(tmp_path / "search"))
    assert [trial.status for trial in search.trials()] == ["finished", "failed", "open"]
    assert not list(tmp_path.glob(".search.lock"))
    client = MlflowClient(options.tracking_uri)
    parent_id = noted_run(str(tmp_path / "search"))
    assert client.get_run(parent_id).info.status == "KILLED"
    assert tree_of(client, parent_id)[2].info.status == "KILLED"
    result = run_search(replace(options, resume=True))
    assert [trial.status for trial in result.trials] == ["finished", "failed", "finished"]


def test_a_second_start_of_a_search_is_refused_by_name_and_changes_nothing(options, tmp_path):
    with (
        hold_lock(str(tmp_path / ".search.lock"), "search"),
        pytest.raises(LockedError, match=r"search search in .*: another process is writing there"),
    ):
        run_search(options)
    assert not (tmp_path / "search").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_a_search_whose_driver_is_killed_goes_on_and_doubles_nothing(
    options, tiny_shards, tmp_path, caplog
):
    start_and_signal_within_the_third_trial(tiny_shards.root, tmp_path, signal.SIGKILL)
    search = SearchFolder(str(tmp_path / "search"))
    assert [trial.status for trial in search.trials()] == ["finished", "failed", "open"]
    with pytest.raises(ValueError, match=r"is not finished: 2 of 3 trials are over; --resume"):
        run_search(options)

    result = run_search(replace(options, resume=True))
    assert result.is_complete
    assert [trial.status for trial in result.trials] == ["finished", "failed", "finished"]
    assert "128" in result.trials[1].reason
    assert result.table.count("failed") == 1
    third = result.trials[2]
    run(tiny_shards, tmp_path / "unbroken", with_values(driver.LONG, third.values))
    unbroken = load_model(str(tmp_path / "unbroken")).state_dict()
    for name, value in load_model(third.folder).state_dict().items():
        assert torch.equal(value, unbroken[name])

    client = MlflowClient(options.tracking_uri)
    parent_id = noted_run(result.folder)
    children = tree_of(client, parent_id)
    assert sorted(children) == [0, 1, 2]
    assert [children[k].info.status for k in range(3)] == ["FINISHED", "FAILED", "FINISHED"]
    for child in children.values():
        assert set(rows_of(client, child).values()) <= {1}
    logged = {step for key, step in rows_of(client, children[2]) if key == "train/total"}
    assert logged == {10, 20, 30, 40, 50, 60}
    best = [k for k in range(3) if children[k].data.tags["sddusr.best"] == "true"]
    assert best == [result.best.number]
    (version,) = client.search_model_versions("name='sddusr-demo'")
    assert version.run_id == children[result.best.number].info.run_id
    parent = client.get_run(parent_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sddusr.best_trial"] == str(result.best.number)
    files = {Path(item.path).name for item in client.list_artifacts(parent_id, "search")}
    assert {"trials.parquet", "trials.csv", "table.md", "page.html"} <= files

    again = run_search(options)  # the same command: nothing is run
    assert again == result
    assert tree_of(client, parent_id).keys() == children.keys()
    assert {rows_of(client, child)["train/total", 60] for child in children.values()} == {0, 1}
    assert len(client.search_model_versions("name='sddusr-demo'")) == 1
    with pytest.raises(ValueError, match=r"config\.train\.num_steps was 60, is 30"):
        run_search(replace(options, steps=30, resume=True))


def test_trials_of_several_workers_leave_no_placement_group_behind(options, tmp_path):
    space = tmp_path / "one.yaml"
    space.write_text("model.dictionary.num-tokens: [8]\n")
    result = run_search(
        replace(
            options,
            config=replace(CONFIG, train=replace(CONFIG.train, num_steps=4)),
            space=str(space),
            workers_per_trial=2,
            concurrent=None,
            cpus_per_trial=None,
            register_model="",
        )
    )
    (trial,) = result.trials
    assert (trial.status, [point.step for point in trial.curve]) == ("finished", [3, 4])
    assert load_model(trial.folder).state_dict()["dictionary.center_tokens"].shape[0] == 8
    groups = list_placement_groups(address=ray.get_runtime_context().gcs_address)
    assert [group.state for group in groups if group.state != "REMOVED"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "--trials is 0, need more than 0"),
        ({"hours": -1.0}, "--hours is -1.0, need more than 0"),
        ({"asha_factor": 1.0}, "--asha-factor is 1.0, need more than 1"),
        ({"retry_failed": True}, "--retry-failed goes on with a search; give --resume too"),
        ({"fresh": True, "resume": True}, "give one of them"),
        ({"concurrent": 5}, r"5 trial\(s\) at a time .* do not fit the cluster"),
        ({"gpus_per_trial": 1.0}, "do not fit the cluster, which has 2 cores and 0 GPUs"),
        ({"scheduler": "asha", "workers_per_trial": 2}, "take --scheduler none"),
        ({"workers_per_trial": 2, "gpus_per_trial": 0.5}, "each of several workers needs 0 or 1"),
        ({"space": "tokns"}, "--space is 'tokns', need one of tokens"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(options, changes, message):
    with pytest.raises(ValueError, match=message):
        run_search(replace(options, **changes))
    assert not Path(options.storage, "search").exists()


@pytest.mark.parametrize("name", ["", "..", "../mine", "{absolute}"])
def test_a_name_that_is_a_path_is_refused_and_deletes_nothing(options, tmp_path, name):
    kept = tmp_path / "mine" / "thesis.tex"
    kept.parent.mkdir()
    kept.write_text("years of work")
    with pytest.raises(ValueError, match=r"--name is .*, need a plain name"):
        run_search(replace(options, name=name.format(absolute=kept.parent), fresh=True))
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex' and no run of ours"):
        run_search(replace(options, name="mine", fresh=True))
    assert [path.name for path in kept.parent.iterdir()] == ["thesis.tex"]


def test_without_a_split_val_a_search_would_choose_by_test_pictures(options, tmp_path):
    root = str(tmp_path / "shards")
    groups = {"train": make_triplet(), "test": make_triplet("held", "test")}
    entries = [
        write_shard(f"{root}/{split}-00000.parquet", split, [triplet], {})
        for split, triplet in groups.items()
    ]
    write_manifest(root, build_manifest(entries, {}, {}))
    with pytest.raises(ValueError, match=r"no split val, .* preprocess with --hold-out"):
        run_search(replace(options, data=root))


def test_a_cluster_that_is_taken_is_named_rather_than_waited_for(options, monkeypatch):
    monkeypatch.setattr(trial_resources, "FREE_WAIT_S", 0.0)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 0.5})
    with pytest.raises(ValueError, match=r"a trial needs 1 CPU, 0\.5 are free now; .*placement-g"):
        run_search(options)


@pytest.mark.parametrize(
    ("changes", "algorithm", "num"),
    [
        ({}, "grid", 3),
        ({"trials": None}, "grid", 4),
        ({"trials": 9}, "grid", 4),
        ({"search": "random"}, "random", 3),
        ({"search": "random", "trials": None}, "random", 4),
        ({"space": "all", "trials": None}, "optuna", 16),
        ({"space": "all", "trials": None, "hours": 1.0}, "optuna", None),
        ({"space": "all", "hours": 1.0}, "optuna", 3),
        ({"space": "mask", "search": "grid", "trials": None}, "grid", 3),
    ],
)
def test_what_a_search_takes_on(options, changes, algorithm, num):
    plan = planning.make_plan(replace(options, **changes))
    assert (plan.proposer.algorithm, plan.num_trials) == (algorithm, num)


def test_all_that_decides_the_result_is_in_a_searchs_default_name(options, tmp_path):
    def name(**changes):
        return planning.make_plan(replace(options, name=None, **changes)).name

    same = [{}, {"trials": 9}, {"hours": 1.0}, {"concurrent": 2}, {"experiment": "other"}]
    assert len({name(**changes) for changes in same}) == 1
    moved = shutil.copytree(options.data, tmp_path / "moved")
    assert name(data=str(moved)) == name()
    others = [
        {},
        {"seed": 1},
        {"steps": 30},
        {"search": "random"},
        {"scheduler": "none"},
        {"asha_factor": 2.0},
        {"space": "all"},
    ]
    assert len({name(**changes) for changes in others}) == len(others)


def test_asha_needs_a_validation_before_the_last(options, caplog):
    assert planning.make_plan(options).halving is not None
    assert planning.make_plan(replace(options, steps=30)).halving is None
    assert "lower --train.validate-every (30)" in caplog.text
