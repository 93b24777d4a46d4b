"""A run folder gives back what was reported, or says which file is damaged."""

import json
import logging
import math
import random
import stat
from pathlib import Path

import numpy as np
import pytest

from sddusr.runs.checked_json import DamagedError, read_object, read_rows, write_object, write_rows
from sddusr.runs.run_folder import RunFolder, Status

BUCKET = "fsspec+memory://runs/folder"


@pytest.fixture(params=["local", "bucket"])
def run(request, tmp_path) -> RunFolder:
    return RunFolder(str(tmp_path / "run") if request.param == "local" else f"{BUCKET}{tmp_path}")


def describe(run: RunFolder, **changes):
    given = {"name": "run", "experiment": "tests", "params": {"a": 1}, "tags": {"b": "2"}}
    return run.describe(**{**given, **changes})


def test_a_run_that_goes_on_keeps_its_key_and_its_tags(run):
    first = describe(run)
    run.set_tags({"best": "true"})
    again = describe(run, params={"a": 2}, tags={"b": "3"})
    assert (again.key, again.created_ms) == (first.key, first.created_ms)
    assert (again.params, again.tags) == ({"a": "2"}, {"b": "3", "best": "true"})
    assert run.config() == again


def test_a_run_of_an_earlier_version_keeps_its_key(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mlflow.json").write_text(json.dumps({"run_id": "r", "key": "k"}))
    assert describe(RunFolder(str(folder))).key == "k"


def test_rows_of_one_step_stay_together_and_a_resume_overwrites_its_steps(run):
    for step in (2, 4, 6):
        run.log_metrics(step, {"train/total": step})
    run.log_metrics(6, {"val/full_psnr": 30})
    resumed = RunFolder(run.folder)
    resumed.log_metrics(4, {"train/total": 4.5})
    resumed.log_metrics(6, {"train/total": 6.5})
    shown = [{k: v for k, v in row.items() if k != "time_ms"} for row in run.rows()]
    assert shown == [
        {"step": 2, "train/total": 2},
        {"step": 4, "train/total": 4.5},
        {"step": 6, "train/total": 6.5},
    ]
    RunFolder(run.folder).add_metrics(6, {"test/psnr": 31})
    assert [set(row) - {"time_ms"} for row in run.read_segment(6)] == [
        {"step", "train/total"},
        {"step", "test/psnr"},
    ]


def test_the_first_final_state_stays(run):
    assert run.status() == Status()
    run.set_state("running")
    run.end("stopped", "behind", 7)
    run.end("finished")
    status = run.status()
    assert (status.state, status.reason, status.step) == ("stopped", "behind", 7)


def test_images_artifacts_links_and_the_model_read_back(run, tmp_path):
    run.log_image(4, "val/x/sr", np.zeros((4, 5, 3), np.uint8))
    trace = tmp_path / "trace.json"
    trace.write_text("{}")
    run.add_artifact(trace, "profile")
    run.write_artifact("table.md", b"| a |")
    run.link_artifacts({"page.html": "/elsewhere/page.html"})
    run.register_model("name", "/place", {"tag": "1"})
    assert list(run.files("images")) == ["0000000004/val~x~sr.png"]
    assert list(run.files("artifacts")) == ["profile/trace.json", "table.md"]
    assert run.links() == {"page.html": "/elsewhere/page.html"}
    model = run.model()
    assert model is not None
    assert (model.name, model.checkpoint, model.tags) == ("name", "/place", {"tag": "1"})


def test_an_empty_folder_has_nothing(run):
    assert (run.config(), run.model(), run.links(), run.trials()) == (None, None, {}, [])
    assert (list(run.rows()), run.files("images")) == ([], {})


def test_numbers_keep_every_bit(run):
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": math.inf}
    run.log_metrics(1, values)
    (row,) = run.rows()
    assert {key: row[key] for key in values} == values


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with a bit flipped, cut off, or overwritten."""
    at, kind = rng.randrange(len(content)), rng.randrange(3)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    return content[:at] if kind == 1 else content[:at] + b"\0" * 8 + content[at + 8 :]


def attempt(read, place: str):
    """What is read, or the line that says why not."""
    try:
        return read(place)
    except DamagedError as error:
        (line,) = str(error).splitlines()
        return line


def test_400_damaged_files_are_named_and_none_reads_as_another_value(tmp_path):
    """Or the damage changes no value, as in a space between two of them."""
    rng = random.Random(0)
    rows = [{"step": 3, "time_ms": 17, "loss": 0.25}, {"step": 3, "time_ms": 18, "psnr": 31.5}]
    content = {"values": {"model.dictionary.num_tokens": 64, "losses.mask_weight": 1e-3}}
    for number in range(400):
        place = str(tmp_path / f"{number}.json")
        write, read, written = (
            (write_rows, read_rows, rows) if number % 2 else (write_object, read_object, content)
        )
        write(place, written)
        path = Path(place)
        path.write_bytes(damaged(path.read_bytes(), rng))
        outcome = attempt(read, place)
        assert outcome == written or outcome.startswith(f"{place}: damaged (")


def test_a_damaged_segment_is_named_and_the_others_are_read(run, caplog):
    for step in (1, 2, 3):
        run.log_metrics(step, {"loss": step})
    from sddusr import storage

    storage.write_atomic(run.place("metrics", "0000000002.jsonl"), b'{"step": 2, "lo')
    caplog.set_level(logging.WARNING)
    assert [row["step"] for row in run.rows()] == [1, 3]
    assert caplog.text.count("0000000002.jsonl: damaged") == 1


def test_no_credential_is_kept_where_it_is_shown_and_the_rest_is_its_owners_alone(tmp_path):
    secret = "s3://AKIA:sEcReT@bucket/x"
    run = RunFolder(str(tmp_path / "run"))
    uri = "http://me:sEcReT@mlflow:5000"
    config = describe(run, params={"data": secret}, tags={"data": secret}, tracking_uri=uri)
    run.set_tags({"more": secret})
    run.set_state("failed", f"{secret}: not found")
    assert config.tracking_uri == uri  # later uploads need it
    found = run.config()
    assert found is not None
    shown = [*found.params.values(), *found.tags.values(), run.status().reason]
    assert not any("sEcReT" in text for text in shown)
    mode = stat.S_IMODE((tmp_path / "run" / "config.json").stat().st_mode)
    assert mode == 0o600
