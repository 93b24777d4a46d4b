"""The command itself is killed, and typed again."""

import signal
import time
from collections import Counter

import pytest

from pipelines.tracking import MlflowClient
from pipelines.train import TrainOptions, run_training
from tests.faults.loop import CONFIG, CONTEXT, together
from tests.faults.test_worker_faults import final_hash, logged_steps


def drive(options: TrainOptions) -> None:
    """The command; it starts a Ray of its own."""
    run_training(options)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_killed_command_goes_on_with_the_same_run_and_ends_with_the_same_weights(
    tiny_shards, tmp_path, unbroken
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = TrainOptions(
        data=tiny_shards.root,
        name="run",
        storage=str(tmp_path),
        cpus_per_worker=1,
        tracking_uri=uri,
        register_model="",
        config=CONFIG,
    )
    folder = tmp_path / "run"
    command = CONTEXT.Process(target=drive, args=(options,))
    command.start()
    while len(logged_steps(folder)) < 5 and command.is_alive():
        time.sleep(0.02)
    command.kill()
    command.join()
    assert command.exitcode == -signal.SIGKILL
    assert together(drive, (options,)) == [0]
    assert final_hash(folder / "checkpoints") == final_hash(unbroken / "checkpoints")
    (found,) = MlflowClient(uri).search_runs(["1"])
    assert found.info.status == "FINISHED"
    history = MlflowClient(uri).get_metric_history(found.info.run_id, "train/total")
    assert Counter(point.step for point in history) == Counter(range(1, CONFIG.train.num_steps + 1))
