"""The work behind a request: its time limit, its end, and what it leaves on the disk."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pipelines.serving import worker as serving_worker
from pipelines.serving.messages import Answer, PairRequest, Refusal
from pipelines.serving.scratch import Scratch, remove_orphans
from sddusr.photos import upscaler
from tests.pipelines.serving.uploads import MIDDLE, TELE, WIDE

REQUEST = PairRequest(
    wide=WIDE, tele=TELE, wide_name="w", tele_name="t", changes={"box": tuple(MIDDLE)}
)


@pytest.fixture
def endless(monkeypatch):
    """Work that looks between its steps whether it should stop, and notes when it did."""
    ended = []

    def prepare(*_args, **_kwargs):
        raise AssertionError("the work was not stopped")

    def read(place, _max_pixels):
        return place

    def run(_self, _job, report):
        try:
            while True:
                time.sleep(0.01)
                report("super-resolving", 0.5)
        finally:
            ended.append(time.monotonic())

    monkeypatch.setattr(upscaler.Upscaler, "run", run)
    return ended


def test_work_beyond_its_time_has_ended_when_the_client_hears_of_it(worker, endless, scratch_top):
    worker.timeout_s = 0.2
    outcome = asyncio.run(worker.make(REQUEST))
    assert len(endless) == 1
    assert outcome == Refusal(
        status=504,
        message="the picture took more than 0.2 s and was stopped; send smaller images",
    )
    assert [file.name for file in scratch_top.rglob("*") if file.is_file()] == ["lock"]


def test_the_real_work_stops_between_its_steps(worker):
    """The network itself: the stop reaches it through its progress."""
    worker.timeout_s = 0.001
    outcome = asyncio.run(worker.make(REQUEST))
    assert isinstance(outcome, Refusal)
    assert outcome.status == 504
    worker.timeout_s = 60
    assert isinstance(asyncio.run(worker.make(REQUEST)), Answer)


def test_work_whose_client_left_is_stopped(worker, endless):
    async def scenario():
        work = asyncio.create_task(worker.make(REQUEST))
        await asyncio.sleep(0.2)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(scenario())
    assert len(endless) == 1


def test_work_that_does_not_stop_ends_with_its_process(worker, monkeypatch):
    aborted = []
    worker.timeout_s, worker.abort = 0.05, lambda: aborted.append(True)
    monkeypatch.setattr(serving_worker, "GRACE_S", 0.05)
    monkeypatch.setattr(upscaler.Upscaler, "run", lambda *_: time.sleep(0.5))
    outcome = asyncio.run(worker.make(REQUEST))
    assert aborted == [True]
    assert isinstance(outcome, Refusal)
    assert outcome.status == 504


def test_a_full_disk_and_a_bug_are_told_without_their_details(worker, monkeypatch):
    def run(error):
        def fails(*_args):
            raise error

        monkeypatch.setattr(upscaler.Upscaler, "run", fails)
        outcome = asyncio.run(worker.make(REQUEST))
        assert isinstance(outcome, Refusal)
        return outcome

    full = run(OSError(28, "No space left on device", "/secret/place"))
    assert full.status == 503
    assert full.message == "the server's disk failed (No space left on device); try again later"
    bug = run(KeyError("/secret/place"))
    assert bug.status == 500
    assert "secret" not in bug.message


def test_numbers_that_json_does_not_have_become_null(worker):
    record = {"a": [float("nan"), 1.0, {"b": float("inf")}]}
    assert serving_worker._finite(record) == {"a": [None, 1.0, {"b": None}]}


def test_options_of_one_request_do_not_stay_for_the_next(worker):
    answers = [
        asyncio.run(worker.make(replace(REQUEST, changes=REQUEST.changes | changes)))
        for changes in ({}, {"trust": 0.0, "quality": 20}, {})
    ]
    assert answers[0].image == answers[2].image
    assert answers[0].image != answers[1].image


# What a killed process leaves


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_live_one_stays(scratch_top):
    code = (
        "import os, sys; from pathlib import Path; from pipelines.serving.scratch import Scratch;"
        "s = Scratch(Path(sys.argv[1])); (s.folder / 'wide').write_text('x');"
        "print(s.folder, flush=True); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(scratch_top)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 9, done.stderr
    assert os.path.isdir(done.stdout.strip())
    live = Scratch(scratch_top)
    assert not os.path.exists(done.stdout.strip())
    remove_orphans(scratch_top)
    assert live.folder.is_dir()
    live.close()
    assert list(scratch_top.iterdir()) == []
