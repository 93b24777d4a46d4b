"""Credentials in the URIs of a run are in nothing that it prints or leaves for all to read."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parents[2]
SECRETS = "AKIAEXAMPLE", "sEcReTkEy", "hUsHhUsH"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def data(tiny_shards, monkeypatch):
    """Shards in an S3-compatible store on loopback, with key and secret in their URI."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="lab")
    for path in Path(tiny_shards.root).iterdir():
        client.upload_file(str(path), "lab", f"shards/{path.name}")
    key, secret, _ = SECRETS
    yield f"s3://{key}:{secret}@lab/shards?scheme=http&endpoint_override={host}:{port}"
    server.stop()


def test_no_output_of_a_run_holds_a_credential(data, tmp_path):
    command = [sys.executable, "pipelines/train.py", "demo", "--data", data, "--name", "run"]
    command += ["--storage", str(tmp_path), "--workers", "1", "--tracking-wait-s", "1"]
    command += ["--tracking-uri", f"http://me:{SECRETS[2]}@127.0.0.1:9"]  # a closed port
    command += ["--data.register-ref", "none", "--data.crop-px", "16", "--data.shift-px", "2", "8"]
    command += ["--train.num-steps", "2", "--train.batch-size", "2", "--train.validate-every", "2"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS")}
    session = Path("/tmp", f"ray-{os.getpid()}")  # the path of a socket may have 107 letters
    env |= {"RAY_TMPDIR": str(session)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600)
    try:
        assert done.returncode == 0, done.stderr
        for secret in SECRETS:
            assert secret not in done.stdout + done.stderr
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        logs = [path for path in session.rglob("logs/**/*") if path.is_file()]
        assert left
        assert any(path.suffix == ".err" for path in logs)  # of the workers
        for path in left + logs:
            is_private = not stat.S_IMODE(path.stat().st_mode) & 0o077
            held = [secret for secret in SECRETS if secret.encode() in path.read_bytes()]
            assert not held or is_private, f"{path}: {held}"
    finally:
        shutil.rmtree(session, ignore_errors=True)
