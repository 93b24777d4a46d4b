"""The super-resolution command: what it makes, carries over, skips and refuses."""

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray
import torch
from PIL import Image

from pipelines import super_resolve as command
from pipelines.ray_runtime import upscaling as worker
from pipelines.super_resolve import SuperResolveOptions
from sddusr import storage
from sddusr.checkpoint import write_checkpoint
from sddusr.cli import command_line, progress_bar
from sddusr.cli.progress_bar import ProgressBar
from sddusr.config import DEMO
from sddusr.data.folder_lock import LockedError, hold_lock
from sddusr.imaging.images import Metadata, read_picture, read_rgb, write_picture, write_png
from sddusr.imaging.resize import bicubic_up
from sddusr.inference import super_resolve, to_8bit
from sddusr.model.sddusr import SDDuSR
from sddusr.photos import upscaler
from sddusr.photos.jobs import Job, Settings
from sddusr.photos.options import parse_bytes
from sddusr.photos.sidecar import made_from
from sddusr.photos.upscaler import enlarge
from sddusr.registration.register import NotRegistered
from tests.phone import VIEW, save_pair
from tests.tiny import TINY

CONFIG = replace(DEMO, model=TINY)

MAKER = 0x010F
"""EXIF's tag of the camera's maker."""


@pytest.fixture(scope="module")
def model() -> SDDuSR:
    torch.manual_seed(0)
    return SDDuSR(TINY).eval()


def save_checkpoint(model: SDDuSR, place: Path, step: int = 7) -> str:
    write_checkpoint(
        str(place),
        config=CONFIG,
        progress={"step": step, "tracking_run": ""},
        model_state=model.state_dict(),
        train_state=None,
    )
    return str(place)


@pytest.fixture(scope="module")
def checkpoint(model: SDDuSR, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(model, tmp_path_factory.mktemp("run") / "step-00000007")


@pytest.fixture
def triplet(tiny_shards):
    return next(tiny_shards.iterate("test"))


@pytest.fixture
def options(triplet, checkpoint, tmp_path) -> SuperResolveOptions:
    """A small pair whose tele picture needs no registration."""
    write_png(str(tmp_path / "wide.png"), triplet.lr)
    write_png(str(tmp_path / "tele.png"), triplet.ref)
    return SuperResolveOptions(
        wide=str(tmp_path / "wide.png"),
        tele=str(tmp_path / "tele.png"),
        checkpoint=checkpoint,
        out=str(tmp_path / "out" / "sr.png"),
        centered=True,
    )


def record_of(out: str) -> dict:
    return json.loads(Path(out).with_suffix(".json").read_text())


def maker_of(place: str) -> str | None:
    with Image.open(place) as picture:
        return picture.getexif().get(MAKER)


def exit_code(options: SuperResolveOptions) -> int:
    """As the shell sees it."""
    with pytest.raises(SystemExit) as exit:
        command_line.run(command.main, SuperResolveOptions, args=as_flags(options))
    return exit.value.code


def as_flags(options: SuperResolveOptions) -> list[str]:
    flags = [options.wide, options.tele, "--checkpoint", options.checkpoint, "--out", options.out]
    return flags + ["--centered"] * options.centered


# What it makes


def test_a_given_box_gives_the_picture_that_the_model_makes(options, model, triplet):
    given = replace(options, centered=False, box=tuple(triplet.center_box))
    assert command.main(given) == 0
    expected = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box).sr
    assert np.array_equal(read_rgb(given.out).pixels, to_8bit(expected))
    with pytest.raises(ValueError, match="Ref is 64x72, need the 60x72"):
        command.main(replace(given, box=(33, 93, 38, 110)))


def test_a_pair_off_a_phone_is_registered_enlarged_explained_and_recorded(checkpoint, tmp_path):
    save_pair(tmp_path, "a", seed=1)
    options = SuperResolveOptions(
        wide=str(tmp_path / "wide" / "a.png"),
        tele=str(tmp_path / "tele" / "a.png"),
        checkpoint=checkpoint,
        out=str(tmp_path / "sr.webp"),
        explain=True,
    )
    assert command.main(options) == 0
    record, made = record_of(options.out), read_rgb(options.out).pixels
    assert made.shape == (640, 800, 3)
    assert np.abs(np.array(record["result"]["box"]) - VIEW).max() <= 8
    assert record["registration"]["zoom"] == pytest.approx(2, abs=0.02)
    assert record["made_from"]["wide_sha256"] == read_rgb(options.wide).sha256
    assert set(record["seconds"]) == {"reading", "registering", "super-resolving", "writing"}
    assert read_rgb(str(tmp_path / "sr.explain.jpg")).pixels.shape[1] == 2000
    assert not list(tmp_path.glob("**/.*"))


def test_depth_alpha_and_metadata_are_those_of_the_wide_picture(options, triplet, tmp_path):
    exif = Image.Exif()
    exif[MAKER] = "Maker"
    deep = triplet.lr.astype(np.uint16) * 257
    alpha = np.linspace(0, 65535, deep[..., 0].size).reshape(deep.shape[:2]).astype(np.uint16)
    metadata = Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    write_picture(options.wide, deep, alpha=alpha, metadata=metadata)
    assert command.main(options) == 0
    made = read_picture(options.out)
    assert made.pixels.dtype == made.alpha.dtype == np.uint16
    assert np.array_equal(made.alpha, enlarge(alpha, np.uint16))
    assert maker_of(options.out) == "Maker"
    assert command.main(replace(options, strip_metadata=True)) == 0
    assert maker_of(options.out) is None
    with pytest.raises(ValueError, match="holds no alpha"):
        command.main(replace(options, out=str(tmp_path / "sr.jpg")))
    assert command.main(replace(options, out=str(tmp_path / "sr.webp"))) == 0
    assert read_picture(str(tmp_path / "sr.webp")).pixels.dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_enlarged_in_phase_with_the_picture(dtype):
    top = np.iinfo(dtype).max
    ramp = np.broadcast_to(np.linspace(0, 1, 24), (20, 24))
    enlarged = enlarge((ramp * top).round().astype(dtype), np.uint16) / 65535
    at = (np.arange(48) + 0.5) / 2 - 0.5
    assert enlarged[0, 6:-6] == pytest.approx(at[6:-6] / 23, abs=2 / top + 1e-4)
    whole = bicubic_up(torch.from_numpy(ramp.copy())[None, None])[0, 0].clamp(0, 1).numpy()
    assert enlarged == pytest.approx(whole, abs=2 / top)


@pytest.mark.usefixtures("ray_session")
def test_of_many_pairs_the_good_ones_are_made_and_the_others_named(checkpoint, tmp_path, caplog):
    for stem, seed in (("a", 1), ("b", 2)):
        save_pair(tmp_path, stem, seed=seed)
    save_pair(tmp_path, "stranger", seed=3, other=4)
    save_pair(tmp_path, "alone", seed=5)
    (tmp_path / "tele" / "alone.png").unlink()
    (tmp_path / "wide" / "torn.png").write_bytes(b"\x89PNG torn")
    write_png(str(tmp_path / "tele" / "torn.png"), np.zeros((8, 8, 3), np.uint8))
    options = SuperResolveOptions(
        wide=str(tmp_path / "wide"),
        tele=str(tmp_path / "tele"),
        checkpoint=checkpoint,
        out=str(tmp_path / "out"),
        format="jpg",
    )
    caplog.set_level("INFO")
    assert command.main(options) == 1
    assert "2 made, 0 finished before, 3 failed" in caplog.text
    listed = [line for line in caplog.messages if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in listed] == ["alone", "stranger", "torn"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.jpg", "a.json", "b.jpg", "b.json"]
    written = (tmp_path / "out" / "a.jpg").stat().st_mtime_ns
    (tmp_path / "wide" / "torn.png").unlink()
    (tmp_path / "wide" / "alone.png").unlink()
    save_pair(tmp_path, "stranger", seed=3)  # now the only one that is not finished
    assert command.main(options) == 0
    assert "1 made, 2 finished before, 0 failed" in caplog.text
    assert (tmp_path / "out" / "a.jpg").stat().st_mtime_ns == written


@pytest.mark.usefixtures("ray_session")
def test_a_picture_that_keeps_killing_its_process_is_given_up(options, checkpoint):
    attempts = ray.remote(num_cpus=0)(worker.Attempts).remote()
    jobs = [Job(name, options.wide, options.tele, options.out, "middle") for name in "ab"]
    actor = worker.UpscalerActor(
        jobs, Settings(checkpoint=checkpoint, checkpoint_hash=""), attempts
    )
    errors = [actor({"index": index})["error"] for index in (0, 0, 1, 0)]
    assert errors[:3] == [""] * 3
    assert "its process died 2 times" in errors[3]


def test_boxes_are_read_by_stem_and_equal_the_middle(options, triplet, tmp_path):
    write_png(str(tmp_path / "wides" / "a.png"), triplet.lr)
    write_png(str(tmp_path / "teles" / "a.png"), cv2.resize(triplet.ref, (40, 32)))
    middle = replace(options, wide=str(tmp_path / "wides"), tele=str(tmp_path / "teles"))
    middle = replace(middle, out=str(tmp_path / "middle"))
    assert command.main(middle) == 0
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a": [48, 80, 52, 92], "other": [0, 32, 0, 40]}))
    given = replace(middle, centered=False, boxes=str(boxes), out=str(tmp_path / "given"))
    assert command.main(given) == 0
    first, again = (read_rgb(f"{tmp_path}/{run}/a.png").pixels for run in ("middle", "given"))
    assert np.array_equal(first, again)
    boxes.write_text(json.dumps({"other": [0, 32, 0, 40]}))
    assert command.main(given) == 1


# What it refuses


def test_a_pair_that_shows_another_place_is_refused_and_leaves_nothing(
    checkpoint, tmp_path, capsys
):
    save_pair(tmp_path, "a", seed=1, other=2)
    options = SuperResolveOptions(
        wide=str(tmp_path / "wide" / "a.png"),
        tele=str(tmp_path / "tele" / "a.png"),
        checkpoint=checkpoint,
        out=str(tmp_path / "out" / "sr.png"),
    )
    assert exit_code(options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    assert "tele/a.png" in lines[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(NotRegistered):
        command.main(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": (0, 32, 0, 40)}, "each say where Ref lies"),
        ({"boxes": "boxes.json"}, "each say where Ref lies"),
        ({"centered": False, "boxes": "boxes.json"}, "--boxes FILE with many"),
        ({"quality": 101}, "--quality is 101"),
        ({"num_actors": 0}, "--num-actors is 0"),
        ({"max_megapixels": 0.0}, "--max-megapixels is 0"),
        ({"max_megapixels": 0.001}, "raise --max-megapixels"),
        ({"memory": "much"}, "--memory is 'much'"),
        ({"out": "{top}/sr.gif"}, "unknown kind of picture '.gif'"),
        ({"out": "{top}/wide.png"}, "would be overwritten by a result"),
        ({"out": "{top}/wide.png/sr.png"}, "cannot be written to"),
        ({"format": "jpg"}, "--format goes with a folder"),
        ({"tele": "{top}"}, "two files or two folders"),
        ({"tele": "{top}/missing.png"}, r"missing\.png: no such file"),
        ({"checkpoint": "{top}"}, "no checkpoint there"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, tmp_path, changes, message):
    here = {
        name: value.format(top=tmp_path) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises((ValueError, OSError), match=message) as refused:
        command.main(replace(options, **here))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_second_command_for_the_same_result_is_refused_by_name(options):
    lock = Path(options.out).parent / f".{Path(options.out).name}.lock"
    with (
        hold_lock(str(lock), options.out),
        pytest.raises(LockedError, match=r"sr\.png: another process is writing there"),
    ):
        command.main(options)
    assert not Path(options.out).exists()
    command.main(options)
    assert Path(options.out).exists()
    assert not lock.exists()


def test_the_lock_of_a_result_in_a_bucket_lies_beside_it(options):
    given = replace(options, out="s3://lab/out/sr.png?endpoint_override=a/b")
    assert command._lock(given, True) == "s3://lab/out/.sr.png.lock?endpoint_override=a/b"


def test_the_record_of_a_result_in_a_bucket_names_it_without_the_query(options):
    job = Job("sr", "wide.png", "tele.png", "s3://lab/out/sr.png?secret_key=x")
    assert made_from(job, options.settings(), "1", "2")["file"] == "sr.png"


def test_one_file_for_many_results_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match="give a folder for many results"):
        command.main(replace(options, wide=str(tmp_path), tele=str(tmp_path)))
    both = f"{tmp_path}/*.png"
    with pytest.raises(ValueError, match="holds the pictures that are read"):
        command.main(replace(options, wide=both, tele=both, out=str(tmp_path), format="jpg"))


def test_a_link_to_an_input_is_that_input(options, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="would be overwritten by a result"):
        command.main(replace(options, out=str(tmp_path / "link" / "wide.png")))


def test_a_tele_picture_larger_than_the_result_is_refused(options, tmp_path):
    write_png(options.tele, np.zeros((130, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r"tele\.png: 130x20 is larger than the result, 128x144"):
        command.main(options)


def test_a_file_of_somebody_else_is_not_overwritten_by_a_record(options, tmp_path):
    notes = Path(options.out).with_suffix(".json")
    notes.parent.mkdir()
    for content in ('{"my": "notes"}', "no JSON"):
        notes.write_text(content)
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="choose another --out"):
                command.main(replace(options, overwrite=overwrite))
        assert notes.read_text() == content
    assert not Path(options.out).exists()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate")],
)
def test_a_machine_out_of_memory_is_told_to_set_a_limit(options, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("sddusr.inference.upscale.super_resolve", fails)
    with pytest.raises(ValueError, match=r"out of memory .*--memory 4GB") as refused:
        command.main(options)
    assert "\n" not in str(refused.value)


# What it does again


def test_a_finished_result_is_made_again_only_for_other_inputs_weights_or_options(
    options, model, triplet, tmp_path
):
    def is_made_again(changed: SuperResolveOptions = options) -> bool:
        before = Path(options.out).stat().st_mtime_ns
        assert command.main(changed) == 0
        return Path(options.out).stat().st_mtime_ns != before

    assert command.main(options) == 0
    assert not is_made_again()
    assert not is_made_again(replace(options, memory="4GB", num_actors=2))
    assert is_made_again(replace(options, overwrite=True))
    assert is_made_again(replace(options, precision="bfloat16"))
    assert is_made_again(options)
    assert is_made_again(replace(options, explain=True))
    assert not is_made_again(options)
    write_png(options.tele, triplet.ref[::-1].copy())
    assert is_made_again()
    assert not Path(options.out).with_suffix(".explain.jpg").exists()  # it showed the old picture
    other = save_checkpoint(model, tmp_path / "step-00000008", step=8)
    assert is_made_again(replace(options, checkpoint=other))
    Path(options.out).unlink()
    assert command.main(replace(options, checkpoint=other)) == 0
    assert Path(options.out).exists()


def test_a_result_whose_record_was_not_written_is_not_finished(options, monkeypatch):
    write = storage.write_atomic

    def dies_before_the_record(place, content):
        if str(place).endswith(".json"):
            raise OSError("killed")
        write(place, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_atomic", dies_before_the_record)
        with pytest.raises(OSError, match="killed"):
            command.main(options)
    before = Path(options.out).stat().st_mtime_ns
    assert command.main(options) == 0
    assert Path(options.out).stat().st_mtime_ns != before
    assert record_of(options.out)["result"]["size"] == [128, 144]


# What it shows


def test_the_share_of_the_work_that_is_done_only_grows(options, checkpoint):
    told: list[tuple[str, float]] = []
    settings = Settings(checkpoint=checkpoint, checkpoint_hash="")
    job = Job("wide", options.wide, options.tele, options.out, "middle")
    upscaler.Upscaler(settings).make(job, lambda *state: told.append(state))
    phases = list(dict.fromkeys(phase for phase, _ in told))
    assert phases == ["reading", "registering", "super-resolving", "writing"]
    shares = [share for phase, share in told if phase == "super-resolving"]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] <= 1


def test_a_log_gets_a_line_for_each_phase_and_few_within_it(caplog):
    caplog.set_level("INFO")
    progress = ProgressBar("wide")
    for phase in ("reading", "super-resolving"):
        for number in range(100):
            progress.report(phase, number / 100)
    progress.told_s -= progress_bar.LOG_EVERY_S
    progress.report("super-resolving", 1.0)
    progress.close()
    assert caplog.messages == [
        "wide: reading",
        "wide: super-resolving",
        "wide: super-resolving 100%",
    ]


def test_one_of_many_pictures_gets_a_line_only_when_it_takes_long(caplog):
    caplog.set_level("INFO")
    progress = ProgressBar("wide", is_one_of_many=True)
    progress.report("reading", 0.0)
    progress.report("super-resolving", 0.3)
    progress.told_s -= progress_bar.ACTOR_LOG_EVERY_S
    progress.report("super-resolving", 0.4)
    assert caplog.messages == ["wide: super-resolving 40%"]


def test_the_limit_reaches_the_engine(options, monkeypatch):
    given = {}

    def spy(*args, **kwargs):
        given.update(kwargs)
        return super_resolve(*args, **kwargs)

    monkeypatch.setattr("sddusr.inference.upscale.super_resolve", spy)
    command.main(replace(options, memory="8 GiB"))
    assert given["memory_bytes"] == 8 * 2**30
    assert record_of(options.out)["memory"]["limit_bytes"] == 8 * 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("1.5g", 1_500_000_000),
        ("512 MiB", 2**29),
        ("2048", 2048),
        ("1kb", 1000),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "4 apples", "1iB", "1e9", "1.GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="need a size such as 4GB"):
        parse_bytes(text, "--memory")
