"""Shapes in signatures are enforced here and only here; small data that many tests share."""

from jaxtyping import install_import_hook

install_import_hook("sddusr", "beartype.beartype")

import os
from collections.abc import Iterator
from urllib.request import Request, urlopen

os.environ.pop("RAY_ADDRESS", None)
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import cv2
import numpy as np
import pytest
import ray
import torch
from hypothesis import settings
from torchvision.models import vgg19

from pipelines.ray_runtime import cluster
from sddusr.data.dataset import ShardSet
from sddusr.data.detail import detail_map, detail_quantiles
from sddusr.data.manifest import build_manifest, write_manifest
from sddusr.data.shard import write_shard
from sddusr.geometry.box import Box, crop, whole
from sddusr.types import Triplet

WAITING_TEST_S = 900
"""Limit of a test that waits for other processes; a machine with other work takes twice as long."""

# The pictures are small: on a busy machine more threads would only wait for each other.
torch.set_num_threads(1)

# The same cases in every run, and no clock: the machine may be busy.
settings.register_profile("sddusr", deadline=None, derandomize=True)
settings.load_profile("sddusr")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share our cluster are marked as those that start one of their own; these
    and the long ones wait for other processes, and are given up later than others."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
        waits = any(item.get_closest_marker(name) for name in ("ray", "long"))
        if waits and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(WAITING_TEST_S))


@pytest.fixture(autouse=True)
def _no_hidden_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked `ray` starts none: it would take minutes, and all the cores."""
    if request.node.get_closest_marker("ray") is None:
        monkeypatch.setattr(ray, "init", _refuse_to_start)


def _refuse_to_start(*_: object, **__: object) -> None:
    raise RuntimeError("this test starts a Ray cluster; use the fixture ray_session")


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that emulates it."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)


def textured(height: int, width: int, seed: int) -> np.ndarray:
    """A uint8 RGB picture with detail at every scale."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.float32)
    for cell, strength in ((16, 40), (4, 25), (1, 8)):
        noise = rng.normal(0, strength, (height // cell + 1, width // cell + 1, 3))
        picture += cv2.resize(
            noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_triplet(
    id: str = "picture",
    split: str = "train",
    lr_shape: tuple[int, int] = (64, 72),
    box: Box | None = None,
    seed: int = 0,
) -> Triplet:
    """A whole triplet whose Ref is HR itself; `box` None is the whole picture."""
    hr = textured(2 * lr_shape[0], 2 * lr_shape[1], seed)
    box = box or whole(*hr.shape[:2])
    detail = detail_map(hr)
    return Triplet(
        id=id,
        scene=id,
        split=split,
        lr=cv2.resize(hr, lr_shape[::-1], interpolation=cv2.INTER_AREA),
        ref=np.ascontiguousarray(crop(hr, box)),
        hr=hr,
        detail=detail,
        detail_quantiles=detail_quantiles(detail),
        center_box=box,
        provenance={"seed": seed},
    )


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Seven training windows of 64x72 in two shards, two `val` and two `test` triplets with centre
    boxes at an odd phase; Ref is HR itself, LR its mean of 2x2."""
    root = str(tmp_path_factory.mktemp("tiny"))
    box = Box(33, 97, 38, 110)
    train = [make_triplet(f"train-{i}", seed=i) for i in range(7)]
    held = {
        split: [make_triplet(f"{split}-{i}", split, box=box, seed=seed + i) for i in range(2)]
        for split, seed in (("val", 100), ("test", 200))
    }
    groups = [("train", train[:4]), ("train", train[4:]), *held.items()]
    entries = [
        write_shard(f"{root}/{split}-{i:05d}.parquet", split, triplets, {})
        for i, (split, triplets) in enumerate(groups)
    ]
    write_manifest(root, build_manifest(entries, {"window_px": 72}, {}))
    return ShardSet(root)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3-compatible store on loopback, with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    reset = Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urlopen(reset).close()  # a new server still holds what earlier ones were sent
    boto3.client("s3").create_bucket(Bucket="lab")
    yield "s3://lab"
    server.stop()


@pytest.fixture
def secret_bucket(bucket: str) -> str:
    """The same as a URI that has a key, a secret and a query."""
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    return f"s3://key:sEcReT@lab?scheme=http&endpoint_override={host}"


@pytest.fixture(scope="session")
def vgg19_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state dict of torchvision's vgg19, its weights random."""
    torch.manual_seed(0)
    state = vgg19(weights=None).state_dict()
    path = tmp_path_factory.mktemp("weights") / "vgg19.pth"
    torch.save({name: value for name, value in state.items() if "features" in name}, path)
    return str(path)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small cluster of our own for all tests that need Ray, whoever else's runs here."""
    cluster.init_ray(num_cpus=2)
    yield
    ray.shutdown()
