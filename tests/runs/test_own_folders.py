"""No name and no flag lets a run delete, or write into, what is not its own."""

import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sddusr import storage as places
from sddusr.runs.own_folders import check_run_folder, check_run_name, delete_run, plain_name

NOTE = json.dumps({"tracking_uri": "sqlite:////x.db", "run_id": "1", "key": "k"})
SEARCH = json.dumps({"config": {}, "space": {}, "search": "grid"})

BAD_NAMES = [
    "", ".", "..", "../x", "a/b", "/etc", "a\\b", "C:x", "a:b", ".hidden", "-flag", " a", "a ",
    "a\n", "a\0b", "a?b", "a#b", "a%2Fb", "~", "x" * 121, "ü" * 61, "s3://bucket/run", "a\u202eb",
]  # fmt: skip


@pytest.fixture(params=["local", "uri"])
def storage(request, tmp_path):
    if request.param == "local":
        return str(tmp_path)
    return f"fsspec+memory://own-folders/{uuid.uuid4().hex}"


def write(folder, name, content=NOTE):
    places.write_atomic(places.join(folder, name), content.encode())


def content_of(folder):
    return {name: places.read_bytes(place) for name, place in places.list_files(folder).items()}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_plain_name_is_refused(name):
    with pytest.raises(ValueError, match=r"--name is .*, need a plain name"):
        check_run_name(name)


@pytest.mark.parametrize(
    "name", ["paper-1a2b3c4d", "run 2 (final)", "lr=1e-4,N=64", "Prüfung", "_"]
)
def test_plain_names_are_taken(name):
    check_run_name(name)


@given(st.text())
def test_a_name_that_is_taken_is_one_component_below_the_storage(name):
    try:
        check_run_name(name)
    except ValueError:
        return
    assert Path("/storage", name).resolve().parent == Path("/storage")
    assert places.join("s3://bucket/storage?region=x", name) == (
        f"s3://bucket/storage/{name}?region=x"
    )


@given(st.text())
def test_any_text_makes_a_part_of_a_plain_name(text):
    check_run_name(f"search-{plain_name(text)}-1a2b3c4d")


@pytest.mark.parametrize(
    ("mark", "content"),
    [
        ("mlflow.json", NOTE),
        ("search.json", SEARCH),
        ("checkpoints/step-00000004/hashes.json", "{}"),
    ],
)
def test_a_run_of_ours_is_deleted_whole(storage, mark, content):
    folder = places.join(storage, "run")
    write(folder, mark, content)
    write(folder, "metrics.jsonl", "")
    delete_run(folder, is_search=mark == "search.json")
    assert not places.exists(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", "years of work"),
        ("metrics.jsonl", "{}"),
        ("mlflow.json", '{"version": 1}'),
        ("mlflow.json", "[]"),
        ("mlflow.json", "no JSON"),
        ("search.json", '{"query": "cats"}'),
        ("checkpoints/epoch-1.ckpt", "of another project"),
        ("checkpoints/step-00000004/model.pt", "of another project"),
    ],
)
def test_a_folder_that_is_no_run_is_neither_deleted_nor_written_to(storage, name, content):
    folder = places.join(storage, "mine")
    write(folder, name, content)
    for refused in (check_run_folder, delete_run):
        with pytest.raises(ValueError, match="no run of ours; take another --name"):
            refused(folder)
    assert places.read_bytes(places.join(folder, name)) == content.encode()


def test_what_no_run_wrote_keeps_a_run_from_being_deleted(storage):
    folder = places.join(storage, "run")
    write(folder, "mlflow.json")
    write(folder, "figures/table.tex")
    before = content_of(folder)
    with pytest.raises(ValueError, match="would delete 'figures', which no run wrote"):
        delete_run(folder)
    check_run_folder(folder)
    assert content_of(folder) == before


@pytest.mark.parametrize("is_search", [False, True])
def test_a_search_and_a_training_run_do_not_delete_each_other(storage, is_search):
    folder = places.join(storage, "run")
    write(folder, *(("mlflow.json", NOTE) if is_search else ("search.json", SEARCH)))
    with pytest.raises(ValueError, match=r"holds a .*, not a .*; take another --name"):
        delete_run(folder, is_search=is_search)
    assert content_of(folder)


def test_an_empty_or_absent_folder_and_one_with_a_killed_write_are_taken(tmp_path):
    for folder in ("absent", "empty", "killed"):
        if folder != "absent":
            (tmp_path / folder).mkdir()
    (tmp_path / "killed" / ".mlflow.json.1a2b.tmp").write_text("half")
    for folder in ("absent", "empty", "killed"):
        check_run_folder(str(tmp_path / folder))
        delete_run(str(tmp_path / folder))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes").write_text("x")
    with pytest.raises(ValueError, match="is a file, need a folder"):
        delete_run(str(tmp_path / "notes"))


def test_a_link_to_a_run_takes_nothing_beside_the_run_with_it(tmp_path):
    target, other = tmp_path / "disk" / "run", tmp_path / "disk" / "other"
    write(str(target), "mlflow.json")
    write(str(other), "x")
    (target / "checkpoints").symlink_to(other)
    (tmp_path / "run").symlink_to(target)
    delete_run(str(tmp_path / "run"))
    assert (other / "x").read_text() == NOTE
