"""Options of the server, checked before anything starts."""

from dataclasses import dataclass

from sddusr import storage
from sddusr.config.choices import Precision
from sddusr.photos.jobs import Device
from sddusr.photos.options import UpscaleOptions

MAX_QUEUED, MAX_REPLICAS, MAX_PORT = 1000, 1000, 65535


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a page and an API where two images, wide and tele, become one twice as large.

    The page is the address that is printed; the API is POST /upscale (docs/serving.md). Only this
    machine can connect, unless --host says otherwise, which needs a token. Ctrl-C ends it.
    Examples:

    python pipelines/serve.py

    python pipelines/serve.py --checkpoint models:/sddusr-demo@best --replicas 2 --memory 4GB

    python pipelines/serve.py --host 0.0.0.0 --token-file token --max-queued 16 --timeout-s 300
    """

    checkpoint: str = "compact"
    """Trained network: a training run's folder (its best checkpoint), one checkpoint,
    models:/NAME@best or runs:/RUN/NAME of MLflow, or the name of a network that ships."""
    replicas: int = 1
    """Processes that make images, each with the weights; they share cores and GPUs equally."""
    memory: str | None = None
    """What each replica may take, such as 4GB: images are made in smaller pieces to keep to it, and
    refused (413) where that is not enough. By default replicas share what is free."""
    max_queued: int = 8
    """Requests that upload or wait beside those that are made; more are refused at once (429)."""
    max_mb: float = 100.0
    """Largest request, both images together; larger ones are refused before they are read (413)."""
    max_megapixels: float = 50.0
    """Larger images are refused before they are decoded (413)."""
    timeout_s: float = 300.0
    """What an image may take from its begin at a replica; then it is stopped (504). An upload may
    take as long (408)."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine's own need a token."""
    port: int = 8000
    """Port to listen on."""
    token_file: str | None = None
    """File with the token that requests must send, which only its owner may read (0600). Or set
    SDDUSR_SERVE_TOKEN."""
    device: Device = "auto"
    """Where the network runs; auto takes GPUs where the cluster has one for each replica."""
    precision: Precision = "float32"
    """Number format of the network; bfloat16 is less exact and faster on most hardware."""

    def check(self) -> None:
        """Refuse options that do not fit.

        Raises:
            ValueError: which one, and what fits.
        """
        bounds = {
            "--replicas": (self.replicas, 1, MAX_REPLICAS),
            "--max-queued": (self.max_queued, 0, MAX_QUEUED),
            "--port": (self.port, 1, MAX_PORT),
            "--max-mb": (self.max_mb, 0.001, 10_000),
            "--timeout-s": (self.timeout_s, 0.1, 86_400),
        }
        for flag, (value, least, most) in bounds.items():
            if not least <= value <= most:
                raise ValueError(f"{flag} is {value:g}, need {least:g} to {most:g}")
        self.upscale_options(self.checkpoint).check()

    def upscale_options(self, checkpoint: str) -> UpscaleOptions:
        """The same as a single command has them.

        Args:
            checkpoint: local path of the network.
        """
        return UpscaleOptions(
            checkpoint=checkpoint,
            memory=self.memory,
            max_megapixels=self.max_megapixels,
            device=self.device,
            precision=self.precision,
        )

    @property
    def shown_checkpoint(self) -> str:
        """How answers name the network: a folder by its last part alone."""
        is_uri = self.checkpoint.startswith(("models:/", "runs:/"))
        return self.checkpoint if is_uri else storage.name(self.checkpoint)

    @property
    def address(self) -> str:
        """The page, as this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
