"""The flags of an evaluation."""

from dataclasses import dataclass, replace

from pipelines.ray_runtime.persistent_paths import persistent_path
from pipelines.tracking import links
from sddusr import storage
from sddusr.checkpoint import Checkpoint
from sddusr.evaluation.other_metrics import choose
from sddusr.evaluation.scoring import EvaluationConfig
from sddusr.secrets import mask


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluationConfig):
    """Score a checkpoint, other methods' pictures, or both, beside bicubic enlargement.

    Writes tables, the checkpoint's pictures and page.html with a slider for each picture. Examples:

    python pipelines/evaluate.py --checkpoint runs/paper-1a2b3c4d --data shards

    python pipelines/evaluate.py --sr-dir results/KeDuSR results/DCSR --data shards --out board

    python pipelines/evaluate.py --sr-dir phone/ours phone/DCSR --metrics skimage:blur_effect
    """

    num_actors: int = 1
    """Processes that score; each holds the weights, and a GPU where the cluster has them."""
    seed: int = 0
    """Of the bootstrap intervals."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db. A checkpoint's evaluation
    is a run below its training run."""
    experiment: str = links.EXPERIMENT
    """MLflow's experiment, for an evaluation that belongs to no training run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_actors < 1:
            raise ValueError(f"--num-actors is {self.num_actors}, need 1 or more")

    def with_absolute_places(self) -> "EvaluateOptions":
        """The same from any folder: actors may run in another one."""
        given = {name: getattr(self, name) for name in ("data", "out", "checkpoint")}
        absolute = {
            name: place and persistent_path(place, f"--{name}") for name, place in given.items()
        }
        absolute["sr_dir"] = tuple(persistent_path(place, "--sr-dir") for place in self.sr_dir)
        if self.lpips_weights != "imagenet":
            absolute["lpips_weights"] = storage.absolute(self.lpips_weights)
        return replace(self, **absolute)

    def about(self, checkpoint: Checkpoint | None, lpips: str) -> dict[str, str]:
        """What a reader of the page must know about its numbers."""
        about = {"data": mask(self.data), "split": self.split, "LPIPS": lpips}
        if checkpoint is not None:
            step = checkpoint.progress.get("step", "?")
            about |= {self.name: f"{mask(checkpoint.place)}, step {step}, {self.precision}"}
        for name, place in zip(self.other_names, self.sr_dir, strict=True):
            about[name] = mask(place)
        return about | choose(self.metrics).notes | {"code": links.code_version()}
