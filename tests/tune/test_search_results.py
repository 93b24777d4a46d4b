"""The table, its files and figures tell what the trials hold, whatever that is."""

import base64
import io
import re

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.runs import run
from tests.tune.conftest import SMALL, SPACE, TOKENS, TOO_LARGE
from tune.plots import draw_all
from tune.results import best_of, importances, ranked, rows_of, to_markdown, write_results
from tune.space import Choices, Range, Space
from tune.trials import Point, Trial

WIDE = Space({"n": Choices((64, 128)), "weight": Range(1e-4, 1e-2, log=True)})


def trial(number, values=SMALL, score=None, status="finished", folder="", peak=1000.0):
    points = () if score is None else ((5, score - 1, 30.0), (10, score, 90.0))
    curve = tuple(Point(*point, peak, 1234) for point in points)
    return Trial(number=number, folder=folder, values=values, status=status, curve=curve)


MIXED = [
    trial(0, score=28.0),
    trial(1, TOO_LARGE, status="failed"),
    trial(2, score=28.5, status="stopped"),
    trial(3, status="open"),
    trial(4, score=29.5, status="failed"),
]


def test_the_best_comes_first_and_failed_ones_last():
    assert [trial.number for trial in ranked(MIXED)] == [2, 0, 3, 4, 1]


def test_the_best_trial_is_one_whose_network_is_there(tiny_shards, tmp_path):
    run(tiny_shards, tmp_path / "kept" / "checkpoints")
    lost, kept, failed = (str(tmp_path / name) for name in ("lost", "kept", "kept"))
    trials = [
        trial(0, score=29.0, folder=lost),
        trial(1, score=28.0, folder=kept),
        trial(2, score=30.0, status="failed", folder=failed),
    ]
    assert best_of(trials) is trials[1]
    assert best_of([trials[0], trials[2]]) is None


def test_files_hold_the_same_rows(tmp_path):
    figures = draw_all(MIXED, SPACE, MIXED[2])
    write_results(str(tmp_path), MIXED, SPACE, "a <search>", figures)
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert rows == rows_of(MIXED, SPACE)
    assert [row["N"] for row in rows] == [2] * 5
    assert pyarrow.csv.read_csv(tmp_path / "trials.csv")["trial"].to_pylist() == [2, 0, 3, 4, 1]
    page = (tmp_path / "page.html").read_text()
    assert "a &lt;search&gt;" in page
    assert "flatters" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file, with all that it shows
    shown = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert [base64.b64decode(one) for one in shown] == list(figures.values())
    assert to_markdown(rows) in (tmp_path / "table.md").read_text()


def test_the_table_is_for_people():
    head, _, first, *_ = to_markdown(rows_of(MIXED, SPACE)).splitlines()
    told = dict(
        zip(*([cell.strip() for cell in row.split("|")] for row in (head, first)), strict=True)
    )
    assert told["PSNR"] == "28.500"
    assert (told["minutes"], told["peak MB"], told["parameters"]) == ("1.5", "1000", "1,234")


def twelve(score):
    rng = np.random.default_rng(0)
    values = [
        {"n": (64, 128)[k % 2], "weight": float(10 ** rng.uniform(-4, -2))} for k in range(12)
    ]
    return [trial(k, v, score(v)) for k, v in enumerate(values)]


def test_what_decides_the_score_is_said_to_matter():
    shares = importances(twelve(lambda v: 28 + v["n"] / 64 + 1e-3 * v["weight"]), WIDE)
    assert list(shares) == ["n", "weight"]
    assert shares["n"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)


def test_few_trials_or_equal_scores_say_nothing():
    assert importances(twelve(lambda v: 28.0), WIDE) == {}
    assert importances(twelve(lambda v: v["weight"])[:5], WIDE) == {}
    stopped = [
        trial(k, t.values, t.score, "stopped") for k, t in enumerate(twelve(lambda v: v["n"]))
    ]
    assert importances(stopped, WIDE) == {}


@pytest.mark.parametrize(
    ("trials", "space", "num"),
    [
        ([], SPACE, 0),
        ([trial(0, status="failed")], SPACE, 0),
        ([trial(0, score=28.0)], Space({TOKENS: Choices((2, 4))}), 3),
        (MIXED, SPACE, 3),
        ([trial(0, score=28.0, peak=None)], SPACE, 3),
        (twelve(lambda v: v["n"] + v["weight"]), WIDE, 4),
    ],
    ids=["none", "failed", "one", "mixed", "workers", "twelve"],
)
def test_figures_are_drawn_of_whatever_there_is(trials, space, num):
    figures = draw_all(trials, space, best=trials[0] if trials else None)
    assert len(figures) == num
    for png in figures.values():
        assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).std() > 5


def test_no_trial_gives_an_empty_table(tmp_path):
    write_results(str(tmp_path), [], SPACE, "nothing", {})
    assert "no trial" in (tmp_path / "table.md").read_text()
