"""The RayService: the standing cluster's pods, opened for requests and nothing else."""

import json
import shutil
import subprocess
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from pipelines import serve as command
from pipelines.serving.options import ServeOptions
from tests.cluster.manifests import CLUSTER, found_under, kustomization, of_kind, ray_cluster
from tests.cluster.test_kubernetes import KUBERNETES, kuberay_schema

FOLDER = "kuberay/serve"
FIELDS = {
    *("serveConfigV2", "rayClusterConfig", "serveService", "upgradeStrategy"),
    *("excludeHeadPodFromServeSvc", "rayClusterDeletionDelaySeconds"),
}
"""Of a RayService's spec, in the KubeRay that cluster/README.md installs."""


def patched_cluster() -> dict[str, Any]:
    """The cluster as the kustomization changes it."""
    document = json.loads(json.dumps(ray_cluster()))
    (patch,) = kustomization(FOLDER)["patches"]
    for step in yaml.safe_load(patch["patch"]):
        *way, last = [int(part) if part.isdigit() else part for part in step["path"].split("/")[1:]]
        node = document
        for part in way:
            node = node[part]
        assert step["op"] == "add" or last in node
        if last == "-":
            node.append(step["value"])
        else:
            node[last] = step["value"]
    return document


def service() -> dict[str, Any]:
    (found,) = of_kind(FOLDER, "RayService")
    return found


CONFIG = yaml.safe_load(service()["spec"]["serveConfigV2"])
(APPLICATION,) = CONFIG["applications"]


def containers() -> dict[str, dict[str, Any]]:
    spec = patched_cluster()["spec"]
    (worker,) = spec["workerGroupSpecs"]
    groups = {"head": spec["headGroupSpec"], "worker": worker}
    return {name: group["template"]["spec"]["containers"][0] for name, group in groups.items()}


def test_its_cluster_fits_kuberays_schema_and_its_fields_are_known():
    jsonschema.validate(patched_cluster(), kuberay_schema("RayCluster"))
    assert set(service()["spec"]) <= FIELDS
    (policy,) = of_kind(FOLDER, "NetworkPolicy")
    kubernetes_validate.validate(policy, KUBERNETES, strict=True)


def test_kustomize_builds_what_these_tests_read():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it builds the kustomizations")
    told = subprocess.run(
        ["kubectl", "kustomize", str(CLUSTER / FOLDER)], capture_output=True, text=True, check=True
    )
    built = {each["kind"]: each for each in yaml.safe_load_all(told.stdout)}
    wanted = patched_cluster()["spec"]
    for image in found_under(wanted, "containers"):
        image[0]["image"] = "REGISTRY/sddusr:0.1.0"
    assert built["RayService"]["spec"]["rayClusterConfig"] == wanted


def test_serve_reads_its_config_and_our_code_takes_its_arguments(monkeypatch):
    monkeypatch.setenv("SDDUSR_SERVE_TOKEN", "0123456789abcdef")
    ServeDeploySchema.model_validate(CONFIG)
    module, _, name = APPLICATION["import_path"].partition(":")
    assert (module, name) == (command.__name__, "build")
    application = command.build(APPLICATION["args"])
    from pipelines.serving.deployments import Upscaling

    assert [each["name"] for each in APPLICATION["deployments"]] == [Upscaling.name]
    assert application is not None


def test_a_replica_fits_into_a_worker():
    options = ServeOptions(**APPLICATION["args"])
    (deployment,) = APPLICATION["deployments"]
    (worker,) = patched_cluster()["spec"]["workerGroupSpecs"]
    limits = containers()["worker"]["resources"]["limits"]
    assert options.replicas == worker["replicas"]
    assert deployment["ray_actor_options"]["num_gpus"] == int(limits["nvidia.com/gpu"])
    assert deployment["ray_actor_options"]["num_cpus"] < int(limits["cpu"])


def test_the_token_comes_from_a_secret_that_the_readme_makes():
    assert "token" not in json.dumps(CONFIG)
    for container in containers().values():
        assert {"secretRef": {"name": "serve-token"}} in container["envFrom"]
    readme = (CLUSTER / "README.md").read_text()
    assert "create secret generic serve-token --from-literal=SDDUSR_SERVE_TOKEN=" in readme


def test_only_the_port_of_the_workers_is_opened_and_only_to_labelled_pods():
    (policy,) = of_kind(FOLDER, "NetworkPolicy")
    (rule,) = policy["spec"]["ingress"]
    port = CONFIG["http_options"]["port"]
    assert [each["port"] for each in rule["ports"]] == [port]
    assert all(peer["podSelector"]["matchLabels"] for peer in rule["from"])
    (opened,) = containers()["worker"]["ports"]
    assert opened["containerPort"] == port
    assert containers()["worker"]["readinessProbe"]["httpGet"] == {
        "path": "/-/healthz",
        "port": port,
    }
    assert containers()["worker"]["livenessProbe"]["httpGet"]["port"] != port
    selector = policy["spec"]["podSelector"]["matchLabels"]
    (worker,) = patched_cluster()["spec"]["workerGroupSpecs"]
    assert selector.items() <= worker["template"]["metadata"]["labels"].items()
    assert service()["spec"]["excludeHeadPodFromServeSvc"] is True


def test_nothing_is_in_another_namespace():
    assert kustomization(FOLDER)["namespace"] == "sddusr"
