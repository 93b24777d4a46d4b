"""The files in cluster/, read as kubectl and KubeRay read them."""

import copy
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"

Document = dict[str, Any]

JOBS = ("train", "search")


def documents(folder: str) -> list[Document]:
    """What a kustomization lists, in its own namespace."""
    place = CLUSTER / folder
    listed = [name for name in kustomization(folder)["resources"] if name.endswith(".yaml")]
    return [doc for name in listed for doc in yaml.safe_load_all((place / name).read_text())]


def kustomization(folder: str) -> Document:
    return yaml.safe_load((CLUSTER / folder / "kustomization.yaml").read_text())


def of_kind(folder: str, kind: str) -> list[Document]:
    return [doc for doc in documents(folder) if doc["kind"] == kind]


def ray_cluster() -> Document:
    (found,) = of_kind("kuberay/cluster", "RayCluster")
    return found


def ray_job(name: str) -> Document:
    """A job with the cluster that its kustomization puts into it."""
    (job,) = of_kind(f"kuberay/{name}", "RayJob")
    job["spec"]["rayClusterSpec"] = copy.deepcopy(ray_cluster()["spec"])
    return job


def core_documents() -> list[Document]:
    """Everything that plain Kubernetes knows."""
    folders = ("kuberay/shared", "mlflow")
    return [doc for folder in folders for doc in documents(folder)]


def pod_templates() -> dict[str, Document]:
    """All pods: head, worker, the jobs' submitters, MLflow."""
    spec = ray_cluster()["spec"]
    (mlflow,) = of_kind("mlflow", "Deployment")
    submitters = {name: ray_job(name)["spec"]["submitterPodTemplate"] for name in JOBS}
    return {
        "head": spec["headGroupSpec"]["template"],
        **{group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]},
        **{f"submitter of {name}": template for name, template in submitters.items()},
        "mlflow": mlflow["spec"]["template"],
    }


def mlflow_container() -> Document:
    return pod_templates()["mlflow"]["spec"]["containers"][0]


def found_under(node: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key`, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from found_under(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from found_under(value, key)


def ray_up(cloud: str) -> Document:
    return yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text())


def constrained(package: str) -> str:
    """The version of a package that the image gets."""
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found, f"{package} is not in constraints.txt"
    return found[1]


def readme_commands() -> list[list[str]]:
    """The words of each command in the README's code blocks, continued lines joined."""
    text = (CLUSTER / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.split("#")[0].strip()]
