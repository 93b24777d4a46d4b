"""What the page shows of each picture: the views of one evaluation or several, merged."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sddusr import storage
from sddusr.evaluation.results import ImageScores
from sddusr.evaluation.scoring import BICUBIC
from sddusr.visualization.web_view import REF, TRUTH, view_place

SHARED = (BICUBIC, REF, TRUTH)
"""Layers that every evaluation of the same data has."""


class Evaluation(NamedTuple):
    """One folder of results."""

    folder: str
    images: list[ImageScores]
    about: dict[str, str]
    names: dict[str, str]
    """Method -> what the page calls it."""
    suffix: str = ""
    """Suffix of the names of this evaluation's overlays."""


def collect_views(
    evaluations: Sequence[Evaluation], ids: Sequence[str], max_bytes: float
) -> dict[str, dict[str, Any]]:
    """Id -> view, as many as the limits allow; none where pictures were not kept."""
    views: dict[str, dict[str, Any]] = {}
    room = max_bytes
    for id in ids:
        found = [view for each in evaluations if (view := _view(each, id)) is not None]
        if not found:
            continue
        view = merge_views(found)
        room -= len(json.dumps(view))
        if room < 0:
            break
        views[id] = view
    return {image.id: views[image.id] for image in evaluations[0].images if image.id in views}


def _view(evaluation: Evaluation, id: str) -> dict[str, Any] | None:
    """A picture's view under the page's names."""
    place = view_place(evaluation.folder, id)
    if not storage.exists(place):
        return None
    view = storage.read_json(place)
    for frame in view["frames"]:
        frame["layers"] = {
            evaluation.names.get(name, name): uri for name, uri in frame["layers"].items()
        }
        frame["overlays"] = {
            f"{name}{evaluation.suffix}": uri for name, uri in frame["overlays"].items()
        }
    return view


def merge_views(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first view with the layers and overlays of the others added; methods come first."""
    merged = {**views[0], "frames": []}
    for frames in zip(*(view["frames"] for view in views), strict=True):
        layers = {name: uri for frame in frames for name, uri in frame["layers"].items()}
        overlays = {name: uri for frame in frames for name, uri in frame["overlays"].items()}
        methods = [name for name in layers if name not in SHARED]
        ordered = {name: layers[name] for name in [*methods, *SHARED]}
        merged["frames"].append({**frames[0], "layers": ordered, "overlays": overlays})
    return merged
