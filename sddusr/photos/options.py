"""What a user may ask of an image to make: shared by `sddusr.upscale` and every command."""

import re
from dataclasses import dataclass
from typing import Literal

from sddusr import storage
from sddusr.config.choices import MatchingMode, Precision, Runtime
from sddusr.geometry.box import Box
from sddusr.imaging.images import MAX_PIXELS, MOST_PIXELS
from sddusr.photos.jobs import Device, Placement, Settings, hash_checkpoint
from sddusr.portable.package import hash_package
from sddusr.registration.color_match import ColorConfig
from sddusr.registration.pairing import PairConfig
from sddusr.registration.register import RegistrationConfig
from sddusr.registration.residual import RefRegistration


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """How an image is made twice as large with the help of a telephoto image."""

    checkpoint: str | None = None
    """Trained network: a training run's folder (its best checkpoint), one checkpoint, or the name
    of a network that ships. By default `compact`, the small network that ships."""
    runtime: Runtime = "torch"
    """What runs the network: torch, or onnx for a package of `sddusr export` (--model)."""
    model: str | None = None
    """With --runtime onnx: the folder of the package."""
    quality: int = 95
    """JPEG/WebP quality, 1 to 100."""
    strip_metadata: bool = False
    """Leave out EXIF (camera, time, place) and colour profile, which are carried over otherwise."""
    explain: bool = False
    """Also draw NAME.explain.jpg: where the tele image was found, which regions were searched,
    how sure each match is and where it came from."""
    centered: bool = False
    """Do not search: the tele image has the result's density and lies in its middle."""
    box: tuple[int, int, int, int] | None = None
    """Do not search: the tele image has the result's density and lies there, in the result's
    pixels (twice the wide image's), ends excluded."""
    refine: Literal["flow", "none"] = "flow"
    """After the search, follow what the distance between the lenses shifts, or leave it."""
    color: Literal["matrix", "channels", "none"] = "matrix"
    """Bring the tele image to the wide image's colours: fully, channel by channel, or not."""
    register_ref: RefRegistration | None = None
    """For a tele image whose place is given: how remaining motion and colour differences are
    removed. By default auto for a network that takes the tele image's detail, else none."""
    trust: float = 1.0
    """Factor of the trust in the tele image, 0 to 1; 0 is --without-ref."""
    without_ref: bool = False
    """Leave the tele image out: what the network makes of the wide image alone."""
    memory: str | None = None
    """Keep to this much memory, such as 4GB, by making the image in smaller pieces. Finding the
    tele image takes up to 2GB at 12 megapixels in any case."""
    device: Device = "auto"
    """Where the network runs; auto takes the GPU where there is one."""
    precision: Precision = "float32"
    """Number format of the network; bfloat16 is less exact, and several times faster on GPUs and
    on processors that compute it."""
    matching: MatchingMode = "auto"
    """How regions of the wide image are matched to the tele image: exact compares all cells of the
    matching grid, fast the likely ones, at large sizes many times faster. auto is fast for large
    images, and exact where a check finds fast less sure than 99 % of exact."""
    max_megapixels: float = MAX_PIXELS / 1e6
    """Larger images are refused before they are decoded."""

    def check(self) -> None:
        """Refuse options that do not fit, before anything is read.

        Raises:
            ValueError: which one, and what fits.
        """
        self._check_runtime()
        if self.centered and self.box is not None:
            raise ValueError("--centered and --box each say where Ref lies; give one of them")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality is {self.quality}, need 1 to 100")
        if not 0 <= self.trust <= 1:
            raise ValueError(f"--trust is {self.trust:g}, need 0 to 1")
        if not 0 < self.max_megapixels <= MOST_PIXELS / 1e6:
            raise ValueError(
                f"--max-megapixels is {self.max_megapixels}, need more than 0 and at most "
                f"{MOST_PIXELS // 10**6}"
            )

    def _check_runtime(self) -> None:
        """Refuse flags that belong to the other runtime."""
        if self.runtime == "torch":
            if self.model is not None:
                raise ValueError("--model goes with --runtime onnx; networks are --checkpoint")
            return
        if self.model is None:
            raise ValueError("--runtime onnx needs --model, the folder of `sddusr export`")
        if self.checkpoint is not None:
            raise ValueError("--checkpoint goes with --runtime torch; a package is --model")
        if self.matching == "fast":
            raise ValueError("--matching is fast, --runtime onnx searches exactly; leave it out")
        if self.precision != "float32":
            raise ValueError(
                f"--precision is {self.precision}, a package has its own; leave it out"
            )
        if self.device == "cuda":
            raise ValueError("--device is cuda, --runtime onnx runs on the CPU; leave it out")

    def settings(self) -> Settings:
        """The same for the code that makes images.

        Raises:
            FileNotFoundError: the checkpoint is missing.
            ValueError: the memory is no size, or the model no package.
        """
        if self.model is None:
            place = find_checkpoint(self.checkpoint)
            content_hash = hash_checkpoint(place)
        else:
            place = storage.absolute(self.model)
            content_hash = hash_package(place)
        return Settings(
            runtime=self.runtime,
            checkpoint=place,
            checkpoint_hash=content_hash,
            device=self.device,
            precision=self.precision,
            matching=self.matching,
            memory_bytes=parse_bytes(self.memory, "--memory") if self.memory else None,
            max_pixels=round(self.max_megapixels * 1e6),
            quality=self.quality,
            strip_metadata=self.strip_metadata,
            explain=self.explain,
            pair=PairConfig(
                registration=RegistrationConfig(refine=self.refine),
                color=ColorConfig(kind=self.color),
            ),
            register_ref=self.register_ref,
            trust=0.0 if self.without_ref else self.trust,
        )

    def placement(self) -> Placement:
        """Where the tele image lies in the result."""
        if self.box is not None:
            return Box(*self.box)
        return "middle" if self.centered else "find"


def find_checkpoint(path_or_name: str | None) -> str:
    """The folder of a checkpoint: a run's best one, one that is named, or one that ships.

    Raises:
        FileNotFoundError: there is none.
        ValueError: MLflow names it, and nobody downloaded it.
    """
    from sddusr import pretrained
    from sddusr.checkpoint import OF_MLFLOW, resolve

    if path_or_name is None or path_or_name in pretrained.NAMES:
        return resolve(pretrained.NAMES[path_or_name or pretrained.DEFAULT])
    if path_or_name.startswith(OF_MLFLOW):
        return resolve(path_or_name)  # says how to download it
    try:
        return resolve(storage.absolute(path_or_name))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; networks that ship: {', '.join(pretrained.NAMES)}"
        ) from error


def parse_bytes(text: str, flag: str) -> int:
    """Bytes of a size as people write it: 4GB, 512 MiB, 1.5G; units of 1000, with an i of 1024.

    Raises:
        ValueError: no size, or nothing at all.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    size = 0
    if match and (match[2] or not match[3]):
        base = 1024 if match[3] else 1000
        size = round(float(match[1]) * base ** " KMGT".index(match[2] or " "))
    if size < 1:
        raise ValueError(f"{flag} is {text!r}, need a size such as 4GB, 512MB or 2GiB")
    return size
