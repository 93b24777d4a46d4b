"""The search for a better config, with Ray Tune."""

from sddusr.cli.extras import require

require("pipeline", "ray", "optuna")
