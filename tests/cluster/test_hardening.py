"""Pods have a read-only root and places to write; a search job goes on after a driver that died."""

from pathlib import Path

import pytest
import yaml

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"
FILES = sorted(KUBERAY.glob("*/ray*.yaml"))


def pods(tree):
    """Every pod specification below a manifest."""
    if isinstance(tree, dict):
        if "containers" in tree:
            yield tree
        for value in tree.values():
            yield from pods(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from pods(value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_container_has_a_read_only_root_and_places_to_write(path):
    found = list(pods(yaml.safe_load(path.read_text())))
    assert found
    for pod in found:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/home/ray"} <= mounts.keys()
            assert set(mounts.values()) <= volumes


def test_a_search_that_is_tried_again_resumes():
    job = yaml.safe_load((KUBERAY / "search" / "rayjob.yaml").read_text())
    assert job["spec"]["backoffLimit"] > 0
    assert "--resume" in job["spec"]["entrypoint"].split()
