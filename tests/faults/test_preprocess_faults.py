"""Preprocessing that is killed, worker or command, amid its shards."""

import hashlib
import time
from pathlib import Path

import cv2
import psutil
import pytest

from pipelines.preprocess import PreprocessOptions, preprocess
from sddusr.data.shard import Shard
from tests.conftest import textured
from tests.faults.loop import CONTEXT

NUM_PICTURES = 16


def make(data: str, out: str) -> None:
    """The command; each picture is a shard."""
    options = PreprocessOptions(
        layout="folders",
        root=data,
        out=out,
        window_px=64,
        pictures_per_shard=1,
        register_ref="none",  # which takes longest
    )
    preprocess(options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_PICTURES):
        hr = textured(960, 1280, number)
        lr = cv2.resize(hr, (640, 480), interpolation=cv2.INTER_AREA)
        for member, picture in (("HR", hr), ("LR", lr), ("Ref", hr)):
            path = root / member / f"{number:02}.png"
            path.parent.mkdir(exist_ok=True)
            assert cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    return root


def shards(out: Path) -> dict[str, tuple[str, int]]:
    """Name -> SHA-256 and time of writing; each of them is whole."""
    found = {}
    for path in sorted(out.glob("*.parquet")):
        Shard(str(path)).close()
        written = path.stat().st_mtime_ns
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest(), written
    return found


def wait_for_shards(out: Path, num: int, command) -> None:
    while len(list(out.glob("*.parquet"))) < num and command.is_alive():
        time.sleep(0.01)


def kill_a_worker(command) -> None:
    """One that makes a shard just now."""
    while command.is_alive():
        for process in psutil.Process(command.pid).children(recursive=True):
            if "".join(process.cmdline()[:1]).startswith("ray::Map"):
                process.kill()
                return
        time.sleep(0.01)


@pytest.mark.usefixtures("ray_session")
def test_killed_workers_and_commands_cost_no_finished_shard_and_change_none(dataset, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    make(str(dataset), str(unbroken))
    command = CONTEXT.Process(target=make, args=(str(dataset), str(broken)))
    command.start()
    wait_for_shards(broken, 1, command)
    kill_a_worker(command)
    wait_for_shards(broken, 5, command)
    command.kill()
    command.join()
    assert not (broken / "manifest.json").exists()
    time.sleep(3)  # its workers notice that it is gone
    before = shards(broken)
    assert 5 <= len(before) < NUM_PICTURES
    make(str(dataset), str(broken))
    after = shards(broken)
    assert {name: after[name] for name in before} == before  # not made again
    assert {n: sha for n, (sha, _) in after.items()} == {
        n: sha for n, (sha, _) in shards(unbroken).items()
    }
    assert (broken / "manifest.json").read_bytes() == (unbroken / "manifest.json").read_bytes()
