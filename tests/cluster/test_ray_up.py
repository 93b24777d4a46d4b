"""The `ray up` files: what Ray accepts, who may reach the nodes, and spot with a way out."""

import shlex
from typing import Any
from unittest.mock import patch

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint

from tests.cluster.manifests import ray_up

pytestmark = pytest.mark.parametrize("cloud", ["aws", "gcp"])


def started(cloud: str, commands: str) -> list[list[str]]:
    """The words of each `ray start`."""
    found = [part for part in ray_up(cloud)[commands] if "ray start" in part]
    return [shlex.split(part[part.index("ray start") :]) for part in found]


def test_ray_accepts_the_file(cloud: str):
    validate_config(prepare_config(ray_up(cloud)))


def test_a_field_that_ray_does_not_know_is_found(cloud: str):
    wrong = ray_up(cloud) | {"idle_timeout": 5}
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(wrong))


def test_the_dashboard_is_for_the_head_alone_and_the_token_is_asked_for(cloud: str):
    config = ray_up(cloud)
    (head,) = started(cloud, "head_start_ray_commands")
    assert "--dashboard-host=127.0.0.1" in head
    assert {"--env RAY_AUTH_MODE=token", "--env RAY_USAGE_STATS_ENABLED=0"} <= set(
        config["docker"]["run_options"]
    )
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not config["provider"].get("security_group")  # Ray's own lets the world try SSH


def test_no_task_lands_on_the_head(cloud: str):
    config = ray_up(cloud)
    (head,) = started(cloud, "head_start_ray_commands")
    assert "--num-cpus=0" in head
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}


def test_workers_call_the_port_that_the_head_opens(cloud: str):
    (head,) = started(cloud, "head_start_ray_commands")
    (worker,) = started(cloud, "worker_start_ray_commands")
    port = next(word for word in head if word.startswith("--port=")).removeprefix("--port=")
    assert f"--address=$RAY_HEAD_IP:{port}" in worker


def test_workers_are_on_spot_and_on_demand(cloud: str):
    types = ray_up(cloud)["available_node_types"]
    spot = {"aws": ("InstanceMarketOptions", "MarketType", "spot")}.get(
        cloud, ("scheduling", "provisioningModel", "SPOT")
    )
    assert types["gpu_spot"]["node_config"][spot[0]][spot[1]] == spot[2]
    for name in ("head", "gpu_on_demand"):
        assert spot[1] not in types[name]["node_config"].get(spot[0], {})


@pytest.mark.parametrize(
    ("spot_availability", "wanted"), [(1.0, "gpu_spot"), (0.0, "gpu_on_demand")]
)
def test_gpus_come_on_demand_where_spot_failed(cloud: str, spot_availability: float, wanted: str):
    config = ray_up(cloud)
    assert "--env RAY_enable_autoscaler_v2=1" in config["docker"]["run_options"]
    assert launched(config, spot_availability) == {wanted: 2}


def test_a_minimum_of_spot_nodes_would_wait_for_ever(cloud: str):
    config = ray_up(cloud)
    config["available_node_types"]["gpu_spot"]["min_workers"] = 2
    assert launched(config, spot_availability=0.0) == {"gpu_spot": 2}


def launched(config: dict[str, Any], spot_availability: float) -> dict[str, int]:
    """The workers that the autoscaler starts for what the head asks it to hold."""
    understood = AutoscalingConfig(config, skip_content_hash=True)
    bundles = [ResourceRequestUtil.make(bundle) for bundle in held(config)]
    held_up = ClusterResourceConstraint(
        resource_requests=ResourceRequestUtil.group_by_count(bundles)
    )
    availability = {"gpu_spot": spot_availability}
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=understood.get_node_type_configs(),
            max_num_nodes=understood.get_max_num_nodes(),
            cluster_resource_constraints=[held_up],
            cloud_resource_availabilities=availability,
            recoverable_resource_availabilities=availability,
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def held(config: dict[str, Any]) -> list[dict[str, float]]:
    """The request of the head's last command, run with nobody to hear it."""
    program, _, code = shlex.split(config["head_start_ray_commands"][-1])
    assert program == "python"
    with patch("ray.init"), patch("ray.autoscaler.sdk.request_resources") as request:
        exec(code, {})
    return request.call_args.kwargs["bundles"]
