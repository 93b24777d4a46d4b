"""Every command keeps the table of docs/exit-codes.md."""

import logging
import os
import runpy
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.ray_runtime import stop_request
from pipelines.ray_runtime.stop_request import StoppableWork, is_stop_requested
from sddusr.cli import command_line

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "pipelines/preprocess.py": ["folders", "--root", "/nowhere", "--out", "out"],
    "pipelines/train.py": ["demo", "--data", "/nowhere", "--name", "../x"],
    "pipelines/evaluate.py": ["--data", "/nowhere", "--checkpoint", "/nowhere"],
    "pipelines/super_resolve.py": ["/nowhere.png", "/nowhere.png"],
    "pipelines/report.py": ["/nowhere"],
    "pipelines/serve.py": ["--checkpoint", "/nowhere"],
    "tune/search_tokens.py": ["demo", "--name", "../x"],
}


@dataclass(frozen=True)
class Options:
    """An example."""


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ValueError("bad"), 2, "error: bad"),
        (FileNotFoundError("none"), 2, "error: none"),
        (command_line.StoppedError("stopped", signal.SIGTERM), 143, ""),
        (command_line.StoppedError("stopped", signal.SIGINT), 130, ""),
        (KeyboardInterrupt(), 130, "error: interrupted; the same command resumes, or starts over"),
    ],
)
def test_what_ends_a_command_has_its_code(raised, code, said, capsys):
    def main(_):
        raise raised

    with pytest.raises(SystemExit) as ended:
        command_line.run(main, Options, args=[])
    assert ended.value.code == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("result", [None, 0, 1])
def test_a_commands_own_result_is_its_code(result):
    with pytest.raises(SystemExit) as ended:
        command_line.run(lambda _: result, Options, args=[])
    assert ended.value.code == (result or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_input_is_one_line_and_code_2(command, tmp_path, monkeypatch, capsys):
    """The script, run here: a process of its own would import for ten seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command, *COMMANDS[command]])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / command), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said


def test_the_table_names_every_code_that_is_used():
    table = (ROOT / "docs" / "exit-codes.md").read_text()
    for code in (0, 1, 2, 130, 137, 143):
        assert f"| {code} |" in table


class FakeFlag:
    def __init__(self):
        self.is_set = False


@pytest.fixture
def stoppable(monkeypatch):
    """Work whose flag needs no Ray."""
    flag = FakeFlag()
    monkeypatch.setattr(stop_request.StopFlag, "remote", lambda: flag)
    work = StoppableWork()

    def pass_on():
        flag.is_set = True

    monkeypatch.setattr(work, "_pass_on", pass_on)
    return work, flag


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_work_ends_in_its_own_time(stoppable, number):
    work, flag = stoppable
    before = signal.getsignal(number)

    def train():
        os.kill(os.getpid(), number)
        until = time.monotonic() + 20
        while not flag.is_set and time.monotonic() < until:
            time.sleep(0.01)
        return "saved" if flag.is_set else "never told"

    assert work.run(train) == "saved"
    assert work.signal_number == number
    assert signal.getsignal(number) == before


def test_work_without_a_signal_returns_or_raises_as_ever(stoppable):
    work, flag = stoppable
    assert work.run(lambda: 3) == 3
    assert not flag.is_set
    with pytest.raises(KeyError):
        work.run(lambda: {}["x"])


def test_beside_the_main_thread_there_are_no_signals():
    found = []

    def run():
        work = StoppableWork()
        found.extend([work.flag, work.run(lambda: 5)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None, 5]
    assert not is_stop_requested(None)


def test_a_stop_is_logged_with_what_to_do(caplog):
    def main(_):
        raise command_line.StoppedError("stopped; the same command resumes", signal.SIGTERM)

    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit):
        command_line.run(main, Options, args=[])
    assert "the same command resumes" in caplog.text
