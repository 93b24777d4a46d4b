"""A folder has one writer; what a dead process left behind does not lock it."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from sddusr import storage
from sddusr.data import folder_lock
from sddusr.data.folder_lock import LockedError, hold_lock

HOLD = """
import sys, time
from sddusr.data.folder_lock import hold_lock
with hold_lock(sys.argv[1], "work"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "uri"])
def place(request, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "SETTLE_S", 0.05)
    monkeypatch.setattr(folder_lock, "DEAD_S", 0.6)
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.1)
    if request.param == "local":
        return str(tmp_path / "out" / ".lock")
    return f"fsspec+memory://locks/{uuid.uuid4().hex}/.lock"


def test_a_second_writer_is_refused_by_name_and_a_third_works_afterwards(place):
    refused = pytest.raises(LockedError, match=f"process {os.getpid()} on")
    with hold_lock(place, "run a"), refused, hold_lock(place, "run a"):
        pass
    assert not storage.exists(place)
    with hold_lock(place, "run a"):
        assert storage.exists(place)


def test_a_writer_that_wrote_nothing_leaves_no_folder(tmp_path):
    for name in ("nothing", "something"):
        with hold_lock(str(tmp_path / name / "deep" / ".lock"), name):
            if name == "something":
                (tmp_path / name / "file").touch()
    assert not (tmp_path / "nothing").exists()
    assert [each.name for each in (tmp_path / "something").iterdir()] == ["file"]


def test_a_lock_is_released_when_the_work_fails(place):
    with pytest.raises(KeyError), hold_lock(place, "run"):
        raise KeyError
    assert not storage.exists(place)


def other_machine(beat=0):
    return {"token": "other", "beat": beat, "machine": "other", "host": "other", "pid": 1}


def test_a_lock_of_another_machine_is_taken_over_once_it_is_not_renewed(place):
    storage.write_atomic(place, json.dumps(other_machine()).encode())
    with hold_lock(place, "run"):
        assert json.loads(storage.read_bytes(place))["pid"] == os.getpid()


def test_a_lock_of_another_machine_that_is_renewed_is_respected(place):
    storage.write_atomic(place, json.dumps(other_machine()).encode())
    renewed = threading.Timer(
        0.2, storage.write_atomic, (place, json.dumps(other_machine(1)).encode())
    )
    renewed.start()
    with pytest.raises(LockedError, match="process 1 on other"), hold_lock(place, "run"):
        pass
    renewed.join()


@pytest.mark.parametrize("content", [b"", b"half {", b"[]", b"{}", b"\xff"])
def test_a_lock_that_cannot_be_read_is_taken_over(place, content):
    storage.write_atomic(place, content)
    with hold_lock(place, "run"):
        pass


def test_a_process_id_that_another_process_has_now_does_not_count(place):
    holder = json.loads(folder_lock._content("old", 0)) | {"started": 1.0}
    storage.write_atomic(place, json.dumps(holder).encode())
    with hold_lock(place, "run"):
        pass


def test_a_file_system_without_links_has_locks_too(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    place = str(tmp_path / ".lock")
    with hold_lock(place, "run a"), pytest.raises(LockedError), hold_lock(place, "run a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_renewed(place):
    with hold_lock(place, "run"):
        time.sleep(0.5)
        assert json.loads(storage.read_bytes(place))["beat"] >= 1


def test_a_killed_process_leaves_a_lock_that_is_taken_over_at_once(tmp_path):
    place = str(tmp_path / ".lock")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"process {process.pid} on"), hold_lock(place, "w"):
            pass
        process.kill()
        process.wait()
    started = time.monotonic()
    with hold_lock(place, "work"):
        pass
    assert time.monotonic() - started < 2


def test_a_process_that_died_while_it_took_over_is_taken_over_too(tmp_path, monkeypatch):
    place = str(tmp_path / ".lock")
    dead = json.loads(folder_lock._content("old", 0)) | {"started": 1.0}
    storage.write_atomic(place, json.dumps(dead).encode())

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(storage, "write_atomic", die)
        broken.setattr(folder_lock, "_release", die)
        with pytest.raises(KeyboardInterrupt), hold_lock(place, "run"):
            pass
    (left,) = (each for each in tmp_path.iterdir() if each.name != ".lock")
    left.write_text(json.dumps(json.loads(left.read_text()) | {"started": 1.0}))
    with hold_lock(place, "run"):
        assert json.loads(storage.read_bytes(place))["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_slow_process_leaves_a_lock_that_was_made_meanwhile(tmp_path):
    place = str(tmp_path / ".lock")
    dead = json.loads(folder_lock._content("old", 0)) | {"started": 1.0}
    storage.write_atomic(place, json.dumps(dead).encode())
    with hold_lock(place, "run"):
        held = storage.read_bytes(place)
        assert not folder_lock._take_over(place, dead, "slow")
        assert storage.read_bytes(place) == held
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_refused_by_a_lock_of_its_own(monkeypatch):
    """In a store, an object that others write at the same time may not be read at once."""
    monkeypatch.setattr(folder_lock, "SETTLE_S", 0.01)
    read, unread = folder_lock._read, iter([{"damaged": True}])
    monkeypatch.setattr(folder_lock, "_read", lambda place: next(unread, None) or read(place))
    with hold_lock(f"fsspec+memory://locks/{uuid.uuid4().hex}/.lock", "run"):
        assert next(unread, None) is None


def test_of_many_that_start_at_once_one_works_at_a_time(place, monkeypatch):
    monkeypatch.setattr(folder_lock, "SETTLE_S", 0.4)  # a thread may wait long for its turn
    storage.write_atomic(place, json.dumps({**other_machine(), "machine": "gone"}).encode())
    working, most, refused = [], [], []
    start = threading.Barrier(6)

    def work():
        start.wait()
        try:
            with hold_lock(place, "run"):
                working.append(1)
                most.append(len(working))
                time.sleep(0.2)
                working.pop()
        except LockedError:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 6
