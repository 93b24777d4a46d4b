"""Command-line options of the ablation."""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from ablation_parts.variants import Study, Variant, variants
from pipelines.ray_runtime.persistent_paths import persistent_path
from pipelines.ray_runtime.preflight import data_or_samples
from pipelines.tracking import links
from sddusr.config import DEMO, Config
from sddusr.evaluation.metrics import Protocol
from sddusr.model.precision import Precision


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Train variants of a preset, each once for every seed, and compare them on test pictures.

    Every variant sees the same samples in the same order. In MLflow the study is one run with a
    child for each training. Examples:

    python benchmarks/ablation.py demo --data mix --tests test-photos test-pairs test-photos-faulty

    python benchmarks/ablation.py demo --data mix --tests test-photos --data-as-given mix-none
    --tests-as-given test-photos-none

    python benchmarks/ablation.py demo --data mix --tests test-photos --study knobs --seeds 1

    python benchmarks/ablation.py paper --data DuSR-Real-shards --tokens 64 128 192 256
    """

    data: str | None = None
    """Folder or URI of shards to train on, from pipelines/preprocess.py; without it, the pictures
    that ship with scikit-image and scikit-learn are preprocessed into a folder in OUT."""
    tests: tuple[str, ...] = ()
    """Folders or URIs of shards; their split `test` is scored under the folder's name. By default
    --data alone."""
    data_as_given: str | None = None
    """Shards of the same pictures made with `--register-ref none`, for the baseline; without them
    the baseline has registered Refs too."""
    tests_as_given: tuple[str, ...] = ()
    """The same for each of --tests, in its order."""
    study: Study = "parts"
    """`parts`: baseline, then, each added to the last: registered Refs (`registered`), the detail
    skip trusting matches by their confidence (`detail`), learned trust (`trust`), sparse matching
    (`sfm`), less residual where detail is trusted (`replaced`), the dictionary (`sddusr-N`);
    `constant` has one vector in the dictionary's place. `knobs`: what the paper leaves open, one at
    a time: temperature, attention, scope of the mask, key mask, distance of the windows.
    `dictionary`: one constant vector, then the preset's tokens, the paper's, and each with one
    thing changed: attention, heads, first size, keep rate, written by training."""
    tokens: tuple[int, ...] = (16, 32, 64, 128)
    """N of the dictionaries in the study of parts."""
    only: tuple[str, ...] = ()
    """Names of the variants to train; by default all of the study."""
    seeds: int = 3
    """Trainings of each variant, with consecutive seeds."""
    first_seed: int = 0
    """The smallest of the seeds; the others follow it."""
    concurrent: int = 1
    """Trainings at a time; each gets an equal share of the cluster."""
    out: str = "runs/ablation"
    """Folder or URI for trainings and tables."""
    protocol: Protocol = "kedusr-float"
    """How pictures are compared."""
    precision: Precision = "float32"
    """Number format of the networks in the test."""
    lpips_weights: str = "imagenet"
    """AlexNet of LPIPS: `imagenet` (by name, needs internet once) or a path to a state dict."""
    costs: bool = True
    """Also measure time and memory of each network on the first test picture, once all are
    trained."""
    tracking_uri: str | None = None
    """MLflow; by default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."""
    experiment: str = "sddusr-ablation"
    """MLflow's experiment."""
    preset: Annotated[str, tyro.conf.Suppress] = "demo"
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: DEMO)

    def __post_init__(self) -> None:
        for name in ("seeds", "concurrent"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, need 1 or more")
        if self.first_seed < 0:
            raise ValueError(f"--first-seed is {self.first_seed}, need 0 or more")
        if bool(self.data_as_given) != bool(self.tests_as_given):
            raise ValueError("give both --data-as-given and --tests-as-given, or neither")
        if self.tests_as_given and len(self.tests_as_given) != len(self.tests):
            raise ValueError(
                f"--tests-as-given has {len(self.tests_as_given)} folders, need one for each of "
                f"the {len(self.tests)} of --tests"
            )
        if not self.config.model.dictionary.enabled or not self.config.model.mask.enabled:
            raise ValueError("an ablation starts from the whole method; leave its parts enabled")


def with_absolute_places(options: AblationOptions) -> AblationOptions:
    out = persistent_path(options.out, "--out")
    data = data_or_samples(options.data, out, options.config)
    return replace(
        options,
        data=data,
        tests=tuple(persistent_path(place, "--tests") for place in options.tests or (data,)),
        data_as_given=(
            options.data_as_given and persistent_path(options.data_as_given, "--data-as-given")
        ),
        tests_as_given=tuple(
            persistent_path(place, "--tests-as-given") for place in options.tests_as_given
        ),
        out=out,
        tracking_uri=links.tracking_uri(options.tracking_uri),
    )


def chosen_variants(options: AblationOptions) -> list[Variant]:
    """The variants to train, and the variants that provide their weights.

    Raises:
        ValueError: a name that the study does not have.
    """
    study = variants(options.config, options.study, options.tokens, bool(options.data_as_given))
    found = {each.name: each for each in study}
    if unknown := [name for name in options.only if name not in found]:
        raise ValueError(f"--only names {unknown[0]!r}, the study has {', '.join(found)}")
    wanted = {name for each in options.only for name in (each, found[each].weights_of)}
    return [each for name, each in found.items() if not options.only or name in wanted]


def seeds_of(options: AblationOptions) -> range:
    return range(options.first_seed, options.first_seed + options.seeds)
