"""Ray and MLflow around the method: one file per stage, each a command."""
