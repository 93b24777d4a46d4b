"""The Dockerfile: what a linter can say, and that it is in step with everything else."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.cluster.manifests import CLUSTER, ROOT, ray_up

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
INSTRUCTIONS = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))


def lint(text: str) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run(
        [hadolint, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )


def test_the_linter_is_content():
    told = lint(DOCKERFILE)
    assert told.returncode == 0, told.stdout


def test_the_linter_sees_what_is_wrong():
    told = lint(DOCKERFILE.replace("python:3.11.14-slim-bookworm", "python:latest"))
    assert told.returncode == 1
    assert "DL3007" in told.stdout


def test_what_is_copied_is_there_and_not_ignored():
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    copied = [
        name
        for line in re.findall(r"^COPY (.+)$", INSTRUCTIONS, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert sorted(set(copied)) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)
    assert rules.index("*") < min(rules.index(f"!{name}") for name in let_in)


def test_everything_from_pip_is_constrained_and_not_cached():
    installs = re.findall(r"pip install (.+?)(?: &&|$)", INSTRUCTIONS, re.MULTILINE)
    assert len(installs) == 3
    for install in installs:
        assert "--no-cache-dir" in install
        assert "--constraint constraints.txt" in install or "--no-deps" in install


def test_no_image_runs_as_root():
    stages = re.split(r"^FROM ", INSTRUCTIONS, flags=re.MULTILINE)[2:]
    assert [stage.split()[2] for stage in stages] == ["mlflow", "ray"]
    for stage in stages:
        assert re.findall(r"^USER (.+)$", stage, re.MULTILINE) == ["1000:1000"]


def test_python_is_one_that_the_package_runs_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    found = re.search(r"^FROM python:(\d+)\.(\d+)\.\d+-", INSTRUCTIONS, re.MULTILINE)
    assert found
    assert (int(found[1]), int(found[2])) >= least


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_all_files_name_the_same_image(cloud: str):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    image = f"REGISTRY/sddusr:{version}"
    assert ray_up(cloud)["docker"]["image"] == image
    images = yaml.safe_load((CLUSTER / "images" / "kustomization.yaml").read_text())["images"]
    assert {f"{one['newName']}:{one['newTag']}" for one in images} == {
        image,
        f"REGISTRY/sddusr-mlflow:{version}",
    }
    for name in ("sddusr", "sddusr-mlflow"):
        assert fnmatch.filter(DOCKERFILE.split(), f"{name}:{version}")
