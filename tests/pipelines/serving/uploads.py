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
SCENE = textured(128, 160, 0)
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
