"""The commands: Ray and MLflow around the method."""

from sddusr.cli.extras import require

require("pipeline", "ray", "mlflow")
