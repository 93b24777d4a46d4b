"""Work in Ray Data tasks: every result once, and an end without half-done work."""

import time
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.ray_runtime.tasks import run_tasks

pytestmark = pytest.mark.usefixtures("ray_session")


def test_each_piece_of_work_gives_its_result_once():
    with closing(run_tasks(lambda index: f"done {index}", 5)) as results:
        assert sorted(results) == [f"done {index}" for index in range(5)]


def test_no_work_needs_no_cluster():
    assert list(run_tasks(str, 0)) == []


def test_closed_early_it_waits_for_what_has_begun_and_begins_no_more(tmp_path):
    num = 12

    def work(index: int) -> str:
        (tmp_path / f"begun-{index}").touch()
        time.sleep(0.2 if index == 0 else 2)
        (tmp_path / f"ended-{index}").touch()
        return str(index)

    results = run_tasks(work, num)
    with closing(results):
        next(results)
    begun, ended = marks(tmp_path, "begun"), marks(tmp_path, "ended")
    assert begun == ended
    assert 0 < len(begun) < num
    time.sleep(3)
    assert marks(tmp_path, "begun") == begun


def marks(folder: Path, state: str) -> set[str]:
    return {path.name.split("-")[1] for path in folder.glob(f"{state}-*")}
