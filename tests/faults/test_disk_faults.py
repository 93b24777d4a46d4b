"""A disk that is really full: a file system of a few hundred kilobytes in memory."""

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipelines.preprocess import PreprocessOptions, main
from pipelines.tracking.background import describe, mirrored
from sddusr.checkpoint import CheckpointStore, read_checkpoint
from sddusr.cli import command_line
from sddusr.runs.run_folder import RunFolder
from sddusr.training.loop import train
from tests.faults.loop import CONFIG, CPU, StepFile

TOLD = (
    r"{place}/\S+: no space to write it, needed (\d+) bytes or more, (\d+) are free now; free some"
)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(num_bytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a small disk needs root: {done.stderr.strip()}")
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def check_told(message: str, place: Path, alone: bool = True) -> None:
    """Args:
    alone: no other process frees space meanwhile.
    """
    found = re.search(TOLD.format(place=re.escape(str(place))), message)
    assert found, message
    assert int(found[1]) >= int(found[2]) or not alone


def leftovers(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.name.startswith(".")]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tiny_shards, tmp_path, small_disk):
    reporter = StepFile(str(tmp_path / "steps"))
    first = CheckpointStore(str(tmp_path / "roomy"), 3)
    short = replace(CONFIG, train=replace(CONFIG.train, num_steps=1, checkpoint_every=1))
    train(short, tiny_shards, first, reporter, CPU)
    last = Path(first.folder, "step-00000001")
    size = sum(path.stat().st_size for path in last.iterdir())
    place = small_disk(int(1.6 * size))
    store = CheckpointStore(str(place / "checkpoints"), 3)
    with pytest.raises(OSError, match="no space") as error:
        train(CONFIG, tiny_shards, store, reporter, CPU)
    check_told(str(error.value), place)
    kept = store.newest_good()
    assert kept is not None
    assert kept.progress["step"] == CONFIG.train.checkpoint_every
    assert read_checkpoint(kept.place).model_state
    assert leftovers(place) == []


@pytest.mark.usefixtures("ray_session")
def test_a_shard_that_does_not_fit_ends_the_command_and_leaves_the_others(
    tmp_path, small_disk, capfd
):
    place = small_disk(6_000_000)
    given = ["samples", "--out", f"{place}/shards", "--pictures-per-shard", "1"]
    with pytest.raises(SystemExit) as left:
        command_line.run(main, PreprocessOptions, args=given)
    assert left.value.code == 2
    check_told(capfd.readouterr().err, place, alone=False)
    assert leftovers(place) == []
    assert not (place / "shards" / "manifest.json").exists()


@dataclass(frozen=True)
class NoOptions:
    """Log rows until the disk is full."""


def test_metrics_that_do_not_fit_end_the_command_and_leave_the_others(tmp_path, small_disk, capfd):
    place = small_disk(300_000)
    run, uri = RunFolder(f"{place}/run"), f"sqlite:///{tmp_path}/mlflow.db"

    def log_for_ever(_: NoOptions) -> None:
        describe(run, uri, name="run", experiment="tests")
        with mirrored(run, uri):
            for step in range(10**6):
                run.log_metrics(step, {f"metric {number}": step for number in range(50)})

    with pytest.raises(SystemExit) as left:
        command_line.run(log_for_ever, NoOptions, args=[])
    assert left.value.code == 2
    told = capfd.readouterr().err
    check_told(told, place, alone=False)
    assert "Traceback" not in told
    steps = [row["step"] for row in run.rows()]
    assert steps == list(range(len(steps)))
    assert leftovers(place) == [Path(run.place(".mirror.lock"))]
