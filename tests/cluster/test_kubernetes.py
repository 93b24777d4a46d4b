"""The Kubernetes files: valid to the last field, closed where they should be, in step."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.dashboard.modules.reporter import healthz_agent as _healthz_agent  # noqa: F401
from ray.dashboard.optional_utils import DashboardAgentRouteTable

from tests.cluster.manifests import (
    CLUSTER,
    JOBS,
    ROOT,
    constrained,
    core_documents,
    documents,
    found_under,
    kustomization,
    mlflow_container,
    of_kind,
    pod_templates,
    ray_cluster,
    ray_job,
)

SCHEMAS = ROOT.parent / "shared" / "schemas"
KUBERNETES = "1.33"
RESOURCES = {"RayCluster": "kuberay-rayclusters-v1.json", "RayJob": "kuberay-rayjobs-v1.json"}

PODS = pod_templates()


def kuberay_schema(kind: str) -> dict[str, Any]:
    """KubeRay's schema, closed: Kubernetes would drop a field that it does not know in silence."""
    place: Path = SCHEMAS / RESOURCES[kind]
    if not place.exists():
        pytest.skip(f"KubeRay's schema is not at {place}")
    return closed(json.loads(place.read_text()))


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and not is_open:
        parts.setdefault("additionalProperties", False)
    return parts


@pytest.mark.parametrize(
    "resource",
    [ray_cluster(), *map(ray_job, JOBS)],
    ids=["cluster", *JOBS],
)
def test_ray_resources_fit_kuberays_schema(resource: dict[str, Any]):
    jsonschema.validate(resource, kuberay_schema(resource["kind"]))


def test_a_field_that_kuberay_does_not_know_is_found():
    job = ray_job("train")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["afinity"] = {}
    with pytest.raises(jsonschema.ValidationError, match="afinity"):
        jsonschema.validate(job, kuberay_schema("RayJob"))


@pytest.mark.parametrize(
    "document", core_documents(), ids=lambda doc: f"{doc['kind']} {doc['metadata']['name']}"
)
def test_core_resources_are_valid(document: dict[str, Any]):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_pods_are_valid(template: dict[str, Any]):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | template
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_brings_the_cluster_of_the_standing_one(job: str):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it builds the kustomizations")
    told = subprocess.run(
        ["kubectl", "kustomize", str(CLUSTER / "kuberay" / job)],
        capture_output=True,
        text=True,
        check=True,
    )
    (built,) = yaml.safe_load_all(told.stdout)
    images = dict.fromkeys(found_under(built, "image"))
    wanted = ray_job(job)
    for container in (c for group in found_under(wanted, "containers") for c in group):
        container["image"] = next(iter(images))
    assert built["spec"] == wanted["spec"]
    assert list(images) == ["REGISTRY/sddusr:0.1.0"]


@pytest.mark.parametrize("template", PODS.values(), ids=PODS)
def test_pods_have_no_privileges_and_bounded_resources(template: dict[str, Any]):
    pod = template["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][bound])


def test_no_task_lands_on_the_head_and_every_worker_has_a_gpu():
    spec = ray_cluster()["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert group["replicas"] == group["minReplicas"]


def test_the_cluster_asks_for_the_token_and_counts_no_use():
    assert ray_cluster()["spec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    for name in ("head", "gpu"):
        (container,) = PODS[name]["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]


@pytest.mark.parametrize("name", ["head", "gpu"])
def test_ray_answers_on_the_probes_paths(name: str):
    served = {route.path for route in DashboardAgentRouteTable.routes()}
    (container,) = PODS[name]["spec"]["containers"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in served


@pytest.mark.parametrize("job", JOBS)
def test_a_job_cannot_wait_for_ever(job: str):
    spec = ray_job(job)["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


def test_everything_is_closed_but_what_a_policy_names():
    policies = {doc["metadata"]["name"]: doc["spec"] for doc in _policies()}
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    opened = {
        name: sorted(str(port["port"]) for ports in found_under(spec, "ports") for port in ports)
        for name, spec in policies.items()
    }
    assert opened == {
        "closed": [],
        "names": ["53", "53"],
        "ray": ["443", "5000"],
        "dashboard": ["8265"],
        "submitter": ["8265"],
        "mlflow": ["443", "5000", "5432"],
    }
    sources = [rule["from"] for spec in policies.values() for rule in spec.get("ingress", [])]
    assert sources
    for peers in sources:
        assert all({"podSelector", "namespaceSelector"} & set(peer) for peer in peers)


def test_policies_speak_of_pods_that_there_are():
    labels = [template["metadata"]["labels"] for template in PODS.values()]
    selectors = [s for doc in _policies() for s in found_under(doc, "podSelector") if s]
    assert selectors
    for selector in selectors:
        assert any(_matches(selector, pod) for pod in labels), selector


def test_names_agree_between_the_files():
    shared = {(doc["kind"], doc["metadata"]["name"]) for doc in documents("kuberay/shared")}
    (claim,) = {c["claimName"] for c in found_under(PODS, "persistentVolumeClaim")}
    assert ("PersistentVolumeClaim", claim) in shared
    accounts = shared | {("ServiceAccount", "mlflow")}
    assert {
        ("ServiceAccount", name) for name in found_under(PODS, "serviceAccountName")
    } <= accounts
    folders = ("kuberay/shared", "kuberay/cluster", "kuberay/train", "kuberay/search", "mlflow")
    assert {kustomization(folder)["namespace"] for folder in folders} == {"sddusr"}
    assert ("Namespace", "sddusr") in shared
    named = {image["name"] for image in kustomization("images")["images"]}
    assert set(found_under(PODS, "image")) == named


def test_secrets_are_those_that_the_readme_makes():
    used = {ref["name"] for ref in found_under(PODS, "secretRef")}
    used |= {volume["secretName"] for volume in found_under(PODS, "secret")}
    used.add(ray_cluster()["spec"]["authOptions"]["secretName"])
    readme = (CLUSTER / "README.md").read_text()
    for name in used:
        assert f"create secret generic {name} " in readme
    assert not [doc for doc in core_documents() if doc["kind"] == "Secret"]


def test_clients_call_mlflow_by_a_name_that_it_answers_to():
    (service,) = of_kind("mlflow", "Service")
    port = service["spec"]["ports"][0]["port"]
    address = f"{service['metadata']['name']}:{port}"
    allowed = next(a for a in mlflow_container()["args"] if a.startswith("--allowed-hosts="))
    assert address in allowed.partition("=")[2].split(",")
    assert f"--port={mlflow_container()['ports'][0]['containerPort']}" in mlflow_container()["args"]
    uris = [env["value"] for envs in found_under(PODS, "env") for env in envs]
    uris = [uri for uri in uris if uri.startswith("http")]
    words = [word for job in JOBS for word in ray_job(job)["spec"]["entrypoint"].split()]
    asked = [word for word in words if word.startswith("http")]
    assert len(asked) == len(JOBS)
    assert set(uris + asked) == {f"http://{address}"}


def test_ray_is_the_version_of_the_image():
    assert ray_cluster()["spec"]["rayVersion"] == constrained("ray")


def _policies() -> list[dict[str, Any]]:
    return [doc for doc in core_documents() if doc["kind"] == "NetworkPolicy"]


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    some = selector.get("matchExpressions", [])
    return wanted and all(labels.get(one["key"]) in one["values"] for one in some)
