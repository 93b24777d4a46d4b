"""No credential of a URI is shown, logged or left in a file that others read."""

import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ray_runtime import cluster, scoring, shard_tasks, upscaling
from sddusr import storage
from sddusr.secrets import has_credentials, mask

SECRETS = {
    "http://user:pw@host:5000/x": "http://***@host:5000/x",
    "s3://key:sec/ret@bucket": "s3://key:sec/ret@bucket",  # a slash ends the user's part
    "s3://AKIA:sEcReT@bucket/runs": "s3://***@bucket/runs",
    "s3://bucket/runs?access_key=AKIA&secret_key=sEcReT&region=eu": (
        "s3://bucket/runs?access_key=***&secret_key=***&region=eu"
    ),
    "https://host/file?X-Amz-Signature=abc&part=1": "https://host/file?X-Amz-Signature=***&part=1",
    "az://box?sig=abc;AccountKey=xyz": "az://box?sig=***;AccountKey=***",
    "postgresql://me:p@ss@db/mlflow": "postgresql://***@db/mlflow",
    "two http://a:b@c and ftp://d:e@f": "two http://***@c and ftp://***@f",
    "mail me@example.org about s3://bucket/a@b": "mail me@example.org about s3://bucket/a@b",
    "/plain/path?token=x": "/plain/path?token=x",
    "http://host:5000/#/experiments/1": "http://host:5000/#/experiments/1",
}


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_are_masked_and_the_rest_stays(text):
    assert mask(text) == SECRETS[text]
    assert has_credentials(text) == (mask(text) != text)
    assert mask(mask(text)) == mask(text)


@given(st.text(st.characters(categories=["L", "N"]), min_size=6, max_size=12))
def test_no_password_survives_anywhere_in_a_line(password):
    for uri in (f"s3://k:{password}@b/c", f"s3://b/c?secret_key={password}&a=1"):
        assert password not in mask(f"3: {uri}: not found in '{uri}' ({uri!r})").replace("***", "")


PROGRAM = """
import logging, sys, warnings
from dataclasses import dataclass
from sddusr.cli import command_line

@dataclass(frozen=True)
class Options:
    \"\"\"An example.\"\"\"
    data: str
    fail: bool = False

def main(options):
    logging.getLogger("x").warning("read %s", options.data)
    print("page", options.data)
    warnings.warn(options.data)
    if options.fail:
        raise KeyError(options.data)
    raise ValueError(f"{options.data}: no such folder")

command_line.run(main, Options)
"""


@pytest.mark.parametrize("fail", [[], ["--fail"]])
def test_nothing_that_a_command_prints_holds_a_credential(fail):
    uri = "s3://AKIAKEY:sEcReT@bucket/x?secret_key=hUsH"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PROGRAM, "--data", uri, *fail]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == (1 if fail else 2)
    shown = done.stdout + done.stderr
    for secret in ("AKIAKEY", "sEcReT", "hUsH"):
        assert secret not in shown
    assert shown.count("s3://***@bucket/x?secret_key=***") >= 3
    assert "give them by environment variables or a profile" in shown


@pytest.mark.parametrize(
    ("module", "work", "start"),
    [
        (upscaling, "Upscaler", lambda: upscaling.UpscalerActor([], None, None)),
        (scoring, "Scorer", lambda: scoring.ScorerActor(MagicMock(), [], {}, False, 1.0)),
        (shard_tasks, "make_shard", lambda: shard_tasks._task([None], None, 0)),
    ],
)
def test_nothing_that_a_worker_prints_holds_a_credential(monkeypatch, module, work, start):
    printed = {name: io.StringIO() for name in ("stdout", "stderr")}
    for name, stream in printed.items():
        monkeypatch.setattr(sys, name, stream)

    def print_place(*_, **__):
        for stream in (sys.stdout, sys.stderr):
            print("s3://AKIAKEY:sEcReT@bucket/x", file=stream)
        return MagicMock()

    monkeypatch.setattr(module, work, print_place)
    start()
    assert [stream.getvalue() for stream in printed.values()] == ["s3://***@bucket/x\n"] * 2


def test_a_private_file_is_its_owners_alone(tmp_path):
    storage.write_atomic(str(tmp_path / "private"), b"x", private=True)
    storage.write_atomic(str(tmp_path / "other"), b"x")
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"private": 0o600, "other": 0o666 & ~umask}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("kind", ["none", "file", "variable", "chosen"])
def test_a_token_that_is_there_is_sent(home, monkeypatch, kind):
    if kind in ("file", "chosen"):
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("t")
    if kind == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", "t")
    if kind == "chosen":
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is restored
        monkeypatch.delenv("RAY_AUTH_MODE")
    cluster.use_token()
    wanted = {"none": None, "file": "token", "variable": "token", "chosen": "disabled"}[kind]
    assert os.environ.get("RAY_AUTH_MODE") == wanted
    os.environ.pop("RAY_AUTH_MODE", None)


def test_rays_token_becomes_its_owners_alone(home):
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("t")
    token.chmod(0o644)
    cluster._make_token_private()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes: x"), "set RAY_TMPDIR=/tmp"),
        (PermissionError(13, "Permission denied", "/none/.ray"), "set HOME to a folder that can"),
        (Exception("The current node timed out during startup"), "machine may be too busy"),
    ],
)
def test_what_keeps_ray_from_starting_comes_with_its_remedy(error, remedy):
    told = str(cluster._explain_start(error))
    assert told.startswith("Ray cannot be started (")
    assert remedy in told
    assert "\n" not in told


def test_a_slow_start_is_tried_once_more(monkeypatch, caplog):
    import ray

    tries = []

    def start(num_cpus):
        tries.append(num_cpus)
        if len(tries) < 2:
            raise Exception("The current node timed out during startup")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "_start_cluster", start)
    monkeypatch.setattr(cluster, "_make_token_private", lambda: None)
    cluster.init_ray(3)
    assert tries == [3, 3]
    assert "once more" in caplog.text


def test_a_cluster_that_refuses_is_told_with_the_token(monkeypatch, home):
    import ray

    def refuse(**_):
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"RAY_ADDRESS=10\.0\.0\.1:6379 .*no token was found"):
        cluster.init_ray()
