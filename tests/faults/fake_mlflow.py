"""An MLflow server in memory whose calls can fail as a network's do. It keeps every row that it is
sent, so that one sent twice shows."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from requests import HTTPError, Response

from pipelines.tracking import background, client, files


class FakeServer:
    """What the server holds, and how it fails.

    Attributes:
        away: every call fails, as with a server that is down.
        flaky: share of calls that fail: half of them unheard, half done but unanswered.
        refused: metrics that are refused.
        breaking: metrics on which it answers with an internal error.
        artifact_status: HTTP code with which it refuses all files; 0 takes them.
        deleted: names of experiments that were deleted.
        delay: called before each call.
    """

    def __init__(self, away: bool = False, flaky: float = 0, seed: int = 0) -> None:
        self.away, self.flaky = away, flaky
        self.refused: set[str] = set()
        self.breaking: set[str] = set()
        self.artifact_status = 0
        self.delay: Callable[[], Any] = lambda: None
        self.runs: dict[str, SimpleNamespace] = {}
        self.models: dict[str, SimpleNamespace] = {}
        self.experiments: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.num_calls = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def client(self, uri: str) -> "FakeClient":
        return FakeClient(self)

    def only_run(self) -> SimpleNamespace:
        (run,) = self.runs.values()
        return run

    def points(self, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.only_run().metrics if point.key == key]

    def call(self, work: Callable[[], Any]) -> Any:
        self.delay()
        with self._lock:
            self.num_calls += 1
            luck = self._random.random()
            if self.away or luck < self.flaky / 2:
                raise MlflowException("connection refused")
            answer = work()
            if luck < self.flaky:
                raise MlflowException("read timed out")
            return answer


class FakeClient:
    """The calls of MlflowClient that tracking uses."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        work = object.__getattribute__(self, f"_{name}")
        return lambda *args, **kwargs: self._server.call(lambda: work(*args, **kwargs))

    def _get_experiment_by_name(self, name: str) -> Any:
        found = self._server.experiments.get(name)
        stage = "deleted" if name in self._server.deleted else "active"
        return found and SimpleNamespace(experiment_id=found, lifecycle_stage=stage)

    def _create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        assert name not in self._server.experiments
        self._server.experiments[name] = str(len(self._server.experiments))
        return self._server.experiments[name]

    def _create_run(self, experiment_id: str, start_time: int, run_name: str, tags: dict) -> Any:
        run_id = f"run{len(self._server.runs)}"
        info = SimpleNamespace(
            run_id=run_id, lifecycle_stage="active", status="RUNNING", experiment_id=experiment_id
        )
        tags = dict(tags)
        self._server.runs[run_id] = SimpleNamespace(
            info=info,
            tags=tags,
            params={},
            metrics=[],
            files=[],
            data=SimpleNamespace(tags=tags),
            inputs=SimpleNamespace(dataset_inputs=[], model_inputs=[]),
        )
        return self._server.runs[run_id]

    def _search_runs(self, experiment_ids: list[str], query: str) -> list[Any]:
        key = query.split("'")[1]
        return [run for run in self._server.runs.values() if run.tags.get("sddusr.key") == key]

    def _get_run(self, run_id: str) -> Any:
        if run_id not in self._server.runs:
            raise MlflowException("no such run", RESOURCE_DOES_NOT_EXIST)
        return self._server.runs[run_id]

    def _active_run(self, run_id: str) -> Any:
        run = self._get_run(run_id)
        if run.info.lifecycle_stage != "active":
            message = f"The run {run_id} must be in the 'active' state. Current state is deleted."
            raise MlflowException(message, INVALID_PARAMETER_VALUE)
        return run

    def _update_run(self, run_id: str, status: str) -> None:
        self._active_run(run_id).info.status = status

    def _set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self._active_run(run_id).info.status = status

    def _log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        assert len(metrics) <= 1000
        assert len(params) <= 100
        if any(metric.key in self._server.refused for metric in metrics):
            raise MlflowException("invalid metric", INVALID_PARAMETER_VALUE)
        if any(metric.key in self._server.breaking for metric in metrics):
            raise MlflowException("internal error")
        run = self._active_run(run_id)
        for metric in metrics:
            if metric.model_id:  # of a point that the run has; MLflow adds it to the model only
                assert metric.key in {point.key for point in run.metrics}
                self._server.models[metric.model_id].metrics.append(metric)
            else:
                run.metrics.append(metric)
        run.params |= {param.key: param.value for param in params}
        run.tags |= {tag.key: tag.value for tag in tags}

    def _log_inputs(self, run_id: str, datasets: Any = (), models: Any = ()) -> None:
        run = self._active_run(run_id)
        run.inputs.dataset_inputs += datasets
        run.inputs.model_inputs += models

    def _search_logged_models(self, experiment_ids: list[str], query: str) -> list[Any]:
        run_id = query.split("'")[1]
        return [each for each in self._server.models.values() if each.source_run_id == run_id]

    def _get_logged_model(self, model_id: str) -> Any:
        return self._server.models[model_id]

    def _get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [point for point in self._get_run(run_id).metrics if point.key == key]

    def _log_artifact(self, run_id: str, path: str, folder: str | None = None) -> None:
        Path(path).read_bytes()
        if status := self._server.artifact_status:
            response = Response()
            response.status_code = status
            raise HTTPError(f"{status} from the artifact store", response=response)
        self._get_run(run_id).files.append(f"{folder}/{Path(path).name}")

    def _list_artifacts(self, run_id: str, folder: str) -> list[Any]:
        files = dict.fromkeys(self._get_run(run_id).files)
        return [SimpleNamespace(path=path) for path in files if path.startswith(f"{folder}/")]

    def _set_tag(self, run_id: str, key: str, value: Any) -> None:
        self._active_run(run_id).tags[key] = str(value)


def replace_server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server that every client of this process talks to, without waiting between its tries."""
    server = FakeServer()
    for module in (client, files):
        monkeypatch.setattr(module, "make_client", server.client)
    for name in ("POLL_S", "FIRST_WAIT_S", "LONGEST_WAIT_S"):
        monkeypatch.setattr(background, name, 0.02)
    return server
