"""Two clusters on one machine: a process of one asks its own dashboard, and not a stranger's."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, ray
from pipelines.ray_runtime import cluster

@ray.remote(num_cpus=0)
class Watcher:
    def sees(self):
        from ray.util.state import get_actor  # what Ray Train's own watcher asks
        return get_actor(ray.get_runtime_context().get_actor_id()).state

cluster.init_ray(1)
print(ray.get(Watcher.remote().sees.remote()), "RAY_API_SERVER_ADDRESS" in os.environ)
"""


@pytest.mark.usefixtures("ray_session")
def test_a_process_of_a_second_cluster_finds_itself():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split()[-2:] == ["ALIVE", "False"], done.stderr[-2000:]
