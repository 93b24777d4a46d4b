"""The evaluation command: what it measures, writes and refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.evaluate import LOCK, EvaluateOptions, evaluate
from pipelines.tracking import links
from pipelines.tracking.background import describe, mirror
from sddusr.checkpoint import write_checkpoint
from sddusr.config import DEMO
from sddusr.data.dataset import ShardSet
from sddusr.data.folder_lock import LockedError, hold_lock
from sddusr.data.manifest import build_manifest, write_manifest
from sddusr.data.shard import write_shard
from sddusr.evaluation.baselines import PASTE, UNSHARP
from sddusr.evaluation.metrics import score
from sddusr.evaluation.ref_registration import check_registration
from sddusr.evaluation.scoring import (
    BICUBIC,
    EvaluationConfig,
    Scorer,
    lpips_note,
    pair_others,
    pick_rows,
)
from sddusr.imaging.images import read_rgb, write_png
from sddusr.inference import bicubic, super_resolve, to_8bit, to_tensor
from sddusr.model.sddusr import SDDuSR
from sddusr.runs.run_folder import RunFolder
from sddusr.visualization.web_view import view_place
from tests.conftest import make_triplet

CONFIG = replace(
    DEMO,
    model=replace(
        DEMO.model,
        image_skip=False,
        detail=replace(DEMO.model.detail, replaced_residual=0.0),
    ),
    data=replace(DEMO.data, register_ref="none"),  # as these shards are
)


@pytest.fixture(scope="module")
def model() -> SDDuSR:
    torch.manual_seed(0)
    return SDDuSR(CONFIG.model).eval()


def save(model: SDDuSR, place: Path, tracking_run: str = "") -> str:
    write_checkpoint(
        str(place),
        config=CONFIG,
        progress={"step": 7, "tracking_run": tracking_run},
        model_state=model.state_dict(),
        train_state=None,
    )
    return str(place)


@pytest.fixture
def truth_dir(tiny_shards: ShardSet, tmp_path: Path) -> str:
    """HR itself as another method's pictures, named without the split."""
    folder = tmp_path / "truth"
    for triplet in tiny_shards.iterate("test"):
        write_png(str(folder / f"{triplet.id.removeprefix('test-')}.png"), triplet.hr)
    return str(folder)


def test_pictures_equal_to_hr_score_inf_and_one(tiny_shards, truth_dir):
    config = EvaluationConfig(
        data=tiny_shards.root, sr_dir=(truth_dir,), save_pictures=False, baselines=False
    )
    rows = pick_rows(config, tiny_shards)
    scorer = Scorer(config, pair_others(config, [row.id for row in rows]), with_lpips=False)
    images = [image for row in rows for image in scorer.evaluate(row)]
    assert len(images) == 2 * 2 * len(config.protocols)
    for image in images:
        perfect = image.scores == (np.inf, 1) * 3
        assert perfect == (image.method == "truth")


def test_several_folders_are_methods_of_one_evaluation(tiny_shards, truth_dir, tmp_path):
    dim = tmp_path / "dim"
    for triplet in tiny_shards.iterate("test"):
        write_png(str(dim / f"{triplet.id}.png"), triplet.hr // 2)
    out = str(tmp_path / "out")
    config = EvaluationConfig(data=tiny_shards.root, sr_dir=(truth_dir, f"{dim}/"), out=out)
    rows = pick_rows(config, tiny_shards)
    scorer = Scorer(config, pair_others(config, [row.id for row in rows]), with_lpips=False)
    images = [image for row in rows for image in scorer.evaluate(row)]
    methods = [BICUBIC, UNSHARP, PASTE, "truth", "dim"]
    assert list(dict.fromkeys(image.method for image in images)) == methods
    view = json.loads(Path(view_place(out, rows[0].id)).read_text())
    assert [crop["name"] for crop in view["crops"]] == [
        "detail in the centre", "detail outside the centre"
    ]  # fmt: skip
    for crop in view["crops"]:
        assert set(methods) < set(view["frames"][crop["frame"]]["layers"])
        top, left, height, width = crop["share"]
        assert min(top, left) >= 0
        assert max(top + height, left + width) <= 1
    with pytest.raises(ValueError, match="distinct names"):
        EvaluationConfig(data="d", sr_dir=("a/x", "b/x"))


@pytest.mark.usefixtures("without_bfloat16")
def test_without_a_network_nothing_is_said_of_its_format(tiny_shards, truth_dir, caplog):
    config = EvaluationConfig(data=tiny_shards.root, sr_dir=(truth_dir,), precision="bfloat16")
    Scorer(config, {}, with_lpips=False)
    assert not caplog.text


def test_rows_without_a_picture_are_named(tiny_shards, truth_dir):
    Path(truth_dir, "1.png").unlink()
    config = EvaluationConfig(data=tiny_shards.root, sr_dir=(truth_dir,))
    with pytest.raises(FileNotFoundError, match=r"1 of 2 rows: test-1"):
        pair_others(config, ["test-0", "test-1"])


def test_a_picture_of_another_size_is_refused(tiny_shards, truth_dir):
    write_png(f"{truth_dir}/0.png", np.zeros((8, 8, 3), np.uint8))
    config = EvaluationConfig(data=tiny_shards.root, sr_dir=(truth_dir,), save_pictures=False)
    rows = pick_rows(config, tiny_shards)
    scorer = Scorer(config, pair_others(config, [row.id for row in rows]), with_lpips=False)
    with pytest.raises(ValueError, match=r"0\.png: 8x8, need 128x144"):
        scorer.evaluate(rows[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to score"),
        ({"sr_dir": ("a/bicubic/",)}, "distinct names"),
        ({"sr_dir": ("a",), "limit": 0}, "--limit is 0"),
        ({"sr_dir": ("a",), "protocols": ()}, "--protocols is empty"),
        ({"sr_dir": ("a",), "num_actors": 0}, "--num-actors is 0, need 1 or more"),
    ],
)
def test_options_that_make_no_evaluation_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluateOptions(data="data", **options)


def test_an_empty_split_is_refused(tiny_shards):
    config = EvaluationConfig(data=tiny_shards.root, sr_dir=("a",), split="other")
    with pytest.raises(ValueError, match="split 'other' has no rows"):
        pick_rows(config, tiny_shards)


def test_refs_registered_otherwise_than_in_training_are_scored_only_when_told(tiny_shards):
    assert check_registration(tiny_shards, None, "none") == "none"
    with pytest.raises(ValueError, match=r"say --register-ref auto or --register-ref none"):
        check_registration(tiny_shards, None, "auto")
    assert check_registration(tiny_shards, "auto", "auto") == "auto"
    assert check_registration(tiny_shards, "none", "auto") == "none"


def test_lpips_is_reported_missing_only_where_the_user_named_no_file(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no internet")

    monkeypatch.setattr("torchvision.models.AlexNet_Weights.get_state_dict", offline)
    config = EvaluationConfig(data="data", sr_dir=("a",))
    assert lpips_note(config).startswith("not available: LPIPS's AlexNet weights")
    with pytest.raises(FileNotFoundError, match="no file"):
        lpips_note(replace(config, lpips_weights=str(tmp_path / "alexnet.pth")))


def test_what_ref_gives_is_scored_on_request(tiny_shards, model, tmp_path):
    config = EvaluationConfig(
        data=tiny_shards.root,
        checkpoint=save(model, tmp_path / "checkpoint"),
        out=str(tmp_path / "out"),
        without_ref=True,
        protocols=("kedusr-float",),
    )
    (row, *_), triplet = tiny_shards.rows("test"), next(tiny_shards.iterate("test"))
    images = {image.method: image for image in Scorer(config, {}, False).evaluate(row)}
    assert list(images) == [BICUBIC, UNSHARP, PASTE, "SDDuSR without Ref", "SDDuSR"]
    made = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box, without_ref=True)
    sr = made.sr
    pixels = torch.from_numpy(sr).permute(2, 0, 1)
    expected = score(pixels, to_tensor(triplet.hr), triplet.center_box, "kedusr-float")
    assert tuple(images["SDDuSR without Ref"].scores) == pytest.approx(tuple(expected), abs=1e-4)


@pytest.mark.usefixtures("ray_session")
def test_evaluate_writes_what_a_direct_computation_gives(tiny_shards, model, tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    training = RunFolder(str(tmp_path / "training"))
    describe(training, store, name="training", experiment="sddusr")
    training.set_state("finished")
    training_id = mirror(training.folder, store)
    result = evaluate(
        EvaluateOptions(
            data=tiny_shards.root,
            checkpoint=save(model, tmp_path / "checkpoint", training_id),
            out=str(tmp_path / "out"),
            baselines=False,
            protocols=("kedusr-float",),
            tracking_uri=store,
        )
    )
    triplets = list(tiny_shards.iterate("test"))
    expected = []
    for triplet in triplets:
        sr = super_resolve(model, triplet.lr, triplet.ref, triplet.center_box).sr
        for method, picture in ((BICUBIC, bicubic(triplet.lr)), ("SDDuSR", sr)):
            pixels = torch.from_numpy(picture).permute(2, 0, 1)
            scores = score(pixels, to_tensor(triplet.hr), triplet.center_box, "kedusr-float")
            expected.append((triplet.id, method, scores))
        saved = read_rgb(f"{result.out}/pictures/{triplet.id}.png").pixels
        assert np.abs(saved.astype(int) - to_8bit(sr)).max() <= 1  # other threads, other sums
        assert read_rgb(f"{result.out}/comparisons/{triplet.id}.png").pixels.size
    assert [(image.id, image.method) for image in result.images] == [row[:2] for row in expected]
    for image, (_, method, scores) in zip(result.images, expected, strict=True):
        exact = 0 if method == BICUBIC else 1e-4
        assert tuple(image.scores) == pytest.approx(tuple(scores), abs=exact)
    parquet = pq.read_table(f"{result.out}/per_image.parquet").to_pylist()
    csv = pyarrow.csv.read_csv(f"{result.out}/per_image.csv").to_pylist()
    assert parquet == csv == [image.as_row() for image in result.images]
    assert result.table == Path(result.out, "table.txt").read_text()
    logged = links.read_run(store, result.run_id)
    assert logged.data.tags["mlflow.parentRunId"] == training_id
    mean = np.mean([scores.full_psnr for _, method, scores in expected if method == BICUBIC])
    assert logged.data.metrics["test/kedusr-float/bicubic/full_psnr"] == pytest.approx(mean)
    assert logged.info.status == "FINISHED"


@pytest.mark.usefixtures("ray_session")
def test_a_black_test_picture_is_named_and_nothing_non_finite_is_logged(model, tmp_path, caplog):
    root = str(tmp_path / "shards")
    good, night = make_triplet("good", "test"), make_triplet("night", "test")
    black = {name: np.zeros_like(getattr(night, name)) for name in ("lr", "ref", "hr", "detail")}
    rows = [good, night._replace(**black)]
    entry = write_shard(f"{root}/test-00000.parquet", "test", rows, {})
    write_manifest(root, build_manifest([entry], {}, {}))
    options = EvaluateOptions(
        checkpoint=save(model, tmp_path / "run"),
        data=root,
        out=str(tmp_path / "out"),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        save_pictures=False,
    )
    result = evaluate(options)
    assert "left out of the means, black or of one colour: night (full)" in result.table
    assert "night (full)" in caplog.text
    assert "night (full)" in Path(result.page).read_text()
    view = Path(view_place(options.out, "good"))
    view.parent.mkdir()
    view.write_text("of an earlier evaluation, which kept its pictures")
    alone = evaluate(replace(options, limit=1))
    assert not view.exists()
    assert alone.run_id != result.run_id
    assert evaluate(replace(options, limit=1)).run_id == alone.run_id
    with (
        hold_lock(f"{options.out}/{LOCK}", "scores"),
        pytest.raises(LockedError, match=r"an evaluation in .*out: another process is writing"),
    ):
        evaluate(options)
    assert result.summaries == [each._replace(num_pictures=2) for each in alone.summaries]
    metrics = links.read_run(options.tracking_uri, result.run_id).data.metrics
    assert metrics
    assert all(abs(value) < 1000 for value in metrics.values())
