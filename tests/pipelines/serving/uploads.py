"""Small images to upload, the network that upscales them, and a client."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from starlette.testclient import TestClient

from pipelines.serving.app import Service, build_app
from sddusr.config import DetailConfig
from sddusr.imaging.encoding import encode_png
from tests.conftest import textured
from tests.tiny import TINY

MODEL = replace(TINY, image_skip=True, detail=DetailConfig(enabled=True))


def scene() -> np.ndarray:
    """With fine lines, as detail that only the tele image shows."""
    picture, rng = textured(128, 160, 0), np.random.default_rng(0)
    for _ in range(120):
        start = rng.integers(0, (160, 128))
        end, color = start + rng.integers(-20, 20, 2), rng.integers(0, 255, 3).tolist()
        cv2.line(picture, start.tolist(), end.tolist(), color, 1)
    return picture


SCENE = scene()
WIDE = encode_png(cv2.resize(SCENE, (80, 64), interpolation=cv2.INTER_AREA))
TELE = encode_png(np.ascontiguousarray(SCENE[32:96, 40:120]))
MIDDLE = [32, 96, 40, 120]
MAX_BYTES = 200_000


def pair(**changed: Any) -> dict[str, Any]:
    """The files of a request."""
    files = {"wide": ("IMG 1.png", WIDE, "image/png"), "tele": ("IMG 2.png", TELE, "image/png")}
    return {name: file for name, file in (files | changed).items() if file is not None}


def client_of(service: Service) -> TestClient:
    return TestClient(build_app(service), "http://127.0.0.1:8000", raise_server_exceptions=False)
