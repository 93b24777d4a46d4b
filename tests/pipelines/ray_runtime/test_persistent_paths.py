import json
from pathlib import Path

import pytest
import ray

from pipelines.ray_runtime import persistent_paths
from pipelines.tracking.links import tracking_uri


@pytest.fixture
def in_a_job(monkeypatch):
    told = {"runtime_env": {"working_dir": "gcs://_ray_pkg_0123.zip"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(told))


@pytest.fixture
def two_nodes(ray_session, monkeypatch):
    """The session's node, twice."""
    (node,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [node, {**node, "NodeManagerAddress": "other"}])


def test_outside_a_job_relative_places_belong_to_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert persistent_paths.persistent_path("runs", "--storage") == str(tmp_path / "runs")
    assert persistent_paths.home() == tmp_path
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri("sqlite:///other.db") == f"sqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize("place", ["/data/runs", "~/runs", "s3://lab/runs", "file:///data/runs"])
def test_a_job_takes_places_that_outlive_it(in_a_job, place):
    assert persistent_paths.persistent_path(place, "--storage").endswith("runs")


@pytest.mark.parametrize("place", ["runs", "./runs", "../runs"])
def test_a_job_refuses_places_in_its_own_folder(in_a_job, place):
    with pytest.raises(ValueError, match=r"--storage is .*relative to the job's working folder"):
        persistent_paths.persistent_path(place, "--storage")


def test_a_job_keeps_what_nobody_placed_in_the_users_home(in_a_job, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert persistent_paths.home() == Path.home() / "sddusr"
    assert tracking_uri(None) == f"sqlite:///{Path.home()}/sddusr/mlflow.db"
    with pytest.raises(ValueError, match=r"'sqlite:///mlflow\.db', relative to the job's"):
        tracking_uri("sqlite:///mlflow.db")


def test_one_node_needs_no_shared_place(ray_session, tmp_path):
    persistent_paths.check_is_named(None, "--storage", "a folder")
    persistent_paths.check_seen_by_all(files={"--data": "/no/such/file"}, folders={})


def test_several_nodes_need_a_place_that_all_see(two_nodes, tmp_path):
    with pytest.raises(ValueError, match=r"has 2 nodes and no --storage is given; give a folder"):
        persistent_paths.check_is_named(None, "--storage", "a folder")
    persistent_paths.check_is_named("/shared", "--storage", "a folder")
    data, storage = tmp_path / "data.json", tmp_path / "runs"
    data.touch()
    folders = {"--storage": str(storage), "--tracking-uri": "s3://lab/anything"}
    persistent_paths.check_seen_by_all(files={"--data": str(data)}, folders=folders)
    assert list(storage.iterdir()) == []  # no mark stays
    missing = {"--data": str(tmp_path / "elsewhere" / "manifest.json")}
    with pytest.raises(ValueError, match=rf"does not see {tmp_path}/elsewhere \(--data\)"):
        persistent_paths.check_seen_by_all(files=missing, folders=folders)
